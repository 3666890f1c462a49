"""The model card README.md of a release, in Hugging Face's form: YAML front matter, then Markdown."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from m2det.text import printable

# of COCO's box evaluation, in the words of its paper
MEANINGS = {
    "AP": "IoU 0.50 to 0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small objects",
    "APm": "medium objects",
    "APl": "large objects",
    "AR1": "recall, 1 detection per image",
    "AR10": "recall, 10 detections per image",
    "AR100": "recall, 100 detections per image",
    "ARs": "recall, small objects",
    "ARm": "recall, medium objects",
    "ARl": "recall, large objects",
}


@dataclass(frozen=True)
class Release:
    """What a model card says.

    Attributes:
        card: The card of the model file.
        metrics: COCO's numbers by the names in MEANINGS; others are left out.
        scorer: Which program computed them.
        dataset: The name of the data: data.source.
        images: Validation images.
        made: The record beside the model (tasks.provenance): where and with what it was made.
        files: The release's files by name, each with its description.
    """

    card: Mapping[str, Any]
    metrics: Mapping[str, float]
    scorer: str
    dataset: str
    images: int
    made: Mapping[str, Any]
    files: Mapping[str, str]


def front_matter(release: Release) -> dict[str, Any]:
    """Return the metadata by Hugging Face's keys; a licence is for whoever publishes to name."""
    name = release.card["model"]
    metrics = [
        {"type": "mAP" if key.startswith("AP") else "mAR", "name": f"{key} ({MEANINGS[key]})", "value": value}
        for key, value in _known(release.metrics).items()
        if value >= 0  # -1: no such object
    ]
    result = {
        "task": {"type": "object-detection", "name": "Object Detection"},
        "dataset": {"type": release.dataset, "name": release.dataset, "split": "val"},
        "metrics": metrics,
    }
    return {
        "library_name": "m2det",
        "pipeline_tag": "object-detection",
        "tags": ["object-detection", "m2det", "pytorch", "safetensors"],
        "model-index": [{"name": name, "results": [result]}],
    }


def model_card(release: Release) -> str:
    """Return the content of README.md."""
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(front_matter(release), stream)
    return f"---\n{stream.getvalue()}---\n\n{_text(release)}"


def _text(release: Release) -> str:
    card, made = release.card, release.made
    classes = ", ".join(_cell(name) for name in card["classes"])
    trained, git = card["trained"], made["git"]
    rows = "\n".join(f"| {key} | {MEANINGS[key]} | {value:.4f} |" for key, value in _known(release.metrics).items())
    files = "\n".join(f"| `{name}` | {text} |" for name, text in release.files.items())
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    edited = ", with files that this commit does not have (`m2det.json` names them)" if git["dirty"] else ""
    commit = f"commit `{git['commit']}`{edited}" if git["commit"] else "no git commit is known"
    processes = f"{made['processes']} process{'es' * (made['processes'] > 1)}"
    return f"""# {_cell(card["model"])}

An M2Det object detector (Zhao et al., AAAI 2019) of {len(card["classes"])} classes: {classes}.

![Detections on validation images](detections.png)

## Use

```sh
m2det detect PICTURE --weights FOLDER --out drawn    # FOLDER: this one
m2det info FOLDER
```

## Numbers

COCO's box evaluation on the {release.images:,} validation images of {_cell(release.dataset)}, computed by
{release.scorer}; -1 stands for sizes without any object.

| number | over | value |
|---|---|---|
{rows}

## Training

The weights are of epoch {trained["epoch"]}, step {trained["step"]}. All settings are in `params.yaml`; the model file's
card holds those that shape the weights, and the md5 of the data, the backbone and the code.

- code: {commit}
- machine: {_cell(made["device_name"])} ({made["device"]}), {processes}
- versions: {versions}

## Limits

The model knows the classes above and no others. The numbers hold for images like the validation images; on others,
measure before you rely on them.

## Files

| file | content |
|---|---|
{files}
"""


def _known(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in MEANINGS if name in metrics}


def _cell(text: str) -> str:
    """Text from a file, as Markdown shows it literally."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>#!|~" else c for c in printable(text))
