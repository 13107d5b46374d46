"""Trajectory columns, the CSV and its atomic writing. The expected texts are written by hand."""

from __future__ import annotations

import csv
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rallytrace.errors import LabelError, MissingDependency, OutputError
from rallytrace.labels.formats import read_sets
from rallytrace.labels.sets import ReadOptions
from rallytrace.trajectory import CsvWriter, Trajectory, format_time
from rallytrace.types import BallPoint, PointSource

POINTS = [
    BallPoint(0, 0.0, (10.0, 20.126), 0.91239),
    BallPoint(1, 1 / 30, None, 0.2, PointSource.NONE),
    BallPoint(2, 3661.0666, (0.0, -0.001), 0.05, PointSource.FILLED),
]
TEXT = (
    "Frame,Visibility,X,Y,Time,Score,Source\n"
    "0,1,10.00,20.13,00:00:00.000,0.9124,model\n"
    "1,0,0.00,0.00,00:00:00.033,0.2000,none\n"
    "2,1,0.00,0.00,01:01:01.067,0.0500,filled\n"
)


def test_columns_are_typed_read_only_and_shaped() -> None:
    t = Trajectory.from_points(POINTS)
    assert (t.frame.dtype, t.xy.shape, t.score.dtype) == (np.int64, (3, 2), np.float64)
    assert t.visible.tolist() == [True, False, True]
    assert np.isnan(t.xy[1]).all()
    assert t.source.tolist() == ["model", "none", "filled"]
    assert list(t) == POINTS
    assert repr(t) == "Trajectory(n=3, visible=2, filled=1, xy=(3, 2))"
    for column in (t.frame, t.pts_s, t.xy, t.score, t.source):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = column[1]


def test_empty_trajectory(tmp_path: Path) -> None:
    empty = Trajectory.from_points([])
    assert (len(empty), empty.xy.shape, list(empty)) == (0, (0, 2), [])
    empty.to_csv(tmp_path / "t.csv")
    empty.to_parquet(tmp_path / "t.parquet")
    assert len(Trajectory.from_csv(tmp_path / "t.csv")) == len(Trajectory.from_parquet(tmp_path / "t.parquet")) == 0


def test_columns_that_do_not_fit_are_refused() -> None:
    t = Trajectory.from_points(POINTS)
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        Trajectory(t.frame, t.pts_s, t.xy[:2], t.score, t.source)
    with pytest.raises(ValueError, match="increase"):
        Trajectory.from_points([POINTS[1], POINTS[0]])


@pytest.mark.parametrize(
    ("pts_s", "text"),
    [
        (0.0, "00:00:00.000"),
        (59.9996, "00:01:00.000"),
        (3599.9994, "00:59:59.999"),
        (-1.5, "-00:00:01.500"),
        (-0.0001, "00:00:00.000"),
        (360_000.25, "100:00:00.250"),
        (3600.0, "01:00:00.000"),
        (-0.5, "-00:00:00.500"),
    ],
)
def test_time_text(pts_s: float, text: str) -> None:
    assert format_time(pts_s) == text


def test_csv_text_and_what_other_tools_see(tmp_path: Path) -> None:
    path = tmp_path / "rally.csv"
    Trajectory.from_points(POINTS).to_csv(path)
    assert path.read_bytes() == TEXT.encode()
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Visibility"] for row in rows] == ["1", "0", "1"]
    assert (float(rows[1]["X"]), float(rows[1]["Y"])) == (0, 0)
    (found,) = read_sets(path, None, ReadOptions(origin="labels"))
    assert {f: label.xy for f, label in found.labels.items()} == {0: (10, 20.13), 1: None, 2: (0, 0)}


