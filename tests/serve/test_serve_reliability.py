"""What happens to a server: dropped clients, signals, kills. Nothing grows, nothing accepted is lost."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from rallytrace import Frame, video
from rallytrace.serve import bodies, protocol
from rallytrace.serve.protocol import Done, End, Start
from tests.serve.conftest import Process, Running, is_warm, running_process, wait_until
from tests.serve.test_sessions import RAW, WH, Stream, stream

KIND = {"content-type": "application/x-npy"}
WINDOW = bodies.npy(np.zeros((1, 9, 288, 512), np.uint8))


@pytest.fixture(scope="module")
def frames(rally_clip: Path) -> list[Frame]:
    with video.read(rally_clip, wh=WH, colour="grey") as reader:
        return list(reader)


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def counts(pid: int) -> tuple[int, int]:
    """Threads and open files of a process."""
    return len(list(Path(f"/proc/{pid}/task").iterdir())), len(list(Path(f"/proc/{pid}/fd").iterdir()))


def drop_sessions(process: Process, frames: list[Frame], n: int) -> None:
    """Open `n` sessions, with some frames each, and break every connection in one of three ways."""
    for i in range(n):
        with connect(process.ws, max_size=None) as socket_:
            client = Stream(socket_)
            client.open(RAW)
            for frame in frames[: i % 7]:
                socket_.send(protocol.pack_frame(frame.index, frame.pts_s, frame.image.tobytes()))
            if i % 3 == 0:
                socket_.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
            if i % 3 < 2:
                socket_.socket.close()


def test_200_sessions_opened_and_dropped_leave_nothing(
    serve_process: Callable[..., Process], frames: list[Frame]
) -> None:
    process = serve_process("--weights", "window3", "--max-sessions", "8")
    pid = process.popen.pid
    drop_sessions(process, frames, 40)  # pools and caches are full from here on
    wait_until(lambda: counts(pid) == counts(pid), "a quiet moment")
    threads, files = counts(pid)
    before_mb = resident_mb(pid)
    drop_sessions(process, frames, 200)
    wait_until(lambda: counts(pid)[1] <= files + 3, "the sockets to close")
    assert counts(pid)[0] <= threads + 16  # the pools grow as they are needed, up to their bounds
    assert resident_mb(pid) < before_mb + 40
    assert httpx.get(f"{process.url}/ping").status_code == 200


def test_half_open_sockets_do_not_disturb(shared_server: Running, frames: list[Frame]) -> None:
    """Connections that say nothing, stop in the middle of a handshake, or of a frame."""
    host, port = shared_server.url.split("://")[1].split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(20)]
    for i, connection in enumerate(silent):
        connection.sendall(b"GET /v1/stream HTTP/1.1\r\nupgrade: websocket\r\nconn"[: i * 5])
    with stream(shared_server) as cut:
        cut.open(RAW)
        cut.socket.socket.sendall(b"\x82\xfe\xff\xff\0\0\0\0half a frame")
        with stream(shared_server) as client:
            client.open(RAW)
            client.send(frames[:20])
            assert client.finish() == 20
        cut.socket.socket.close()
    for connection in silent:
        connection.close()
    gc.collect()


def test_sigterm_finishes_what_was_accepted_and_refuses_what_is_new(rally_clip: Path, frames: list[Frame]) -> None:
    with running_process("--weights", "accurate", "--drain", "120") as process:
        answers: list[httpx.Response] = []
        clip = rally_clip.read_bytes()
        slow = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{process.url}/v1/track?overlap=5", content=clip, timeout=200))
        )
        slow.start()
        url = f"{process.url}/metrics"
        wait_until(lambda: "rallytrace_frames" in httpx.get(url).text and _is_tracking(url), "the job to run")
        with connect(process.ws, max_size=None) as socket_:
            client = Stream(socket_)
            client.open(Start(WH, model="window3", codec="raw", live=True))
            client.send(frames[:48])  # the first 16 are answered by then
            process.popen.send_signal(signal.SIGTERM)
            assert client.refused() == ("draining", protocol.CLOSE_RESTART)
            assert 16 <= client.next <= 48
            assert len(client.points) >= client.next - 4  # what was accepted is tracked, and told
        _check_refusal(process.url)
        slow.join(200)
        assert answers[0].status_code == 200
        assert len(answers[0].json()["points"]) == 60
        assert process.popen.wait(30) == 0


def test_a_server_that_stops_hears_a_client_leave(
    serve: Callable[..., Running], frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rallytrace.serve.routes_stream.GOODBYE_S", 600)
    server = serve(drain_s=600)
    sessions, may_track = server.services.sessions, threading.Event()
    try:
        for _ in range(sessions.pool._max_workers):
            sessions.pool.submit(may_track.wait)
        with stream(server) as client:
            client.open(RAW)
            client.send(frames[:9])
            session = next(iter(sessions._sessions.values()))
            wait_until(lambda: session.received == 9, "the frames")
            server.services.draining = True
            client.say(End())
            wait_until(lambda: session._ended, "the end")
            may_track.set()
            while not isinstance(client.hear(), Done):
                pass
        wait_until(lambda: server.services.connections == 0, "the connection to be over")
    finally:
        may_track.set()


def _is_tracking(url: str) -> bool:
    line = next(line for line in httpx.get(url).text.splitlines() if line.startswith("rallytrace_batch_windows_count"))
    return float(line.split()[1]) > 3


def _check_refusal(url: str) -> None:
    refused = httpx.post(f"{url}/invocations", content=WINDOW, headers=KIND)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert refused.headers["retry-after"] == "1"
    assert httpx.get(f"{url}/ping").status_code == 503


def test_a_drain_ends_in_time(rally_clip: Path) -> None:
    with running_process("--weights", "accurate", "--drain", "0.5") as process:
        for _ in range(3):
            httpx.post(f"{process.url}/v1/track?async=1&overlap=5", content=rally_clip.read_bytes())
        process.popen.terminate()
        assert process.popen.wait(30) == 0


def test_after_a_kill_a_new_server_takes_the_port(frames: list[Frame]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with running_process("--weights", "window3", "--port", port) as first:
        stop = threading.Event()
        statuses: list[int | str] = []

        def load() -> None:
            while not stop.is_set():
                try:
                    statuses.append(httpx.post(f"{first.url}/invocations", content=WINDOW, headers=KIND).status_code)
                except httpx.TransportError:
                    statuses.append("gone")
                    stop.wait(0.05)

        loader = threading.Thread(target=load)
        loader.start()
        with connect(first.ws, max_size=None) as socket_:
            client = Stream(socket_)
            client.open(RAW)
            client.send(frames[:10])
            wait_until(lambda: len(statuses) > 3, "some load")
            first.popen.kill()
            with pytest.raises(ConnectionClosed):
                client.say_all([])
        with running_process("--weights", "window3", "--port", port) as second:
            assert second.url == first.url
            seen = len(statuses)
            wait_until(lambda: 200 in statuses[seen:], "an answer of the new server")
            stop.set()
            loader.join(30)
    assert set(statuses) <= {200, 503, "gone"}  # 503 until the new one is warm
    assert "gone" in statuses


def test_a_taken_port_is_one_clear_line(shared_server: Running) -> None:
    import subprocess
    import sys

    port = shared_server.url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "rallytrace", "serve", "--weights", "window3", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [f"error: cannot listen on 127.0.0.1:{port}: is another server there?"]


def test_a_network_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "bad.onnx").write_bytes(b"x")
    command = [sys.executable, "-m", "rallytrace", "serve", "--weights", str(tmp_path / "bad.onnx"), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "is not an ONNX network" in done.stderr.splitlines()[-1]


def test_a_disconnected_client_frees_its_work(serve: Callable[..., Running], rally_clip: Path) -> None:
    server = serve(weights=("accurate",))
    headers, url = {"content-type": "video/mp4"}, f"{server.url}/invocations?overlap=5"
    for _ in range(3):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, content=rally_clip.read_bytes(), headers=headers, timeout=0.5)
    wait_until(lambda: server.services._working.held == 0, "the work to end")
    assert not list(server.services.jobs.folder.iterdir())
    assert is_warm(server.url)
    assert json.loads(httpx.get(f"{server.url}/health").text)["queued"] == 0
