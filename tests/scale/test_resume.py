"""`track --on` leaves out what was asked before, and takes nothing else for it."""

import http.server
import json
import os
import shutil
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rallytrace import RallyOptions, make_clip, track_video
from rallytrace.annotate import Style
from rallytrace.runtime import load_network
from rallytrace.scale.batch import Tracked, TrackJob, track_many
from rallytrace.storage import open_store


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of one name."""
    folder = tmp_path_factory.mktemp("videos")
    for n, name in enumerate(("a", "b")):
        (folder / name).mkdir()
        make_clip(folder / name / "rally.mp4", RallyOptions(wh=(160, 96), seconds=0.1, seed=n))
    return folder


@pytest.fixture
def job(tmp_path: Path) -> TrackJob:
    return TrackJob(str(tmp_path / "out"), model="fast", threads=1, draw_video=False)


def resumed(source: Path | str, job: TrackJob) -> Tracked:
    return track_many([str(source)], job, resume=True)[0]


def test_the_same_is_left_as_it_is(videos: Path, job: TrackJob, tmp_path: Path) -> None:
    """By its content: also a copy, and a file that was touched."""
    path = tmp_path / "rally.mp4"
    shutil.copy(videos / "a" / "rally.mp4", path)
    first = resumed(path, job)
    assert (first.error, first.skipped) == (None, False)
    assert resumed(path, job).skipped
    os.utime(path, (1, 1))
    assert resumed(path, job).skipped
    assert resumed(videos / "a" / "rally.mp4", job).skipped
    assert resumed(path, replace(job, overwrite=True)).skipped is False


def test_another_video_of_that_name_is_not_done(videos: Path, job: TrackJob, tmp_path: Path) -> None:
    resumed(videos / "a" / "rally.mp4", job)
    csv = (tmp_path / "out" / "rally.csv").read_bytes()
    other = resumed(videos / "b" / "rally.mp4", job)
    assert not other.skipped
    assert "rally.csv exists already and was made from another video" in str(other.error)
    assert str(videos / "a" / "rally.mp4") in str(other.error)
    assert "--overwrite" in str(other.error)
    assert (tmp_path / "out" / "rally.csv").read_bytes() == csv
    assert resumed(videos / "b" / "rally.mp4", replace(job, overwrite=True)).error is None
    assert resumed(videos / "b" / "rally.mp4", job).skipped


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"model": "accurate"}, "another network (fast)"),
    ({"threshold": 0.4}, "threshold None, not 0.4"),
    ({"overlap": 2}, "overlap 1, not 2"),
    ({"fill": 0}, "fill 5, not 0"),
    ({"streams": ("v:0",)}, "streams [], not ['v:0']"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_other_options_are_not_done(change: dict[str, Any], said: str, videos: Path, job: TrackJob) -> None:
    source = videos / "a" / "rally.mp4"
    resumed(source, job)
    other = resumed(source, replace(job, **change))
    assert not other.skipped
    assert said in str(other.error)


def test_a_drawn_video_counts_where_it_is_asked_for(videos: Path, job: TrackJob) -> None:
    source = videos / "a" / "rally.mp4"
    resumed(source, job)
    drawn = replace(job, draw_video=True)
    assert resumed(source, drawn).error is None, "the CSV alone is not all of it"
    assert resumed(source, drawn).skipped
    assert resumed(source, job).skipped, "more than is asked for"
    assert "style" in str(resumed(source, replace(drawn, style=Style(kind="ring"))).error)


def test_a_result_of_unknown_origin_is_not_taken(videos: Path, job: TrackJob, tmp_path: Path) -> None:
    source = videos / "a" / "rally.mp4"
    resumed(source, job)
    track_video(source, tmp_path / "out", network=load_network("fast", threads=1), draw_video=False, overwrite=True)
    assert not (tmp_path / "out" / "rally.track.json").exists(), "it spoke of the file before"
    assert "nothing beside it says" in str(resumed(source, job).error)
    (tmp_path / "out" / "rally.track.json").write_text("[]")
    assert "nothing beside it says" in str(resumed(source, job).error)


def test_a_kill_between_the_files_leaves_work_to_do(videos: Path, job: TrackJob, tmp_path: Path) -> None:
    resumed(videos / "a" / "rally.mp4", job)
    (tmp_path / "out" / "rally.csv").unlink()
    again = resumed(videos / "a" / "rally.mp4", job)
    assert (again.error, again.skipped) == (None, False)


def test_in_a_store(videos: Path) -> None:
    store = open_store("memory://resume")
    store.put("raw/who?.mp4", videos / "a" / "rally.mp4")
    job = TrackJob("memory://resume/out", model="fast", threads=1, draw_video=False)
    source = "memory://resume/raw/who?.mp4"
    track_many([source], job, resume=True)
    assert resumed(source, job).skipped
    store.put("raw/who?.mp4", videos / "b" / "rally.mp4")
    assert "another video" in str(resumed(source, job).error)
    assert resumed(source, replace(job, overwrite=True)).error is None
    assert resumed(source, job).skipped


def test_a_record_tells_no_secret(videos: Path, job: TrackJob, tmp_path: Path) -> None:
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(videos / "a"))
    handler.func.log_message = lambda *_: None  # type: ignore[method-assign]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}/rally.mp4"
        assert resumed(f"http://ann:secret@{place}?token=secret", job).error is None
        server.shutdown()
    text = (tmp_path / "out" / "rally.track.json").read_text()
    assert "secret" not in text
    assert json.loads(text)["source"]["name"] == f"http://{place}"
