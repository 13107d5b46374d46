"""What a set of labels holds, and which of them look wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from rallytrace.labels.sets import LabelSet
from rallytrace.trajectory import MAX_SPEED, link
from rallytrace.types import BallLabel, BallPoint, PointSource, Visibility

DEFAULT_FPS = 30.0
LARGEST_PX = 16_384  # no video is wider: twice the width of 8K
STILL_FRAMES = 6  # a broadcast repeats a picture once or twice; a ball that lies still is seen to, or a tool copied it


@dataclass(frozen=True, slots=True)
class Finding:
    """A label that looks wrong. kind: speed, jump, duplicate, outside or corner."""

    clip: str
    frame: int
    kind: str
    message: str


def stats(labels: LabelSet) -> dict[str, Any]:
    """Counts of one clip; speeds in px/frame between neighbouring frames, None where there are none."""
    located = labels.located()
    extras = [labels.extra(frame) for frame in labels.labels]
    gone = [len(list(run)) for absent, run in groupby(_states(labels), lambda state: state == "absent") if absent]
    classes = {each.name.lower(): 0 for each in Visibility}
    for label in labels.labels.values():
        classes[label.visibility.name.lower()] += 1
    return {
        "clip": labels.name,
        "video": labels.video,
        "size": labels.wh,
        "frames": labels.length,
        "labelled": len(labels.labels),
        "located": len(located),
        "absent": len(labels.labels) - len(located),
        "unlabelled": labels.length - len(labels.labels),
        "visibility": classes,
        "events": {event: sum(extra.event == event for extra in extras) for event in ("hit", "bounce")},
        "interpolated": sum(not extra.keyframe for extra in extras),
        "speed_px_per_frame": _quantiles([_px_per_frame(a, b) for a, b in _neighbours(located)]),
        "invisible_runs": {"count": len(gone), "median": float(np.median(gone)) if gone else None,
                           "longest": max(gone, default=0)},
    }  # fmt: skip


def _states(labels: LabelSet) -> Iterator[str]:
    for frame in range(labels.length):
        label = labels.labels.get(frame)
        yield "unlabelled" if label is None else "absent" if label.xy is None else "located"


def _neighbours(located: Sequence[BallLabel]) -> Iterator[tuple[BallLabel, BallLabel]]:
    return ((a, b) for a, b in pairwise(located) if b.frame == a.frame + 1)


def _px_per_frame(a: BallLabel, b: BallLabel) -> float:
    assert a.xy
    assert b.xy
    return math.dist(a.xy, b.xy) / (b.frame - a.frame)


def _quantiles(speeds: list[float]) -> dict[str, float] | None:
    if not speeds:
        return None
    values = np.quantile(speeds, (0.5, 0.9, 0.99, 1.0))
    return {name: round(float(value), 2) for name, value in zip(("median", "p90", "p99", "max"), values, strict=True)}


def check(labels: LabelSet) -> list[Finding]:
    """Labels that look wrong, in the order of their frames: outside the picture, faster than any ball (MAX_SPEED
    diagonals of the picture a second), a jump away and back, the same place in STILL_FRAMES frames or more, and places
    from 0 to 1, which are shares of the picture, or zeros that mean no ball.

    Where the set does not tell the picture's size, its positions span it, and LARGEST_PX bounds it; without a rate, 30
    frames/s are taken.
    """
    located = labels.located()
    wh = labels.wh or _span(located)
    fps = float(labels.fps or DEFAULT_FPS)
    found = [*_outside(labels, located), *_corner(labels, located), *_still(labels, located)]
    fast = list(_fast(labels, located, math.hypot(*wh) * MAX_SPEED / fps))
    found += fast
    found += _jumps(labels, wh, fps, {finding.frame for finding in fast})
    return sorted(found, key=lambda finding: (finding.frame, finding.kind))


def _span(located: Sequence[BallLabel]) -> tuple[int, int]:
    places = [label.xy for label in located if label.xy]
    return tuple(max(1, math.ceil(max((xy[axis] for xy in places), default=0))) for axis in (0, 1))  # type: ignore[return-value]


def _outside(labels: LabelSet, located: Sequence[BallLabel]) -> Iterator[Finding]:
    for label in located:
        assert label.xy
        wh = labels.wh or (LARGEST_PX, LARGEST_PX)
        if not all(-0.5 <= value <= size - 0.5 for value, size in zip(label.xy, wh, strict=True)):
            size = f"{wh[0]}x{wh[1]}" if labels.wh else "any picture"
            yield Finding(labels.name, label.frame, "outside", f"{_place(label)} is outside {size}")


def _corner(labels: LabelSet, located: Sequence[BallLabel]) -> Iterator[Finding]:
    """One finding, or a file in shares of the picture would have thousands."""
    found = [label for label in located if label.xy and all(0 <= value <= 1 for value in label.xy)]
    if found:
        message = (
            f"{_place(found[0], 3)}: {len(found)} of {len(located)} positions are from 0 to 1, expected pixels: "
            "shares of the picture, to be multiplied by its size, or zeros that mean no ball?"
        )
        yield Finding(labels.name, found[0].frame, "corner", message)


def _fast(labels: LabelSet, located: Sequence[BallLabel], limit_px: float) -> Iterator[Finding]:
    for a, b in pairwise(located):
        speed = _px_per_frame(a, b)
        if speed > limit_px:
            message = f"{speed:.0f} px/frame from frame {a.frame}, no ball is faster than {limit_px:.0f}"
            yield Finding(labels.name, b.frame, "speed", message)


def _jumps(labels: LabelSet, wh: tuple[int, int], fps: float, known: set[int]) -> Iterator[Finding]:
    points = [
        BallPoint(frame, frame / fps, label.xy, 1.0, PointSource.MODEL if label.xy else PointSource.NONE)
        for frame, label in sorted(labels.labels.items())
    ]
    for before, after in zip(points, link(points, wh), strict=True):
        if before.xy and after.xy is None and before.frame not in known:
            place = _place(labels.labels[before.frame])
            yield Finding(labels.name, before.frame, "jump", f"{place} is off the path of the labels around it")


def _still(labels: LabelSet, located: Sequence[BallLabel]) -> Iterator[Finding]:
    run: list[BallLabel] = []
    for label in [*located, None]:
        if label and run and label.xy == run[-1].xy and label.frame == run[-1].frame + 1:
            run.append(label)
            continue
        if len(run) >= STILL_FRAMES:
            message = f"{_place(run[0])} in {len(run)} frames, up to {run[-1].frame}"
            yield Finding(labels.name, run[0].frame, "duplicate", message)
        run = [label] if label else []


def _place(label: BallLabel, digits: int = 1) -> str:
    assert label.xy
    return f"({label.xy[0]:.{digits}f}, {label.xy[1]:.{digits}f})"
