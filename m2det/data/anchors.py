"""Prior sizes for a data set: those by which most of its boxes are matched.

YOLO's k-means takes any shape for any cell. Here the aspect ratios, and which map has which size, are the model's; so
its sizes are searched for, on the overlaps that training would compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from m2det.data.sources.records import Split
from m2det.data.statistics import MIN_IOU, count_matches, objects
from m2det.model.config import M2DetConfig
from m2det.model.priors import prior_boxes

Floats = NDArray[np.float64]

MAX_BOXES = 2000  # that the search looks at, and as many others that it is measured on
MIN_SIZE, MAX_SIZE = 0.01, 1.05  # fractions of the input's side
MIN_RATIO = 1.1  # between a map's size and the next
STEPS = (1.3, 1.15, 1.07, 1.03)  # factors by which sizes are moved, coarse to fine
MIN_STEP = 1e-4  # of the score, for a move to count
MIN_GAIN = 0.02  # share of boxes below which the model's own sizes are as good


@dataclass(frozen=True)
class Proposal:
    """Prior sizes and what they gain.

    sizes: rising fractions of the input's side. before, after: share of boxes that priors of the model's own, and of
    these sizes match. measured: boxes that these were measured on. held_out: whether the search did not see them.
    """

    sizes: tuple[float, ...]
    before: float
    after: float
    measured: int
    held_out: bool

    @property
    def helps(self) -> bool:
        """Whether the gain is worth other sizes than the model's."""
        return self.after - self.before >= MIN_GAIN


def propose_sizes(split: Split, config: M2DetConfig, seed: int = 0) -> Proposal:
    """Return the prior sizes that match most boxes of a split.

    Args:
        split: its boxes; it has some.
        config: the model, whose maps and aspect ratios are kept.
        seed: of the boxes that are looked at.
    """
    boxes, _ = objects(split)
    order = np.random.default_rng(seed).permutation(len(boxes))
    seen, others = boxes[order[:MAX_BOXES]], boxes[order[MAX_BOXES : 2 * MAX_BOXES]]
    measured = others if len(others) >= MAX_BOXES // 2 else seen
    sizes = _search(seen.astype(np.float64), config)
    before, after = (_share(measured, config, each) for each in (config.prior_sizes, sizes))
    return Proposal(sizes, before, after, len(measured), measured is others)


def _share(boxes: NDArray[np.float32], config: M2DetConfig, sizes: tuple[float, ...]) -> float:
    return float((count_matches(boxes, prior_boxes(config, sizes=sizes)) > 0).mean())


def _search(boxes: Floats, config: M2DetConfig) -> tuple[float, ...]:
    """Return the best of some starts after moving each size up and down while that helps."""
    overlaps = _Overlaps(boxes, config)
    side = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    quantiles = np.quantile(side, np.linspace(0.02, 0.98, len(config.prior_sizes)))
    largest = min(MAX_SIZE, max(quantiles[-1], 2 * quantiles[0]))
    even = np.geomspace(max(MIN_SIZE, quantiles[0]), largest, len(quantiles))
    candidates = [_climb(overlaps, _rising(np.array(start))) for start in (config.prior_sizes, quantiles, even)]
    _, best = max(candidates, key=lambda candidate: candidate[0])
    return best


def _climb(overlaps: _Overlaps, sizes: tuple[float, ...]) -> tuple[float, tuple[float, ...]]:
    score = overlaps.score(sizes)
    for step in STEPS:
        improved = True
        while improved:
            improved = False
            for k in range(len(sizes)):
                for factor in (step, 1 / step):
                    moved = np.array(sizes)
                    moved[k] *= factor
                    candidate = _rising(moved)
                    value = overlaps.score(candidate)
                    if value > score + MIN_STEP:
                        sizes, score, improved = candidate, value, True
    return score, sizes


def _rising(sizes: Floats) -> tuple[float, ...]:
    """Return sizes in bounds and in order, each MIN_RATIO above the last, in thousandths."""
    ceiling = MAX_SIZE / MIN_RATIO ** np.arange(len(sizes) - 1, -1, -1)
    rising = [0.0]
    for size, highest in zip(np.sort(sizes), ceiling, strict=True):
        rising.append(min(max(size, MIN_SIZE, rising[-1] * MIN_RATIO), highest))
    return tuple(round(float(size), 3) for size in rising[1:])


class _Overlaps:
    """Best overlaps of boxes with the priors of each map, kept: a size that moves changes those of two maps alone."""

    def __init__(self, boxes: Floats, config: M2DetConfig) -> None:
        self._center, self._extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        self._maps = list(zip(config.feature_sizes, (step / config.size for step in config.steps), strict=True))
        self._known: dict[tuple[int, float, float], Floats] = {}

    def score(self, sizes: tuple[float, ...]) -> float:
        """Return the share of boxes that are matched; the mean overlap, a tenth of it, decides between equal ones."""
        best = np.max([self._best(k, *sizes[k : k + 2]) for k in range(len(self._maps))], axis=0)
        return float((best >= MIN_IOU).mean() + 0.1 * best.mean())

    def _best(self, k: int, size: float, next_size: float) -> Floats:
        """Return [N]: each box's best overlap with a prior of the map k.

        Of each shape only the prior of the nearest cell is compared: none of that shape overlaps more.
        """
        if (k, size, next_size) not in self._known:
            side, pitch = self._maps[k]
            nearest = (np.clip(np.round(self._center / pitch - 0.5), 0, side - 1) + 0.5) * pitch
            mean = sqrt(size * next_size)
            shapes = [(size, size), (mean, mean)]
            shapes += [(size * r, size / r) for ratio in (2, 3) for r in (sqrt(ratio), 1 / sqrt(ratio))]
            shape = np.minimum(np.array(shapes), 1)[:, None]  # [6,1,2]
            low = np.maximum(nearest - shape / 2, self._center - self._extent / 2)
            high = np.minimum(nearest + shape / 2, self._center + self._extent / 2)
            shared = (high - low).clip(0).prod(2)
            overlap = shared / (shape.prod(2) + self._extent.prod(1) - shared)
            self._known[k, size, next_size] = overlap.max(0)
        return self._known[k, size, next_size]


def describe_proposal(proposal: Proposal, config: M2DetConfig) -> str:
    """Return a text: the sizes, what they gain, and the lines for params.yaml."""
    how = "that the search did not see" if proposal.held_out else "that they were chosen by"
    own = ", ".join(f"{size:g}" for size in config.prior_sizes)
    lines = [
        f"share of {proposal.measured} boxes {how}, that priors of {config.name} overlap by {MIN_IOU} or more:",
        f"its own sizes, {own} of the side: {proposal.before:.1%}",
        f"proposed sizes, {', '.join(f'{size:g}' for size in proposal.sizes)}: {proposal.after:.1%}",
    ]
    if not proposal.helps:
        return "\n".join([*lines, "that gains too little: keep the model's own sizes"])
    values = ", ".join(f"{size:g}" for size in proposal.sizes)
    return "\n".join([*lines, "in params.yaml:", "model:", f"  overrides: {{sizes: [{values}]}}"])
