"""The server as a process: how it starts, whom it serves, how it ends, and what survives when it is killed."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rallytrace.runtime import bundled

from .conftest import said
from .sites import clip, number_on, wait_for

PASSWORD = "a long password"
Start = Callable[..., "Server"]


class Server:
    """`rallytrace label` with these arguments, once it has printed where it is."""

    def __init__(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "rallytrace", "label", *map(str, arguments), "--no-browser"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
        assert self.process.stdout
        self.url = self._address("rallytrace label: ")

    def _address(self, before: str) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line.startswith(before), line + self.process.communicate(timeout=60)[1]
        return line.removeprefix(before).strip()

    def setup_token(self) -> str:
        address = self._address("make the first admin: ")
        assert address.startswith(f"{self.url}/#/setup/")
        return address.rpartition("/")[2]

    def browser(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        if self.process.poll() is None:
            self.process.send_signal(how)
        out, err = self.process.communicate(timeout=90)
        return self.process.returncode, out, err


@pytest.fixture
def start() -> Iterator[Start]:
    servers: list[Server] = []

    def begin(*arguments: str | Path) -> Server:
        servers.append(Server(*arguments))
        return servers[-1]

    yield begin
    for server in servers:
        server.end(signal.SIGKILL)


def refusal(*arguments: str | Path) -> str:
    """What a command that must not start says."""
    command = [sys.executable, "-m", "rallytrace", "label", *map(str, arguments), "--no-browser"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def logged_in(server: Server, road: str, **body: str) -> httpx.Client:
    browser = server.browser()
    answer = browser.post(road, json={"name": "Ada", "password": PASSWORD} | body)
    browser.headers["X-CSRF-Token"] = answer.raise_for_status().json()["csrf"]
    return browser


def a_task(browser: httpx.Client) -> int:
    videos = wait_for(lambda: (v := browser.get("/api/videos").json()) and v[0]["state"] == "ready" and v)
    browser.post("/api/jobs", json={"name": "j", "video_ids": [videos[0]["id"]]}).raise_for_status()
    task_id: int = browser.post("/api/tasks/next").raise_for_status().json()["id"]
    return task_id


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_project_is_made_served_and_ended(tmp_path: Path, start: Start, how: signal.Signals) -> None:
    server = start(tmp_path / "new/project", "--add", clip(), "--port", "0")
    browser = logged_in(server, "/api/setup", token=server.setup_token())
    wait_for(lambda: browser.get("/api/videos").json()[0]["state"] == "ready")
    assert number_on(browser.get("/frames/1/77.jpg").content) == 77
    assert browser.get("/").headers["content-type"].startswith("text/html")
    assert server.end(how) == (0, "", "")
    again = start(tmp_path / "new/project", "--add", clip().parent, "--port", "0")  # the same video, by its folder
    browser = logged_in(again, "/api/login")
    assert browser.get("/api/videos").json()[0]["state"] == "ready"
    assert len(browser.get("/api/videos").json()) == 1
    assert again.end(how) == (0, "", "")


def test_new_weights_propose_again(tmp_path: Path, start: Start) -> None:
    """After training: the run's network is named at the next start, and is at work when the page opens."""
    server = start(tmp_path / "p", "--add", clip(), "--port", "0")
    browser = logged_in(server, "/api/setup", token=server.setup_token())
    wait_for(lambda: browser.get("/api/videos").json()[0]["state"] == "ready")
    server.end()
    trained = tmp_path / "smash.onnx"
    trained.write_bytes(bundled()["fast"].read_bytes())
    again = start(tmp_path / "p", "--weights", trained, "--port", "0")
    browser = logged_in(again, "/api/login")
    done = wait_for(lambda: (runs := browser.get("/api/prelabel").json())[0]["state"] == "done" and runs)
    assert [(run["video"], run["model"]) for run in done] == [(1, "smash.onnx")]
    assert "smash.onnx" in browser.get("/api/models").json()
    task_id = a_task(browser)
    proposals = browser.get(f"/api/tasks/{task_id}/proposals").json()
    assert (proposals["model"], len(proposals["proposals"])) == ("smash.onnx", 90)
    trained.write_bytes(b"none")
    again.end()
    assert "smash.onnx" in refusal(tmp_path / "p", "--weights", trained, "--port", "0")


