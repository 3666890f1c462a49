"""Stage `weights`: what training starts from."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from m2det.errors import InputError
from tasks.common import BACKBONE, main_root, params


def weights() -> None:
    """Write models/backbone.safetensors from what weights.source names: a backbone, or a whole model."""
    from safetensors.torch import save_file

    from m2det.pretrained import load_backbone, random_backbone, read_tensors

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    settings, name = params().weights, params().model.name
    if settings.source == "checkpoint":
        path = main_root() / Path(settings.checkpoint).expanduser()
        state = {key: value.clone() for key, value in read_tensors(path).items()}  # aliases share memory
        print(f"training starts from the checkpoint {path.name}")
    else:
        if settings.source == "random":
            backbone = random_backbone(name, params().seed)
            print(f"backbone of {name}: random, seed {params().seed}")
        else:
            path = _local_file(settings.source, settings.sha256)
            backbone = load_backbone(name, path, settings.images)
            print(f"backbone of {name}: {path.name}")
        state = {f"base.{key}": value for key, value in backbone.state_dict().items()}
    BACKBONE.parent.mkdir(parents=True, exist_ok=True)
    temporary = BACKBONE.with_name(BACKBONE.name + ".tmp")
    save_file(state, str(temporary))
    os.replace(temporary, BACKBONE)


def _local_file(source: str, sha256: str) -> Path:
    from m2det.pretrained import VGG16_REDUCEDFC, fetch

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
