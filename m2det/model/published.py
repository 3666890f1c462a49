"""Backbones that others have published: where they are, how they are recognized, what images they were trained on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from m2det.errors import InputError

Images = Literal["bgr255", "rgb1"]

# from the READMEs of M2Det and SSD
VGG16_REDUCEDFC = "https://s3.amazonaws.com/amdegroot-models/vgg16_reducedfc.pth"

# torchvision/models/resnet.py, ResNet..._Weights.IMAGENET1K_V1: what torchvision's and mmdetection's detectors start
# from. IMAGENET1K_V2 classifies better, but exists for three of the five, and its use for detection is not published.
TORCHVISION_FOLDER = "https://download.pytorch.org/models"
TORCHVISION = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "resnet152": "resnet152-394f9c45.pth",
}
TORCHVISION_NAME = re.compile(r"resnet\d+-([0-9a-f]{8})\.pth")  # with the first digits of the file's sha256

WITHOUT_PRETRAINING = (
    "weights.source: random needs no file, but more epochs, and ends at a lower AP where images are fewer than about "
    "10,000 (He et al. 2019, Rethinking ImageNet Pre-training)"
)


def address_of(source: str, model: str) -> str:
    """Return the address or file that weights.source stands for.

    Args:
        source: vgg16_reducedfc, torchvision, or an address or a file, which stands for itself.
        model: model.name, whose backbone decides which of torchvision's files it is.

    Raises:
        InputError: torchvision has none for the model's backbone.
    """
    if source == "vgg16_reducedfc":
        return VGG16_REDUCEDFC
    if source != "torchvision":
        return source
    backbone = model.partition("-")[2]
    if backbone not in TORCHVISION:
        raise InputError(
            f"weights.source is torchvision, which is for {', '.join(TORCHVISION)}, but model.name is {model}: take "
            f"m2det320-resnet18 or another of these backbones, or another weights.source; {WITHOUT_PRETRAINING}"
        )
    return f"{TORCHVISION_FOLDER}/{TORCHVISION[backbone]}"


def is_official(address: str) -> bool:
    """Return whether the address is one that this project knows, whose file needs no weights.sha256."""
    return address == VGG16_REDUCEDFC or _is_torchvisions(address)


def remedy(address: str, path: Path) -> str:
    """Return what to do where the address cannot be fetched to the path."""
    by_hand = f"get it elsewhere and put it at {path}"
    return f"{by_hand}; or: {WITHOUT_PRETRAINING}" if _is_torchvisions(address) else by_hand


def _is_torchvisions(address: str) -> bool:
    return address in [f"{TORCHVISION_FOLDER}/{name}" for name in TORCHVISION.values()]


def expected_sha256(name: str, sha256: str) -> tuple[str, str]:
    """Return the first digits that a file's sha256 must have, and what says so.

    Args:
        name: the file's, which has them if it is torchvision's.
        sha256: weights.sha256, which comes first; empty for none.
    """
    match = TORCHVISION_NAME.fullmatch(name)
    return (match[1], "its name") if match and not sha256 else (sha256.lower(), "weights.sha256")


def images_of(name: str, images: Literal["auto", "bgr255", "rgb1"]) -> Images:
    """Return what images the backbone in the file was trained on: weights.images, and for auto what the name says.

    Raises:
        InputError: weights.images contradicts the name.
    """
    known: Images = "rgb1" if TORCHVISION_NAME.fullmatch(name) else "bgr255"
    if images == "auto":
        return known
    if known == "rgb1" and images != known:
        raise InputError(
            f"weights.images is {images}, but {name} is torchvision's, trained on rgb1; set it to auto, or rename a "
            "file of your own that has such a name"
        )
    return images
