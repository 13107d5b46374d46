"""WS /v1/stream on a real server: exact, resumable, bounded, fair; every mistake is answered in its own way."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from rallytrace import BallPoint, Frame, Tracker, load_network, video
from rallytrace.serve import protocol
from rallytrace.serve.protocol import Ack, Done, End, Error, Points, Resume, Start, Started
from rallytrace.serve.security import KeyFile
from tests.serve.conftest import Running, wait_until

from ..often import examples

WH = (512, 288)


@pytest.fixture(scope="module")
def frames(rally_clip: Path) -> list[Frame]:
    """At the size of window3 for a 512x288 source."""
    with video.read(rally_clip, wh=WH, colour="grey") as reader:
        return list(reader)


@pytest.fixture(scope="module")
def expected(frames: list[Frame]) -> list[BallPoint]:
    """What the tracker says of them in this process."""
    tracker = Tracker(load_network("window3", threads=1), WH)
    return [point for frame in frames for point in tracker.push(frame)] + tracker.flush()


class Stream:
    """A plain client: one connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.points: dict[int, BallPoint] = {}
        self.next = 0

    def say(self, message: protocol.ClientMessage) -> None:
        self.socket.send(message.to_json())

    def hear(self) -> protocol.ServerMessage:
        message = protocol.parse_server(str(self.socket.recv(timeout=30)))
        if isinstance(message, Points):
            self.next = message.next
            for point in message.to_points():
                assert self.points.setdefault(point.frame, point) == point, "a point was changed"
        return message

    def open(self, message: Start | Resume) -> Started:
        self.say(message)
        started = self.hear()
        assert isinstance(started, Started), started
        self.next = started.next
        return started

    def send(self, frames: list[Frame]) -> None:
        """Raw, within the credit that the server gives."""
        for frame in frames:
            while frame.index >= self.next + 32:
                self.hear()
            self.socket.send(protocol.pack_frame(frame.index, frame.pts_s, frame.image.tobytes()))

    def finish(self) -> int:
        self.say(End())
        while not isinstance(message := self.hear(), Done):
            assert isinstance(message, Points), message
        return message.frames

    def say_all(self, messages: list[str | bytes]) -> None:
        """And hear until the connection ends."""
        for message in messages:
            self.socket.send(message)
        while True:
            self.socket.recv(timeout=30)

    def refused(self) -> tuple[str, int]:
        """Code of the error and of the close."""
        message = self.hear()
        while isinstance(message, Points | Started | Done):
            message = self.hear()
        assert isinstance(message, Error), message
        assert "\n" not in message.message
        with pytest.raises(ConnectionClosed) as closed:
            self.hear()
        assert closed.value.rcvd is not None
        return message.code, closed.value.rcvd.code


@contextmanager
def stream(server: Running, **options: object) -> Iterator[Stream]:
    with connect(server.ws, max_size=None, **options) as socket:  # type: ignore[arg-type]
        yield Stream(socket)


RAW = Start(WH, codec="raw", model="window3")


def test_raw_frames_give_the_very_points_of_this_process(
    shared_server: Running, frames: list[Frame], expected: list[BallPoint]
) -> None:
    with stream(shared_server) as client:
        started = client.open(RAW)
        assert (started.content_wh, started.colour, started.next, started.model) == (WH, "grey", 0, "window3")
        client.send(frames)
        assert client.finish() == len(frames)
    assert list(client.points.values()) == expected


def test_a_repeat_needs_no_picture(shared_server: Running, frames: list[Frame]) -> None:
    repeated = [Frame(i, i / 30, frame.image) for i, frame in enumerate(f for f in frames[:20] for _ in (0, 1))]
    tracker = Tracker(load_network("window3", threads=1), WH)
    wanted = [point for frame in repeated for point in tracker.push(frame)] + tracker.flush()
    with stream(shared_server) as client:
        client.open(RAW)
        for frame in repeated:
            payload = b"" if frame.index % 2 else frame.image.tobytes()
            while frame.index >= client.next + 32:
                client.hear()
            client.socket.send(protocol.pack_frame(frame.index, frame.pts_s, payload))
        client.finish()
    assert list(client.points.values()) == wanted


