"""The weights that a training starts from, by the section `weights`: where they are, and the file of them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from torch import Tensor, nn

from m2det.config import WeightsParams, file_of_address
from m2det.errors import InputError
from m2det.files.tensors import save_tensors
from m2det.files.untrusted import read_tensors
from m2det.model.pretrained import check_sha256, fetch, load_backbone, random_backbone
from m2det.model.published import address_of, images_of, is_official

log = logging.getLogger(__name__)

CORRECT = "take that file, or correct weights.sha256"


def write_initial(target: Path, settings: WeightsParams, name: str, seed: int, base: Path) -> None:
    """Write the backbone, or the whole model, that training starts from.

    Args:
        target: the file to write.
        settings: the section `weights`.
        name: model.name.
        seed: of random weights.
        base: the folder that the user's files are relative to; models/downloads in it takes what is fetched.

    Raises:
        InputError: the file is missing, cannot be fetched, has another hash, or is another network's.
    """
    if settings.source == "random":
        log.info("backbone of %s: random, seed %d", name, seed)
        state = _named(random_backbone(name, seed))
    elif settings.source == "checkpoint":
        path = _local_file(settings.checkpoint, settings, base)
        state = {key: value.clone() for key, value in read_tensors(path).items()}  # aliases share memory
    else:
        source = initial_address(settings, name)
        path = download(source, settings, base) if "://" in source else _local_file(source, settings, base)
        images = images_of(path.name, settings.images)
        if settings.images == "auto" and images == "bgr255" and not is_official(source):
            log.info("%s is taken as trained on bgr255; if torchvision trained it, set weights.images: rgb1", path.name)
        state = _named(load_backbone(name, path, images))
    save_tensors(target, state, {})


def initial_address(settings: WeightsParams, name: str) -> str:
    """Return the address or file that training starts from, unless that is random. Raises InputError as address_of."""
    return settings.checkpoint or address_of(settings.source, name)


def _named(backbone: nn.Module) -> dict[str, Tensor]:
    return {f"base.{key}": value for key, value in backbone.state_dict().items()}


def _local_file(name: str, settings: WeightsParams, base: Path) -> Path:
    """Return the user's file, its sha256 logged, and compared with weights.sha256 if that is set."""
    path = local_path(name, base)
    sha256 = check_sha256(path, path.name, settings.sha256, str(path), CORRECT)
    log.info("training starts from %s, sha256 %s", path.name, sha256)
    return path


def local_path(name: str, base: Path) -> Path:
    """Return the path of the user's file. Raises InputError if there is none."""
    path = base / os.path.expanduser(name)  # noqa: PTH111 - Path's raises for a user that does not exist
    if not path.is_file():
        raise InputError(f"weights: {path}: no such file")
    return path


def download(url: str, settings: WeightsParams, base: Path) -> Path:
    """Return the file at the URL, fetched into models/downloads unless it is there."""
    require_sha256(url, settings)
    path = downloaded_path(url, base)
    log.info("training starts from %s, sha256 %s", path.name, fetch(url, settings.sha256, path))
    return path


def require_sha256(url: str, settings: WeightsParams) -> None:
    """Raise InputError for a URL of the user's without weights.sha256."""
    if not settings.sha256 and not is_official(url):
        raise InputError("weights.sha256 is empty: a file from the network is used only when its sha256 is known")


def downloaded_path(url: str, base: Path) -> Path:
    """Return where the file at the URL is kept."""
    return base / "models" / "downloads" / file_of_address(url)
