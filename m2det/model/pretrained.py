"""Backbone weights: fresh, from a file, or from the network, checked before anything trains on them."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

import torch
from tqdm import tqdm

from m2det.errors import InputError
from m2det.model.config import get_config
from m2det.model.vgg import VGG, build_backbone

# the address that M2Det's and SSD's READMEs give
VGG16_REDUCEDFC = "https://s3.amazonaws.com/amdegroot-models/vgg16_reducedfc.pth"


def random_backbone(name: str, seed: int) -> VGG:
    """He-initialised, the same for the same seed."""
    torch.manual_seed(seed)
    return build_backbone(get_config(name).backbone)


def load_backbone(name: str, path: Path) -> VGG:
    """The backbone of the model `name` with the weights of a .pth file (a state dict of plain tensors).

    Raises InputError for a file that is missing, not loadable with weights_only=True, or of another network.
    """
    if not path.is_file():
        raise InputError(f"weights.source: {path}: no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds here, each meaning: not a file of plain tensors
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be loaded as plain tensors ({reason}); get the file again") from error
    backbone = VGG(get_config(name).backbone)
    wanted = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()} if isinstance(state, dict) else {}
    if wanted != found:
        different = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        key = different[0]
        raise InputError(
            f"{path} does not fit the backbone of {name}: layer {key} is {found.get(key, 'absent')} in the file "
            f"and {wanted.get(key, 'absent')} in the network ({len(different)} such layers)"
        )
    backbone.load_state_dict(state)
    return backbone


def fetch(url: str, sha256: str, path: Path) -> str:
    """Download to a temporary name, verify, rename. Returns the file's sha256.

    An empty sha256 accepts what comes (load_backbone still checks every layer). A file that is already there
    is verified, not fetched again. Raises InputError that says where to put the file by hand.
    """
    by_hand = f"get it elsewhere and put it at {path}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        try:
            with urllib.request.urlopen(url, timeout=30) as response, temporary.open("wb") as file:
                length = int(response.headers.get("Content-Length") or 0)
                with tqdm(total=length, desc=path.name, unit="B", unit_scale=True) as bar:
                    while block := response.read(1 << 20):
                        file.write(block)
                        bar.update(len(block))
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise InputError(f"{url} cannot be fetched ({error}); {by_hand}") from error
        if length and temporary.stat().st_size != length:
            raise InputError(f"{url} broke off after {temporary.stat().st_size} of {length} bytes; {by_hand}")
        _verify(temporary, sha256, f"what {url} sends", by_hand)
        os.replace(temporary, path)
    return _verify(path, sha256, str(path), "delete it to fetch it again, or correct weights.sha256")


def _verify(path: Path, sha256: str, what: str, advice: str) -> str:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 and actual != sha256.lower():
        raise InputError(f"{what} has sha256 {actual}, not {sha256} as weights.sha256 says; {advice}")
    return actual
