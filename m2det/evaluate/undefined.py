"""The scorer's -1: a metric that is not defined, since the ground truth has no such boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from m2det.text import printable

UNDEFINED = -1.0
NOT_DEFINED = "not defined"
SIZES = {"APs": "small", "APm": "medium", "APl": "large"}
MAX_NAMED = 10


def explain_undefined(metrics: Mapping[str, float]) -> Iterator[str]:
    """Yield a sentence for AP as a whole, of sizes and of classes, where `coco_metrics` returned -1."""
    if metrics["AP"] == UNDEFINED:
        yield "AP and all other metrics are -1, not defined: no image has an annotated box"
        return
    sizes = [size for name, size in SIZES.items() if metrics.get(name) == UNDEFINED]
    if sizes:
        yield f"AP of {', '.join(sizes)} boxes is -1, not defined: the images have none of that size"
    classes = [name.removeprefix("AP/") for name, ap in metrics.items() if name.startswith("AP/") and ap == UNDEFINED]
    if classes:
        named = ", ".join(printable(name) for name in classes[:MAX_NAMED])
        more = f" and {len(classes) - MAX_NAMED} more" if len(classes) > MAX_NAMED else ""
        yield f"AP of {len(classes)} classes is -1, not defined: the images have no box of {named}{more}"
