"""`Tracker`: one point per frame, in order, at the right place, whatever the chunking, the cuts and the repeats."""

from dataclasses import replace

import numpy as np
import pytest

from rallytrace.errors import InputError
from rallytrace.models import ModelSpec
from rallytrace.tracker import Tracker
from rallytrace.trajectory.path import AHEAD
from rallytrace.types import BallPoint, Frame, Image, PointSource
from rallytrace.window import BACKGROUND_EVERY, BACKGROUND_REACH, FLASH

from .networks import Brightest, brightest_spec, dot_frame

WH = (1280, 720)


def at(i: int) -> tuple[float, float]:
    """Model pixels: the ball flies across the picture."""
    return 20.3 + 4.1 * i, 200.0 - 3.2 * i + 0.03 * i * i


def frames(n: int, missing: frozenset[int] = frozenset()) -> list[Frame]:
    return [Frame(i, 0.5 + i / 30, dot_frame(None if i in missing else at(i))) for i in range(n)]


def track(tracker: Tracker, source: list[Frame]) -> list[BallPoint]:
    return [point for frame in source for point in tracker.push(frame)] + tracker.flush()


def test_every_frame_gets_its_own_point_in_source_pixels() -> None:
    points = track(Tracker(Brightest(), WH), frames(103, frozenset({5, 6, 50})))
    assert [p.frame for p in points] == list(range(103))
    for point in points:
        assert point.pts_s == pytest.approx(0.5 + point.frame / 30)
        if point.frame in (5, 6, 50):
            assert point.xy is None
            assert point.source is PointSource.NONE
            assert point.score < 0.5
        else:
            x, y = at(point.frame)
            assert point.xy == pytest.approx(((x + 0.5) * 2.5 - 0.5, (y + 0.5) * 2.5 - 0.5), abs=0.2)
            assert point.source is PointSource.MODEL


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("overlap", [1, 2, 5])
@pytest.mark.parametrize("live", [False, True])
def test_the_same_points_whatever_batch_overlap_and_background(batch: int, overlap: int, live: bool) -> None:
    network = Brightest()
    points = track(Tracker(network, WH, batch=batch, overlap=overlap, live=live), frames(64))
    assert [p.frame for p in points] == list(range(64))
    assert max(network.batches) <= batch
    for point in points[10:]:  # live, the first pictures have hardly any past to take a median of
        x, y = at(point.frame)
        assert point.xy == pytest.approx(((x + 0.5) * 2.5 - 0.5, (y + 0.5) * 2.5 - 0.5), abs=0.2)


@pytest.mark.parametrize("n", range(1, 13))
def test_short_videos(n: int) -> None:
    points = track(Tracker(Brightest(), WH), frames(n))
    assert [p.frame for p in points] == list(range(n))


def test_last_frame_network() -> None:
    network = Brightest(brightest_spec(frames=3, outputs=1, background=False))
    points = track(Tracker(network, WH), frames(20))
    assert [p.frame for p in points] == list(range(20))
    assert all(p.xy is not None for p in points[1:])


def test_a_repeated_frame_takes_the_point_of_the_frame_it_repeats() -> None:
    """25 -> 30 fps: every sixth picture is the one before."""
    source = []
    for i in range(60):
        moment = i - (i + 1) // 6
        source.append(Frame(i, i / 30, dot_frame(at(moment))))
    network = Brightest()
    points = track(Tracker(network, WH), source)
    assert [p.frame for p in points] == list(range(60))
    for i in range(5, 60, 6):
        assert points[i].xy == points[i - 1].xy
        assert points[i].pts_s == pytest.approx(i / 30)
    assert sum(network.batches) == 10  # fifty moments in windows of five: repeats cost nothing


