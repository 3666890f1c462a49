"""Stage `weights`: the backbone that training starts from."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save_file

from m2det.errors import InputError
from m2det.model.pretrained import VGG16_REDUCEDFC, fetch, load_backbone, random_backbone
from tasks.common import BACKBONE, main_root, params


def weights() -> None:
    """Write models/backbone.safetensors from what weights.source names."""
    source, sha256 = params().weights.source, params().weights.sha256
    name = params().model.name
    if source == "random":
        backbone = random_backbone(name, params().seed)
        print(f"backbone of {name}: random, seed {params().seed}")
    else:
        path = _local_file(source, sha256)
        backbone = load_backbone(name, path)
        print(f"backbone of {name}: {path.name}")
    BACKBONE.parent.mkdir(parents=True, exist_ok=True)
    temporary = BACKBONE.with_name(BACKBONE.name + ".tmp")
    save_file(backbone.state_dict(), str(temporary))
    os.replace(temporary, BACKBONE)


def _local_file(source: str, sha256: str) -> Path:
    if source == "vgg16_reducedfc":
        source = VGG16_REDUCEDFC
    elif "://" in source and not sha256:
        raise InputError("weights.sha256 is empty: a file from the network is used only when its sha256 is known")
    if "://" not in source:
        return main_root() / Path(source).expanduser()
    # kept across runs and experiments, outside what DVC deletes
    path = main_root() / "models" / "downloads" / source.rsplit("/", 1)[-1]
    print(f"{path.name}: sha256 {fetch(source, sha256, path)}")
    return path