def test_csv_without_source_and_in_another_order(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Score,Time,Y,X,Visibility,Frame\n0.5,00:00:01.25,2,1,1,3\n0.1,-00:00:02.000,,,0,4\n")
    assert list(Trajectory.from_csv(path)) == [
        BallPoint(3, 1.25, (1.0, 2.0), 0.5),
        BallPoint(4, -2.0, None, 0.1, PointSource.NONE),
    ]


@pytest.mark.parametrize(
    ("text", "pts_s"),
    [("00:01:00.000", 60), ("01:02:03.500", 3723.5), ("-00:01:00.250", -60.25), ("100:59:59.999", 363_599.999)],
)
def test_times_are_read(tmp_path: Path, text: str, pts_s: float) -> None:
    (tmp_path / "t.csv").write_text(f"{HEAD}0,0,0,0,{text},0.5,none\n")
    assert Trajectory.from_csv(tmp_path / "t.csv").pts_s.tolist() == [pytest.approx(pts_s, abs=1e-9)]


HEAD = "Frame,Visibility,X,Y,Time,Score,Source\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("Frame,Visibility,X,Y\n0,1,1,1\n", "column Time is missing"),
        ("Frame,Visibility,X,Y,Time\n0,1,1,1,00:00:00.000\n", "column Score is missing"),
        (HEAD + "-1,1,1,1,00:00:00.000,0.5,model\n", "line 2: Frame is '-1', expected a whole number from 0"),
        (HEAD + "0,1,1,1,0.033,0.5,model\n", "line 2: Time is '0.033', expected HH:MM:SS.mmm"),
        (HEAD + "0,1,1,1,00:61:00.000,0.5,model\n", "line 2: Time"),
        (HEAD + "0,1,1,1,00:00:00.000,1.5,model\n", "line 2: Score is '1.5', expected a number from 0 to 1"),
        (HEAD + "0,3,1,1,00:00:00.000,0.5,model\n", "line 2: Visibility is '3', expected a whole number from 0 to 1"),
        (HEAD + "0,1,1,1,00:00:00.000,0.5,none\n", "line 2: Source is 'none', expected model or filled"),
        (HEAD + "0,0,1,1,00:00:00.000,0.5,model\n", "line 2: Source is 'model', expected none"),
        (HEAD + "0,1,x,1,00:00:00.000,0.5,model\n", "line 2: X is 'x'"),
        (HEAD + 2 * "5,1,1,1,00:00:00.000,0.5,model\n", "line 3: Frame is '5', expected more than 5"),
    ],
)
def test_malformed_csv(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(LabelError, match=says):
        Trajectory.from_csv(tmp_path / "t.csv")


@pytest.mark.parametrize("blank", ["\n", "  \n", ",,,,,,\n"])
def test_blank_lines_end_nothing(tmp_path: Path, blank: str) -> None:
    rows = [f"{i},0,0,0,00:00:00.000,0.5,none\n" for i in range(3)]
    (tmp_path / "t.csv").write_text(HEAD + blank.join(rows) + blank)
    assert Trajectory.from_csv(tmp_path / "t.csv").frame.tolist() == [0, 1, 2]


def test_the_last_frame_that_a_table_may_name(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{HEAD}2147483647,0,0,0,00:00:00.000,0.5,none\n")
    assert Trajectory.from_csv(path).frame.tolist() == [2**31 - 1]
    path.write_text(f"{HEAD}2147483648,0,0,0,00:00:00.000,0.5,none\n")
    with pytest.raises(LabelError, match="from 0 to 2147483647"):
        Trajectory.from_csv(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"cannot read .*nowhere.csv: No such file"):
        Trajectory.from_csv(tmp_path / "nowhere.csv")


def test_parquet_is_typed_with_nulls(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    Trajectory.from_points(POINTS).to_parquet(tmp_path / "t.parquet")
    table = parquet.read_table(tmp_path / "t.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    double = dict.fromkeys(("pts_s", "x", "y", "score"), "double")
    assert types == {"frame": "int64", **double, "source": "string"}
    assert table.column("x").to_pylist() == [10.0, None, 0.0]
    assert list(Trajectory.from_parquet(tmp_path / "t.parquet")) == POINTS


def test_foreign_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"frame": [1, 2]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    for name in ("other.parquet", "text.parquet", "missing.parquet"):
        with pytest.raises(LabelError, match=name):
            Trajectory.from_parquet(tmp_path / name)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match="pip install pyarrow"):
        Trajectory.from_points(POINTS).to_parquet(tmp_path / "t.parquet")


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_nothing_half_written_is_left(tmp_path: Path, stop: type[BaseException]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("older")

    def fail() -> None:
        with CsvWriter(path) as out:
            out.write(POINTS[0])
            assert path.read_text() == "older"
            raise stop

    with pytest.raises(stop):
        fail()
    assert os.listdir(tmp_path) == ["t.csv"]
    assert path.read_text() == "older"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "nowhere" / "t.csv", tmp_path / "file" / "t.csv", tmp_path / "folder"):
        with pytest.raises(OutputError, match=f"cannot write {path}"):
            Trajectory.from_points(POINTS).to_csv(path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@contextmanager
def files_end_at_4_kib() -> Iterator[None]:
    """The operating system refuses larger files, as a full disk would; pytest's own log too, so not as a fixture."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("n", [200, 20_000], ids=["at-close", "at-write"])
@pytest.mark.parametrize("write", [Trajectory.to_csv, Trajectory.to_parquet])
def test_full_disk(tmp_path: Path, n: int, write) -> None:
    rng = np.random.default_rng(0)
    points = [BallPoint(i, i / 30, (rng.random(), rng.random()), rng.random()) for i in range(n)]
    with files_end_at_4_kib(), pytest.raises(OutputError, match="cannot write"):
        write(Trajectory.from_points(points), tmp_path / "t.out")
    assert os.listdir(tmp_path) == []
