"""Nobody takes all, and what breaks is noticed: shares of keys, networks that hang, damaged keys, refused versions."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from rallytrace.errors import InputError
from rallytrace.serve import bodies
from rallytrace.serve.app import ServeOptions, create_app
from rallytrace.serve.engine import Batcher, BatchingNetwork, Busy, Cancelled, Hung, Metrics, Model
from rallytrace.serve.jobs import Job, Jobs
from rallytrace.serve.protocol import FrameRecord, Start
from rallytrace.serve.security import KeyFile
from rallytrace.serve.sessions import MAX_INBOX, Session
from rallytrace.serve.shares import Share
from tests.networks import Brightest
from tests.serve.conftest import Process, Running, running, wait_until
from tests.serve.endpoints import brightest_onnx, free_port, hanging_onnx
from tests.serve.test_engine import Gated, windows

NPY = {"content-type": "application/x-npy"}


def test_a_key_takes_half_and_anyone_all() -> None:
    share = Share(5, "things")
    for _ in range(3):
        share.take("greedy")
    with pytest.raises(Busy, match="this key"):
        share.take("greedy")
    share.take("other", 2)
    with pytest.raises(Busy, match="the server"):
        share.take("third")
    share.give_back("greedy", 3)
    share.take("third")
    assert share.held == 3
    alone = Share(5, "things")
    with alone.taken("anyone", 5):
        assert alone.held == 5
    assert alone.held == 0


def _jobs(folder: Path, **options: Any) -> Jobs:
    return Jobs(ServeOptions(spool=folder, keys=folder / "keys.json", **options))


def test_one_key_does_not_take_all_places_for_videos(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, max_jobs=4)
    with jobs.file("greedy"), jobs.file("greedy"):
        with pytest.raises(Busy, match="of this key"), jobs.file("greedy"):
            pass
        with jobs.file("modest"):
            pass
    jobs.close()


def test_videos_of_another_key_do_not_wait_behind_all_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    may_end = threading.Semaphore(0)

    def run(_: Jobs, job: Job) -> None:
        order.append(job.owner)
        may_end.acquire()
        job.finished.set()

    monkeypatch.setattr(Jobs, "_run", run)
    jobs = _jobs(tmp_path, jobs=1, max_jobs=40)
    network = BatchingNetwork(Batcher(Metrics()), Model("x", "1", Path(), Brightest()))
    for owner in ("greedy",) * 6 + ("modest",) * 2:
        jobs.start(tmp_path / "x", network, owner, None)  # type: ignore[arg-type]
    wait_until(lambda: len(order) == 2, "both keys")
    assert sorted(order) == ["greedy", "modest"]
    for _ in range(8):
        may_end.release()
    wait_until(lambda: len(order) == 8, "all")
    jobs.close()


def test_a_run_that_does_not_end_fails_its_callers() -> None:
    network = Gated()  # nobody opens its gate
    batcher = Batcher(Metrics(), hang_s=0.3)
    model = Model("gated", "1", Path(), network)
    errors: list[Exception] = []

    def ask(deadline: float) -> None:
        with pytest.raises((Hung, Cancelled)) as caught:
            BatchingNetwork(batcher, model, deadline=deadline).run(windows(0))
        errors.append(caught.value)

    soon = time.monotonic() + 0.1
    threads = [threading.Thread(target=ask, args=[deadline]) for deadline in (float("inf"), float("inf"), soon)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(type(error).__name__ for error in errors) == ["Cancelled", "Hung", "Hung"]
    assert batcher.is_hung
    with pytest.raises(Hung):
        batcher.check_room()
    network.gate.release()
    network.gate.release()
    wait_until(lambda: not batcher.is_hung, "the run to end after all")
    batcher.close()


def test_a_network_that_hangs_is_told_and_the_server_ends(serve: Callable[..., Running]) -> None:
    server = serve(hang_s=0.5)
    engine = server.services.engine
    network = Gated()
    engine._models["ball"] = Model("ball", "1", Path(), network)
    body = bodies.npy(np.zeros((1, 6, 32, 32), np.uint8))
    try:
        answer = httpx.post(f"{server.url}/invocations?model=ball", content=body, headers=NPY, timeout=30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "hung")
        assert engine.is_hung
        wait_until(lambda: server.server.should_exit, "the server to end")
        assert isinstance(server.services.error, Hung)
    finally:
        network.gate.release()


def test_the_process_is_the_same_and_serves_again(serve_process: Callable[..., Process], tmp_path: Path) -> None:
    hanging_onnx(tmp_path / "ball.onnx")
    port = str(free_port())
    server = serve_process("--weights", tmp_path / "ball.onnx", "--port", port, "--hang", "1")
    url = f"{server.url}/invocations?model=ball"
    hangs = bodies.npy(np.full((1, 6, 32, 32), 255, np.uint8))
    assert httpx.post(url, content=hangs, headers=NPY, timeout=30).status_code == 503
    quick = bodies.npy(np.zeros((1, 6, 32, 32), np.uint8))

    def serves() -> bool:
        try:
            return httpx.post(url, content=quick, headers=NPY).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(serves, "the server to come back")
    assert server.popen.poll() is None


def test_inboxes_are_bounded_in_bytes(serve: Callable[..., Running]) -> None:
    server = serve(max_held=3 * MAX_INBOX // 2)
    sessions = server.services.sessions
    record = FrameRecord(0, 0.0, bytes(MAX_INBOX // 2))

    class Loopless(Session):
        def _put(self, record: FrameRecord | None) -> None:  # nothing is tracked
            assert record is not None
            self._inbox.append(record)
            self.inbox_bytes += len(record.payload)

    async def fill() -> list[int]:
        counts = []
        for _ in range(3):
            session = Loopless(Start((512, 288)), server.services.engine, sessions, "anyone")
            sessions._sessions[session.id] = session
            n = 0
            while session.has_room:
                session._put(record)
                n += 1
            counts.append(n)
        return counts

    assert asyncio.run(fill()) == [2, 1, 1]  # its own bound, what is left for all, and the one frame that fits always


def test_the_log_knows_whom_it_refused(
    serve: Callable[..., Running], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    secret = keys.add(["metrics"])
    server = serve(keys=keys.path)
    with caplog.at_level(logging.INFO, "rallytrace.access"):
        assert httpx.get(f"{server.url}/v1/models", headers={"x-api-key": secret}).status_code == 403
        with pytest.raises(InvalidStatus), connect(server.ws, additional_headers={"x-api-key": secret}):
            pass
        wait_until(lambda: caplog.text.count("rallytrace.access") >= 2, "the log")
    records = [record for record in caplog.records if record.name == "rallytrace.access"]
    lines = [json.loads(record.message) for record in records]
    assert [(line["status"], line["key"]) for line in lines] == [(403, secret.split("_")[1])] * 2
    assert secret not in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"keys": 3}',
        '{"keys": [{"id": "a"}]}',
        '{"keys": [{"id": "a", "sha256": "b", "scopes": "track", "rate": 1, "created": "c"}]}',
        '{"keys": [{"id": "a", "sha256": "b", "scopes": ["track"], "rate": "fast", "created": "c"}]}',
        '{"keys": [{"id": "a", "sha256": 7, "scopes": ["track"], "rate": 1, "created": "c"}]}',
    ],
)
def test_a_damaged_key_file_is_the_servers_fault(text: str, tmp_path: Path, guarded: tuple[Running, Path, str]) -> None:
    server, path, secret = guarded
    good = path.read_text()
    try:
        path.write_text(text)
        answer = httpx.get(f"{server.url}/v1/models", headers={"x-api-key": secret})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_keys")
        assert "keys.json" not in answer.text
    finally:
        path.write_text(good)
    assert httpx.get(f"{server.url}/v1/models", headers={"x-api-key": secret}).status_code == 200
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(InputError, match="not a file of API keys"):
        create_app(ServeOptions(keys=tmp_path / "keys.json", weights=("window3",)))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    keys = KeyFile(tmp_path_factory.mktemp("keys") / "keys.json")
    secret = keys.add(["track"])
    with running(keys=keys.path) as server:
        yield server, keys.path, secret


def test_a_spool_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for spool in (tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(InputError, match=f"--spool {spool}: no video can be kept there"):
            create_app(ServeOptions(spool=spool, weights=("window3",)))


def test_a_refused_version_is_no_success(serve: Callable[..., Running], tmp_path: Path) -> None:
    path = brightest_onnx(tmp_path / "ball.onnx")
    server = serve(weights=(str(path),), reload_s=1000.0)
    assert httpx.post(f"{server.url}/v1/models/ball/reload").status_code == 200
    path.write_bytes(b"x")
    answer = httpx.post(f"{server.url}/v1/models/ball/reload")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_loaded")
    assert httpx.post(f"{server.url}/v1/models/ball/reload").status_code == 409  # still not what the file says


@pytest.mark.parametrize("query", ["overlap=1.0", "overlap=1.", "fill=1_0", "fill=1.9", "overlap=%201", "overlap=1e0"])
def test_whole_numbers_are_written_in_digits(query: str, shared_server: Running) -> None:
    for path in ("/v1/track", "/invocations"):
        answer = httpx.post(f"{shared_server.url}{path}?{query}", content=b"x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


def test_names_and_proxies_of_the_endpoint(serve: Callable[..., Running], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="make an API key"):
        ServeOptions(public_url="https://ball.example")
    server = serve(public_url="https://ball.example", no_keys=True, proxies=("127.0.0.1",))
    headers = {"origin": "https://ball.example", "x-forwarded-for": "10.9.8.7"}
    with caplog.at_level(logging.INFO, "rallytrace.access"):
        assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200
        wait_until(lambda: caplog.records, "the log")
    assert json.loads(caplog.records[-1].message)["client"] == "10.9.8.7"
    evil = {**headers, "origin": "https://evil.example"}
    assert httpx.get(f"{server.url}/v1/models", headers=evil).status_code == 403


def test_a_picture_of_a_form_is_bounded_as_one_of_a_stream(serve: Callable[..., Running]) -> None:
    server = serve(max_frame_bytes=1000)
    answer = httpx.post(f"{server.url}/invocations", files=[("frames", ("0.jpg", bytes(1001)))])
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