@pytest.mark.parametrize("cut", [1, 17, 43])
def test_a_broken_connection_is_resumed_without_a_gap_or_a_double(
    shared_server: Running, frames: list[Frame], expected: list[BallPoint], cut: int
) -> None:
    with stream(shared_server) as first:
        session = first.open(RAW).session
        first.send(frames[:cut])
        first.socket.socket.close()  # no goodbye
    kept = {k: v for k, v in first.points.items() if k < cut // 2}
    with stream(shared_server) as second:
        second.points = dict(kept)
        started = second.open(Resume(session, len(kept)))
        assert started.next <= cut
        second.send(frames[max(0, started.next - 3) :])  # what is there already is ignored
        second.finish()
    assert list(second.points.values()) == expected


def test_a_resumed_session_is_taken_from_a_connection_that_is_half_open(
    shared_server: Running, frames: list[Frame], expected: list[BallPoint]
) -> None:
    with stream(shared_server) as first, stream(shared_server) as second:
        session = first.open(RAW).session
        first.send(frames[:10])
        started = second.open(Resume(session, 0))
        assert first.refused() == ("displaced", protocol.CLOSE_GOING_AWAY)
        second.send(frames[started.next :])
        second.finish()
    assert list(second.points.values()) == expected


def test_done_can_be_heard_again(shared_server: Running, frames: list[Frame], expected: list[BallPoint]) -> None:
    with stream(shared_server) as first:
        session = first.open(RAW).session
        first.send(frames)
        first.finish()
        first.socket.socket.close()
    with stream(shared_server) as second:
        assert second.open(Resume(session, 0)).next == len(frames)
        assert second.finish() == len(frames)
    assert list(second.points.values()) == expected


def test_what_is_acknowledged_is_forgotten(shared_server: Running, frames: list[Frame]) -> None:
    with stream(shared_server) as first:
        session = first.open(replace(RAW, live=True)).session  # points come at once
        first.send(frames[:30])
        while len(first.points) < 20:
            first.hear()
        first.say(Ack(10))
        first.say(End())
        while not isinstance(first.hear(), Done):
            pass
        first.socket.socket.close()
    with stream(shared_server) as second:
        second.open(Resume(session, 10))
        second.finish()
        assert min(second.points) == 10
        second.socket.socket.close()
    with stream(shared_server) as third:
        third.say(Resume(session, 3))
        assert third.refused() == ("unknown_session", protocol.CLOSE_UNKNOWN_SESSION)


def test_a_client_that_leaves_in_order_leaves_nothing(shared_server: Running, frames: list[Frame]) -> None:
    with stream(shared_server) as client:
        session = client.open(RAW).session
        client.send(frames[:5])
    with stream(shared_server) as again:
        again.say(Resume(session, 0))
        assert again.refused() == ("unknown_session", protocol.CLOSE_UNKNOWN_SESSION)


MISTAKES: list[tuple[str, Callable[[Stream, list[Frame]], None], str, int]] = [
    ("not json", lambda s, _: s.socket.send("{"), "bad_request", 1008),
    ("binary first", lambda s, _: s.socket.send(b"x"), "bad_request", 1008),
    ("ack first", lambda s, _: s.say(Ack(1)), "bad_request", 1008),
    ("unknown session", lambda s, _: s.say(Resume("x", 0)), "unknown_session", 4404),
    ("unknown model", lambda s, _: s.say(Start(WH, model="nope")), "unknown_model", 1008),
    ("overlap", lambda s, _: s.say(Start(WH, model="window3", overlap=9)), "bad_request", 1008),
    ("start twice", lambda s, _: (s.say(RAW), s.say(RAW))[0], "bad_request", 1008),
    ("a gap", lambda s, f: (s.open(RAW), s.send(f[3:4]))[1], "bad_request", 1008),
    (
        "a repeat of nothing",
        lambda s, _: (s.open(RAW), s.socket.send(protocol.pack_frame(0, 0, b"")))[1],
        "bad_request",
        1008,
    ),
    ("too few bytes", lambda s, _: (s.open(RAW), s.socket.send(protocol.pack_frame(0, 0, b"x")))[1], "bad_frame", 1008),
    ("garbage", lambda s, _: (s.open(RAW), s.socket.send(b"x" * 99))[1], "bad_request", 1008),
    ("no jpeg", lambda s, _: (s.open(Start(WH)), s.socket.send(protocol.pack_frame(0, 0, b"x")))[1], "bad_frame", 1008),
    ("after the end", lambda s, f: (s.open(RAW), s.say(End()), s.send(f[:1]))[2], "bad_request", 1008),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=[name for name, *_ in MISTAKES])
def test_mistakes_are_told_and_closed(
    shared_server: Running, frames: list[Frame], mistake: tuple[str, Callable[[Stream, list[Frame]], None], str, int]
) -> None:
    _, make, code, close = mistake
    before = len(shared_server.services.sessions)
    with stream(shared_server) as client:
        make(client, frames)
        assert client.refused() == (code, close)
    wait_until(lambda: len(shared_server.services.sessions) <= before, "the session to go")


@examples(10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=30) | st.binary(max_size=60), min_size=1, max_size=4), st.booleans())
def test_garbage_ends_its_own_connection_only(shared_server: Running, messages: list[str | bytes], open: bool) -> None:
    with stream(shared_server) as client:
        if open:
            client.open(RAW)
        with pytest.raises(ConnectionClosed) as closed:
            client.say_all(messages)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == protocol.CLOSE_POLICY


def test_a_frame_that_is_too_large_closes(serve: Callable[..., Running]) -> None:
    server = serve(max_frame_bytes=200_000)
    with stream(server) as client:
        client.open(RAW)
        client.socket.send(b"x" * 300_000)
        with pytest.raises(ConnectionClosed) as closed:
            client.socket.recv(timeout=30)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == protocol.CLOSE_TOO_BIG


