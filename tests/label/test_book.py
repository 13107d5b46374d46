"""The book opens where it should, keeps what older schemas held, and refuses what it cannot read in one line."""

from __future__ import annotations

import multiprocessing
import sqlite3
import unicodedata
from fractions import Fraction
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, insert, select, text

from rallytrace.errors import InputError, OutputError
from rallytrace.label import LabelBook, open_book, schema
from rallytrace.label.book import MIGRATIONS, BookError, NotFound, _engine, bounded_text
from rallytrace.label.book import book_url as url_of
from rallytrace.label.events import task_labels
from tests.label.conftest import ready_video


def _migrate(url: str, revision: str) -> None:
    engine = _engine(url_of(url))
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


OLD = """
INSERT INTO member (name, name_key, role, active, password_hash, created) VALUES ('ada', 'ada', 'admin', true, '', 0);
INSERT INTO video (name, path, state, error, progress, w, h, n_frames) VALUES ('a', '/a', 'ready', '', 1, 64, 48, 9);
INSERT INTO sequence (video_id, start, stop) VALUES (1, 0, 9);
INSERT INTO job (name, instructions, kind, replicas, gold_fraction, sequence_length, created_by, created)
    VALUES ('j', '', 'label', 1, 0, 9, 1, 0);
INSERT INTO task (job_id, sequence_id, replica, state, comment) VALUES (1, 1, 0, 'available', '');
INSERT INTO annotation_event (uuid, task_id, frame, object, op, visibility, x, y, event, source, user_id, client_id,
    client_seq, base_rev, outcome, server_ts) VALUES ('u', 1, 4, 'ball:1', 'set', 1, 2.5, 3, '', 'manual', 1, 't', 0, 0,
    'applied', 0);
INSERT INTO label (task_id, frame, object, rev, visibility, x, y, event, source, user_id, client_id, client_seq)
    VALUES (1, 4, 'ball:1', 1, 1, 2.5, 3, '', 'manual', 1, 't', 0)
"""


def make_old(url: str) -> None:
    """A book of the first schema, with a label."""
    _migrate(url, "0001")
    engine = _engine(url_of(url))
    with engine.begin() as connection:
        for statement in OLD.split(";"):
            connection.execute(text(statement))
    engine.dispose()


def test_a_book_of_the_first_schema_comes_along_with_its_labels(book_url: str) -> None:
    make_old(book_url)
    with open_book(book_url) as book:
        assert task_labels(book, 1)[4].ball.xy == (2.5, 3.0)
        with book.read() as connection:
            assert connection.scalar(select(schema.task.c.gold_of)) is None
            assert connection.execute(select(schema.proposal)).all() == []


def test_the_steps_lead_to_the_schema_of_the_code(book: LabelBook) -> None:
    with book.read() as connection:
        types = {"compare_type": connection.dialect.name != "sqlite"}  # SQLite has too few to compare
        context = MigrationContext.configure(connection, opts=types)
        assert compare_metadata(context, schema.metadata) == []


def test_a_book_of_a_newer_rallytrace_is_one_clear_error(book_url: str) -> None:
    with open_book(book_url) as book, book.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0099'"))
    with pytest.raises(InputError, match=r"has schema 0099, this rallytrace knows up to 0003.*upgrade") as caught:
        open_book(book_url)
    assert "\n" not in str(caught.value)


def _open(url: str) -> None:
    open_book(url).close()


