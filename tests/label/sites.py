"""A workspace with people in it, and videos whose frames carry their own number."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
from fastapi.testclient import TestClient

from rallytrace.label import close_workspace, create_app, open_workspace, schema, team
from rallytrace.label.api_common import COOKIE
from rallytrace.label.book import inserted
from rallytrace.label.team import User
from rallytrace.types import Image
from rallytrace.video import VideoWriter, decode_jpeg, rgb_to_yuv

WH, BITS = (320, 180), 8
HERE = "http://127.0.0.1"


def numbered(path: Path, n: int = 90, fps: Fraction = Fraction(30_000, 1001)) -> Path:
    """A clip of `n` frames; the binary digits of each one's number are its black and white columns."""
    with VideoWriter(path, WH, fps, crf=18) as writer:
        for index in range(n):
            writer.write(rgb_to_yuv(_picture(index)), float(index / fps))
    return path


def _picture(index: int) -> Image:
    digits = np.array([index >> bit & 1 for bit in range(BITS)], np.uint8) * 255
    columns = np.repeat(digits, WH[0] // BITS)
    return np.broadcast_to(columns[None, :, None], (WH[1], WH[0], 3)).astype(np.uint8)


def number_on(jpeg: bytes) -> int:
    """What a picture of `numbered` carries."""
    image = decode_jpeg(jpeg, "grey")
    width = image.shape[1] / BITS
    return sum(int(image[:, int((bit + 0.5) * width)].mean() > 127) << bit for bit in range(BITS))


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory()


@cache
def clip() -> Path:
    """The one of 90 frames that many tests share. Read it only."""
    return numbered(Path(_folder().name) / "rally one.mp4")


def wait_for(what: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """The first value of `what` that is not false."""
    end = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return found


class Site:
    """A workspace in `folder`, and browsers of its people."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.workspace = open_workspace(folder, **options)
        self.app = create_app(self.workspace)
        self.book = self.workspace.book

    def close(self) -> None:
        close_workspace(self.workspace)

    def stranger(self) -> TestClient:
        """A browser of nobody. Errors that were not foreseen end the test."""
        return TestClient(self.app, base_url=HERE, client=("127.0.0.1", 5000))

    def person(self, name: str, role: str = "annotator") -> TestClient:
        """The browser of a new member, logged in."""
        values = {"name": name, "name_key": name.casefold(), "role": role, "active": True, "password_hash": ""}
        with self.book.write() as connection:
            user_id = inserted(connection, schema.member, values | {"created": 0.0})
        session = team.open_session(self.book, User(user_id, name, role, True))
        browser = self.stranger()
        browser.cookies.set(COOKIE, session.token)
        browser.headers["X-CSRF-Token"] = session.csrf
        return browser

    def imported(self, *paths: Path) -> list[dict[str, Any]]:
        """The videos at `paths`, once they are ready."""
        ids = [self.workspace.library.add(path)[0].id for path in paths]
        wait_for(lambda: all(self.book.video(n).state != "importing" for n in ids))
        found = [self.book.video(n) for n in ids]
        assert [video.state for video in found] == ["ready"] * len(ids), [video.error for video in found]
        return [{"id": video.id, "sha": video.sha256, "n": video.n_frames} for video in found]


def error_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code; the message is one line, and no trace of the server's inside."""
    error = answer.json()["error"]
    assert set(error) == {"code", "message"}
    assert error["message"]
    assert "\n" not in error["message"]
    assert "Traceback" not in answer.text
    return answer.status_code, error["code"]