def test_sessions_are_bounded_and_the_left_ones_make_room(serve: Callable[..., Running]) -> None:
    server = serve(max_sessions=2)
    with stream(server) as one, stream(server) as two, stream(server) as three:
        one.open(RAW)
        two.open(RAW)
        three.say(RAW)
        assert three.refused() == ("busy", protocol.CLOSE_TRY_AGAIN)
        one.socket.socket.close()
    wait_until(lambda: server.services.connections == 0, "the connections to end")
    with stream(server) as four, stream(server) as five:
        four.open(RAW)
        five.open(RAW)


def test_a_session_that_nobody_comes_back_to_is_forgotten(serve: Callable[..., Running]) -> None:
    server = serve(resume_s=0.2, reload_s=0.1)
    with stream(server) as client:
        client.open(RAW)
        client.socket.socket.close()
    wait_until(lambda: len(server.services.sessions) == 0, "the session to expire")


def test_a_silent_client_is_left(serve: Callable[..., Running]) -> None:
    server = serve(idle_s=0.3)
    with stream(server) as client:
        client.open(RAW)
        assert client.refused() == ("timeout", protocol.CLOSE_GOING_AWAY)


def test_a_client_that_waits_for_its_points_is_not_silent(serve: Callable[..., Running], frames: list[Frame]) -> None:
    """Here the server needs longer for the frames than it would wait for a word."""
    server = serve(idle_s=0.5, weights=("accurate",))
    large = [video.encode_jpeg(np.resize(frame.image, (432, 768))) for frame in frames[:32]]
    with stream(server) as client:
        client.open(Start(WH, codec="jpeg", live=True, overlap=5))
        for i, payload in enumerate(large):
            client.socket.send(protocol.pack_frame(i, i / 30, payload))
        assert client.finish() == 32


def test_a_client_that_reads_nothing_stops_being_read(serve: Callable[..., Running], frames: list[Frame]) -> None:
    """Its frames are held back by the socket: the server's queues stay as short as they are."""
    server = serve()
    stop = threading.Event()
    with connect(server.ws, max_size=None, max_queue=1) as socket:
        client = Stream(socket)
        session_id = client.open(RAW).session
        session = server.services.sessions._sessions[session_id]

        def flood() -> None:
            for i in itertools.count():
                if stop.is_set() or i > 20_000:
                    return
                try:
                    socket.send(protocol.pack_frame(i, i / 30, frames[i % 60].image.tobytes()))
                except ConnectionClosed:
                    return

        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        longest = 0
        until = time.monotonic() + 2
        while time.monotonic() < until:
            longest = max(longest, len(session._inbox))
            time.sleep(0.01)
        stop.set()
        socket.socket.close()
        thread.join(10)
    assert 0 < longest <= 33


def test_keys_of_streams(serve: Callable[..., Running], tmp_path: Path, frames: list[Frame]) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    mine, other, track = keys.add(["stream"]), keys.add(["stream"]), keys.add(["track"])
    server = serve(keys=keys.path)

    def bearer(key: str) -> dict[str, dict[str, str]]:
        return {"additional_headers": {"authorization": f"Bearer {key}"}}

    for key, status in ((mine[:-1] + "!", 401), (track, 403)):
        with pytest.raises(InvalidStatus) as refused, stream(server, **bearer(key)):
            pass
        assert refused.value.response.status_code == status
    with stream(server) as nobody:
        nobody.say(RAW)
        assert nobody.refused() == ("unauthorized", 1008)
    with stream(server) as browser:
        session = browser.open(Start(WH, codec="raw", key=mine)).session
        browser.send(frames[:3])
        browser.socket.socket.close()
    with stream(server, **bearer(other)) as thief:
        thief.say(Resume(session, 0))
        assert thief.refused() == ("unknown_session", 4404)
    with stream(server, **bearer(mine)) as owner:
        owner.open(Resume(session, 0))


def test_pages_of_other_origins_may_not_connect(shared_server: Running) -> None:
    with pytest.raises(InvalidStatus) as refused, stream(shared_server, origin="https://evil.example"):
        pass
    assert refused.value.response.status_code == 403


def test_four_sessions_progress_alike(serve: Callable[..., Running], frames: list[Frame]) -> None:
    """All send as fast as they may; while all are busy none falls behind."""
    server = serve()
    n_frames = 180
    done = [0] * 4
    stop = threading.Event()
    barrier = threading.Barrier(4)

    def work(k: int) -> None:
        with stream(server) as client:
            client.open(Start(WH, codec="raw", model="window3"))
            barrier.wait(30)
            for i in range(n_frames):
                while i >= client.next + 32:
                    client.hear()
                    done[k] = client.next
                if stop.is_set():
                    return
                client.socket.send(protocol.pack_frame(i, i / 30, frames[i % 60].image.tobytes()))
            client.finish()
            stop.set()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert max(done) <= 1.5 * min(done), done
