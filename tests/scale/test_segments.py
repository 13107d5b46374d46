"""A video tracked in segments gives what one process gives, to the last byte of the CSV."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallytrace import RallyOptions, make_clip, track_video
from rallytrace.errors import InputError
from rallytrace.runtime import Network, load_network
from rallytrace.scale.segments import Plan, Scout, Segment, pack_points, plan, track_segment, unpack_points
from rallytrace.track import write_track
from rallytrace.tracker import Tracker
from rallytrace.trajectory import link
from rallytrace.types import BallPoint, Frame, PointSource
from rallytrace.video import probe

from ..networks import Brightest
from ..often import examples
from .footage import WH, make_frames, small_spec, write_video


def track(tracker: Tracker, frames: list[Frame]) -> list[BallPoint]:
    return [point for frame in frames for point in tracker.push(frame)] + tracker.flush()


@examples(3)
@given(
    st.sets(st.integers(1, 419), max_size=5),
    st.sets(st.integers(1, 419), max_size=150),
    st.integers(1, 419),
    st.integers(40, 300),
    st.sampled_from([1, 2, 5]),
    st.sets(st.integers(1, 419), max_size=40),
)
def test_a_tracker_fed_as_the_scout_says_is_in_step(
    cuts: set[int], repeats: set[int], still: int, length: int, overlap: int, flashes: set[int]
) -> None:
    """Whatever cuts, flashes, repeats and still pictures there are, and wherever the segments fall."""
    frames = make_frames(420, cuts=cuts, repeats=repeats | set(range(still, still + 30)), flashes=flashes)
    scout = Scout(small_spec(), WH, overlap=overlap, length=length)
    for frame in frames:
        scout.look(frame)
    segments = scout.segments()
    assert [s.first for s in segments[1:]] + [420] == [s.stop for s in segments]
    assert segments[0].first == 0
    expected = track(Tracker(Brightest(small_spec()), WH, overlap=overlap, threshold=0.1), frames)
    for segment in segments:
        fresh = Tracker(Brightest(small_spec()), WH, overlap=overlap, threshold=0.1)
        points = track(fresh, frames[segment.feed_from :])
        assert points[segment.first - segment.feed_from :] == expected[segment.first :]


def joined(path: Path, network: Network, out: Path, length: int, overlap: int = 1) -> tuple[bytes, Plan]:
    """The CSV of `path`, its segments tracked last one first."""
    whole = Plan.unpack(plan(path, network.spec, overlap=overlap, length=length).pack())
    parts = {}
    for number in reversed(range(len(whole.segments))):
        parts[number] = pack_points(track_segment(path, whole, number, network, overlap=overlap))
    points = [point for number in sorted(parts) for point in unpack_points(parts[number])]
    info = probe(path)
    write_track(path, info, ((None, p) for p in link(points, info.wh, fill=5)), out / "joined.csv", None)
    return (out / "joined.csv").read_bytes(), whole


@pytest.mark.parametrize(
    ("cuts", "repeats", "length", "overlap"),
    [
        (set(), set(), 120, 1),
        ({70, 300, 301, 420}, set(range(5, 600, 6)), 100, 2),
        ({333}, {*range(2, 600, 5), *range(350, 380)}, 90, 1),
    ],
)
def test_the_csv_is_that_of_one_process(
    tmp_path: Path, cuts: set[int], repeats: set[int], length: int, overlap: int
) -> None:
    path = write_video(tmp_path / "match.mp4", make_frames(600, cuts=cuts, repeats=repeats))
    network = Brightest(small_spec())
    csv, whole = joined(path, network, tmp_path, length, overlap)
    assert len(whole.segments) > 3
    assert any(0 < s.feed_from < s.first for s in whole.segments)
    expected = track_video(path, tmp_path, network=network, overlap=overlap, draw_video=False)
    assert expected.found > 100
    assert csv == expected.csv.read_bytes()


def test_the_bundled_network_s_csv_is_that_of_one_process(tmp_path: Path) -> None:
    path = tmp_path / "rally.mp4"
    make_clip(path, RallyOptions(wh=(320, 180), seconds=14.0, seed=5, repeats=True))
    network = load_network("fast", threads=1)
    csv, whole = joined(path, network, tmp_path, 100)
    assert len(whole.segments) == 4
    assert csv == track_video(path, tmp_path, network=network, draw_video=False).csv.read_bytes()


def test_segments_begin_at_cuts_where_they_can() -> None:
    scout = Scout(small_spec(), WH, length=100)
    for frame in make_frames(400, cuts={60, 130, 215}, repeats=set()):
        scout.look(frame)
    assert scout.segments() == (
        Segment(0, 60, 0),
        Segment(60, 130, 60),
        Segment(130, 215, 130),
        Segment(215, 315, 215),
        Segment(315, 400, 215),
    ), "nothing before a cut is needed after it"


def test_a_file_that_cannot_be_entered_in_its_middle_is_one_segment(tmp_path: Path) -> None:
    frames = make_frames(250, cuts={100}, repeats=set())
    path = write_video(tmp_path / "whole.mp4", frames)
    assert len(plan(path, small_spec(), length=60).segments) > 1
    cut = tmp_path / "cut.mp4"
    data = bytearray(path.read_bytes())
    middle = len(data) * 3 // 4
    data[middle : middle + 3000] = bytes(3000)
    cut.write_bytes(data)
    damaged = plan(cut, small_spec(), length=60)
    assert damaged.table.problems
    assert damaged.segments == (Segment(0, len(damaged.table), 0),)


def test_points_and_plans_survive_their_bytes_and_others_are_refused() -> None:
    points = [
        BallPoint(7, 0.1 + 0.2, (1 / 3, 2 / 3), 0.1 + 0.7),
        BallPoint(8, 1e9 / 7, None, 0.25, PointSource.NONE),
    ]
    assert unpack_points(pack_points(points)) == points
    assert unpack_points(pack_points([])) == []
    for data in (b"", b"PK", pack_points(points)[:-30]):
        with pytest.raises(InputError, match="cannot be read"):
            unpack_points(data)
        with pytest.raises(InputError, match="cannot be read"):
            Plan.unpack(data)
