"""A real workspace for browser tests: a server process that can be killed, clips that say which frame they are."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from rallytrace.types import Image
from tests.clips import X264, run

WH = (640, 360)
BITS = 10
BAR_PX = 48  # side of one bar of the code; large, so that no compression can change it
PASSWORD = "a rally of forty strokes"


def ball_xy(frame: int) -> tuple[float, float]:
    """Where the drawn ball of a coded clip is; the centre of the top-left pixel is (0, 0)."""
    return 90.25 + 6.5 * frame, 220.0 + 60.0 * float(np.sin(frame / 7))


def coded_frame(frame: int) -> Image:
    """Its number as bars, most significant left, and a soft round ball: uint8 (h, w)."""
    y, x = np.mgrid[: WH[1], : WH[0]]
    bx, by = ball_xy(frame)
    image = 40 + 190 * np.exp(-((x - bx) ** 2 + (y - by) ** 2) / (2 * 3.0**2))
    for bit in range(BITS):
        image[8 : 8 + BAR_PX, 16 + bit * 60 : 16 + bit * 60 + BAR_PX] = 225 if frame >> (BITS - 1 - bit) & 1 else 16
    return np.rint(image).astype(np.uint8)


def coded_clip(path: Path, n_frames: int, rate: str, *options: str) -> Path:
    """A clip of coded frames; `options` of ffmpeg give it its clock."""
    raw = ("-f", "rawvideo", "-pixel_format", "gray", "-video_size", f"{WH[0]}x{WH[1]}", "-framerate", rate)
    data = b"".join(coded_frame(frame).tobytes() for frame in range(n_frames))
    encoded = (*options, *X264, "-crf", "12")
    run("ffmpeg", "-hide_banner", "-loglevel", "error", "-y", *raw, "-i", "-", *encoded, path, data=data)
    return path


class Workshop:
    """A project and its server, always at the same address."""

    def __init__(self, project: Path, clips: Sequence[Path] = ()) -> None:
        self.project = project
        self._clips = clips
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[str] | None = None
        self.setup_token = ""
        self.start()

    def start(self) -> None:
        """Starts, or starts again, the server; returns when it answers."""
        adds = [word for clip in self._clips for word in ("--add", str(clip))]
        words = ["label", str(self.project), *adds, "--port", str(self.port), "--no-browser"]
        awaited = r"rallytrace label: " if self.setup_token else r"/#/setup/(\S+)"
        command, one_thread = [sys.executable, "-m", "rallytrace", *words], os.environ | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=one_thread)
        assert self._process.stdout
        found = next((found for line in self._process.stdout if (found := re.search(awaited, line))), None)
        assert found, "the server said no address"
        self.setup_token = self.setup_token or found[1]
        until(lambda: httpx.get(f"{self.url}/health").status_code == 200, "the server answers")

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait(30)
        if self._process.stdout:
            self._process.stdout.close()
        self._process = None

    def client(self, path: str, **body: str) -> Client:
        """Somebody who logs in through `path`."""
        return Client(self.url, path, body)


class Client:
    """One person, talking to the server without a browser."""

    def __init__(self, url: str, path: str, body: dict[str, str]) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)
        answer = self.post(path, **body)
        self._http.headers["X-CSRF-Token"] = answer["csrf"]
        self.user = answer["user"]

    def get(self, path: str) -> Any:
        answer = self._http.get(path)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def post(self, path: str, **body: Any) -> Any:
        answer = self._http.post(path, json=body)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def upload(self, video: Path) -> Any:
        answer = self._http.post("/api/videos", params={"name": video.name}, content=video.read_bytes())
        assert answer.status_code == 201, answer.text
        return answer.json()

    def labels(self, task: int) -> dict[int, dict[str, Any]]:
        """By frame; cleared ones left out."""
        found = self.get(f"/api/tasks/{task}/labels?since=0")["labels"]
        return {label["frame"]: label for label in found if not label.get("cleared")}

    @property
    def cookies(self) -> list[dict[str, str]]:
        """For a browser that is to be this person."""
        url = str(self._http.base_url).rstrip("/")
        return [{"name": c.name, "value": c.value or "", "url": url} for c in self._http.cookies.jar]


def until(holds: Any, what: str, timeout_s: float = 60.0) -> None:
    """Waits for a condition; fails with its name when it does not come."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            if holds():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"waited {timeout_s:.0f} s, but not: {what}")
