"""Sections `data`, `pack` and `weights`: what a training starts from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from m2det.config.values import (
    File,
    Fraction,
    Section,
    Text,
    ZeroOrAtLeast,
    address,
    class_entries,
    setting,
    source_of_weights,
)


class Source(Section):
    """One annotation file in COCO format and the folder of its images, relative to data.root."""

    annotations: File
    images: File


Sources = Annotated[list[Source], Field(max_length=100)]
Classes = Annotated[list[Text | dict[Text, list[Text]]], Field(max_length=1000), AfterValidator(class_entries)]


class DataParams(Section):
    """Where images and annotations come from."""

    source: Literal["auto", "digits", "coco", "yolo", "voc", "coco2014", "coco2014-download"] = setting(
        "coco2014",
        "auto (your data under data.root, of the format that its files have), coco, yolo or voc (the same, of that "
        "format), digits (made here), coco2014 (COCO 2014 under data.root), or coco2014-download (fetches it into "
        "data.root)",
    )
    root: File = setting(
        "",
        "folder that data.train and data.val are relative to, itself relative to this file; excluded from DVC's hashes",
    )
    outside: bool = setting(
        False, "allow images outside of their folder: through links, .. or absolute names in annotations"
    )
    orientation: Literal["ask", "exif", "stored"] = setting(
        "ask",
        "pixels that boxes are of, in images that EXIF turns, where the annotated size does not tell: exif (as shown), "
        "stored (as in the file), or ask (stop and say which images)",
    )
    mirror: Annotated[Text, AfterValidator(address)] = setting(
        "http://images.cocodataset.org",
        "host that coco2014-download fetches from, official or a mirror of its layout; excluded from DVC's hashes",
    )
    train: Sources = setting(
        [], "for coco, optional for auto: list of {annotations: FILE.json, images: FOLDER} to train on"
    )
    val: Sources = setting([], "as data.train, to validate on; optional")
    test: Sources = setting(
        [],
        "as data.train, to detect on with evaluate.split: test; for all sources but digits; annotations may be absent, "
        "as in COCO's image_info_test-dev2017.json",
    )
    val_share: Annotated[float, Field(ge=0, le=0.9)] = setting(
        0.2, "share of your images to validate on where no others are given for that; 0 wants them given"
    )
    classes: Classes = setting(
        [],
        "classes to train on, others are left out: a list of names, and of {new name: [names]} to rename or merge; "
        "empty takes all as they are",
    )

    @model_validator(mode="after")
    def _sources_fit(self) -> DataParams:
        if self.source == "coco" and not self.train:
            raise ValueError("source 'coco' needs at least one entry in data.train; source 'auto' looks for the files")
        if self.val and not self.train:
            raise ValueError("data.val is given without data.train: give both, or neither")
        if self.train and not (self.val or self.val_share):
            raise ValueError("no validation images are given in data.val, and data.val_share is 0: give one of them")
        if self.source not in ("auto", "coco") and (self.train or self.val):
            raise ValueError(f"source {self.source!r} knows its own files: leave data.train and data.val empty")
        if self.source == "digits" and self.test:
            raise ValueError("source 'digits' has no test images: leave data.test empty")
        if self.source != "digits" and not self.root:
            raise ValueError(f"source {self.source!r} needs data.root, the folder with your annotations and images")
        return self


class PackParams(Section):
    """How the packed cache keeps images."""

    verify: Literal["auto", "decode", "header"] = setting(
        "auto",
        "decode (decode every image once), header (read markers and sizes only), or auto (decode splits of "
        "fewer than 20,000 images)",
    )
    on_bad_image: Literal["stop", "skip"] = setting(
        "stop",
        "what to do about images that are missing, damaged or not as annotated: stop (all are named), or skip (leave "
        "them out; the cache's manifest lists them)",
    )
    images: Literal["original", "jpeg", "raw"] = setting(
        "original",
        "how training images are kept: original (the files' bytes), jpeg (encoded again) or raw (pixels); the "
        "latter two load faster for more disk or less detail",
    )
    side: Annotated[int, Field(ge=0, le=65_500), AfterValidator(ZeroOrAtLeast(16))] = setting(
        640, "longest side that jpeg and raw keep; 0 keeps any (COCO's images have 640)", "px"
    )
    quality: Annotated[int, Field(ge=1, le=100)] = setting(90, "JPEG quality, for pack.images: jpeg")


class WeightsParams(Section):
    """What training starts from."""

    source: Annotated[File, Field(min_length=1), AfterValidator(source_of_weights)] = setting(
        "vgg16_reducedfc",
        "backbone to start from: random, a file, a URL (with weights.sha256), vgg16_reducedfc or torchvision (their "
        "official URLs; torchvision has ResNets); or checkpoint (a whole model)",
    )
    sha256: Annotated[str, Field(pattern=r"^([0-9a-fA-F]{64})?$")] = setting(
        "", "SHA-256 of that file, 64 hexadecimal digits; empty accepts any file, but none from a URL"
    )
    images: Literal["auto", "bgr255", "rgb1"] = setting(
        "auto",
        "what the backbone was trained on: bgr255 (Caffe's VGG: BGR, 0 to 255, mean subtracted, as here), rgb1 "
        "(torchvision: RGB, 0 to 1, normalized; the first layers are adapted), or auto (by the file's name: rgb1 for "
        "torchvision's ResNets)",
    )
    checkpoint: File = setting("", "for checkpoint: a model.safetensors, or a .pth of the original")
    min_match: Fraction = setting(0.5, "for checkpoint: share of the model's values that the file must supply")

    @model_validator(mode="after")
    def _checkpoint_fits(self) -> WeightsParams:
        if (self.source == "checkpoint") != bool(self.checkpoint):
            raise ValueError("source 'checkpoint' and weights.checkpoint (a file) belong together: set both or neither")
        return self