def test_scenes_do_not_mix() -> None:
    """After a cut the background and the windows begin anew; frame numbers go on."""
    rng = np.random.default_rng(0)
    grounds = [rng.integers(0, 100, (288, 512)), rng.integers(120, 200, (288, 512))]
    source = []
    for i in range(47):
        picture = grounds[i >= 23] + dot_frame(at(i), level=0) / 4
        source.append(Frame(i, i / 30, np.clip(picture, 0, 255).astype(np.uint8)))
    points = track(Tracker(Brightest(), WH, threshold=0.1), source)
    assert [p.frame for p in points] == list(range(47))
    for point in points:
        assert point.xy is not None
        x, y = at(point.frame)
        assert point.xy == pytest.approx(((x + 0.5) * 2.5 - 0.5, (y + 0.5) * 2.5 - 0.5), abs=2.6)


def test_a_frozen_source_is_answered_without_end() -> None:
    """A still camera must not hold points back until memory is full."""
    tracker = Tracker(Brightest(), WH, live=True)
    still = dot_frame(None)
    given = 0
    for i in range(200):
        given += len(tracker.push(Frame(i, i / 30, still)))
        assert i + 1 - given <= 20


@pytest.mark.parametrize("path", [True, False])
def test_delay_is_bounded(path: bool) -> None:
    tracker, given = Tracker(Brightest(), WH, path=path), 0
    for i, frame in enumerate(frames(400)):
        given += len(tracker.push(frame))
        assert i + 1 - given <= BACKGROUND_EVERY * (BACKGROUND_REACH + 1) + 5 + 2 + path * AHEAD


def test_a_tracker_can_be_used_again_after_flush() -> None:
    tracker = Tracker(Brightest(), WH)
    first = track(tracker, frames(23))
    assert track(tracker, frames(23)) == first


def test_other_aspects_keep_their_shape() -> None:
    tracker = Tracker(Brightest(), (640, 480))
    cw, ch = tracker.transform.content_wh
    assert cw / ch == pytest.approx(4 / 3, rel=0.003)
    source = [Frame(i, i / 30, dot_frame((30.0 + 3 * i, 50.0), (cw, ch))) for i in range(30)]
    for point in track(tracker, source)[5:]:
        assert point.xy == pytest.approx(tracker.transform.to_source((30.0 + 3 * point.frame, 50.0)), abs=0.2)


def test_threshold() -> None:
    faint = [Frame(i, i / 30, np.clip(dot_frame(at(i), level=0) * 0.3, 0, 255).astype(np.uint8)) for i in range(20)]
    assert all(p.xy is None for p in track(Tracker(Brightest(), WH), faint))
    assert all(p.xy is not None for p in track(Tracker(Brightest(), WH, threshold=0.2), faint))


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("live", [False, True])
def test_a_flash_costs_no_more_than_its_own_frames(live: bool, length: int) -> None:
    """Neither a new background nor new windows: all but the lit frames have the same points."""
    plain = frames(60)
    lit = [Frame(f.index, f.pts_s, np.full_like(f.image, 250)) if 30 <= f.index < 30 + length else f for f in plain]
    assert [p.frame for p in track(Tracker(Brightest(), WH, live=live), lit)] == list(range(60))
    before, after = (track(Tracker(Brightest(), WH, live=live, path=False), source) for source in (plain, lit))
    far = [a.frame for a, b in zip(before, after, strict=True) if a.xy != pytest.approx(b.xy, abs=0.2)]
    assert set(far) <= set(range(30, 30 + length))


def test_a_live_flash_holds_points_back_for_some_frames_only() -> None:
    tracker, given, flash = Tracker(Brightest(), WH, live=True), 0, np.full((288, 512), 250, np.uint8)
    for i, frame in enumerate(frames(60)):
        given += len(tracker.push(frame if i < 40 else Frame(i, frame.pts_s, flash if i % 2 else frame.image)))
        assert i + 1 - given <= 5 + FLASH + 1


