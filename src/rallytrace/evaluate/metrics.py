"""The field's metrics of ball tracking, from labels and points alone.

Definitions as in TrackNetV2 (Sun et al., 2020) and the code that came after it: a labelled frame is one of five
outcomes, precision = TP / (TP + FP1 + FP2), recall = TP / (TP + FN), accuracy = (TP + TN) / all. Note that a ball
found in the wrong place (FP1) does not lower this recall; `recall_visible` counts it as missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from rallytrace.types import XY, BallLabel, BallPoint, Visibility

SPEED_EDGES_PX = (2.0, 8.0)  # of a picture 512 px wide, per frame: slow, middle, fast
CONTRAST_EDGES = (10.0, 30.0)  # grey levels between the ball and what surrounds it: low, middle, high


class Outcome(StrEnum):
    """What became of one labelled frame."""

    TP = "tp"  # found, within the tolerance
    FP1 = "fp1"  # found, but farther than the tolerance from the ball
    FP2 = "fp2"  # found where there is no ball
    TN = "tn"  # rightly not found
    FN = "fn"  # a ball, not found


def is_visible(label: BallLabel, *, count_occluded: bool = False) -> bool:
    """Whether `label` asks for a ball. An occluded one does only with `count_occluded`; else it counts as no ball."""
    return label.xy is not None and (count_occluded or label.visibility is not Visibility.OCCLUDED)


def classify(label: BallLabel, xy: XY | None, tolerance_px: float, *, count_occluded: bool = False) -> Outcome:
    """The outcome of a frame with `label` where `xy` was found; `tolerance_px` is a distance, itself included."""
    if label.xy is None or not is_visible(label, count_occluded=count_occluded):
        return Outcome.TN if xy is None else Outcome.FP2
    if xy is None:
        return Outcome.FN
    return Outcome.TP if math.dist(label.xy, xy) <= tolerance_px else Outcome.FP1


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many labelled frames had each outcome. A ratio without any frame to speak for it is None."""

    tp: int = 0
    fp1: int = 0
    fp2: int = 0
    tn: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.tp + other.tp, self.fp1 + other.fp1, self.fp2 + other.fp2, self.tn + other.tn, self.fn + other.fn
        )

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Counts:
        found = list(outcomes)
        return cls(*(found.count(kind) for kind in (Outcome.TP, Outcome.FP1, Outcome.FP2, Outcome.TN, Outcome.FN)))

    @property
    def total(self) -> int:
        return self.tp + self.fp1 + self.fp2 + self.tn + self.fn

    @property
    def precision(self) -> float | None:
        return _ratio(self.tp, self.tp + self.fp1 + self.fp2)

    @property
    def recall(self) -> float | None:
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def recall_visible(self) -> float | None:
        """The share of all visible balls that was found in the right place."""
        return _ratio(self.tp, self.tp + self.fp1 + self.fn)

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall, as 2 TP / (2 TP + FP1 + FP2 + FN): 0 where all is missed."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp1 + self.fp2 + self.fn)

    @property
    def accuracy(self) -> float | None:
        return _ratio(self.tp + self.tn, self.total)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """`px` pixels of a 16:9 picture that is `height_px` high, or of the source itself where it is None.

    `4@288` (4 px at 512x288, 10 px at 1280x720) is what TrackNetV2 and its successors report, `4@source` what WASB
    does; they differ by 2.5 at 720p. Other aspects than 16:9 are scaled by their width.
    """

    px: float
    height_px: int | None = 288

    def __post_init__(self) -> None:
        if not (math.isfinite(self.px) and self.px > 0) or (self.height_px is not None and self.height_px < 1):
            raise ValueError(f"px and height_px must be positive, got {self.px} and {self.height_px}")

    def __str__(self) -> str:
        return f"{self.px:g}@{self.height_px or 'source'}"

    def in_source_px(self, source_wh: tuple[int, int]) -> float:
        return self.px if self.height_px is None else self.px * source_wh[0] / (self.height_px * 16 / 9)


TOLERANCES = (Tolerance(4.0, 288), Tolerance(4.0, None))


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ClipScore:
    """What the labels of a clip say about its points. Scores of clips add up to the score of a match or of all.

    counts: by tolerance. by_speed: by tolerance, the counts of visible frames with a known speed, one per bucket
    between SPEED_EDGES_PX; by_contrast likewise, between CONTRAST_EDGES. errors_px: float64 (n,), source px, of the
    frames where a visible ball was found, however far off. n_unlabelled: points that no label speaks for. n_missing:
    labels beyond the points; counted as not found.
    """

    counts: dict[Tolerance, Counts]
    by_speed: dict[Tolerance, tuple[Counts, ...]]
    by_contrast: dict[Tolerance, tuple[Counts, ...]]
    errors_px: NDArray[np.float64]
    n_unlabelled: int = 0
    n_missing: int = 0

    def __add__(self, other: ClipScore) -> ClipScore:
        if self.counts.keys() != other.counts.keys():
            raise ValueError(f"scores have other tolerances: {[*map(str, self.counts)]}, {[*map(str, other.counts)]}")
        return ClipScore(
            {t: n + other.counts[t] for t, n in self.counts.items()},
            _add_buckets(self.by_speed, other.by_speed),
            _add_buckets(self.by_contrast, other.by_contrast),
            np.concatenate([self.errors_px, other.errors_px]),
            self.n_unlabelled + other.n_unlabelled,
            self.n_missing + other.n_missing,
        )

    @property
    def median_error_px(self) -> float | None:
        return self.error_px(50)

    @property
    def p95_error_px(self) -> float | None:
        return self.error_px(95)

    def error_px(self, percentile: float) -> float | None:
        return float(np.percentile(self.errors_px, percentile)) if len(self.errors_px) else None

    def __repr__(self) -> str:
        counts = ", ".join(f"{t}: {n}" for t, n in self.counts.items())
        return f"ClipScore({counts}, errors_px={self.errors_px.shape})"


