"""Makes the two simulated NPUs in .npu-sim/ of the project, once for each version of their sources and of torch."""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths

from tests.conftest import ROOT

SOURCES = Path(__file__).parent / "simulator"
CACHE = ROOT / ".npu-sim"
# CANN's libraries that torch_npu is linked to or opens; the first has everything, the others take it from there
LIBRARIES = (
    *("libascendcl", "libhccl", "libacl_op_compiler", "libge_runner", "libgraph", "libacl_tdt_channel", "libopapi"),
    *("libnnopbase", "libascend_ml"),
)
# what torch_npu calls and a simulation can leave undone; everything else that it lacks fails, and says its name
NOTHING_TO_DO = (
    *("aclSetCompileopt", "aclrtCtxSetSysParamOpt", "aclrtDestroyStreamForce", "aclrtSetDeviceSatMode"),
    *("aclrtSetOpExecuteTimeOut", "aclrtSetOpWaitTimeout", "aclrtSynchronizeDevice", "aclAppLog"),
    *("aclrtSynchronizeDeviceWithTimeout", "aclrtSynchronizeStreamWithTimeout", "aclrtSetStreamOverflowSwitch"),
)


class Unavailable(Exception):
    """This machine cannot make the simulator; the sentence says why."""


@cache
def environment_with_torch_npu() -> Path:
    """The Python of an environment that has torch_npu and the stand-ins. Raises Unavailable."""
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().split() if line.startswith("torch-npu=="))
    folder = CACHE / "torch_npu"
    python = folder / "bin/python"
    sources = ("cann.c", "chips.py", "hccl.c", "host.h", "operators.cpp", "startup.py")
    with made_once(folder, pinned, *sources) as wanted:
        if wanted:
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
            command = ["-m", "pip", "-q", "--python", str(python), "install", "--retries=1", "--no-deps", pinned]
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
            if done.returncode:
                raise Unavailable(f"{pinned} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
            (site,) = folder.glob("lib/python*/site-packages")
            ours = sysconfig.get_paths()
            startup = "import m2det_simulated_npu"
            (site / "m2det_simulated_npu.pth").write_text(f"{ours['purelib']}\n{ours['platlib']}\n{startup}\n")
            shutil.copy(SOURCES / "startup.py", site / "m2det_simulated_npu.py")
            shutil.copy(SOURCES / "chips.py", site / "m2det_simulated_chips.py")
            libraries = site / "m2det_simulated_npu_lib"
            libraries.mkdir()
            link_stand_ins(libraries, site / "torch_npu")
            compile_library("operators.cpp", libraries / "operators.so")
    return python


@cache
def strict_device() -> Path:
    """The library of the strict device, for this environment's torch. Raises Unavailable."""
    folder = CACHE / "strict"
    with made_once(folder, "strict", "host.h", "strict.cpp") as wanted:
        if wanted:
            compile_library("strict.cpp", folder / "strict.so")
    return folder / "strict.so"


@contextmanager
def made_once(folder, *parts):
    """Yields whether the folder, then empty, is to be made; another process that wants it waits meanwhile."""
    missing = [tool for tool in ("gcc", "g++", "nm") if shutil.which(tool) is None]
    if platform.system() != "Linux" or missing:
        raise Unavailable(f"it needs Linux and gcc, g++, nm; missing: {', '.join(missing) or 'Linux'}")
    contents = [(SOURCES / part).read_bytes() if (SOURCES / part).exists() else part.encode() for part in parts]
    about = f"{sys.version} {sys.prefix} {torch.__version__} {folder}".encode() + Path(__file__).read_bytes()
    stamp = hashlib.sha256(b"\0".join([about, *contents])).hexdigest()
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "stamp"
        wanted = not done.exists() or done.read_text() != stamp
        if wanted:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        yield wanted
        done.write_text(stamp)


def compile_library(source: str, target: Path) -> None:
    torch_lib = Path(torch.__file__).parent / "lib"
    flags = [
        "-shared",
        "-fPIC",
        "-O1",
        "-std=c++20",
        "-w",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
    ]
    includes = [f"-I{path}" for path in (*include_paths(), sysconfig.get_path("include"))]
    libraries = [f"-L{torch_lib}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch_lib}"]
    subprocess.run(["g++", *flags, *includes, str(SOURCES / source), "-o", str(target), *libraries], check=True)


def link_stand_ins(folder: Path, torch_npu: Path) -> None:
    """CANN's libraries by name: what is simulated, and for every other function that torch_npu wants one that fails."""
    wanted: set[str] = set()
    for library in (*torch_npu.glob("lib/*.so"), *torch_npu.glob("_C*.so")):
        if "atb" not in library.name:  # opened only for operators that nobody here calls
            wanted |= symbols(library, "--undefined-only")
    of_cann = {name for name in wanted if name.startswith(("acl", "Msprof", "rt", "Hccl"))} | set(NOTHING_TO_DO)
    objects = []
    for name in ("cann", "hccl"):
        objects.append(str(folder / f"{name}.o"))
        subprocess.run(["gcc", "-O1", "-fPIC", "-w", "-c", str(SOURCES / f"{name}.c"), "-o", objects[-1]], check=True)
    simulated = set().union(*(symbols(Path(path), "--defined-only") for path in objects))
    rest = ["int simulated_npu_lacks(const char*);"]
    for name in sorted(of_cann - simulated):
        idle = name in NOTHING_TO_DO or name.startswith("Msprof")
        rest.append(f"int {name}(void) {{ return {0 if idle else f'simulated_npu_lacks({quoted(name)})'}; }}")
    (folder / "rest.c").write_text("\n".join(rest) + "\n")
    gcc = ["gcc", "-O1", "-fPIC", "-shared", "-w"]
    for name in LIBRARIES:
        target = ["-o", str(folder / f"{name}.so"), f"-Wl,-soname,{name}.so"]
        if name == LIBRARIES[0]:
            parts = [str(folder / "rest.c"), *objects, "-lrt"]
        else:
            parts = ["-Wl,--no-as-needed", f"-L{folder}", "-lascendcl", "-Wl,-rpath,$ORIGIN"]
        subprocess.run([*gcc, *target, *parts], check=True)


def symbols(library: Path, kind: str) -> set[str]:
    dynamic = ["-D"] if library.suffix == ".so" else []
    text = subprocess.run(["nm", *dynamic, kind, str(library)], capture_output=True, text=True, check=True).stdout
    words = [line.split() for line in text.splitlines()]
    return {word[-1].split("@")[0] for word in words if word and word[-2] not in "wv"}


def quoted(name: str) -> str:
    return f'"{name}"'


def simulated_npu_environment(chip: str = "Ascend910B1") -> dict[str, str]:
    """Environment variables for a program that is to find the simulated NPU; torch imports torch_npu by itself."""
    kept = {k: v for k, v in os.environ.items() if k != "TORCH_DEVICE_BACKEND_AUTOLOAD"}
    return kept | {"M2DET_SIMULATED_NPU": "1", "M2DET_SIMULATED_CHIP": chip}