@pytest.mark.parametrize("spec", [brightest_spec(), brightest_spec(background=False, outputs=1, frames=3)])
def test_one_array_for_all_frames(spec: ModelSpec) -> None:
    """As whoever reads with OpenCV has it: nothing may be kept of a caller's array."""
    array = np.empty((288, 512), np.uint8)
    tracker, points = Tracker(Brightest(spec), WH), list[BallPoint]()
    for frame in frames(75):
        array[:] = frame.image
        points += tracker.push(Frame(frame.index, frame.pts_s, array))
        array[:] = 77
    assert points + tracker.flush() == track(Tracker(Brightest(spec), WH), frames(75))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 3}, "threshold must be between 0 and 1, or None .* got 3"),
        ({"threshold": 0}, "threshold"),
        ({"threshold": -0.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold .* got nan"),
        ({"threshold": "0.5"}, "threshold .* got '0.5'"),
        ({"overlap": 2.5}, "overlap .* got 2.5"),
        ({"overlap": 0}, "overlap .* got 0"),
        ({"batch": 0}, "batch .* got 0"),
        ({"batch": 1.5}, "batch"),
        ({"merge": "best"}, "merge must be last, mean or centre, got 'best'"),
        ({"source_wh": (0, 0)}, r"source_wh must be positive.*got \(0, 0\)"),
        ({"source_wh": (-1280, 720)}, "source_wh"),
        ({"source_wh": (float("nan"), 720)}, "source_wh .*nan"),
        ({"source_wh": (1280.5, 720.0)}, "source_wh .*1280.5"),
        ({"source_wh": (1280, 720, 3)}, "source_wh"),
        ({"source_wh": 1280}, "source_wh .*1280"),
        ({"network": "accurate"}, "network must be one that load_network gives, got str"),
    ],
)
def test_what_no_tracker_can_have(options: dict[str, object], words: str) -> None:
    wanted = {"network": Brightest(), "source_wh": WH, **options}
    with pytest.raises(InputError, match=words) as caught:
        Tracker(**wanted)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def rgb_spec() -> ModelSpec:
    return replace(brightest_spec(), colour="rgb")


@pytest.mark.parametrize(
    ("spec", "pushed", "words"),
    [
        (brightest_spec(), np.zeros((288, 512), np.uint8), "push takes a Frame, got ndarray"),
        (brightest_spec(), None, "push takes a Frame, got NoneType"),
        (
            brightest_spec(),
            Frame(0, 0.0, np.zeros((288, 512, 3), np.uint8)),
            "image must be grey, 512 wide and 288 high",
        ),
        (brightest_spec(), Frame(0, 0.0, np.zeros((288, 512, 1), np.uint8)), "image must be grey"),
        (brightest_spec(), Frame(0, 0.0, np.zeros((512, 288), np.uint8)), "image must be grey"),
        (rgb_spec(), Frame(0, 0.0, np.zeros((288, 512), np.uint8)), "image must be rgb"),
        (rgb_spec(), Frame(0, 0.0, np.zeros((288, 512, 4), np.uint8)), "image must be rgb"),
    ],
)
def test_what_no_frame_can_be(spec: ModelSpec, pushed: Frame, words: str) -> None:
    tracker = Tracker(Brightest(spec), WH)
    with pytest.raises(InputError, match=words):
        tracker.push(pushed)


def test_frames_come_in_order_and_once() -> None:
    tracker = Tracker(Brightest(), WH)
    for i in (4, 7):
        tracker.push(Frame(i, i / 30, dot_frame(at(i))))
    for i in (7, 3):
        with pytest.raises(InputError, match=f"frame {i} comes after frame 7"):
            tracker.push(Frame(i, i / 30, dot_frame(at(i))))
    tracker.flush()
    tracker.push(Frame(0, 0.0, dot_frame(at(0))))


@pytest.mark.parametrize(
    ("pts_s", "image", "words"),
    [
        (float("nan"), np.zeros((2, 2), np.uint8), "pts_s must be a finite number"),
        (0.0, [[0, 0], [0, 0]], "image must be an array"),
        (0.0, np.zeros((2, 2), np.float32), "image must be uint8"),
    ],
)
def test_what_is_no_frame(pts_s: float, image: Image, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Frame(0, pts_s, image)


def test_wrong_overlap_and_picture_size() -> None:
    with pytest.raises(ValueError, match="overlap must be between 1 and"):
        Tracker(Brightest(), WH, overlap=6)
    with pytest.raises(ValueError, match="image must be"):
        Tracker(Brightest(), WH).push(Frame(0, 0.0, np.zeros((10, 10), np.uint8)))
