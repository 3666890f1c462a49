"""The entries of COCO's annotation files, as msgspec decodes them."""

from __future__ import annotations

from typing import Any

import msgspec

Number = int | float
TEST = "test"  # the split whose files may be ImageInfo


class Image(msgspec.Struct, gc=False):
    """An entry of `images`; other keys are left out. width, height: pixels."""

    id: int
    file_name: str
    width: int
    height: int


class Annotation(msgspec.Struct, gc=False):
    """An entry of `annotations`; other keys, above all the outline, are left out.

    bbox: x y width height, pixels, integers or floats as in the file. area: px^2. voc_difficult: ours, 0 or 1 in what
    is made of Pascal VOC's format.
    """

    image_id: int
    category_id: int
    bbox: tuple[Number, Number, Number, Number]
    area: Number | None = None
    iscrowd: int | bool | None = None
    voc_difficult: int | None = None
    id: Any = None


class NamedCategory(msgspec.Struct, gc=False):
    """An entry of `categories`; other keys are left out."""

    id: int
    name: str | int | float
    supercategory: Any = None


class Content(msgspec.Struct, gc=False):
    """What an annotation file holds, as decoded."""

    images: list[Image]
    annotations: list[Annotation]
    categories: list[NamedCategory]


class ImageInfo(Content, kw_only=True, gc=False):
    """As Content; annotations may be left out, as COCO does for its test images."""

    annotations: list[Annotation] = msgspec.field(default_factory=list)
