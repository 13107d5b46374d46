"""stats and check, on labels whose faults were put there by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from rallytrace.labels.quality import STILL_FRAMES, Finding, check, stats
from rallytrace.labels.sets import Extra, LabelSet
from rallytrace.trajectory import MAX_SPEED
from rallytrace.types import XY, BallLabel, Visibility

WH = (1280, 720)


def flight(n: int = 40) -> dict[int, XY]:
    """A smooth path, 10 px a frame."""
    return {frame: (100.0 + 8 * frame, 300.0 + 6 * frame) for frame in range(n)}


def a_set(places: dict[int, XY | None], **facts: object) -> LabelSet:
    labels = {
        frame: BallLabel(frame, xy, Visibility.CLEAR if xy else Visibility.ABSENT) for frame, xy in places.items()
    }
    return LabelSet(labels=labels, **{"name": "rally", "wh": WH, "fps": Fraction(30), **facts})  # type: ignore[arg-type]


def kinds(places: dict[int, XY | None], **facts: object) -> list[tuple[int, str]]:
    return [(finding.frame, finding.kind) for finding in check(a_set(places, **facts))]


def test_a_good_flight_has_no_findings() -> None:
    assert kinds(flight()) == []
    assert kinds(flight(), wh=None, fps=None) == []
    assert kinds({}) == []
    with_gaps: dict[int, XY | None] = {**flight(), 10: None, 11: None}
    del with_gaps[20]
    assert kinds(with_gaps) == []


def test_a_jump_away_and_back() -> None:
    assert kinds({**flight(), 20: (100.0, 650.0)}) == [(20, "speed"), (21, "speed")]
    assert kinds({**flight(), 20: (270.0, 490.0)}) == [(20, "jump")]


def test_impossible_speed_scales_with_picture_and_rate() -> None:
    limit_px = MAX_SPEED * math.hypot(*WH) / 30
    for factor, expected in ((0.99, []), (1.01, [(1, "speed")])):
        assert kinds({0: (10.0, 10.0), 1: (10.0 + factor * limit_px, 10.0)}) == expected
        assert kinds({0: (10.0, 10.0), 2: (10.0 + factor * limit_px, 10.0)}) == []
    assert kinds({0: (10.0, 10.0), 1: (10.0 + 0.6 * limit_px, 10.0)}, fps=Fraction(60)) == [(1, "speed")]


def test_copied_positions() -> None:
    still = dict.fromkeys(range(STILL_FRAMES), (5.0, 5.0))
    (finding,) = check(a_set(still))
    assert finding == Finding("rally", 0, "duplicate", f"(5.0, 5.0) in {STILL_FRAMES} frames, up to {STILL_FRAMES - 1}")
    split = {frame: (5.0, 5.0) for frame in range(2 * STILL_FRAMES - 1) if frame != STILL_FRAMES - 1}
    assert check(a_set(split)) == []


@pytest.mark.parametrize(("xy", "wrong"), [((-0.5, 0.0), False), ((-0.6, 0.0), True), ((1279.6, 5.0), True)])
def test_outside_the_picture(xy: XY, wrong: bool) -> None:
    assert kinds({0: xy}) == ([(0, "outside")] if wrong else [])


def test_stats() -> None:
    places: dict[int, XY | None] = {**flight(10), 10: None, 11: None, 12: (0.0, 0.0), 13: None}
    labels = a_set(places, n_frames=20, extras={3: Extra(event="hit"), 4: Extra(keyframe=False), 12: Extra("bounce")})
    told = stats(labels)
    assert {key: told[key] for key in ("frames", "labelled", "located", "absent", "unlabelled", "interpolated")} == {
        "frames": 20,
        "labelled": 14,
        "located": 11,
        "absent": 3,
        "unlabelled": 6,
        "interpolated": 1,
    }
    assert told["visibility"] == {"absent": 3, "clear": 11, "hard": 0, "occluded": 0}
    assert told["events"] == {"hit": 1, "bounce": 1}
    assert told["speed_px_per_frame"] == {"median": 10, "p90": 10, "p99": 10, "max": 10}
    assert told["invisible_runs"] == {"count": 2, "median": 1.5, "longest": 2}
    assert stats(a_set({}))["speed_px_per_frame"] is None


def test_shares_of_the_picture_and_zeros_are_found_once() -> None:
    """With a size, without one, and where only some are so."""
    shares = {frame: (x / 1280, y / 720) for frame, (x, y) in flight().items()}
    for wh in (WH, None):
        (finding,) = [each for each in check(a_set(shares, wh=wh)) if each.kind == "corner"]
        assert finding.frame == 0
        assert finding.message.startswith("(0.078, 0.417): 40 of 40 positions are from 0 to 1, expected pixels")
    assert (20, "corner") in kinds({**flight(), 20: (0.0, 0.0), 21: (0.0, 0.0)})


def test_places_in_no_picture_there_is_are_found_without_its_size() -> None:
    assert (20, "outside") in kinds({**flight(), 20: (500_000.0, 300.0)}, wh=None)
    assert kinds({0: (7000.0, 4000.0)}, wh=None) == []
