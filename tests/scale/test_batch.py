"""Batches without Ray: what is complete is left alone; units may be done in any order, twice, by two at once."""

import random
from functools import partial
from pathlib import Path

import pytest

from rallytrace import track_video
from rallytrace.runtime import load_network
from rallytrace.scale.batch import PARTS, Tracked, TrackJob, Worker, job_key, parts_of, track_many, units
from rallytrace.storage import open_store

from ..serve.endpoints import brightest_onnx
from .footage import make_frames, write_video


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(brightest_onnx(tmp_path_factory.mktemp("weights") / "brightest.onnx"))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = make_frames(450, cuts={200}, repeats=set(range(5, 450, 6)))
    return write_video(tmp_path_factory.mktemp("long") / "long.mp4", frames)


@pytest.fixture(scope="module")
def expected(long: Path, weights: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    network = load_network(weights, threads=1)
    out = tmp_path_factory.mktemp("one")
    return track_video(long, out, network=network, draw_video=False).csv.read_bytes()


def test_units_in_any_order_done_twice_by_two_workers_make_the_one_file(
    long: Path, weights: str, expected: bytes, tmp_path: Path
) -> None:
    job = TrackJob(str(tmp_path), model=weights, threads=1, draw_video=False, segment_frames=100)
    plan = partial(units, job, job_key(job))
    rows = plan({"source": str(long), "segment": -1, "parts": ""})
    assert len(rows) > 3
    assert plan({"source": str(long), "segment": -1, "parts": ""}) == rows, "the scout's work is kept"
    order = rows * 2
    random.Random(3).shuffle(order)
    workers = [Worker(job), Worker(job)]
    answers = [answer for n, row in enumerate(order) for answer in workers[n % 2](row)]
    assert answers
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["long.csv", "long.track.json"]
    assert (tmp_path / "long.csv").read_bytes() == expected


def test_a_killed_run_s_segments_are_used_and_those_of_another_video_or_job_are_not(
    long: Path, weights: str, expected: bytes, tmp_path: Path
) -> None:
    job = TrackJob(str(tmp_path), model=weights, threads=1, draw_video=False, segment_frames=100)
    key = job_key(job)
    rows = units(job, key, {"source": str(long), "segment": -1, "parts": ""})
    for row in rows[:-1]:
        assert Worker(job)(row) == []
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / PARTS).rglob("0*.npz")}
    assert len(stamps) == len(rows) - 1
    for row in rows:  # the second run
        Worker(job)(row)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert (tmp_path / "long.csv").read_bytes() == expected
    other = TrackJob(str(tmp_path), model=weights, threshold=0.3, draw_video=False, segment_frames=100)
    assert parts_of(str(long), job_key(other)) != rows[0]["parts"]
    long.touch()
    assert parts_of(str(long), key) != rows[0]["parts"]


def test_a_batch_here_goes_on_where_it_was_cut(long: Path, weights: str, tmp_path: Path) -> None:
    """A video without its CSV is what a kill leaves: it is done again, and what is complete is not."""
    short = write_video(tmp_path / "short.mp4", make_frames(40, cuts=set(), repeats=set()))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    sources = [str(tmp_path / "broken.mp4"), str(short)]
    out = tmp_path / "out"
    told: list[Tracked] = []
    job = TrackJob(str(out), model=weights, threads=1)
    first = track_many(sources, job, resume=True, on_result=told.append)
    assert told == first
    assert [bool(result.error) for result in first] == [True, False]
    csv = (out / "short.csv").read_bytes()
    (out / "short.csv").unlink()
    assert [r.skipped for r in track_many(sources, job, resume=True)] == [False, False]
    assert (out / "short.csv").read_bytes() == csv
    stamp = (out / "short.csv").stat().st_mtime_ns
    assert [r.skipped for r in track_many(sources, job, resume=True)] == [True, False]
    assert (out / "short.csv").stat().st_mtime_ns == stamp
    refused = track_many([str(short)], job)
    assert "exists already" in str(refused[0].error), "without resume nothing is replaced unasked"


def test_from_a_store_to_a_store(long: Path, weights: str, expected: bytes, tmp_path: Path) -> None:
    store = open_store("memory://batch")
    store.put("raw/long.mp4", long)
    job = TrackJob("memory://batch/out", model=weights, threads=1, draw_video=False)
    result = track_many(["memory://batch/raw/long.mp4"], job)[0]
    assert result.error is None
    assert result.csv == "memory://batch/out/long.csv"
    assert store.get("out/long.csv") == expected
