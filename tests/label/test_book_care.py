"""The book outlives full disks, foreign locks, second servers, newer programs and lost passwords."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, insert, select
from typer.testing import CliRunner

from rallytrace.cli import app
from rallytrace.errors import InputError, MissingDependency, RallytraceError
from rallytrace.label import LabelBook, close_workspace, jobs, open_book, open_workspace, schema, team
from rallytrace.label.backup import back_up, new_place
from rallytrace.label.book import book_url as url_of
from rallytrace.label.holds import hold
from rallytrace.label.jobs import create_job
from rallytrace.label.team import User
from tests.label.conftest import Clock, ready_video

from .sites import Site, wait_for
from .test_book import make_old


@pytest.mark.parametrize("trouble", ["foreign lock", "nothing can be written"])
def test_reading_goes_on_where_nothing_can_be_written(tmp_path: Path, trouble: str) -> None:
    site = Site(tmp_path / "project")
    bob, eve = site.person("Bob"), site.person("Eve", "reviewer")
    gone = ready_video(site.book, "gone.mp4", 5, source=tmp_path / "gone.mp4")
    (site.workspace.folder / f"tables/{gone.id}.table").write_bytes(b'{"sha256": "", "size": 1, "mtime_ns": 1}\n')
    site.book.clock = lambda: 1e9 * 2
    with site.book.write() as connection:
        connection.execute(schema.session.update().values(created=2e9 - 1000, last_seen=2e9 - 1000))
    other = sqlite3.connect(tmp_path / "project/book.sqlite")
    if trouble == "foreign lock":
        other.execute("BEGIN IMMEDIATE")
    else:  # as SQLite refuses on a full disk
        event.listen(site.book._engine, "checkout", lambda raw, *_: raw.execute("PRAGMA query_only = ON"))
    for person in (bob, eve):
        for road in ("/api/me", "/api/tasks", "/api/jobs", "/api/users"):
            assert person.get(road).status_code == 200, road
        assert [each["state"] for each in person.get("/api/videos").json()] == ["missing"]
    other.rollback()
    site.close()


def test_what_was_used_is_noted_where_it_can_be(book: LabelBook, clock: Clock, admin: User) -> None:
    session = team.open_session(book, admin)
    clock.now += team.SEEN_EVERY_S + 1
    assert team.session_user(book, session.token) == admin
    with book.read() as connection:
        assert connection.scalar(select(schema.session.c.last_seen)) == clock.now


@pytest.mark.parametrize("folder", ["the same", "another"])
def test_one_server_per_database(tmp_path: Path, book_url: str, folder: str) -> None:
    first = open_workspace(tmp_path / "a", database=book_url)
    with pytest.raises(InputError, match="is open in another rallytrace label"):
        open_workspace(tmp_path / ("a" if folder == "the same" else "b"), database=book_url)
    with open_book(book_url, migrate=False) as other:  # a verb beside the server
        assert other.videos() == []
    close_workspace(first)
    close_workspace(open_workspace(tmp_path / "b", database=book_url))


def test_a_failed_start_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "book.sqlite").write_text("no database, but longer than the header of one is " * 9)
    for _ in range(2):
        with pytest.raises(InputError, match="not a database"):
            open_workspace(tmp_path)
    with pytest.raises(InputError, match="cannot open the label book"):
        open_workspace(tmp_path / "p", database="postgresql://nobody:secret@127.0.0.1:1/x")


def test_nobody_migrates_under_a_running_server(book_url: str, tmp_path: Path) -> None:
    make_old(book_url)
    server = hold(url_of(book_url))
    for call in (lambda: open_book(book_url), lambda: open_workspace(tmp_path / "p", database=book_url)):
        with pytest.raises(InputError, match="is open in another rallytrace label"):
            call()
    server.close()
    open_book(book_url).close()


def test_reading_never_migrates(book_url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist|holds no label book"):
        open_book(book_url, migrate=False)
    assert not (tmp_path / "book.sqlite").exists()
    make_old(book_url)
    with pytest.raises(InputError, match=r"schema 0001, this rallytrace needs 0003: start `rallytrace label`"):
        open_book(book_url, migrate=False)
    words = ["labels", "export", str(tmp_path), "--to", "coco", "--out", str(tmp_path / "o"), "--database", book_url]
    assert "schema 0001" in str(run(*words).exception)


def test_a_backup_comes_before_every_migration(book_url: str, tmp_path: Path) -> None:
    make_old(book_url)
    notes: list[str] = []
    workspace = open_workspace(tmp_path / "project", database=book_url, on_note=notes.append)
    (made,) = (tmp_path / "project/backups").iterdir()
    assert notes == [f"the label book goes from schema 0001 to 0003; as it was, it is in {made}"]
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    close_workspace(workspace)
    close_workspace(open_workspace(tmp_path / "project", database=book_url, on_note=notes.append))
    assert len(notes) == len(list((tmp_path / "project/backups").iterdir())) == 1
    if made.suffix == ".sqlite":
        with sqlite3.connect(made) as old:
            assert old.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
            assert old.execute("SELECT frame, x FROM label").fetchall() == [(4, 2.5)]


def test_a_migration_that_fails_leaves_the_book_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, book_url: str
) -> None:
    make_old(book_url)

    def broken(_: Any) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("rallytrace.label.book._migrate", broken)
    with pytest.raises(RuntimeError):
        open_workspace(tmp_path / "p", database=book_url)
    monkeypatch.undo()
    with open_book(book_url) as book:
        assert book.video(1).name == "a"


def test_a_book_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "book.sqlite"
    before = os.umask(0o022)
    try:
        with open_book(path) as book, book.read():
            files = [path, *tmp_path.glob("book.sqlite-*")]
            assert len(files) == 3
            assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}
        path.chmod(0o644)  # as older versions left it
        open_book(path).close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def _write_on(where: str, n: int) -> None:
    with open_book(where) as book:
        for i in range(n):
            book.add_video(f"{i}", f"/{i}")


def test_a_backup_is_of_one_moment_while_others_write(book: LabelBook, book_url: str, tmp_path: Path) -> None:
    writer = threading.Thread(target=_write_on, args=(book_url, 100), daemon=True)
    writer.start()
    url = url_of(book_url)
    sizes = []
    for n in range(3):
        made = back_up(url, tmp_path / f"out/{n}{'.sqlite' if 'sqlite' in book_url else '.dump'}")
        assert stat.S_IMODE(made.stat().st_mode) == 0o600
        sizes.append(_videos_in(made, book_url, n))
    writer.join(60)
    assert sizes == sorted(sizes)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        f"{n}{'.sqlite' if 'sqlite' in book_url else '.dump'}" for n in range(3)
    )
    with pytest.raises(InputError, match="exists"):
        back_up(url, made)


def _videos_in(made: Path, where: str, n: int) -> int:
    """How many videos a backup holds, once it is put back."""
    if where.startswith("sqlite"):
        with open_book(made) as back:
            ids = [video.id for video in back.videos()]
            assert ids == list(range(1, len(ids) + 1))
            return len(ids)
    url = url_of(where)
    folder, name = url.query["host"], f"{url.database}_{n}"
    with psycopg.connect(host=str(folder), user="postgres", dbname="postgres", autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        target = f"postgresql://postgres@/{name}?host={folder}"
        subprocess.run(["pg_restore", "--dbname", target, made], check=True, capture_output=True)
        with open_book(target, migrate=False) as back:
            found = len(back.videos())
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    return found


def test_without_pg_dump_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    url = url_of("postgresql://ada:secret@db.example/labels")
    with pytest.raises(MissingDependency, match=r"pg_dump --format=custom .*ada@db.example/labels") as caught:
        back_up(url, tmp_path / "a.dump")
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_backups_of_one_second_have_names_of_their_own(tmp_path: Path) -> None:
    url = url_of(tmp_path / "book.sqlite")
    places = []
    for _ in range(3):
        places.append(new_place(url, tmp_path))
        places[-1].write_text("")
    assert len(set(places)) == 3


@pytest.fixture
def project(tmp_path: Path) -> Path:
    with open_book(tmp_path / "book.sqlite") as book:
        token = team.setup_token(book)
        team.set_up(book, token or "", "Ada", "a long password")
    return tmp_path


def run(*words: str | Path, typed: str = "") -> Any:
    return CliRunner().invoke(app, [*map(str, words)], input=typed)


def test_the_verbs_of_the_book(project: Path) -> None:
    made = run("label", "backup", project)
    assert made.exit_code == 0, made.exception
    (copy,) = (project / "backups").iterdir()
    assert f"the label book is in {copy}" in made.stdout
    changed = run("label", "passwd", project, "ada", typed="another password\n")
    assert (changed.exit_code, changed.stderr) == (0, "")
    assert changed.stdout.startswith("Ada, admin, has a new password")
    with open_book(project / "book.sqlite") as book:
        assert team.log_in(book, "Ada", "another password", None).user.name == "Ada"
    for words, message in (
        (("passwd", project, "eve"), "expected one of: Ada"),
        (("passwd", project / "none", "ada"), "no label project there"),
        (("backup", project / "none"), "no label project there"),
        (("backup", project, "--out", copy), "exists"),
    ):
        done = run("label", *words, typed="another password\n")
        assert isinstance(done.exception, RallytraceError), words
        assert message in str(done.exception)
    assert [path.name for path in (project / "backups").iterdir()] == [copy.name]
    served = run("label", "--port", "70000", project)
    assert (served.exit_code, "serve" in served.stderr) == (2, True), "without a verb it serves"


def test_what_is_past_the_first_thousand_is_known_after_a_restart(tmp_path: Path) -> None:
    site = Site(tmp_path / "project")
    with site.book.write() as connection:
        empty = {"state": "missing", "error": "", "progress": 1.0}
        rows = [{"name": f"{i}", "path": str(tmp_path / f"{i}")} | empty for i in range(1, 1006)]
        rows[-1]["state"] = "importing"
        connection.execute(insert(schema.video), rows)
        runs = [
            {"video_id": 2, "model": "fast", "state": "failed", "progress": 0.0, "error": "", "created": 0.0}
        ] * 1002
        runs += [runs[0] | {"state": "done"}, runs[0] | {"state": "running"}]
        connection.execute(insert(schema.proposal_run), [*runs, *[runs[0]] * 150])
    for i in range(1, 1005):
        table = site.workspace.folder / f"tables/{i}.table"
        table.write_bytes(b'{"sha256": "", "size": 1, "mtime_ns": 1}\n')
    site.close()
    site = Site(tmp_path / "project")
    wait_for(lambda: site.book.video(1005).state == "failed")
    videos = [video for after in (0, 1000) for video in site.workspace.library.videos(after)]
    assert len(videos) == 1005
    states = {run.state for after in (0, 1000) for run in site.workspace.proposer.runs(after)}
    assert states == {"failed", "done"}
    latest = site.workspace.proposer.latest(2)
    assert latest is not None
    assert latest.state == "done"
    site.close()


def test_copies_of_a_task_are_found_however_many_tasks_there_are(book: LabelBook, admin: User) -> None:
    video = ready_video(book, "a.mp4", 1200)
    job = create_job(book, admin, name="j", video_ids=[video.id], sequence_length=1, replicas=2)
    first = jobs.tasks(book, admin, job_id=job.id, limit=1)[0]
    assert [jobs.task(book, admin, each).start for each in jobs.copies(book, first)] == [0]
