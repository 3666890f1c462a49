"""Initial weights of a training: random, from a file, or downloaded, and checked."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from m2det.download import fetch_files
from m2det.errors import InputError
from m2det.files.hashing import file_sha256
from m2det.files.tensors import load_tensors
from m2det.files.untrusted import read_tensors
from m2det.model import build_backbone, first_names, get_config, load_reference_state_dict
from m2det.model.preprocess import mean_bgr
from m2det.model.published import expected_sha256, remedy

log = logging.getLogger(__name__)

BGR_MEAN, BGR_STD = (0.406, 0.456, 0.485), (0.225, 0.224, 0.229)  # of torchvision's inputs, in [0,1]


def random_backbone(name: str, seed: int) -> nn.Module:
    """Return a He-initialized backbone of the model `name`; equal seeds give equal weights."""
    torch.manual_seed(seed)
    return build_backbone(get_config(name).backbone)


def load_backbone(name: str, path: Path, images: str = "bgr255") -> nn.Module:
    """Return the backbone of a model with the weights of a file.

    Args:
        name: The model's name, as for get_config.
        path: A file with the weights of a reduced or plain VGG16, or of a ResNet.
        images: The input that the weights were trained with: "bgr255" is m2det's, BGR from 0 to 255 minus the mean;
            "rgb1" is torchvision's, normalized RGB in [0,1], for which the first layers are converted.

    Raises:
        InputError: The file is missing, not plain tensors, or another network's.
    """
    state = read_tensors(path)
    if "features.0.weight" in state and "classifier.0.weight" in state:
        try:
            state = reduce_vgg16_classifier(state)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        log.info("%s is a plain VGG16: fc6 and fc7 converted to convolutions by subsampling", path.name)
    backbone = build_backbone(get_config(name).backbone)
    for key, value in backbone.state_dict().items():
        if key.endswith("num_batches_tracked"):  # files from before torch 0.4.1 lack this counter
            state.setdefault(key, torch.zeros_like(value))
    expected = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    actual = {key: tuple(value.shape) for key, value in state.items()}
    if expected != actual:
        different = sorted(key for key in expected.keys() | actual.keys() if expected.get(key) != actual.get(key))
        key = different[0]
        raise InputError(
            f"{path} does not fit the backbone of {name}: layer {key} is {actual.get(key, 'absent')} in the file "
            f"and {expected.get(key, 'absent')} in the network ({len(different)} such layers)"
        )
    if images == "rgb1":
        convert_first_layers(state, list(expected))
    backbone.load_state_dict(state)
    return backbone


def convert_first_layers(state: dict[str, Tensor], keys: list[str]) -> None:
    """Give torchvision's weights this project's input: BGR from 0 to 255, minus another mean, not divided.

    The order of channels and the division go into the first convolution. So does the mean, of which the two differ by
    less than 0.8 grey levels, into the bias behind it, or into the mean of the batch normalization behind it. Outputs
    are equal but for rounding, and but for the image's border: padding with zeros is padding with the mean, and those
    0.8 grey levels are up to 0.013 of torchvision's units there.

    Args:
        state: a backbone's, changed in place.
        keys: of the backbone, in the order of its layers; the first one is that of a convolution's weight [out,3,k,k].
    """
    first, second = keys[:2]
    mean, std = (255 * torch.tensor(values)[:, None, None] for values in (BGR_MEAN, BGR_STD))
    state[first] = state[first].flip(1) / std
    shift = (state[first] * (mean - mean_bgr())).sum((1, 2, 3))  # what this project's mean adds to each output
    if second == first.removesuffix("weight") + "bias":
        state[second] = state[second] - shift
    else:
        running_mean = next(key for key in keys if key.endswith("running_mean"))
        state[running_mean] = state[running_mean] + shift


def reduce_vgg16_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert a plain VGG16's state dict from torchvision's keys to those of vgg16_reducedfc.

    fc6 and fc7 become convolutions: every fourth output and every third row and column of fc6 [4096,512,7,7], and every
    fourth output and input of fc7 are kept (Chen et al. 2015, DeepLab, section 3.1; Liu et al. 2016, SSD, section 3).

    Raises:
        InputError: fc6 or fc7 are absent or have other sizes.
    """
    for key, size in (("0.weight", 4096 * 25088), ("0.bias", 4096), ("3.weight", 4096 * 4096), ("3.bias", 4096)):
        tensor = state.get(f"classifier.{key}")
        if tensor is None or tensor.numel() != size:
            raise InputError(
                f"this is no VGG16: classifier.{key} is {'absent' if tensor is None else tuple(tensor.shape)}"
            )
    reduced = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    reduced["31.weight"] = state["classifier.0.weight"].view(4096, 512, 7, 7)[::4, :, ::3, ::3].contiguous()
    reduced["31.bias"] = state["classifier.0.bias"][::4].contiguous()
    reduced["33.weight"] = state["classifier.3.weight"].view(4096, 4096, 1, 1)[::4, ::4].contiguous()
    reduced["33.bias"] = state["classifier.3.bias"][::4].contiguous()
    return reduced


