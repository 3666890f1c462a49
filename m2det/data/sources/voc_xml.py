"""One annotation of Pascal VOC's format: an XML file that describes an image and its objects."""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from xml.etree import ElementTree

from m2det.data.sources.coco_checks import MAX_NAME
from m2det.data.sources.coco_faults import MAX_SIDE
from m2det.errors import InputError

INTEGER = re.compile(r"(\d{1,9}(\.0*)?)?", re.ASCII)  # int and float also take 1_0, inf and other scripts' digits
NUMBER = re.compile(r"[+-]?\d{1,9}(\.\d*)?(e-\d+)?", re.ASCII | re.IGNORECASE)
DECLARATION = re.compile(rb"<\?xml[^>]{0,200}?encoding=[\"']([\w.-]{1,40})[\"'][^>]{0,100}\?>", re.ASCII)
EAST_ASIAN = ("gb2312", "gbk", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr")
SIDES = ("xmin", "ymin", "xmax", "ymax")


class VocObject(NamedTuple):
    """An object: its class, its box (xywh in pixels counted from 0), and whether VOC's rules leave it out."""

    name: str
    bbox: list[float]
    difficult: bool


class VocImage(NamedTuple):
    """An annotation file's content; file_name is empty, size None where the file does not say it."""

    file_name: str
    size: tuple[int, int] | None
    objects: list[VocObject]


def read_xml(data: bytes, path: str) -> VocImage:
    """Return the content of an annotation file.

    Args:
        data: the file.
        path: of the file, for messages.

    Raises:
        InputError: the file, which is named, is no annotation of an image.
    """
    try:
        data = _as_unicode(data.lstrip(b"\r\n\t "))
        tree = ElementTree.fromstring(data, ElementTree.XMLParser(target=_WithoutDocumentType()))
        if tree.tag != "annotation":
            raise ValueError(f"its root is {tree.tag[:80]!r}, not 'annotation'")
        objects = [_object(node) for node in tree.findall("object")]
        return VocImage((tree.findtext("filename") or "").strip(), _size(tree), objects)
    except (ValueError, LookupError, ElementTree.ParseError) as error:  # LookupError: of an unknown encoding
        raise InputError(
            f"{path} is no VOC annotation of an image ({error}); correct it, or export it again"
        ) from error


def _as_unicode(data: bytes) -> bytes:
    """Return a document in an East Asian encoding, which the parser does not know, as UTF-8."""
    declared = DECLARATION.match(data)
    if not declared or declared[1].decode().lower() not in EAST_ASIAN:
        return data
    return data[declared.end() :].decode(declared[1].decode()).encode()


class _WithoutDocumentType(ElementTree.TreeBuilder):
    """Refuse a document type, in any encoding: VOC has none, and hostile XML needs one for its entities."""

    def doctype(self, *_: str | None) -> None:
        raise ValueError("it declares a document type")


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    """Return (width, height), px; some exporters leave them out, or write 0."""
    if tree.find("size") is None:
        return None
    width, height = (int(float(_text(tree, f"size/{side}", INTEGER) or 0)) for side in ("width", "height"))
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"its size is {width}x{height}, {MAX_SIDE} px are the most")
    return (width, height) if width and height else None


def _object(node: ElementTree.Element) -> VocObject:
    name = _text(node, "name")
    if not 1 <= len(name) <= MAX_NAME:
        raise ValueError(f"a class's name must have 1 to {MAX_NAME} characters")
    # the first and the last pixel inside, counted from 1
    x1, y1, x2, y2 = (float(_text(node, f"bndbox/{side}", NUMBER)) for side in SIDES)
    difficult = (node.findtext("difficult") or "").strip().lower() in ("1", "true", "yes")
    return VocObject(name, [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1], difficult)


def coco_object(each: VocObject, category_id: int) -> dict[str, Any]:
    """Return an annotation of COCO's format but for its ids; `voc_difficult` is ours, and marks VOC's data."""
    _, _, w, h = each.bbox
    return {
        "category_id": category_id,
        "bbox": each.bbox,
        "area": w * h,
        "iscrowd": 0,
        "voc_difficult": int(each.difficult),
    }


def _text(node: ElementTree.Element, path: str, pattern: re.Pattern[str] | None = None) -> str:
    text = node.findtext(path)
    if text is None:
        raise ValueError(f"it lacks {path}")
    if pattern and not pattern.fullmatch(text.strip()):
        raise ValueError(f"its {path} is {text.strip()!r}, no number of pixels")
    return text.strip()
