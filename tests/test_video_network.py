"""URLs, against servers on this machine: files and endless streams over HTTP, a camera's RTSP."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest

from rallytrace import Trajectory, track_video
from rallytrace.errors import VideoError
from rallytrace.video import probe, read

from .clips import clip, golden, run


def serve(handler: type[BaseHTTPRequestHandler] | partial[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []  # the paths, by all requests of the test run

    def log_message(self, *_: object) -> None:
        self.asked.append(self.path)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[str]:
    """Serves `tmp_path`."""
    yield from serve(partial(Quiet, directory=str(tmp_path)))


class Endless(BaseHTTPRequestHandler):
    """A transport stream that goes on for as long as someone listens; /stops falls silent after one round."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "video/mp2t")
        self.end_headers()
        data = clip("h264-offset.ts").read_bytes()
        try:
            while True:
                self.wfile.write(data)
                if self.path == "/stops":
                    time.sleep(20)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endless() -> Iterator[str]:
    yield from serve(Endless)


class Plain(BaseHTTPRequestHandler):
    """A transport stream with sound from a server that knows no ranges; /nolength does not say how long it is."""

    def do_GET(self) -> None:
        data = clip("aac-offset.ts").read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "video/mp2t")
        if self.path != "/nolength.ts":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(data if self.path != "/broken.ts" else data[: len(data) // 2])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def plain() -> Iterator[str]:
    yield from serve(Plain)


def test_a_file_from_a_server_without_ranges_is_a_file(plain: str, tmp_path: Path) -> None:
    result = track_video(f"{plain}/x.ts", tmp_path)
    assert result.problems == ()
    with read(clip("aac-offset.ts")) as reader:
        times = [frame.pts_s for frame in reader]
    assert Trajectory.from_csv(tmp_path / "x.csv").pts_s == pytest.approx(times, abs=1e-3)
    with read(tmp_path / "x.tracked.mp4") as drawn:
        assert drawn.info.has_audio
        assert sum(1 for _ in drawn) == len(times)


def test_what_a_stream_lacks_is_said(plain: str, tmp_path: Path) -> None:
    result = track_video(f"{plain}/nolength.ts", tmp_path, draw_video=False)
    assert any("read as a live stream" in line for line in result.problems)


def test_a_file_over_http_is_a_file(tmp_path: Path, files: str) -> None:
    (tmp_path / "x.mp4").write_bytes(clip("h264-bframes.mp4").read_bytes())
    with read(f"{files}/x.mp4", wh=(32, 18)) as reader:
        assert [frame.pts_s for frame in reader] == pytest.approx(golden(clip("h264-bframes.mp4")).pts_s)
    assert not reader.info.is_live
    assert reader.info.n_frames == 21


def test_an_endless_stream_is_live(endless: str) -> None:
    with read(f"{endless}/on", wh=(32, 18)) as reader:
        times = [next(reader).pts_s for _ in range(100)]
        assert reader.info.is_live
        assert reader.info.n_frames is reader.info.duration_s is None
    assert times == sorted(set(times))


def test_a_stream_that_falls_silent_ends_and_says_so(endless: str) -> None:
    with read(f"{endless}/stops", wh=(32, 18), timeout_s=1) as reader:
        assert 15 < len(list(reader)) <= 21
    assert any("gave nothing for 1 s" in line for line in reader.problems)


def test_dead_urls_fail_in_bounded_time_with_one_line(files: str) -> None:
    with socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        closed.bind(("127.0.0.1", 0))
        mute, nobody = (f"127.0.0.1:{s.getsockname()[1]}" for s in (silent, closed))
        for url in (
            f"http://{mute}/x",
            f"rtsp://{mute}/x",
            f"http://{nobody}/x",
            f"rtsp://{nobody}/x",
            f"{files}/none.mp4",
        ):
            with pytest.raises(VideoError, match=re.escape(url)) as error:
                probe_within(url, seconds=1)
            assert "\n" not in str(error.value)
            assert "check the address" in str(error.value)


def probe_within(url: str, seconds: float) -> None:
    """Where FFmpeg did not give up, pytest's own timeout would end the test."""
    read(url, timeout_s=seconds).close()


def test_a_local_playlist_cannot_reach_the_network(tmp_path: Path, files: str) -> None:
    (tmp_path / "victim.ts").write_bytes(clip("h264-offset.ts").read_bytes())
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:1,\n{files}/victim.ts\n#EXT-X-ENDLIST\n"
    for name, text in (
        ("hls.mp4", hls),
        ("hls.m3u8", hls),
        ("concat.mp4", f"ffconcat version 1.0\nfile '{files}/victim.ts'\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError):
            probe(tmp_path / name)
    assert not any("victim" in path for path in Quiet.asked)


def test_a_playlist_over_http_plays_but_not_local_files(tmp_path: Path, files: str) -> None:
    (tmp_path / "part.ts").write_bytes(clip("h264-offset.ts").read_bytes())
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:1,\n"
    (tmp_path / "good.m3u8").write_text(f"{head}part.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "evil.m3u8").write_text(f"{head}file://{clip('h264-offset.ts')}\n#EXT-X-ENDLIST\n")
    with read(f"{files}/good.m3u8", wh=(32, 18)) as reader:
        assert len(list(reader)) == 21
    with pytest.raises(VideoError):
        read(f"{files}/evil.m3u8")


class RtspCamera:
    """One viewer, RTP inside the TCP connection (RFC 2326, 10.12); ffmpeg packs the pictures and describes them."""

    def __init__(self, folder: Path) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._packets = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._packets.bind(("127.0.0.1", 0))
        self.url = f"rtsp://127.0.0.1:{self._listening.getsockname()[1]}/court"
        sdp = folder / "court.sdp"
        picture = (
            "-re",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=160x90:rate=30",
            "-c:v",
            "libx264",
            "-tune",
            "zerolatency",
        )
        rtp = ("-g", "15", "-f", "rtp", "-sdp_file", str(sdp), f"rtp://127.0.0.1:{self._packets.getsockname()[1]}")
        self._sender = subprocess.Popen(["ffmpeg", "-loglevel", "quiet", "-nostdin", "-y", *picture, *rtp])
        while not sdp.exists() or not (text := sdp.read_text()).strip():
            time.sleep(0.05)
        self._sdp = re.sub(r"m=video \d+", "m=video 0", text[text.index("v=0") :])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            viewer = self._listening.accept()[0]
            while request := viewer.recv(4096).decode():
                verb, sequence = request.split()[0], re.search(r"CSeq: *(\d+)", request)
                assert sequence
                more, body = "", ""
                if verb == "DESCRIBE":
                    body = self._sdp
                    more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
                elif verb == "SETUP":
                    more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
                viewer.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {sequence[1]}\r\n{more}\r\n{body}".encode())
                while verb == "PLAY":
                    packet = self._packets.recv(65_536)
                    viewer.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)
        except OSError:
            pass  # the viewer left, or the test is over

    def close(self) -> None:
        self._sender.kill()
        self._sender.wait()
        self._listening.close()
        self._packets.close()


def test_an_rtsp_camera_is_live(tmp_path: Path) -> None:
    run("ffmpeg", "-version")  # or skip
    camera = RtspCamera(tmp_path)
    try:
        with read(camera.url, wh=(32, 18)) as reader:
            times = [next(reader).pts_s for _ in range(20)]
            info = reader.info
    finally:
        camera.close()
    assert (info.codec, info.wh, info.is_live, info.n_frames, info.has_audio) == ("h264", (160, 90), True, None, False)
    steps_s = [b - a for a, b in pairwise(times)]
    assert steps_s == pytest.approx([1 / 30] * 19, abs=2e-3)


def test_a_live_stream_is_tracked_until_ctrl_c(endless: str, tmp_path: Path) -> None:
    """What was tracked until then is kept, whole: as many pictures in the video as rows in the CSV."""
    command = [sys.executable, "-m", "rallytrace", "track", f"{endless}/court.ts", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 1000 for path in tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "court.csv" in out
    rows = Trajectory.from_csv(tmp_path / "court.csv")
    with read(tmp_path / "court.tracked.mp4") as reader:
        assert sum(1 for _ in reader) == len(rows) > 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["court.csv", "court.track.json", "court.tracked.mp4"]
