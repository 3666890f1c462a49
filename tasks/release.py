"""`m2det release`: one folder with the model, its metrics, settings, a picture and a model card, to hand on."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from m2det.errors import InputError, explain_disk_errors
from m2det.files.whole import write_whole
from m2det.text import escape_unencodable_output, printable
from tasks.common import CACHE, MODEL, PARAMS, RESULTS, params
from tasks.provenance import NAME
from tasks.verify import METRICS, differences

PICTURE = RESULTS / "pictures" / "detections.png"
REPORT = RESULTS / "report.html"


def release(folder: Path) -> None:
    """Make the folder, whole or not at all.

    Raises:
        InputError: The folder exists; the model, its metrics or the data do not belong together; a full disk.
    """
    from m2det.data.packed.reader import PackedSplit
    from m2det.evaluate.record import NAME as EVALUATION
    from m2det.model.hub_card import Release, model_card
    from m2det.model.model_file import RELEASED, load_trained

    if folder.exists():
        raise InputError(f"{folder} exists already; remove it, or give another name")
    if params().evaluate.split != "val":
        raise InputError("a release has validation's metrics: set evaluate.split to val, then `dvc repro evaluate`")
    if serious := [difference for difference in differences(MODEL) if not difference.code]:
        raise InputError(
            f"not released, because {len(serious)} things do not meet (`m2det verify {MODEL}` names all): "
            f"{serious[0].text}"
        )
    _, card = load_trained(MODEL)
    sources = {
        RELEASED: (MODEL, "weights, and a card of classes, settings, AP and the md5 of each dependency"),
        NAME: (MODEL.with_name(NAME), "commit, versions, device and processes of the training, and all its settings"),
        "metrics.json": (METRICS, "COCO's numbers on the validation images"),
        "params.yaml": (PARAMS, "the settings of the whole pipeline"),
        PICTURE.name: (PICTURE, "the worst and best detections beside the ground truth"),
    }
    if REPORT.exists():
        sources[REPORT.name] = (REPORT, "the report page")
    for path, _ in sources.values():
        if not path.is_file():
            raise InputError(f"{path} is missing: `dvc checkout` brings what DVC keeps, `dvc repro` makes it")
    text = model_card(
        Release(
            card,
            json.loads(METRICS.read_text()),
            json.loads((RESULTS / EVALUATION).read_text())["scorer"],
            params().data.source,
            len(PackedSplit(CACHE, "val")),
            json.loads(MODEL.with_name(NAME).read_text()),
            {name: description for name, (_, description) in sources.items()},
        )
    )
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with explain_disk_errors(folder, sum(path.stat().st_size for path, _ in sources.values())):
            for name, (path, _) in sources.items():
                write_whole(temporary / name, path.read_bytes())
            write_whole(temporary / "README.md", text)
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(printable(f"{folder}: {', '.join(sorted([*sources, 'README.md']))}; README.md names no licence: add yours"))


def main(arguments: list[str]) -> int:
    """Make the folder that the last argument names; return 1 after wrong input."""
    escape_unencodable_output()
    try:
        release(Path(arguments[-1]))
    except (InputError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
