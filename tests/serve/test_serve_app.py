"""The HTTP routes on a real server: what `track` would write comes back, in every form, at once or later."""

from __future__ import annotations

import io
import json
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from rallytrace import Trajectory, load_network, track_video, video
from rallytrace.runtime import bundled
from rallytrace.serve import bodies, protocol
from rallytrace.serve.protocol import FrameRecord
from rallytrace.types import Image
from tests.serve.conftest import Running, wait_until

from ..often import often

CASES = often(40, 1000)
CSV, PARQUET, EVENTS = "text/csv", "application/vnd.apache.parquet", "text/event-stream"


@pytest.fixture(scope="module")
def api(shared_server: Running) -> Any:
    with httpx.Client(base_url=shared_server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def tracked(rally_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CSV of `track` with window3."""
    out = tmp_path_factory.mktemp("tracked")
    return track_video(rally_clip, out, network=load_network("window3", threads=1), draw_video=False).csv


def error_of(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"code", "message"}
    assert "\n" not in error["message"]
    return response.status_code, error["code"]


def test_a_video_comes_back_as_the_csv_of_track(api: httpx.Client, rally_clip: Path, tracked: Path) -> None:
    answer = api.post("/v1/track?model=window3", content=rally_clip.read_bytes(), headers={"accept": CSV})
    assert answer.text == tracked.read_text()
    headers = {"content-type": "video/mp4", "accept": CSV}
    for path, query in (("/invocations", {"model": "window3"}), ("/endpoints/window3/invocations", {})):
        assert (
            api.post(path, params=query, content=rally_clip.read_bytes(), headers=headers).text == tracked.read_text()
        )


def test_json_and_parquet_hold_the_same(api: httpx.Client, rally_clip: Path, tracked: Path, tmp_path: Path) -> None:
    expected = Trajectory.from_csv(tracked)
    answer = api.post("/v1/track?model=window3", content=rally_clip.read_bytes()).json()
    assert (answer["status"], answer["source_wh"], answer["frames_done"]) == ("done", [512, 288], 60)
    points = protocol.Points(tuple(map(tuple, answer["points"])), 0).to_points()
    assert np.allclose(Trajectory.from_points(points).xy, expected.xy, atol=0.006, equal_nan=True)
    parquet = tmp_path / "points.parquet"
    parquet.write_bytes(
        api.post("/v1/track?model=window3", content=rally_clip.read_bytes(), headers={"accept": PARQUET}).content
    )
    assert list(Trajectory.from_parquet(parquet)) == points


def events_of(lines: Any) -> list[tuple[str, dict[str, Any]]]:
    kinds: list[str] = []
    found = []
    for line in lines:
        if line.startswith("event: "):
            kinds.append(line[7:])
        elif line.startswith("data: "):
            found.append((kinds[-1], json.loads(line[6:])))
    return found


def test_progress_comes_as_events(api: httpx.Client, rally_clip: Path, tracked: Path) -> None:
    body = {"content": rally_clip.read_bytes(), "headers": {"accept": EVENTS}}
    with api.stream("POST", "/v1/track?model=window3", **body) as answer:
        events = events_of(answer.iter_lines())
    assert events[-1][0] == "done"
    assert all(kind == "progress" for kind, _ in events[:-1])
    counts = [data["frames_done"] for _, data in events]
    assert counts == sorted(counts)
    assert api.get(events[-1][1]["url"], headers={"accept": CSV}).text == tracked.read_text()


def test_a_job_is_asked_for_later_and_forgotten(api: httpx.Client, rally_clip: Path, tracked: Path) -> None:
    begun = api.post("/v1/track?async=1&model=window3", content=rally_clip.read_bytes())
    assert begun.status_code == 202
    where = begun.headers["location"]
    wait_until(lambda: api.get(where).json()["status"] == "done", "the job")
    assert api.get(where, headers={"accept": CSV}).text == tracked.read_text()
    assert api.delete(where).status_code == 204
    assert error_of(api.get(where)) == (404, "unknown_job")


def test_a_cancelled_job_ends(serve: Callable[..., Running], rally_clip: Path) -> None:
    server = serve(weights=("accurate",), jobs=1)
    with httpx.Client(base_url=server.url) as api:
        jobs = [api.post("/v1/track?async=1", content=rally_clip.read_bytes()).json() for _ in range(3)]
        assert error_of(api.get(jobs[-1]["url"], headers={"accept": CSV})) == (409, "not_ready")
        for job in jobs:
            assert api.delete(job["url"]).status_code == 204
    wait_until(lambda: not server.services.jobs.running, "the jobs to end")
    wait_until(lambda: not list(server.services.jobs.folder.iterdir()), "the videos to be removed")


def test_a_client_that_leaves_ends_its_job(serve: Callable[..., Running], rally_clip: Path) -> None:
    server = serve(weights=("accurate",))
    long = rally_clip.read_bytes()
    for accept in ("application/json", EVENTS):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/track?overlap=5", content=long, headers={"accept": accept}, timeout=0.7)
        wait_until(lambda: not server.services.jobs._jobs, "the job to be forgotten")
    wait_until(lambda: not list(server.services.jobs.folder.iterdir()), "the videos to be removed")


def test_jobs_are_bounded(serve: Callable[..., Running], rally_clip: Path) -> None:
    server = serve(weights=("accurate",), jobs=1, max_jobs=2)
    answers = [httpx.post(f"{server.url}/v1/track?async=1", content=rally_clip.read_bytes()) for _ in range(3)]
    assert [answer.status_code for answer in answers[:2]] == [202, 202]
    assert error_of(answers[2]) == (429, "busy")
    assert int(answers[2].headers["retry-after"]) >= 1


def test_a_job_that_is_removed_while_it_waits_leaves_no_video(serve: Callable[..., Running], rally_clip: Path) -> None:
    server = serve(weights=("accurate",), jobs=1)
    may_work = threading.Event()
    server.services.jobs._pool.submit(may_work.wait)
    try:
        for _ in range(3):
            job = httpx.post(f"{server.url}/v1/track?async=1", content=rally_clip.read_bytes()).json()
            assert httpx.delete(f"{server.url}{job['url']}").status_code == 204
        assert list(server.services.jobs.folder.iterdir()) == []
    finally:
        may_work.set()


def _failures(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.exc_info]


def test_a_cut_upload_is_no_failure(serve: Callable[..., Running], caplog: pytest.LogCaptureFixture) -> None:
    server = serve()
    host, port = server.url.split("://")[1].split(":")
    for path, kind in (("/invocations", "application/x-npy"), ("/v1/track", "video/mp4")):
        with socket.create_connection((host, int(port))) as cut:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 9999\r\n\r\n"
            cut.sendall(head.encode() + b"half")
    name = 'rallytrace_requests_total{method="POST",route="%s",status="499"} 1.0'
    for route in ("/invocations", "/v1/track"):
        wait_until(lambda route=route: name % route in httpx.get(f"{server.url}/metrics").text, "the end")  # type: ignore[misc]
    assert not _failures(caplog)


def test_what_nobody_foresaw_is_a_typed_error_too(
    serve: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    monkeypatch.setattr("rallytrace.serve.routes_predict._accept", lambda *_: {}["none"])
    answer = httpx.post(f"{server.url}/invocations", content=b"x", headers={"content-type": "application/x-npy"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    wait_until(lambda: _failures(caplog), "the log")
    assert httpx.get(f"{server.url}/ping").status_code == 200
    assert len(_failures(caplog)) == 1


def test_pictures_come_back_as_raw_points(api: httpx.Client, rally_pictures: list[Image]) -> None:
    records = [FrameRecord(i + 7, i / 30 + 1.5, video.encode_jpeg(image)) for i, image in enumerate(rally_pictures[:9])]
    body = protocol.pack_frames(records)
    kind = {"content-type": "application/x-rallytrace-frames"}
    framed = api.post("/invocations?model=window3", content=body, headers=kind).json()
    assert (framed["source_wh"], framed["model"]) == ([512, 288], "window3")
    assert [row[:2] for row in framed["points"]] == [[r.index, r.pts_s] for r in records]
    files = [("frames", (f"{i}.jpg", bytes(record.payload), "image/jpeg")) for i, record in enumerate(records)]
    form = api.post("/invocations?model=window3", files=files).json()
    assert [row[2:] for row in form["points"]] == [row[2:] for row in framed["points"]]
    double = api.post("/invocations?model=window3&source_wh=1024x576", content=body, headers=kind).json()
    xs = [(a[2], b[2]) for a, b in zip(framed["points"], double["points"], strict=True) if a[2] and b[2]]
    assert all(abs((a + 0.5) * 2 - 0.5 - b) < 1e-6 for a, b in xs)


def test_windows_are_answered_with_points_or_heatmaps(api: httpx.Client, rally_pictures: list[Image]) -> None:
    chosen = rally_pictures[30:42]
    windows = np.stack([np.concatenate([p.transpose(2, 0, 1) for p in chosen[i : i + 3]]) for i in range(10)])
    kind = {"content-type": "application/x-npy"}
    points = api.post("/invocations", content=bodies.npy(windows), headers=kind).json()["points"]
    same = api.post("/invocations", content=bodies.npy(windows.astype(np.float32) / 255), headers=kind).json()["points"]
    assert points == same
    maps = api.post("/invocations", content=bodies.npy(windows), headers={**kind, "accept": "application/x-npy"})
    heatmaps = np.load(io.BytesIO(maps.content), allow_pickle=False)
    assert heatmaps.shape == (10, 288, 512)
    lists = json.dumps({"instances": (windows[:2].astype(np.float32) / 255).tolist()})
    answer = api.post("/invocations", content=lists, headers={"content-type": "application/json"}).json()
    assert np.array_equal(np.array(answer["predictions"], np.float32), heatmaps[:2])
    assert any(row[2] is not None for row in points)
    for row, heatmap in zip(points, heatmaps, strict=True):
        assert (row[2] is not None) == bool((heatmap > 0.5).any())


REFUSED: list[tuple[str, str, dict[str, Any], tuple[int, str]]] = [
    ("POST", "/invocations", {"content": b"x", "headers": {"content-type": "text/x"}}, (415, "unsupported_type")),
    ("POST", "/invocations", {"content": b"x"}, (415, "unsupported_type")),
    ("POST", "/invocations", {"json": [[1]]}, (400, "bad_request")),
    ("POST", "/invocations", {"json": {"video": "s3://bucket/key"}}, (403, "forbidden")),
    ("POST", "/invocations", {"json": {"video": "file:///etc/passwd"}}, (403, "forbidden")),
    ("POST", "/invocations?overlap=0", {"json": [[1]]}, (400, "bad_request")),
    ("POST", "/invocations?source_wh=0x5", {"json": [[1]]}, (400, "bad_request")),
    (
        "POST",
        "/invocations?model=nope",
        {"content": b"", "headers": {"content-type": "video/mp4"}},
        (404, "unknown_model"),
    ),
    ("POST", "/invocations", {"content": b"x", "headers": {"content-type": "video/mp4"}}, (400, "bad_frame")),
    ("POST", "/invocations", {"files": [("a", ("a.jpg", b"x", "image/jpeg"))]}, (400, "bad_frame")),
    (
        "POST",
        "/invocations",
        {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
        (400, "bad_request"),
    ),
    ("POST", "/v1/track", {"content": b""}, (400, "bad_request")),
    ("POST", "/v1/track", {"content": b"x" * 1000}, (400, "bad_frame")),
    ("POST", "/v1/track", {"content": b"x", "headers": {"accept": "image/png"}}, (406, "not_acceptable")),
    ("GET", "/v1/track/nope", {}, (404, "unknown_job")),
    ("PUT", "/ping", {}, (405, "method_not_allowed")),
    ("GET", "/v1/nope", {}, (404, "not_found")),
    ("POST", "/v1/models/nope/reload", {}, (404, "unknown_model")),
]


@pytest.mark.parametrize("case", REFUSED, ids=[f"{i}-{path}" for i, (_, path, *_) in enumerate(REFUSED)])
def test_what_is_refused_says_why(api: httpx.Client, case: tuple[str, str, dict[str, Any], tuple[int, str]]) -> None:
    method, path, more, expected = case
    assert error_of(api.request(method, path, **more)) == expected


def test_hostile_containers_are_refused_and_end_with_their_child(api: httpx.Client, rally_clip: Path) -> None:
    clip = rally_clip.read_bytes()
    hostile = {
        "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "cut": clip[: len(clip) // 3],
        "sound only": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x44\xac\0\0\x88\x58\1\0\2\0\x10\0data\0\0\0\0",
        "zeros": bytes(100_000),
    }
    for name, body in hostile.items():
        status, code = error_of(api.post("/v1/track?model=window3", content=body))
        assert (status, code) == (400, "bad_frame"), name
    assert api.get("/ping").status_code == 200


def test_videos_beyond_the_limits_are_refused(serve: Callable[..., Running], rally_clip: Path) -> None:
    clip = rally_clip.read_bytes()
    for limits, expected in (
        ({"max_frames": 10}, "at most 10"),
        ({"max_pixels": 1000}, "pixels"),
        ({"max_video_s": 0.5}, "longer"),
        ({"decode_memory": 96 << 20}, "memory"),
        ({"job_timeout_s": 0.05}, "time|long"),
    ):
        server = serve(**limits)
        answer = httpx.post(f"{server.url}/v1/track", content=clip, timeout=60)
        assert answer.status_code in (400, 503)
        assert any(word in answer.json()["error"]["message"] for word in expected.split("|")), answer.text


def test_models_health_and_metrics(api: httpx.Client) -> None:
    names = [(model["name"], model["default"]) for model in api.get("/v1/models").json()["models"]]
    assert names == [("window3", True), ("accurate", False)]
    assert api.get("/health").json()["status"] == "ok"
    ping = api.get("/ping")
    assert (ping.status_code, ping.content) == (200, b"")
    text = api.get("/metrics").text
    for name in ("requests_total", "request_seconds", "batch_windows", "queue_windows", "sessions", "frames_total"):
        assert f"rallytrace_{name}" in text, name


def test_a_new_version_is_taken_without_a_dropped_request(serve: Callable[..., Running], tmp_path: Path) -> None:
    path = tmp_path / "ball.onnx"
    shutil.copy(bundled()["window3"], path)
    server = serve(weights=(str(path),), reload_s=0.1)
    body, kind = bodies.npy(np.zeros((1, 9, 64, 64), np.uint8)), {"content-type": "application/x-npy"}
    stop, statuses = threading.Event(), list[int]()

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as api:
            while not stop.is_set():
                statuses.append(api.post("/invocations?model=ball", content=body, headers=kind).status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    versions = set()
    for extra in (b"", b"\x00", b""):
        new = tmp_path / "new"
        new.write_bytes(_with_note(bundled()["window3"].read_bytes(), extra))
        new.replace(path)
        before = len(statuses)
        wait_until(lambda n=before: len(statuses) > n + 5, "requests")  # type: ignore[misc]
        wait_until(lambda: server.services.engine.model("ball").version == _version(path), "the new version")
        versions.add(server.services.engine.model("ball").version)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert set(statuses) == {200}
    assert len(versions) == 2


def _with_note(model: bytes, note: bytes) -> bytes:
    """The same network with another doc_string (field 6 of ModelProto)."""
    return model + b"\x32" + bytes([len(note)]) + note if note else model


def _version(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


@pytest.fixture(scope="module")
def schema(shared_server: Running) -> Any:
    binary = ["video/mp4", "application/x-npy", "application/x-rallytrace-frames"]
    schemathesis.serializer.alias(binary, "application/octet-stream")
    return schemathesis.openapi.from_url(f"{shared_server.url}/openapi.json")


def test_no_request_of_the_schema_breaks_the_server(schema: Any, shared_server: Running) -> None:
    """CASES requests over all operations."""
    operations = [operation.ok() for operation in schema.get_all_operations()]
    each = max(1, CASES // len(operations))
    n_cases = 0
    for operation in operations:

        @settings(max_examples=each, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def send(case: Any) -> None:
            nonlocal n_cases
            n_cases += 1
            answer = case.call()
            assert answer.status_code < 500 or answer.status_code == 501, (case.method, case.path, answer.text)
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"code", "message"}

        send()
    assert n_cases >= len(operations)
    assert httpx.get(f"{shared_server.url}/ping").status_code == 200
