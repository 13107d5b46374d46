"""Run a network over labelled clips through `Tracker`, the same object that tracks videos, and score what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from rallytrace import video
from rallytrace.errors import InputError
from rallytrace.evaluate.metrics import (
    CONTRAST_EDGES,
    SPEED_EDGES_PX,
    TOLERANCES,
    ClipScore,
    Counts,
    Tolerance,
    ball_contrast,
    score_clip,
)
from rallytrace.labels import check_length
from rallytrace.runtime import Network
from rallytrace.tracker import Tracker
from rallytrace.trajectory import link
from rallytrace.types import BallPoint, Clip

Row = tuple[str | int | float | None, ...]


@dataclass(frozen=True, slots=True, repr=False)
class ClipReport:
    """One clip's points, one per frame, and their score."""

    clip: Clip
    source_wh: tuple[int, int]
    points: tuple[BallPoint, ...]
    score: ClipScore


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """What `evaluate_clips` found. `settings` says what was run."""

    settings: dict[str, Any]
    clips: tuple[ClipReport, ...]

    @property
    def total(self) -> ClipScore:
        return _sum(self.clips)

    @property
    def by_match(self) -> dict[str, ClipScore]:
        matches = dict.fromkeys(report.clip.match for report in self.clips)
        return {match: _sum([r for r in self.clips if r.clip.match == match]) for match in matches}

    def rows(self) -> Iterator[Row]:
        """name, tolerance, TP, FP1, FP2, TN, FN, precision, recall, F1, accuracy, median px, p95 px; the total last."""
        scores = [(report.clip.name, report.score) for report in self.clips]
        scores += [(f"match {name}", score) for name, score in self.by_match.items()]
        for name, score in [*scores, ("total", self.total)]:
            for tolerance, c in score.counts.items():
                ratios = (c.precision, c.recall, c.f1, c.accuracy)
                errors = (score.median_error_px, score.p95_error_px)
                yield (name, str(tolerance), c.tp, c.fp1, c.fp2, c.tn, c.fn, *ratios, *errors)

    def recall_lines(self) -> list[str]:
        """The share of visible balls that is found in its place, by speed and by contrast; a line per tolerance."""
        total, lines = self.total, []
        slow, fast = SPEED_EDGES_PX
        low, high = CONTRAST_EDGES
        for name, buckets_of in (
            (f"speed (under {slow:g}, to {fast:g}, faster; px of 512 a frame)", total.by_speed),
            (f"contrast (under {low:g}, to {high:g}, higher; grey levels)", total.by_contrast),
        ):
            for tolerance, buckets in buckets_of.items():
                shares = (f"{c.recall_visible:.3f} of {c.total}" if c.total else "- of 0" for c in buckets)
                lines.append(f"recall by {name} within {tolerance}: {', '.join(shares)}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "settings": self.settings,
            "total": _to_dict(self.total),
            "matches": {name: _to_dict(score) for name, score in self.by_match.items()},
            "clips": {report.clip.name: _to_dict(report.score) for report in self.clips},
        }


def _sum(reports: Sequence[ClipReport]) -> ClipScore:
    return reduce(add, (report.score for report in reports))


def _to_dict(score: ClipScore) -> dict[str, Any]:
    return {
        "tolerances": {str(t): _counts_to_dict(counts) for t, counts in score.counts.items()},
        "recall_by_speed": _recalls(score.by_speed, ("slow", "middle", "fast")),
        "recall_by_contrast": _recalls(score.by_contrast, ("low", "middle", "high")),
        "median_error_px": score.median_error_px,
        "p95_error_px": score.p95_error_px,
        "n_unlabelled": score.n_unlabelled,
        "n_missing": score.n_missing,
    }


def _recalls(buckets_of: dict[Tolerance, tuple[Counts, ...]], names: tuple[str, ...]) -> dict[str, Any]:
    return {
        str(t): {name: c.recall_visible for name, c in zip(names, buckets, strict=True)}
        for t, buckets in buckets_of.items()
    }


def _counts_to_dict(c: Counts) -> dict[str, Any]:
    names = ("tp", "fp1", "fp2", "tn", "fn", "precision", "recall", "recall_visible", "f1", "accuracy")
    return {name: getattr(c, name) for name in names}


def evaluate_clips(
    network: Network,
    clips: Sequence[Clip],
    *,
    threshold: float | None = None,
    overlap: int = 1,
    path: bool = True,
    fill: int = 0,
    reject: bool = False,
    tolerances: Sequence[Tolerance] = TOLERANCES,
    on_clip: Callable[[int], None] | None = None,
) -> Report:
    """Track every clip and compare with its labels; nothing is filled or rejected unless asked.

    threshold, overlap, path: see `Tracker`; without `path` the network's bare word counts. fill, reject: see `Linker`.
    on_clip: told how many clips are done.
    Raises InputError without clips, VideoError for a clip that cannot be read, LabelError for labels of another clip.
    """
    if not clips:
        raise InputError("nothing to evaluate: expected at least one labelled clip")
    reports = []
    for clip in clips:
        with video.read_clip(clip) as reader:
            reader.find_picture()
            wh = reader.info.wh
            picture = reader.info.picture
            tracker = Tracker(network, wh, threshold=threshold, overlap=overlap, path=path, picture=picture)
            reader.give_to(tracker)
            points: list[BallPoint] = []
            contrasts: dict[int, float] = {}
            for frame in reader:
                label = clip.labels.get(frame.index)
                if label is not None and label.xy is not None:
                    contrasts[frame.index] = ball_contrast(frame.image, tracker.transform.to_model(label.xy))
                points += tracker.push(frame)
            points += tracker.flush()
        check_length(clip, len(points))
        if fill or reject:
            points = list(link(points, wh, fill=fill, reject=reject))
        score = score_clip(clip.labels, points, wh, tolerances=tolerances, contrasts=contrasts)
        reports.append(ClipReport(clip, wh, tuple(points), score))
        if on_clip:
            on_clip(len(reports))
    settings = {
        "network": network.spec.name,
        "device": network.device,
        "threshold": tracker.threshold,
        "overlap": overlap,
        "path": path,
        "fill": fill,
        "reject": reject,
        "clips": [clip.name for clip in clips],
        "splits": sorted({clip.split for clip in clips}),
    }
    return Report(settings, tuple(reports))
