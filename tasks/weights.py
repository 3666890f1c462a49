"""Stage `weights`: the backbone or the model that training starts from."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from m2det.config import file_of_address
from m2det.errors import InputError
from tasks.common import BACKBONE, main_root, params

if TYPE_CHECKING:
    from torch import Tensor, nn

CORRECT = "take that file, or correct weights.sha256"


def weights() -> None:
    """Write models/backbone.safetensors from weights.source: a backbone, or a whole model."""
    from m2det.files.tensors import save_tensors
    from m2det.files.untrusted import read_tensors
    from m2det.model.pretrained import load_backbone, random_backbone
    from m2det.model.published import images_of

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    settings, name = params().weights, params().model.name
    if settings.source == "random":
        print(f"backbone of {name}: random, seed {params().seed}")
        state = _named(random_backbone(name, params().seed))
    elif settings.source == "checkpoint":
        path = _local_file(settings.checkpoint)
        state = {key: value.clone() for key, value in read_tensors(path).items()}  # aliases share memory
    else:
        source = address()
        path = download(source) if "://" in source else _local_file(source)
        state = _named(load_backbone(name, path, images_of(path.name, settings.images)))
    save_tensors(BACKBONE, state, {})


def address() -> str:
    """Return the address or file that training starts from, unless that is random. Raises InputError as address_of."""
    from m2det.model.published import address_of

    settings = params().weights
    return settings.checkpoint or address_of(settings.source, params().model.name)


def _named(backbone: nn.Module) -> dict[str, Tensor]:
    return {f"base.{key}": value for key, value in backbone.state_dict().items()}


def _local_file(name: str) -> Path:
    """Return the user's file, its sha256 printed, and compared with weights.sha256 if that is set."""
    from m2det.model.pretrained import check_sha256

    path = local_path(name)
    sha256 = check_sha256(path, path.name, params().weights.sha256, str(path), CORRECT)
    print(f"training starts from {path.name}, sha256 {sha256}")
    return path


def local_path(name: str) -> Path:
    """Return the path of the user's file. Raises InputError if there is none."""
    path = main_root() / os.path.expanduser(name)  # noqa: PTH111 - Path's raises for a user that does not exist
    if not path.is_file():
        raise InputError(f"weights: {path}: no such file")
    return path


def download(url: str) -> Path:
    """Return the file at the URL, in models/downloads of the main working copy, where DVC deletes nothing."""
    from m2det.model.pretrained import fetch

    require_sha256(url)
    path = downloaded_path(url)
    print(f"training starts from {path.name}, sha256 {fetch(url, params().weights.sha256, path)}")
    return path


def require_sha256(url: str) -> None:
    """Raise InputError for a URL of the user's without weights.sha256."""
    from m2det.model.published import is_official

    if not params().weights.sha256 and not is_official(url):
        raise InputError("weights.sha256 is empty: a file from the network is used only when its sha256 is known")


def downloaded_path(url: str) -> Path:
    """Return where the file at the URL is kept."""
    return main_root() / "models" / "downloads" / file_of_address(url)