def _add_buckets(
    one: dict[Tolerance, tuple[Counts, ...]], other: dict[Tolerance, tuple[Counts, ...]]
) -> dict[Tolerance, tuple[Counts, ...]]:
    return {t: tuple(a + b for a, b in zip(n, other[t], strict=True)) for t, n in one.items()}


def ball_contrast(image: NDArray[np.uint8], xy: XY) -> float:
    """Grey levels by which the 3x3 pixels at `xy` differ from the median of the ring 5 to 8 px around it.

    image: uint8 (h, w[, 3]), xy in its pixels. The size of the picture matters: compare within one network only.
    """
    grey = image if image.ndim == 2 else image.mean(axis=2)
    h, w = grey.shape
    x, y = min(max(round(xy[0]), 0), w - 1), min(max(round(xy[1]), 0), h - 1)
    top, left = max(y - 8, 0), max(x - 8, 0)
    around = grey[top : y + 9, left : x + 9].astype(np.float64)
    rows, columns = np.ogrid[: around.shape[0], : around.shape[1]]
    distance = np.maximum(abs(rows - (y - top)), abs(columns - (x - left)))
    return abs(float(around[distance <= 1].mean()) - float(np.median(around[distance >= 5])))


def score_clip(
    labels: Mapping[int, BallLabel],
    points: Iterable[BallPoint],
    source_wh: tuple[int, int],
    *,
    tolerances: Iterable[Tolerance] = TOLERANCES,
    count_occluded: bool = False,
    contrasts: Mapping[int, float] | None = None,
) -> ClipScore:
    """Compares the points of a clip with its labels; frames without a label are never counted.

    source_wh: size of the picture that both are pixels of. A label without a point counts as "no ball found".
    contrasts: `ball_contrast` of visible frames, where it is known.
    Raises ValueError where two points are of one frame.
    """
    found: dict[int, XY | None] = {}
    for point in points:
        if point.frame in found:
            raise ValueError(f"expected one point a frame, got two of frame {point.frame}")
        found[point.frame] = point.xy
    visible = {frame: xy for frame, label in labels.items() if (xy := _asked(label, count_occluded)) is not None}
    speeds = {frame: _speed_px(visible, frame, source_wh[0]) for frame in visible}
    contrast_of = {frame: value for frame, value in (contrasts or {}).items() if frame in visible}
    counts: dict[Tolerance, Counts] = {}
    by_speed: dict[Tolerance, tuple[Counts, ...]] = {}
    by_contrast: dict[Tolerance, tuple[Counts, ...]] = {}
    for tolerance in tolerances:
        limit_px = tolerance.in_source_px(source_wh)
        outcomes = {
            frame: classify(label, found.get(frame), limit_px, count_occluded=count_occluded)
            for frame, label in labels.items()
        }
        counts[tolerance] = Counts.of(outcomes.values())
        by_speed[tolerance] = _buckets(outcomes, speeds, SPEED_EDGES_PX)
        by_contrast[tolerance] = _buckets(outcomes, contrast_of, CONTRAST_EDGES)
    errors = [math.dist(xy, hit) for frame, xy in sorted(visible.items()) if (hit := found.get(frame)) is not None]
    n_missing = len(labels.keys() - found.keys())
    n_unlabelled = len(found.keys() - labels.keys())
    return ClipScore(counts, by_speed, by_contrast, np.array(errors, np.float64), n_unlabelled, n_missing)


def _asked(label: BallLabel, count_occluded: bool) -> XY | None:
    return label.xy if is_visible(label, count_occluded=count_occluded) else None


def _buckets(
    outcomes: Mapping[int, Outcome], values: Mapping[int, float | None], edges: tuple[float, ...]
) -> tuple[Counts, ...]:
    """The counts of the frames whose value lies below the first edge, between edges, and above the last."""
    bucket_of = {frame: sum(value >= edge for edge in edges) for frame, value in values.items() if value is not None}
    return tuple(
        Counts.of(outcomes[frame] for frame, bucket in bucket_of.items() if bucket == wanted)
        for wanted in range(len(edges) + 1)
    )


def _speed_px(visible: Mapping[int, XY], frame: int, source_w: int) -> float | None:
    """The mean step to the labels one frame before and after, in px of a picture 512 px wide.

    The mean of both, because a frame that repeats the one before has a step of zero. None: no neighbour is visible.
    """
    steps_px = [math.dist(visible[frame], visible[near]) for near in (frame - 1, frame + 1) if near in visible]
    return float(np.mean(steps_px)) * 512 / source_w if steps_px else None
