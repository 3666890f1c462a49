"""The command line `m2det`. Nothing heavy is imported before a command is known."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from m2det import __version__
from m2det.cli.arguments import Parser, count, fraction
from m2det.cli.data import add_commands
from m2det.errors import InputError, cann_explained
from m2det.text import PrintableFormatter, any_text_prints, printable


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code; wrong input is one sentence on stderr and 1, Ctrl-C 130."""
    any_text_prints()
    arguments = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    try:
        with cann_explained():
            arguments.run(arguments)
    except (InputError, OSError) as error:  # OSError names the file and says why
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser("m2det", description="M2Det: detect objects with a trained model.")
    parser.add_argument("--version", action="version", version=f"m2det {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    detect = commands.add_parser("detect", help="draw boxes on pictures, and write COCO results")
    names = "pictures, or folders of them; a name that begins with - wants -- or ./ before it"
    detect.add_argument("images", nargs="+", type=Path, metavar="IMAGE|DIR", help=names)
    detect.add_argument("--weights", required=True, type=Path, metavar="FILE", help="a model.safetensors")
    detect.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for what is written")
    results = "write DIR/detections.json too, in COCO's results format; bytes of a name that are no UTF-8 as \\xff"
    detect.add_argument("--json", action="store_true", help=results)
    detect.add_argument("--score", type=fraction, default=0.5, help="least score that is drawn (default %(default)s)")
    detect.add_argument("--device", choices=("auto", "cpu", "cuda", "npu"), default="auto")
    detect.set_defaults(run=_detect)
    recipes = commands.add_parser("recipes", help="list the parameter sets that come with m2det")
    recipes.set_defaults(run=_recipes)
    use = commands.add_parser("use", help="write a recipe into params.yaml")
    use.add_argument("recipe", metavar="NAME", help="one that `m2det recipes` lists")
    use.set_defaults(run=_use)
    info = commands.add_parser("info", help="what a model file is and came from")
    info.add_argument("weights", type=Path, metavar="FILE", help="a model.safetensors")
    info.set_defaults(run=_info)
    convert = commands.add_parser("convert", help="the original's checkpoints to model files, or back")
    convert.add_argument("source", type=Path, metavar="IN", help="ORIGINAL.pth, or a model.safetensors")
    convert.add_argument("target", type=Path, metavar="OUT", help="OUT.safetensors, or OUT.pth")
    convert.add_argument("--size", type=count, help="side of the input, where the file's name does not say it")
    convert.add_argument("--annotations", type=Path, metavar="FILE", help="COCO annotations with the classes' names")
    convert.set_defaults(run=_convert)
    export = commands.add_parser("export", help="a model for other runtimes, checked against PyTorch")
    export.add_argument("weights", type=Path, metavar="FILE", help="a model.safetensors")
    export.add_argument("--format", choices=("onnx",), default="onnx", help="onnx, and the script that makes .om of it")
    export.add_argument("--out", type=Path, metavar="OUT.onnx", help="(default: FILE with the suffix .onnx)")
    export.add_argument("--images", nargs="+", type=Path, default=[], metavar="IMAGE|DIR", help="to check it on")
    export.set_defaults(run=_export)
    doctor = commands.add_parser("doctor", help="what this machine has, and what m2det chooses on it")
    doctor.set_defaults(run=_doctor)
    unfinished = commands.add_parser("unfinished", help="list trainings that can be continued, or delete one")
    unfinished.add_argument("--delete", metavar="NAME", help="one that the list has")
    unfinished.set_defaults(run=_unfinished)
    add_commands(commands)
    bench = commands.add_parser("bench", help="how fast this machine is")
    parts = bench.add_subparsers(title="what", required=True, metavar="PART")
    network = parts.add_parser("network", help="forward and backward: plain float32 against what training does")
    network.add_argument("--model", default="m2det320-vgg16", metavar="NAME", help="(default %(default)s)")
    network.add_argument("--batch", type=count, default=2, help="images (default %(default)s)")
    network.add_argument("--rounds", type=count, default=5, help="of which the fastest counts (default %(default)s)")
    network.add_argument("--device", choices=("auto", "cpu", "cuda", "npu"), default="auto")
    network.set_defaults(run=_bench_network)
    training = parts.add_parser("training", help="training steps without a loader: img/s, share of the peak, memory")
    training.add_argument("--model", default="m2det512-vgg16", metavar="NAME", help="(default %(default)s)")
    training.add_argument("--batch", type=count, nargs="+", default=[16], help="images (default 16)")
    training.add_argument("--dtype", nargs="+", choices=("float32", "float16", "bfloat16"), default=["float16"])
    training.add_argument("--compile", action="store_true", help="by torch.compile, too")
    training.add_argument("--device", choices=("auto", "cpu", "cuda", "npu"), default="auto")
    training.set_defaults(run=_bench_training)
    loader = parts.add_parser("loader", help="training samples per second and core, against the original's way")
    loader.add_argument("--images", type=Path, metavar="DIR", help="of JPEGs (default: pieces of two photographs)")
    loader.add_argument("--size", type=count, default=512, help="side of the samples, px (default %(default)s)")
    loader.add_argument("--rounds", type=count, default=5, help="of which the fastest counts (default %(default)s)")
    loader.set_defaults(run=_bench_loader)
    return parser


def _detect(arguments: argparse.Namespace) -> None:
    from m2det.cli.detect import detect_files

    detect_files(arguments.images, arguments.weights, arguments.out, arguments.score, arguments.json, arguments.device)


def _recipes(_: argparse.Namespace) -> None:
    from m2det.config.recipes import read_recipe, recipe_names

    print("\n".join(read_recipe(name)[0] for name in recipe_names()), end="")


def _use(arguments: argparse.Namespace) -> None:
    from m2det.config.recipes import use_recipe

    changes = use_recipe(arguments.recipe, Path("params.yaml"))
    print("\n".join(map(printable, changes or ["params.yaml has these values already"])))


def _info(arguments: argparse.Namespace) -> None:
    from m2det.cli.info import describe_model

    print(describe_model(arguments.weights))


def _convert(arguments: argparse.Namespace) -> None:
    from m2det.cli.convert import convert

    _print_log()
    convert(arguments.source, arguments.target, arguments.size, arguments.annotations)


def _export(arguments: argparse.Namespace) -> None:
    from m2det.cli.export import export_onnx

    _print_log()
    export_onnx(arguments.weights, arguments.out or arguments.weights.with_suffix(".onnx"), arguments.images)


def _doctor(_: argparse.Namespace) -> None:
    from m2det.cli.doctor import examine

    findings = examine()
    width = max(len(what) for what, _ in findings)
    print("\n".join(f"{what:<{width}}  {finding}" for what, finding in findings))


def _unfinished(arguments: argparse.Namespace) -> None:
    from m2det.train.run_dir import delete, unfinished_runs

    root = Path("models/unfinished")
    if arguments.delete:
        delete(root, arguments.delete)
    for run in unfinished_runs(root):
        what = f"{run.shape['model.name']}, {run.shape['epochs']} epochs, seed {run.shape['seed']}"
        print(f"{printable(run.folder.name)}  {printable(what)}: step {run.step}, {run.size / 1e6:.1f} MB")


def _bench_network(arguments: argparse.Namespace) -> None:
    from m2det.bench.step import forward_backward
    from m2det.device import choose_device, describe

    _print_log()
    device = choose_device(arguments.device)
    seconds = forward_backward(arguments.model, arguments.batch, device, arguments.rounds)
    print(f"{arguments.model}, batch {arguments.batch}, on {describe(device)}, forward and backward:")
    print(f"plain (NCHW, float32)   {seconds['plain']:.3f} s")
    print(f"as training does it     {seconds['training']:.3f} s, {seconds['training'] / seconds['plain']:.0%} of it")


def _bench_training(arguments: argparse.Namespace) -> None:
    from itertools import product

    from m2det.bench.step import training_rate
    from m2det.device import choose_device, describe

    _print_log()
    device = choose_device(arguments.device)
    print(f"training {arguments.model} on {describe(device)}:")
    for way in product(arguments.batch, arguments.dtype, (False, True)[: 1 + arguments.compile]):
        print(training_rate(arguments.model, *way, device), flush=True)


def _bench_loader(arguments: argparse.Namespace) -> None:
    from m2det.bench.loader import bench_loader

    _print_log()
    rates = bench_loader(arguments.images, arguments.size, arguments.rounds)
    first = next(iter(rates.values()))
    print(f"img/s at {arguments.size} px, per second of one core; the loader's by the wall's clock:")
    for what, rate in rates.items():
        print(f"{what:<22} {rate:7.1f}  {rate / first:5.2f} x")


def _print_log() -> None:
    import logging

    log, handler = logging.getLogger("m2det"), logging.StreamHandler(sys.stdout)
    handler.setFormatter(PrintableFormatter())
    log.handlers = [handler]
    log.setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
