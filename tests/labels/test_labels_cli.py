"""`rallytrace labels`, as typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from rallytrace.label import open_book
from rallytrace.label.jobs import create_job
from rallytrace.labels import read_labels
from tests.label.conftest import member, ready_video
from tests.test_track_video import assert_one_clear_line, run

ROWS = "Frame,Visibility,X,Y\n0,1,10,20\n1,2,12,22\n2,0,0,0\n4,1,14,600\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rally_ball.csv"
    path.write_text(ROWS)
    return path


def test_convert_there_and_back(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = ("labels", "convert", table, "--to", "mot", "--out", out, "--size", "1280x720")
    assert_one_clear_line(run(*first), "1 of 5 frames are unlabelled", "--unlabelled drop")
    assert not out.exists()
    done = run(*first, "--unlabelled", "absent", "--json")
    told = json.loads(done.stdout)
    assert [told["clips"][0][key] for key in ("frames", "located", "absent", "unlabelled")] == [5, 3, 1, 1]
    assert told["lost"] == ["1 labels lose visibility hard"]
    assert [Path(path).name for path in told["files"]] == ["gt.txt", "seqinfo.ini"]
    assert_one_clear_line(run(*first, "--unlabelled", "absent"), "exists already", "--overwrite")
    told_back = run("labels", "convert", out / "rally", "--to", "tracknetv2", "--out", tmp_path / "back")
    assert told_back.stdout.startswith("rally: 5 frames, 3 with a ball, 2 without, 0 unlabelled\n")
    back = read_labels(tmp_path / "back" / "rally_ball.csv")
    assert [label.xy for label in back.values()] == [(10, 20), (12, 22), None, None, (14, 600)]


def test_the_video_gives_name_size_and_length(rallies: Path, tmp_path: Path) -> None:
    labels = rallies / "a_ball.csv"
    run("labels", "convert", labels, "--to", "yolo", "--out", tmp_path, "--video", rallies / "a.mp4")
    back = run("labels", "stats", tmp_path / "a", "--video", rallies / "a.mp4", "--json")
    assert json.loads(back.stdout)["size"] == [512, 288]
    assert json.loads(back.stdout)["located"] == sum(label.xy is not None for label in read_labels(labels).values())
    short = tmp_path / "long_ball.csv"
    short.write_text("Frame,Visibility,X,Y\n5000,1,1,1\n")
    assert_one_clear_line(run("labels", "stats", short, "--video", rallies / "a.mp4"), "frame 5000", "has 45 frames")


def test_check_is_strict_on_demand(table: Path) -> None:
    plain = run("labels", "check", table, "--size", "1280x500")
    assert plain.returncode == 0
    assert "rally, frame 4: outside: (14.0, 600.0) is outside 1280x500" in plain.stdout
    strict = run("labels", "check", table, "--size", "1280x500", "--strict", "--json")
    assert strict.returncode == 1
    assert [json.loads(line)["kind"] for line in strict.stdout.splitlines()] == ["outside", "speed"]
    assert run("labels", "check", table, "--size", "1280x720", "--fps", "60", "--strict").returncode == 1


def test_stats_in_words(table: Path) -> None:
    words = run("labels", "stats", table).stdout
    assert "rally: 5 frames, 3 with a ball, 1 without, 1 unlabelled" in words
    assert "visibility: absent 1, clear 2, hard 1, occluded 0" in words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("convert", "rally_ball.csv", "--to", "xls", "--out", "o"), ("unknown label format 'xls'", "cvat")),
        (("convert", "rally_ball.csv", "--to", "yolo", "--out", "o"), ("picture's size", "--size WxH")),
        (("stats", "nowhere.csv"), ("nowhere.csv", "no such file")),
        (("stats", "rally_ball.csv", "--from", "cvat"), ("not well-formed XML",)),
        (("check", "rally_ball.csv", "--fps", "0"), ("--fps '0'", "30000/1001")),
        (("check", "rally_ball.csv", "--size", "big"), ("'big'", "1280x720")),
    ],
)
def test_one_clear_line(arguments: tuple[str, ...], words: tuple[str, ...], table: Path) -> None:
    assert_one_clear_line(run("labels", *arguments, cwd=table.parent), *words)


def test_convert_needs_no_torch_and_no_workspace(table: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom rallytrace.cli import app\n"
        f"sys.argv = ['rallytrace', 'labels', 'convert', {str(table)!r}, '--to', 'coco', '--out', {str(tmp_path)!r}]\n"
        "try:\n    app()\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "loaded = {'torch', 'fastapi', 'sqlalchemy', 'alembic'} & set(sys.modules)\nassert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A label project with two videos of five frames and a job for each, as the workspace makes them."""
    folder = tmp_path / "project"
    folder.mkdir()
    with open_book(folder / "book.sqlite") as book:
        ada = member(book, "ada", "admin")
        for name in ("rally.mp4", "other.mp4"):
            create_job(book, ada, name=Path(name).stem, video_ids=[ready_video(book, name, 5).id])
    return folder


