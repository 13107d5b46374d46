"""The metrics, on cases computed by hand, and against the published formulas written out a second time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallytrace.evaluate import (
    ClipScore,
    Counts,
    Outcome,
    Tolerance,
    ball_contrast,
    classify,
    is_visible,
    score_clip,
)
from rallytrace.types import XY, BallLabel, BallPoint, PointSource, Visibility

from .often import examples

AT_288, AT_SOURCE = Tolerance(4, 288), Tolerance(4, None)
HD = (1280, 720)


def label(frame: int, xy: XY | None, visibility: Visibility | None = None) -> BallLabel:
    default = Visibility.ABSENT if xy is None else Visibility.CLEAR
    return BallLabel(frame, xy, default if visibility is None else visibility)


def point(frame: int, xy: XY | None, source: PointSource | None = None) -> BallPoint:
    default = PointSource.NONE if xy is None else PointSource.MODEL
    return BallPoint(frame, frame / 30, xy, 0.5, source or default)


@pytest.mark.parametrize(
    ("truth", "xy", "outcome"),
    [
        ((100, 100), (100, 100), Outcome.TP),
        ((100, 100), (103, 104), Outcome.TP),  # 3-4-5: exactly the tolerance
        ((100, 100), (103, 104.01), Outcome.FP1),
        ((100, 100), (102, 102), Outcome.TP),  # 8 px squared, 2.83 px far: a squared error would miss it
        ((0, 0), (0, 0), Outcome.TP),  # the origin is a place
        ((100, 100), None, Outcome.FN),
        (None, (0, 0), Outcome.FP2),
        (None, None, Outcome.TN),
    ],
)
def test_outcomes(truth: XY | None, xy: XY | None, outcome: Outcome) -> None:
    assert classify(label(0, truth), xy, 5.0) is outcome


@pytest.mark.parametrize(
    ("xy", "plain", "counted"),
    [((10, 10), Outcome.FP2, Outcome.TP), ((99, 10), Outcome.FP2, Outcome.FP1), (None, Outcome.TN, Outcome.FN)],
)
def test_occluded_is_no_ball_unless_asked(xy: XY | None, plain: Outcome, counted: Outcome) -> None:
    occluded = label(0, (10, 10), Visibility.OCCLUDED)
    assert classify(occluded, xy, 5.0) is plain
    assert classify(occluded, xy, 5.0, count_occluded=True) is counted
    assert is_visible(label(0, (10, 10), Visibility.HARD))
    assert not is_visible(occluded)


def test_ratios_by_hand() -> None:
    counts = Counts(tp=6, fp1=2, fp2=1, tn=3, fn=4)
    assert counts.total == 16
    assert counts.precision == pytest.approx(6 / 9)
    assert counts.recall == pytest.approx(6 / 10)
    assert counts.recall_visible == pytest.approx(6 / 12)
    assert counts.accuracy == pytest.approx(9 / 16)
    assert counts.f1 == pytest.approx(2 * (2 / 3) * (3 / 5) / (2 / 3 + 3 / 5))
    assert counts + Counts(1, 1, 1, 1, 1) == Counts(7, 3, 2, 4, 5)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (Counts(), (None, None, None, None, None)),
        (Counts(tn=5), (None, None, None, None, 1.0)),
        (Counts(fn=5), (None, 0.0, 0.0, 0.0, 0.0)),
        (Counts(fp2=5), (0.0, None, None, 0.0, 0.0)),
        (Counts(fp1=5), (0.0, None, 0.0, 0.0, 0.0)),
        (Counts(tp=5), (1.0, 1.0, 1.0, 1.0, 1.0)),
    ],
)
def test_undefined_is_none(counts: Counts, expected: tuple[float | None, ...]) -> None:
    assert (counts.precision, counts.recall, counts.recall_visible, counts.f1, counts.accuracy) == expected


def test_tolerance_in_source_pixels() -> None:
    assert AT_288.in_source_px((512, 288)) == pytest.approx(4)
    assert AT_288.in_source_px(HD) == pytest.approx(10)
    assert AT_288.in_source_px((1920, 1080)) == pytest.approx(15)
    assert AT_SOURCE.in_source_px((1920, 1080)) == 4
    assert Tolerance(5, 720).in_source_px((1920, 1080)) == pytest.approx(7.5)
    assert [str(AT_288), str(AT_SOURCE), str(Tolerance(2.5, 720))] == ["4@288", "4@source", "2.5@720"]
    with pytest.raises(ValueError, match="positive"):
        Tolerance(0)


def test_a_clip_by_hand() -> None:
    labels = {
        0: label(0, (100, 100)),
        1: label(1, (103, 100)),
        2: label(2, (113, 100), Visibility.HARD),
        3: label(3, None),
        4: label(4, None),
        6: label(6, (300, 100)),
        7: label(7, (400, 100), Visibility.OCCLUDED),
        9: label(9, (500, 100)),
    }
    points = [
        point(0, (100, 104)),  # 4 px: right at both tolerances
        point(1, (109, 108)),  # 6-8-10: right at 4@288 (10 px) only
        point(2, (113, 150)),  # 50 px: nowhere right
        point(3, (1, 1)),  # no ball there
        point(4, None),
        point(5, (7, 7)),  # unlabelled: never counted
        point(6, None),
        point(7, None),  # occluded and not found
        # no point of frame 9
    ]
    score = score_clip(labels, points, HD)
    assert score.counts == {AT_288: Counts(2, 1, 1, 2, 2), AT_SOURCE: Counts(1, 2, 1, 2, 2)}
    assert score.errors_px.tolist() == [4, 10, 50]
    assert score.median_error_px == 10
    assert score.p95_error_px == pytest.approx(10 + 0.9 * 40)
    assert (score.n_unlabelled, score.n_missing) == (1, 1)
    # steps at 512 px: 0 -> 1.2, 1 -> (1.2 + 4) / 2 = 2.6, 2 -> 4; frames 6 and 9 have no neighbour
    slow, middle, fast = score.by_speed[AT_288]
    assert (slow, middle, fast) == (Counts(tp=1), Counts(tp=1, fp1=1), Counts())
    asked = score_clip(labels, points, HD, count_occluded=True)
    assert asked.counts[AT_288] == Counts(2, 1, 1, 1, 3)
    assert asked.by_speed[AT_288][2] == Counts(fn=2)  # frames 6 and 7, 100 px apart
    assert repr(score).endswith("errors_px=(3,))")


@pytest.mark.parametrize(
    ("step_px", "bucket"),
    [(4.9, 0), (5.0, 1), (19.9, 1), (20.0, 2)],  # of 1280 px: 2 and 8 px of 512 are the edges
)
def test_edges_of_speed(step_px: float, bucket: int) -> None:
    labels = {0: label(0, (100, 100)), 1: label(1, (100 + step_px, 100))}
    counted = [counts.total for counts in score_clip(labels, [], HD).by_speed[AT_288]]
    assert counted == [2 * (k == bucket) for k in range(3)]


@pytest.mark.parametrize(("contrast", "bucket"), [(9.9, 0), (10.0, 1), (29.9, 1), (30.0, 2)])
def test_edges_of_contrast(contrast: float, bucket: int) -> None:
    score = score_clip({0: label(0, (100, 100))}, [], HD, contrasts={0: contrast})
    assert [counts.total for counts in score.by_contrast[AT_288]] == [k == bucket for k in range(3)]


def test_filled_points_are_judged_like_any_other() -> None:
    score = score_clip({0: label(0, (5, 5))}, [point(0, (5, 6), PointSource.FILLED)], HD)
    assert score.counts[AT_SOURCE] == Counts(tp=1)


def test_no_labels_no_points() -> None:
    nothing = score_clip({}, [point(0, (1, 1))], HD)
    assert nothing.counts[AT_288] == Counts()
    assert (nothing.median_error_px, nothing.p95_error_px, nothing.n_unlabelled) == (None, None, 1)
    unseen = score_clip({0: label(0, (1, 1)), 1: label(1, None)}, [], HD)
    assert unseen.counts[AT_288] == Counts(fn=1, tn=1)
    assert unseen.n_missing == 2


def test_scores_add_up() -> None:
    one = score_clip({0: label(0, (1, 1))}, [point(0, (1, 2))], HD)
    two = score_clip({0: label(0, (1, 1)), 1: label(1, (2, 1))}, [point(0, None), point(1, (2, 4))], HD)
    total = one + two
    assert total.counts[AT_288] == Counts(tp=2, fn=1)
    assert total.by_speed[AT_288] == (Counts(tp=1, fn=1), Counts(), Counts())
    assert total.errors_px.tolist() == [1, 3]
    assert isinstance(total, ClipScore)
    with pytest.raises(ValueError, match="tolerances"):
        one + score_clip({}, [], HD, tolerances=[AT_288])


def test_two_points_of_a_frame_are_refused() -> None:
    with pytest.raises(ValueError, match="two of frame 3"):
        score_clip({}, [point(3, None), point(3, None)], HD)


def reference(truth: list[XY | None], found: list[XY | None], limit_px: float) -> dict[str, float]:
    """TrackNetV2's table as masks over whole clips, straight from the paper's formulas."""
    is_ball = np.array([xy is not None for xy in truth], bool)
    is_hit = np.array([xy is not None for xy in found], bool)
    gap = np.array([xy or (0, 0) for xy in truth], float).reshape(-1, 2)
    gap -= np.array([xy or (0, 0) for xy in found], float).reshape(-1, 2)
    near = np.sqrt((gap**2).sum(axis=1)) <= limit_px
    tp, fp1 = (is_ball & is_hit & near).sum(), (is_ball & is_hit & ~near).sum()
    fp2, tn, fn = (~is_ball & is_hit).sum(), (~is_ball & ~is_hit).sum(), (is_ball & ~is_hit).sum()
    with np.errstate(all="ignore"):
        precision, recall = tp / (tp + fp1 + fp2), tp / (tp + fn)
        f1 = 2 * precision * recall / (precision + recall)
        return {"precision": precision, "recall": recall, "f1": f1, "accuracy": (tp + tn) / len(truth)}


whole = st.integers(0, 12).map(float)
maybe = st.none() | st.tuples(whole, whole)  # few places, so that many pairs lie near the tolerance


@examples(50)
@given(pairs=st.lists(st.tuples(maybe, maybe), min_size=1, max_size=30), limit_px=st.sampled_from([1.0, 4.0, 5.0, 7.5]))
def test_parity_with_the_formulas(pairs: list[tuple[XY | None, XY | None]], limit_px: float) -> None:
    tolerance = Tolerance(limit_px, None)
    labels = {i: label(i, truth) for i, (truth, _) in enumerate(pairs)}
    score = score_clip(labels, [point(i, xy) for i, (_, xy) in enumerate(pairs)], HD, tolerances=[tolerance])
    for name, expected in reference([p[0] for p in pairs], [p[1] for p in pairs], limit_px).items():
        got = getattr(score.counts[tolerance], name)
        if math.isnan(expected):
            assert got is None or (name == "f1" and got == 0)
        else:
            assert got == pytest.approx(expected)


@pytest.mark.parametrize("xy", [(20.0, 15.0), (0.0, 0.0), (39.0, 29.0), (20.4, 14.6), (1.0, 15.0), (20.0, 1.0)])
@pytest.mark.parametrize(("ball", "ground", "expected"), [(200, 150, 50), (150, 200, 50), (90, 90, 0)])
def test_contrast_is_the_step_from_ground_to_ball(xy: XY, ball: int, ground: int, expected: int) -> None:
    """Bright on dark and dark on bright, also in the corners of the picture, where the window is cut."""
    image = np.full((30, 40), ground, np.uint8)
    x, y = round(xy[0]), round(xy[1])
    image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = ball
    assert ball_contrast(image, xy) == expected
    assert ball_contrast(np.stack([image] * 3, axis=2), xy) == expected


def test_contrast_is_of_nine_pixels_and_a_ring_of_four() -> None:
    """The ball's mean is 50. Of the ring's 40 + 48 + 56 + 64 pixels half are 100, half are 200: 150 is the median."""
    rows, columns = np.indices((40, 40))
    distance = np.maximum(abs(rows - 20), abs(columns - 20))
    ground_of = {5: 100, 6: 200, 7: 200, 8: 100}
    image = np.vectorize(lambda d: ground_of.get(d, 0))(distance).astype(np.uint8)
    image[19:22, 19:22] = np.arange(10, 100, 10).reshape(3, 3)
    image[20, 20] = 50
    assert ball_contrast(image, (20.0, 20.0)) == 100
    image[20, 20] = 140  # ten times the ninth of it
    assert ball_contrast(image, (20.0, 20.0)) == 90


def test_recall_by_contrast() -> None:
    labels = {i: label(i, (100, 100)) for i in range(4)}
    points = [point(0, (100, 100)), point(1, None), point(2, (100, 100)), point(3, (500, 100))]
    score = score_clip(labels, points, HD, contrasts={0: 9.9, 1: 10.0, 2: 30.0, 3: 200.0, 9: 50.0})
    assert score.by_contrast[AT_288] == (Counts(tp=1), Counts(fn=1), Counts(tp=1, fp1=1))
    assert (score + score).by_contrast[AT_288][2] == Counts(tp=2, fp1=2)
