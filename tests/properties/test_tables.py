"""Readers of text tables: whatever the bytes, they give a value or a LabelError; what was written is read back."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallytrace.errors import LabelError
from rallytrace.labels import load_clips, read_labels, write_labels
from rallytrace.trajectory import Trajectory
from rallytrace.types import BallLabel, BallPoint, PointSource, Visibility

from ..often import examples

QUICK = examples(40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


cells = st.sampled_from(
    ["0", "1", "2", "-1", "3.0", "483.5", "", " ", "nan", "inf", "1e400", "-0", "00:00:01.500", "0.5", "model", "none"]
) | st.text(max_size=5)
names = st.sampled_from(["Frame", "Visibility", "X", "Y", "Time", "Score", "Source", "Keyframe", "clip", "match", "?"])
ends = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def near_valid(draw: st.DrawFn) -> bytes:
    """A table that mostly has the right columns and mostly rows of the right length."""
    header = draw(st.permutations(["Frame", "Visibility", "X", "Y", "Time", "Score"]) | st.lists(names, max_size=8))
    row = st.lists(cells, min_size=len(header), max_size=len(header)) | st.lists(cells, max_size=9)
    rows = draw(st.lists(row, max_size=5))
    text = "".join(",".join(line) + draw(ends) for line in [header, *rows])
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode("utf-8", "surrogatepass")


anything = st.binary(max_size=200) | near_valid()


@QUICK
@given(content=anything, keyframes_only=st.booleans())
def test_label_reader_raises_only_label_errors(folder: Path, content: bytes, keyframes_only: bool) -> None:
    path = folder / "fuzz.csv"
    path.write_bytes(content)
    with suppress(LabelError):
        labels = read_labels(path, keyframes_only=keyframes_only)
        assert all(frame == label.frame >= 0 for frame, label in labels.items())


@QUICK
@given(content=anything)
def test_trajectory_readers_raise_only_label_errors(folder: Path, content: bytes) -> None:
    path = folder / "fuzz.track"
    path.write_bytes(content)
    for read in (Trajectory.from_csv, Trajectory.from_parquet):
        with suppress(LabelError):
            trajectory = read(path)
            assert len(trajectory) == len(list(trajectory))


@QUICK
@given(content=anything | st.sampled_from([b"clip,match\nr,A\n", b"clip,venue,split\nr,A,val\n"]))
def test_index_reader_raises_only_label_errors(folder: Path, content: bytes) -> None:
    clips = folder / "clips"
    clips.mkdir(exist_ok=True)
    (clips / "index.csv").write_bytes(content)
    (clips / "r.mp4").touch()
    (clips / "r_ball.csv").write_text("Frame,Visibility,X,Y\n0,0,0,0\n")
    with suppress(LabelError):
        assert [clip.name for clip in load_clips(clips)] == ["r"]


finite = st.floats(allow_nan=False, allow_infinity=False)
places = st.tuples(finite, finite).filter(lambda xy: xy != (-1, -1))
seen = st.sampled_from([Visibility.CLEAR, Visibility.HARD, Visibility.OCCLUDED])
absent = st.just((None, Visibility.ABSENT))
label_sets = st.dictionaries(st.integers(0, 99), st.tuples(places, seen) | absent, max_size=20)


@QUICK
@given(found=label_sets, whole=st.booleans())
def test_labels_come_back_exactly(folder: Path, found: dict, whole: bool) -> None:
    labels = {frame: BallLabel(frame, xy, visibility) for frame, (xy, visibility) in found.items()}
    write_labels(folder / "round.csv", labels, n_frames=100 if whole else None)
    assert read_labels(folder / "round.csv") == labels


pixels = st.floats(-0.5, 8000)
located = st.tuples(st.tuples(pixels, pixels), st.sampled_from([PointSource.MODEL, PointSource.FILLED]))
unlocated = st.just((None, PointSource.NONE))


@st.composite
def trajectories(draw: st.DrawFn) -> list[BallPoint]:
    frames = sorted(draw(st.sets(st.integers(0, 10_000_000), max_size=20)))
    time = st.floats(-100, 500_000)
    return [
        BallPoint(f, draw(time), xy, draw(st.floats(0, 1)), s) for f in frames for xy, s in [draw(located | unlocated)]
    ]


@QUICK
@given(points=trajectories())
def test_trajectory_survives_csv_to_its_digits_and_parquet_exactly(folder: Path, points: list[BallPoint]) -> None:
    trajectory = Trajectory.from_points(points)
    assert list(trajectory) == points
    trajectory.to_csv(folder / "t.csv")
    trajectory.to_parquet(folder / "t.parquet")
    assert list(Trajectory.from_parquet(folder / "t.parquet")) == points
    back = list(Trajectory.from_csv(folder / "t.csv"))
    assert [(p.frame, p.source) for p in back] == [(p.frame, p.source) for p in points]
    for a, b in zip(points, back, strict=True):
        assert b.pts_s == pytest.approx(a.pts_s, abs=0.000501)
        assert b.score == pytest.approx(a.score, abs=0.0000501)
        assert (a.xy is None) == (b.xy is None)
        if a.xy is not None:
            assert b.xy == pytest.approx(a.xy, abs=0.00501)
    if points:  # nobody has looked at these positions
        with pytest.raises(LabelError, match="a tracker wrote it"):
            read_labels(folder / "t.csv")
