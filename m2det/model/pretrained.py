"""Weights to start from: fresh, from a file, or from the network, checked before anything trains on them."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from m2det.download import fetch_files
from m2det.errors import InputError
from m2det.files.tensors import load_tensors
from m2det.files.untrusted import read_tensors
from m2det.model import build_backbone, first_names, get_config, load_reference_state_dict

log = logging.getLogger(__name__)

# the address that M2Det's and SSD's READMEs give
VGG16_REDUCEDFC = "https://s3.amazonaws.com/amdegroot-models/vgg16_reducedfc.pth"
RGB_STD = (0.229, 0.224, 0.225)  # of ImageNet, by which torchvision's inputs are divided


def random_backbone(name: str, seed: int) -> nn.Module:
    """He-initialised, the same for the same seed."""
    torch.manual_seed(seed)
    return build_backbone(get_config(name).backbone)


def load_backbone(name: str, path: Path, images: str = "bgr255") -> nn.Module:
    """The backbone of the model `name` with the weights of a file: VGG16 reduced or plain, or a ResNet.

    images: what the weights were trained on. "bgr255" is what m2det feeds: BGR minus its mean. "rgb1" is
    torchvision's RGB in [0,1], normalised: the first layer is then adapted to see the same.
    Raises InputError for a file that is not there, not plain tensors, or of another network.
    """
    state = read_tensors(path)
    if "features.0.weight" in state and "classifier.0.weight" in state:
        try:
            state = reduce_vgg16_classifier(state)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        log.info("%s is a plain VGG16: fc6 and fc7 made convolutions by subsampling", path.name)
    backbone = build_backbone(get_config(name).backbone)
    for key, value in backbone.state_dict().items():
        if key.endswith("num_batches_tracked"):  # files from before torch 0.4.1 lack this counter
            state.setdefault(key, torch.zeros_like(value))
    wanted = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    if wanted != found:
        different = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        key = different[0]
        raise InputError(
            f"{path} does not fit the backbone of {name}: layer {key} is {found.get(key, 'absent')} in the file "
            f"and {wanted.get(key, 'absent')} in the network ({len(different)} such layers)"
        )
    if images == "rgb1":
        first = next(iter(wanted))  # the first convolution's weight [out,3,k,k]
        state[first] = state[first].flip(1) / (255 * torch.tensor(RGB_STD[::-1])[:, None, None])
    backbone.load_state_dict(state)
    return backbone


def reduce_vgg16_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A plain VGG16 in torchvision's layout -> the keys of vgg16_reducedfc, fc6 and fc7 as convolutions.

    Every fourth output and every third row and column of fc6 [4096,512,7,7] are kept, every fourth output and
    input of fc7 (Chen et al. 2015, DeepLab, section 3.1; Liu et al. 2016, SSD, section 3).
    Raises InputError where fc6 and fc7 are absent or of other sizes.
    """
    for key, size in (("0.weight", 4096 * 25088), ("0.bias", 4096), ("3.weight", 4096 * 4096), ("3.bias", 4096)):
        found = state.get(f"classifier.{key}")
        if found is None or found.numel() != size:
            raise InputError(
                f"this is no VGG16: classifier.{key} is {'absent' if found is None else tuple(found.shape)}"
            )
    reduced = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    reduced["31.weight"] = state["classifier.0.weight"].view(4096, 512, 7, 7)[::4, :, ::3, ::3].contiguous()
    reduced["31.bias"] = state["classifier.0.bias"][::4].contiguous()
    reduced["33.weight"] = state["classifier.3.weight"].view(4096, 4096, 1, 1)[::4, ::4].contiguous()
    reduced["33.bias"] = state["classifier.3.bias"][::4].contiguous()
    return reduced


def load_initial(model: nn.Module, path: Path, min_match: float) -> None:
    """Load what stage `weights` wrote: a backbone, which must fit, or a whole model, of which what fits is loaded.

    min_match: share of the network's values that a whole model must supply. What starts fresh is logged.
    Raises InputError below that share, and for a file that is not what stage `weights` wrote.
    """
    given, _, checked = load_tensors(path)
    if not checked:
        raise InputError(f"{path} has no checksum: it is damaged, or not of this version; run `dvc repro -f weights`")
    own, first = model.state_dict(), first_names(model)
    report = load_reference_state_dict(model, given, strict=False)
    if all(key.startswith("base.") for key in given):
        if lacking_base := [key for key in report.missing if key.startswith("base.")]:
            raise InputError(
                f"{path} holds a backbone only, of which {len(lacking_base)} layers do not fit or are absent, first "
                f"{lacking_base[0]}; choose the backbone or the whole model that model.name is of"
            )
        return
    missing = set(report.missing)
    fresh = [key for key in own if key in missing and first[key] == key]
    for key in fresh:
        reason = f"the checkpoint has {tuple(given[key].shape)}" if key in given else "not in the checkpoint"
        log.info("starts fresh: %s %s (%s)", key, tuple(own[key].shape), reason)
    if report.unexpected:
        log.info("not used: %d tensors of the checkpoint, first %s", len(report.unexpected), report.unexpected[0])
    total, lacking = (sum(own[key].numel() for key in keys) for keys in ({*first.values()}, fresh))
    share = 1 - lacking / total
    log.info("from the checkpoint: %s; %.1f %% of all values", report, 100 * share)
    if share < min_match:
        raise InputError(
            f"only {share:.1%} of the network's values come from the checkpoint, less than weights.min_match "
            f"({min_match:.0%}); first that does not fit: {fresh[0]}; choose the checkpoint's own model, or lower it"
        )


def fetch(url: str, sha256: str, path: Path) -> str:
    """Download to a temporary name, verify, rename. Returns the file's sha256.

    An empty sha256 accepts what comes (load_backbone still checks every layer). A file that is already there
    is verified, not fetched again. Raises InputError that says where to put the file by hand.
    """
    by_hand = f"get it elsewhere and put it at {path}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".new")
        fetch_files([(url, temporary)], by_hand)
        try:
            verify(temporary, sha256, f"what {url} sends", by_hand)
        except InputError:
            temporary.unlink()
            raise
        os.replace(temporary, path)
    return verify(path, sha256, str(path), "delete it to fetch it again, or correct weights.sha256")


def verify(path: Path, sha256: str, what: str, advice: str) -> str:
    """The file's sha256. Raises InputError where another one is given, with `what` it is and an `advice`."""
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 and actual != sha256.lower():
        raise InputError(f"{what} has sha256 {actual}, not {sha256} as weights.sha256 says; {advice}")
    return actual