def load_initial(model: nn.Module, path: Path, min_match: float) -> None:
    """Load the weights that stage `weights` wrote into a model: a backbone, or the matching tensors of a whole model.

    Log the tensors of the model that keep their random values.

    Args:
        model: The model to initialize.
        path: The file of stage `weights`.
        min_match: Minimum share of the model's values that a whole model's file must supply.

    Raises:
        InputError: The backbone does not fit, the share is smaller, or the file is not stage `weights`' output.
    """
    checkpoint, _, checked = load_tensors(path)
    if not checked:
        raise InputError(f"{path} has no checksum: it is damaged, or not of this version; run `dvc repro -f weights`")
    own, first = model.state_dict(), first_names(model)
    report = load_reference_state_dict(model, checkpoint, strict=False)
    if all(key.startswith("base.") for key in checkpoint):
        if missing_base := [key for key in report.missing if key.startswith("base.")]:
            raise InputError(
                f"{path} holds a backbone only, of which {len(missing_base)} layers do not fit or are absent, first "
                f"{missing_base[0]}; choose the backbone or the whole model of model.name"
            )
        return
    missing = set(report.missing)
    fresh = [key for key in own if key in missing and first[key] == key]
    for key in fresh:
        reason = f"the checkpoint has {tuple(checkpoint[key].shape)}" if key in checkpoint else "not in the checkpoint"
        log.info("random initialization: %s %s (%s)", key, tuple(own[key].shape), reason)
    if report.unexpected:
        log.info("unused: %d tensors of the checkpoint, first %s", len(report.unexpected), report.unexpected[0])
    total, random = (sum(own[key].numel() for key in keys) for keys in ({*first.values()}, fresh))
    share = 1 - random / total
    log.info("from the checkpoint: %s; %.1f %% of all values", report, 100 * share)
    if share < min_match:
        raise InputError(
            f"only {share:.1%} of the network's values come from the checkpoint, less than weights.min_match "
            f"({min_match:.0%}); first that does not fit: {fresh[0]}; choose the checkpoint's own model, or lower the "
            "minimum"
        )


def fetch(url: str, sha256: str, path: Path) -> str:
    """Download a file, unless it exists, and verify its sha256.

    Args:
        url: The file's address.
        sha256: The expected hash; empty accepts any but what the file's name says (load_backbone still checks every
            layer).
        path: The file to write.

    Returns:
        The file's sha256.

    Raises:
        InputError: The download failed or has another hash; the message says where to put the file by hand.
    """
    advice = remedy(url, path)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".new")
        fetch_files([(url, temporary)], advice)
        try:
            check_sha256(temporary, path.name, sha256, f"what {url} sends", advice)
        except InputError:
            temporary.unlink()
            raise
        os.replace(temporary, path)
    return check_sha256(
        path, path.name, sha256, str(path), "delete it to fetch it again, or, to take it as it is, set weights.sha256"
    )


def check_sha256(path: Path, name: str, sha256: str, what: str, advice: str) -> str:
    """Return the file's sha256. Raises InputError, with the file's title `what` and an advice, for an unexpected one.

    Args:
        path: The file.
        name: Its name, which may have the first digits of the hash.
        sha256: weights.sha256.
        what: The file's title.
        advice: What to do.
    """
    actual = file_sha256(path)
    expected, says = expected_sha256(name, sha256)
    if not actual.startswith(expected):
        raise InputError(f"{what} has sha256 {actual}, not {expected} as {says} says; {advice}")
    return actual