def test_labels_of_a_project_go_in_and_out(project: Path, table: Path, tmp_path: Path) -> None:
    table.write_text("Frame,Visibility,X,Y,Keyframe\n0,1,10,20,1\n1,2,12,22,1\n2,0,0,0,1\n3,1,13,23,0\n")
    told = json.loads(run("labels", "import", project, table, "--job", "rally", "--json").stdout)
    assert told == {"imported": 3, "skipped": 0, "interpolated": 1, "proposed": 0}
    again = run("labels", "import", project, table, "--job", "rally", "--video", "rally")
    assert again.stdout == "rally.mp4: 0 labels taken in, 3 skipped, 1 interpolated left out\n"
    export = ("labels", "export", project, "--job", "rally", "--to", "tracknetv2", "--out", tmp_path / "out")
    assert_one_clear_line(run(*export), "2 frames of the job are unlabelled", "--unlabelled drop")
    done = run(*export, "--unlabelled", "drop")
    assert done.stdout.startswith("rally: 5 frames, 2 with a ball, 1 without, 2 unlabelled\n")
    assert read_labels(tmp_path / "out" / "rally_ball.csv") == read_labels(table)


def test_a_trajectory_becomes_proposals_of_a_project(project: Path, tmp_path: Path) -> None:
    tracked = tmp_path / "rally.csv"
    rows = ("0,1,10,20,00:00:00.000,0.9,model", "1,0,0,0,00:00:00.033,0.1,none", "2,1,12,22,00:00:00.067,0.2,filled")
    tracked.write_text("\n".join(("Frame,Visibility,X,Y,Time,Score,Source", *rows)) + "\n")
    words = ("labels", "import", project, tracked, "--job", "rally")
    for _ in range(2):  # again instead of twice
        done = run(*words, "--json")
        assert json.loads(done.stdout) == {"imported": 0, "skipped": 0, "interpolated": 0, "proposed": 2}
    assert "a tracker wrote it" in done.stderr
    with open_book(project / "book.sqlite") as book, book.read() as connection:
        found = [tuple(row) for row in connection.execute(text("SELECT frame, x, y, score FROM proposal"))]
        runs = [tuple(row) for row in connection.execute(text("SELECT model, state FROM proposal_run"))]
    assert found == [(0, 10, 20, 0.9), (2, 12, 22, 0.2)]
    assert runs == [("import:rally.csv", "done")]
    said = run(*words, "--as", "labels")
    assert said.stdout == "rally.mp4: 2 labels taken in, 0 skipped, 1 interpolated left out\n"


def test_of_many_clips_the_one_of_the_video_is_taken(project: Path, tmp_path: Path) -> None:
    names = [f"{clip}/{n:04}.jpg" for clip, last in (("rally", 3), ("long", 90)) for n in range(last)]
    images = [{"id": n, "file_name": name, "width": 1280, "height": 720} for n, name in enumerate(names)]
    boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 4, 4]}]
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "ball"}]}))
    told = run("labels", "import", project, file, "--job", "rally", "--json")
    assert json.loads(told.stdout) == {"imported": 3, "skipped": 0, "interpolated": 0, "proposed": 0}
    wrong = run("labels", "import", project, file, "--job", "other")
    assert_one_clear_line(wrong, "has 0 clips called 'other.mp4', expected one")


def test_projects_and_jobs_that_are_not_there(project: Path, table: Path, tmp_path: Path) -> None:
    export = ("labels", "export", project, "--to", "cvat", "--out", tmp_path / "out")
    assert_one_clear_line(run(*export), "there are 2 jobs", "rally, other", "--job")
    assert_one_clear_line(run(*export, "--job", "no"), "no single job is called 'no'")
    assert_one_clear_line(run("labels", "import", table.parent, table), "no label project there", "book.sqlite")
    wrong = run("labels", "import", project, table, "--job", "rally", "--video", "other")
    assert_one_clear_line(wrong, "no single video is called 'other'", "rally.mp4")
