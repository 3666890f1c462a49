"""Figures on errors: the AP that kinds cost, precision and recall by threshold, confusions, calibration; as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from m2det.viz.curves import drawable, new_figure, save_figure

INCHES = (5.5, 4)  # so that texts are legible on a phone
MAX_NAMED = 40  # classes with names and counts in the confusion matrix
MAX_COUNTED = 15
MAX_NAME = 20  # characters drawn of a class's name


def draw_error_costs(path: Path, ap50: float, costs: Mapping[str, float]) -> None:
    """Draw the AP50 that each kind of error costs as bars; AP50 is -1 where it is not defined."""
    shown = f"{ap50:.3f}" if ap50 >= 0 else "not defined"
    figure, axes = new_figure(INCHES)
    bars = axes.barh(list(costs), list(costs.values()), color="tab:red")
    axes.bar_label(bars, [f"{cost:.3f}" for cost in costs.values()], padding=3)
    axes.set(xlim=(0, max(0.01, *costs.values()) * 1.2), xlabel=f"AP50 lost; AP50 is {shown}")
    axes.invert_yaxis()
    axes.set_title("What each kind of error costs")
    save_figure(figure, path)


def draw_nothing(path: Path) -> None:
    """Draw that there is no ground truth, where a figure is expected: `dvc plots show` fails without the file."""
    figure, axes = new_figure(INCHES)
    axes.text(0.5, 0.5, "no ground truth", ha="center", va="center")
    axes.set_axis_off()
    save_figure(figure, path)


def draw_thresholds(
    path: Path, thresholds: NDArray[np.float64], curves: Mapping[str, NDArray[np.float64]], chosen: float
) -> None:
    """Draw curves [N] by score threshold [N], and a chosen threshold."""
    figure, axes = new_figure(INCHES)
    for name, curve in curves.items():
        axes.plot(thresholds, curve, label=name)
    axes.axvline(chosen, color="black", linestyle=":", label=f"score {chosen:.2f}")
    axes.set(xlabel="score threshold", xlim=(0, 1), ylim=(0, 1.02))
    figure.legend(loc="outside lower center", ncols=4)
    axes.set_title("By score threshold")
    save_figure(figure, path)


def draw_confusions(path: Path, matrix: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Draw a confusion matrix [C+1,C+1], background last: colours by row, names and counts of few classes."""
    side = max(5, 1.6 + 0.34 * len(matrix)) if len(matrix) <= MAX_NAMED else 7
    figure, axes = new_figure((side, side))
    axes.grid(visible=False)
    share = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="detected", ylabel="annotated")
    names = [*(drawable(name)[:MAX_NAME] for name in classes), "background"]
    if len(names) <= MAX_NAMED:
        axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
    if len(names) <= MAX_COUNTED:
        for (row, column), count in np.ndenumerate(matrix):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(count) if count else "", ha="center", va="center", color=colour, fontsize=8)
    axes.set_title("Confusions")
    save_figure(figure, path)


def draw_calibration(path: Path, score: NDArray[np.float64], right: NDArray[np.float64], error: float) -> None:
    """Draw the share of right detections by their mean score [N], both 0 where no detection has such scores."""
    figure, axes = new_figure(INCHES)
    axes.plot([0, 1], [0, 1], color="black", linestyle=":", label="probabilities")
    there = score > 0
    axes.plot(score[there], right[there], "o-", label=f"this model, off by {error:.3f}")
    axes.set(xlabel="mean score", ylabel="share of right detections", xlim=(0, 1), ylim=(0, 1.02))
    figure.legend(loc="outside lower center", ncols=2)
    axes.set_title("Calibration")
    save_figure(figure, path)