def test_no_acknowledged_event_is_lost_when_the_server_is_killed(tmp_path: Path, start: Start) -> None:
    server = start(tmp_path, "--add", clip(), "--port", "0")
    browser = logged_in(server, "/api/setup", token=server.setup_token())
    task_id = a_task(browser)
    acknowledged: dict[int, float] = {}
    sent = threading.Event()

    def label() -> None:
        for n in range(10_000):
            event = said(n % 90, (float(n), 5.0), client_seq=n) | {"base_rev": 10**6}
            body = {"client_id": "tab", "events": [event | {"x": n / 100}]}
            try:
                answer = browser.post(f"/api/tasks/{task_id}/events", json=body).json()
            except httpx.TransportError:
                return
            assert answer["acked"] == [event["uuid"]]
            acknowledged[n % 90] = n / 100
            if n > 60:
                sent.set()

    worker = threading.Thread(target=label)
    worker.start()
    assert sent.wait(60)
    server.end(signal.SIGKILL)
    worker.join(60)
    again = start(tmp_path, "--port", "0")
    browser = logged_in(again, "/api/login")
    kept = {each["frame"]: each["x"] for each in browser.get(f"/api/tasks/{task_id}/labels").json()["labels"]}
    assert len(acknowledged) > 60
    for frame, x in acknowledged.items():  # the one in flight may have been stored too, but not acknowledged
        assert kept[frame] >= x
    assert len(kept.items() - acknowledged.items()) <= 1


def test_a_kill_in_mid_import_and_mid_upload_leaves_nothing_half(tmp_path: Path, start: Start) -> None:
    server = start(tmp_path / "p", "--port", "0")
    browser = logged_in(server, "/api/setup", token=server.setup_token())
    begun, uploads = threading.Event(), tmp_path / "p/videos"

    def pieces() -> Iterator[bytes]:
        yield clip().read_bytes()[:5000]
        begun.set()
        threading.Event().wait(1)
        yield b"x"

    def upload() -> None:
        with pytest.raises(httpx.TransportError):
            browser.post("/api/videos?name=a.mp4", content=pieces())

    worker = threading.Thread(target=upload)
    worker.start()
    assert begun.wait(30)
    wait_for(lambda: list(uploads.iterdir()))
    server.end(signal.SIGKILL)
    worker.join(30)
    again = start(tmp_path / "p", "--port", "0")
    assert logged_in(again, "/api/login").get("/api/videos").json() == []
    assert list(uploads.iterdir()) == []


def test_other_machines_are_served_over_tls_only(tmp_path: Path, start: Start) -> None:
    assert "give --cert and --key" in refusal(tmp_path, "--host", "0.0.0.0", "--port", "0")
    assert not (tmp_path / "book.sqlite").exists()
    server = start(tmp_path, "--host", "0.0.0.0", "--port", "0", "--insecure-http")
    port = server.url.rpartition(":")[2]
    assert httpx.get(f"http://127.0.0.1:{port}/health", headers={"Host": "labels.example"}).status_code == 200
    code, _, err = server.end()
    assert (code, "without TLS" in err) == (0, True)


def test_tls(tmp_path: Path, start: Start) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    options = ("-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost")
    names = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    subprocess.run(["openssl", "req", *options, *names, "-out", cert, "-keyout", key], check=True, capture_output=True)
    server = start(tmp_path / "p", "--cert", cert, "--key", key, "--port", "0")
    assert server.url.startswith("https://")
    entry = {"token": server.setup_token(), "name": "Ada", "password": PASSWORD}
    with server.browser(verify=ssl.create_default_context(cafile=str(cert))) as browser:
        answer = browser.post("/api/setup", json=entry)
        assert "Secure" in answer.headers["set-cookie"]
        assert browser.get("/api/me").status_code == 200
    cert.write_text("no certificate")
    assert "are no certificate and key" in refusal(tmp_path / "p2", "--cert", cert, "--key", key, "--port", "0")


def test_what_cannot_start_says_why_in_one_line(tmp_path: Path, start: Start) -> None:
    server = start(tmp_path / "p", "--port", "0")
    port = server.url.rpartition(":")[2]
    assert "open in another rallytrace label" in refusal(tmp_path / "p", "--port", "0")
    assert "choose another --port" in refusal(tmp_path / "q", "--port", port)
    assert "does not exist" in refusal(tmp_path / "q", "--port", "0", "--add", tmp_path / "none.mp4")
    assert "belong together" in refusal(tmp_path / "q", "--port", "0", "--cert", tmp_path / "c.pem")
    assert "label book" in refusal(tmp_path / "q", "--port", "0", "--database", "mysql://root@localhost/x")
    (tmp_path / "file").write_text("")
    assert "cannot write" in refusal(tmp_path / "file/project", "--port", "0")


def test_who_comes_before_the_app_is_ready_waits(tmp_path: Path, start: Start) -> None:
    server = start(tmp_path, "--port", "0")
    host, port = re.fullmatch(r"http://(.+):(\d+)", server.url).groups()  # type: ignore[union-attr]
    with socket.create_connection((host, int(port)), timeout=60) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert plain.recv(100).startswith(b"HTTP/1.1 200")
