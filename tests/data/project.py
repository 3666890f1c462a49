"""A folder in which stages run, and beside it a data set and a secret of this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from ruamel.yaml import YAML

from tests.conftest import ROOT

SECRET = b"root:x:0:0:of this machine"
SIDE = 32
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "DVC_"))} | {
    "PREFECT_HOME": "/nonexistent",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def jpeg(seed: int) -> bytes:
    picture = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", picture)[1].tobytes()


def write_annotations(path: Path, names: list[str], classes: tuple[str, ...] = ("cat",)) -> None:
    images = [{"id": i, "file_name": name, "width": SIDE, "height": SIDE} for i, name in enumerate(names)]
    objects = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 15, 15], "area": 225} for i in range(len(names))
    ]
    content = {
        "images": images,
        "annotations": objects,
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
    }
    path.write_text(json.dumps(content))


class Project:
    """The data set, COCO's format, has three images; the secret is a JPEG, so that packing would take it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.secret = folder / "project", folder / "root", folder / "secret" / "key.jpg"
        self.images = self.root / "images"
        for made in (self.folder, self.images / "more", self.secret.parent):
            made.mkdir(parents=True)
        self.secret.write_bytes(jpeg(9) + SECRET)
        for i, name in enumerate(("a.jpg", "b.jpg", "more/c.jpg")):
            (self.images / name).write_bytes(jpeg(i))
        write_annotations(self.root / "val.json", ["b.jpg"])
        self.names("a.jpg", "more/c.jpg")
        for name in ("m2det", "tasks", "flows", "dvc.yaml"):
            (self.folder / name).symlink_to(ROOT / name)
        self.set(source="coco")

    def names(self, *names: str) -> None:
        write_annotations(self.root / "train.json", list(names))

    def classes(self, *classes: str) -> None:
        for split, names in (("train", ["a.jpg", "more/c.jpg"]), ("val", ["b.jpg"])):
            write_annotations(self.root / f"{split}.json", names, classes)

    def set(self, **settings: object) -> None:
        yaml = YAML()
        params = yaml.load(ROOT / "params.yaml")
        entries = {name: [{"annotations": f"{name}.json", "images": "images"}] for name in ("train", "val")}
        params["data"] |= {"root": str(self.root), **(entries if settings.get("source") != "voc" else {}), **settings}
        with (self.folder / "params.yaml").open("w") as file:
            yaml.dump(params, file)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `python WORDS` in the folder; a process that hangs is ended."""
        env = ENVIRONMENT | environment
        command = [sys.executable, *words]
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, encoding="utf-8", check=False, timeout=60
        )

    def stage(self, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", f"flows.{name}", **environment)

    def refused(self, name: str, *words: str) -> None:
        done = self.stage(name)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stdout + done.stderr
        [sentence] = done.stderr.strip().splitlines()[-1:]
        assert sentence.startswith("error: ") and all(word in sentence for word in words), sentence

    def leaked(self) -> list[Path]:
        files = [path for path in (self.folder / "data").rglob("*") if path.is_file()]
        return [path for path in files if SECRET in path.read_bytes()]