def test_processes_that_open_a_new_book_at_once_do_not_collide(book_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_open, args=(book_url,), daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_sqlite_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    with open_book(tmp_path / "book.sqlite") as book, book.read() as connection:
        found = {name: connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous")}
        assert found == {"journal_mode": "wal", "synchronous": 2}
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("{tmp}/nowhere/book.sqlite", "no folder"),
        ("{tmp}/notes.txt", "file is not a database"),
        ("{tmp}", "unable to open"),
        ("mysql://host/x", "cannot be kept in 'mysql'"),
        ("://", "not the URL of a database"),
        ("postgresql://nobody:secret@127.0.0.1:1/x", "cannot open the label book"),
    ],
)
def test_what_is_no_book_is_one_clear_error(tmp_path: Path, where: str, message: str) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but longer than the header of one " * 9)
    with pytest.raises(InputError, match=message) as caught:
        open_book(where.format(tmp=tmp_path))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_another_database_is_left_alone(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'x.sqlite'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE video (id INTEGER)"))
    with pytest.raises(InputError, match="already exists"):
        open_book(tmp_path / "x.sqlite")
    with engine.begin() as connection:
        assert connection.scalars(text("SELECT name FROM sqlite_master")).all() == ["video"]


def test_a_book_that_nobody_lets_go_of_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rallytrace.label.book.BUSY_MS", 50)
    with open_book(tmp_path / "book.sqlite") as book:
        other = sqlite3.connect(tmp_path / "book.sqlite")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OutputError, match="database is locked"):
            book.add_video("a", "/a")
        other.rollback()
        assert book.add_video("a", "/a").id == 1


def test_the_life_of_a_video(book: LabelBook) -> None:
    video = book.add_video("rally <b>1</b>.mp4", "/videos/ra\u0308lly.mp4")
    assert (video.state, video.progress, video.n_frames) == ("importing", 0.0, None)
    assert book.frame_times(video.id).tolist() == []
    book.set_video_progress(video.id, 0.5)
    assert book.video(video.id).progress == 0.5
    times = [0.1, 0.133, 0.2]
    ready = book.set_video_ready(video.id, sha256="a" * 64, wh=(640, 360), rate=Fraction(30000, 1001), pts_s=times)
    assert (ready.state, ready.progress, ready.n_frames, ready.rate) == ("ready", 1.0, 3, "30000/1001")
    assert (ready.w, ready.h, ready.sha256) == (640, 360, "a" * 64)
    assert book.frame_times(video.id).tolist() == times
    assert book.set_video_state(video.id, "missing", "it was moved").error == "it was moved"
    assert book.add_video("again", video.path).id == video.id
    assert book.video(video.id).path == "/videos/ra\u0308lly.mp4", "the path of a file is not rewritten"


def test_videos_are_listed_in_pages(book: LabelBook) -> None:
    ids = [ready_video(book, f"{i}.mp4", 3).id for i in range(5)]
    assert [video.id for video in book.videos(limit=2)] == ids[:2]
    assert [video.id for video in book.videos(after=ids[1])] == ids[2:]
    with pytest.raises(NotFound, match="no video 99"):
        book.video(99)
    with pytest.raises(BookError, match="at least one picture"):
        book.set_video_ready(ids[0], sha256="", wh=(1, 1), rate=Fraction(30), pts_s=[])
    with pytest.raises(BookError, match="importing, ready"):
        book.set_video_state(ids[0], "lost")


@pytest.mark.parametrize("path", ["/a\0b", "/\udcff.mp4", "/" + "x" * 4000])
def test_paths_that_no_database_holds_are_refused(book: LabelBook, path: str) -> None:
    with pytest.raises(BookError, match="cannot be kept"):
        book.add_video("a", path)


def test_texts_are_bounded_and_readable() -> None:
    assert (
        bounded_text(" <script>\u00e9\U0001f468\u200d\U0001f469 ", "it", 40)
        == "<script>\u00e9\U0001f468\u200d\U0001f469"
    )
    assert bounded_text("a\nb", "it", 9, lines=True) == "a\nb"
    assert bounded_text("", "it", 9, empty=True) == ""
    assert unicodedata.is_normalized("NFC", bounded_text("e\u0301", "it", 9))
    for bad in ("", " ", "x" * 41, "a\0", "a\nb", "\u202eevil", "a\u200bb", "\ud800", None, 3, b"a"):
        with pytest.raises(BookError):
            bounded_text(bad, "it", 40)


def test_a_transaction_that_fails_leaves_nothing(book: LabelBook) -> None:
    row = {"name": "a", "path": "/a", "state": "ready", "error": "", "progress": 0.0}
    with pytest.raises(ZeroDivisionError), book.write() as connection:
        print(connection.execute(insert(schema.video).values(row)).rowcount / 0)
    assert book.videos() == []
