"""Curves: as CSV for DVC, as PNG for people without a network."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from m2det.files.whole import write_whole
from m2det.text import page_safe, printable

IOUS = {"IoU_0.50": slice(0, 1), "IoU_0.75": slice(5, 6), "IoU_0.50_to_0.95": slice(0, 10)}
CLASS_COLUMNS = ("AP", "APs", "APm", "APl")


def precision_by_recall(precision: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Average precision over classes and IoUs.

    Args:
        precision: [T,R,K] by IoU, recall and class, -1 for classes without ground truth.

    Returns:
        Curves [R], by name; NaN without any ground truth.
    """
    valid = precision[:, :, (precision > -1).any(axis=(0, 1))]
    shape = precision.shape[1]
    return {
        name: valid[ious].mean(axis=(0, 2)) if valid.size else np.full(shape, np.nan) for name, ious in IOUS.items()
    }


def write_precision_recall(path: Path, curves: dict[str, NDArray[np.float64]]) -> None:
    """Write curves as CSV, one row per recall 0, 0.01, ..., 1; empty where they are not defined."""
    table = StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["recall", *curves])
    for i in range(101):
        writer.writerow(
            [f"{i / 100:.2f}", *("" if np.isnan(curve[i]) else f"{curve[i]:.4f}" for curve in curves.values())]
        )
    write_whole(path, table.getvalue())


def write_class_ap(path: Path, classes: Sequence[str], ap: NDArray[np.float64]) -> None:
    """Write AP [K,4] by class, and of its small, medium and large objects, as CSV; empty without such objects (-1)."""
    table = StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["class", *CLASS_COLUMNS])
    for name, row in zip(classes, ap.tolist(), strict=True):  # `dvc plots` makes a page of it
        writer.writerow([page_safe(name), *("" if value < 0 else f"{value:.4f}" for value in row)])
    write_whole(path, table.getvalue())


def read_class_ap(path: Path) -> NDArray[np.float64]:
    """Return AP [K,4] of what `write_class_ap` wrote; -1 where it is empty."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [[float(row[name] or -1) for name in CLASS_COLUMNS] for row in csv.DictReader(file)]
    return np.array(rows, np.float64).reshape(-1, len(CLASS_COLUMNS))


def draw_precision_recall(path: Path, curves: dict[str, NDArray[np.float64]]) -> None:
    """Draw curves as PNG."""
    figure, axes = new_figure()
    for name, curve in curves.items():
        ap = "not defined" if np.isnan(curve).any() else f"{curve.mean():.3f}"
        axes.plot(np.linspace(0, 1, len(curve)), curve, label=f"{name.replace('_', ' ')}: AP {ap}")
    axes.set(xlabel="recall", ylabel="precision, mean over classes", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title("Precision by recall")
    axes.legend(loc="lower left")
    save_figure(figure, path)


def draw_learning_curve(path: Path, curves_csv: Path) -> None:
    """Draw losses and AP by epoch, from results/curves.csv, as PNG."""
    with curves_csv.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) for row in rows]
    evaluated = [row for row in rows if row["AP"]]
    figure, axes = new_figure()
    for name, colour in (("loss_loc", "tab:gray"), ("loss_conf", "tab:brown")):
        axes.plot(epochs, [float(row[name]) for row in rows], label=name, color=colour)
    axes.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    right = axes.twinx()
    for name, colour in (("AP50", "tab:green"), ("AP", "tab:blue")):
        points = [(int(row["epoch"]), float(row[name])) for row in evaluated]
        right.plot(*zip(*points, strict=True), "o-", label=f"{name} (last {points[-1][1]:.3f})", color=colour)
    right.set(ylabel="AP on the validation images", ylim=(0, 1))
    right.grid(visible=False)
    figure.legend(loc="outside lower center", ncols=4)
    axes.set_title("Learning curve")
    save_figure(figure, path)


def new_figure(inches: tuple[float, float] = (7, 4.5), columns: int = 1):  # type: ignore[no-untyped-def]
    """Return a matplotlib figure and its axes, side by side."""
    from matplotlib.figure import Figure  # the object, not pyplot: no display, no global state

    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots(1, columns)
    for each in figure.axes:
        each.grid(alpha=0.3)
    return figure, axes


def drawable(text: str) -> str:
    """Return `printable` text in which characters that the figures' font lacks, such as Chinese ones, are escapes."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))  # matplotlib's own, so that figures are equal on all machines
    escaped = (c if font.get_char_index(ord(c)) else c.encode("unicode_escape").decode() for c in printable(text))
    return "".join(escaped)


def save_figure(figure, path: Path) -> None:  # type: ignore[no-untyped-def]
    """Write a figure as PNG; equal figures give equal bytes. Raises InputError if the disk is full."""
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})  # no version in it
    write_whole(path, picture.getvalue())
