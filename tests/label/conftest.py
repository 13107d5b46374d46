"""A label book on each database, people with names, and work for them. Argon2 is too slow to be run for every test."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rallytrace.label import schema
from rallytrace.label.book import LabelBook, Video, inserted, open_book
from rallytrace.label.jobs import Job, create_job
from rallytrace.label.team import User

from .pages import ARGS, CHROMIUM

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
REQUIRED = os.environ.get("RALLYTRACE_REQUIRE_POSTGRESQL") == "1"


@pytest.fixture(scope="module")
def playwright() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with api.sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(playwright: Any) -> Iterator[Any]:
    opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
    yield opened
    opened.close()


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The folder of the socket of a PostgreSQL of our own, which is stopped at the end."""
    if not BINARIES:
        message = "PostgreSQL is not installed (apt-get install postgresql)"
        pytest.fail(message) if REQUIRED else pytest.skip(message)
    binaries = BINARIES[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="rallytrace-pg-"))  # a socket's path must be short
    options: dict[str, Any] = {"stdout": subprocess.DEVNULL, "cwd": "/"}
    if os.geteuid() == 0:  # initdb refuses root
        options["user"] = "postgres"
        shutil.chown(folder, pwd.getpwnam("postgres").pw_uid)
    data = folder / "data"
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"], check=True, **options
    )
    settings = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c max_connections=200"
    control = [binaries / "pg_ctl", "-D", data, "-w", "-t", "120", "-l", folder / "log"]
    try:
        subprocess.run([*control, "-o", settings, "start"], check=True, **options)
        yield str(folder)
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, **options)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def book_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database: SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'book.sqlite'}"
        return
    folder = request.getfixturevalue("postgresql")
    name = f"book_{uuid.uuid4().hex}"
    with psycopg.connect(host=folder, user="postgres", dbname="postgres", autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        yield f"postgresql://postgres@/{name}?host={folder}"
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def clock() -> Clock:
    """The time of `book`."""
    return Clock()


@pytest.fixture
def book(book_url: str, clock: Clock) -> Iterator[LabelBook]:
    """An empty book, on SQLite and on PostgreSQL."""
    with open_book(book_url, clock=clock) as opened:
        yield opened


@pytest.fixture
def person(book: LabelBook) -> Callable[..., User]:
    """Makes a member without a password."""
    return lambda name, role="annotator": member(book, name, role)


def member(book: LabelBook, name: str, role: str = "annotator") -> User:
    """A member without a password."""
    values = {"name": name, "name_key": name, "role": role, "active": True, "password_hash": "", "created": 0.0}
    with book.write() as connection:
        return User(inserted(connection, schema.member, values), name, role, True)


@pytest.fixture
def admin(person: Callable[..., User]) -> User:
    """The head of the team."""
    return person("ada", "admin")


def ready_video(
    book: LabelBook, name: str, n_frames: int, wh: tuple[int, int] = (1280, 720), source: Path | str = ""
) -> Video:
    """A video as its import leaves it."""
    video_id = book.add_video(name, str(source or f"/videos/{name}")).id
    times = [frame * 1001 / 30000 for frame in range(n_frames)]
    return book.set_video_ready(video_id, sha256="ab" * 32, wh=wh, rate=Fraction(30000, 1001), pts_s=times)


@pytest.fixture
def make_job(book: LabelBook, admin: User) -> Callable[..., Job]:
    """Makes a job on a new video of `n_frames`."""

    def make(n_frames: int = 20, **options: Any) -> Job:
        video = ready_video(book, f"{uuid.uuid4().hex}.mp4", n_frames)
        return create_job(book, admin, **{"name": "rallies", "video_ids": [video.id], **options})

    return make


def said(frame: int, xy: Sequence[float] | None = (10.0, 20.0), **more: Any) -> dict[str, Any]:
    """An event as a browser sends it."""
    x, y = xy or (None, None)
    what = {"uuid": str(uuid.uuid4()), "frame": frame, "op": "set", "x": x, "y": y, "visibility": 1 if xy else 0}
    return what | {"object": "ball:1", "source": "manual", "client_seq": 0, "base_rev": 0} | more
