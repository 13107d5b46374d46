"""The verbs take URLs wherever they take a path."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rallytrace.errors import InputError
from rallytrace.label import open_book
from rallytrace.label.library import Library
from rallytrace.serve import jobs
from rallytrace.serve.security import ApiError
from rallytrace.storage import add, fetch, open_store
from tests.storage.servers import Server


def run(*words: object, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rallytrace", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "160"},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def url(moto_server: Server, use: Callable[[Server], str]) -> str:
    return use(moto_server)


def keys(url: str) -> set[str]:
    return {entry.key for entry in open_store(url).list()}


def test_from_raw_videos_to_a_report(url: str, rallies: Path, tmp_path: Path) -> None:
    told = json.loads(run("add", rallies, "--to", f"{url}/badminton", "--json"))
    assert set(told["stored"]) == {"a.mp4", "a_ball.csv", "b.mp4", "b_ball.csv", "index.csv"}
    assert "0 files stored (0.0 MB), 5 there already" in run("add", rallies, "--to", f"{url}/badminton")
    run("add", "src/rallytrace/weights/fast.onnx", "--to", f"{url}/models")
    model = f"{url}/models/fast.onnx"
    local = tmp_path / "here"
    run("track", rallies / "b.mp4", "--out", local, "--model", "fast", "--no-video")
    run("track", f"{url}/badminton/b*.mp4", "--out", f"{url}/out", "--model", model, "--no-video")
    assert keys(f"{url}/out") == {"b.csv", "b.track.json"}
    assert open_store(f"{url}/out").get("b.csv") == (local / "b.csv").read_bytes()
    assert "exists already" in run("track", f"{url}/badminton/b.mp4", "--out", f"{url}/out", "--no-video", code=1)
    report = ("eval", "--data", f"{url}/badminton", "--weights", model, "--out", f"{url}/report")
    assert f"{url}/report/report.html" in run(*report)
    assert keys(f"{url}/report") >= {"report.html", "report.json"}
    assert "report.json exists already" in run(*report, code=1)


def test_label_files_are_converted_from_store_to_store(url: str, rallies: Path) -> None:
    add([rallies / "a_ball.csv"], f"{url}/labels")
    words = (
        "labels",
        "convert",
        f"{url}/labels/a_ball.csv",
        "--to",
        "coco",
        "--size",
        "512x288",
        "--out",
        f"{url}/coco",
    )
    assert f"{url}/coco/" in run(*words)
    assert "exists already" in run(*words, code=1)
    (name,) = (key for key in keys(f"{url}/coco") if key.endswith(".json"))
    for verb in ("stats", "check"):
        run("labels", verb, f"{url}/coco/{name}")


def test_a_missing_source_is_one_line(url: str) -> None:
    assert "does not exist" in run("track", f"{url}/none.mp4", "--out", f"{url}/out", code=1)
    assert "nothing matches" in run("track", f"{url}/*.mp4", "--out", f"{url}/out", code=1)
    assert "does not exist" in run("eval", "--data", f"{url}/none", code=1)
    assert "does not exist or is an empty folder" in run("add", "nowhere.mp4", "--to", url, code=1)


def test_the_workspace_copies_videos_of_a_store(url: str, rallies: Path, tmp_path: Path) -> None:
    add([rallies / "a.mp4", rallies / "b.mp4"], f"{url}/raw")
    with open_book(tmp_path / "book.sqlite") as book:
        library = Library(book, tmp_path)
        try:
            found = library.add(f"{url}/raw/*.mp4")
            assert [each.name for each in found] == ["a.mp4", "b.mp4"]
            assert [Path(each.path).read_bytes() for each in found] == [
                (rallies / each.name).read_bytes() for each in found
            ]
            assert all(tmp_path in Path(each.path).parents for each in found)
            assert [each.id for each in library.add(f"{url}/raw")] == [each.id for each in found]
        finally:
            library.close()


def test_the_server_fetches_what_it_may(url: str, tmp_path: Path) -> None:
    open_store(url).put("videos/a.mp4", b"0123456789")
    to, allowed = tmp_path / "a", [f"{url}/videos"]
    jobs.fetch(f"{url}/videos/a.mp4", allowed, to, 1000)
    assert to.read_bytes() == b"0123456789"
    with pytest.raises(ApiError, match="may have 9 bytes"):
        jobs.fetch(f"{url}/videos/a.mp4", allowed, to, 9)
    for name in ("none.mp4", ""):
        with pytest.raises(InputError, match=r"does not exist|cannot be the name"):
            jobs.fetch(f"{url}/videos/{name}", allowed, to, 1000)


def test_a_network_by_url(url: str) -> None:
    from rallytrace.runtime import load_network

    add(["src/rallytrace/weights/fast.onnx"], url)
    assert load_network(f"{url}/fast.onnx").spec == load_network("fast").spec
    assert fetch(f"{url}/fast.onnx").name == "fast.onnx"
