"""The workspace behind proxies, with a certificate of its own, and under the hands of those who hold connections."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from rallytrace.errors import InputError
from rallytrace.label import ServerOptions, create_app, intake, team
from rallytrace.label.server import server_for
from rallytrace.web.connections import ConnectionLimits

from .conftest import ready_video
from .sites import Site, error_of, wait_for

PUBLIC = "https://labels.example"
PASSWORD = "a long password"


@contextmanager
def served(tmp_path: Path, limits: ConnectionLimits | None = None, **given: Any) -> Iterator[tuple[Site, str, int]]:
    """A workspace in this process, its address and port."""
    options = ServerOptions(port=0, state=tmp_path / "state", **given)
    site = Site(tmp_path / "project", secure=options.is_secure)
    app = create_app(site.workspace, front=options.front())
    server = server_for(app, options, options.tls(), limits)
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield site, f"{'https' if options.has_tls else 'http'}://127.0.0.1:{port}", port
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        site.close()


def test_a_tls_proxy_may_stand_before_it(tmp_path: Path) -> None:
    with served(tmp_path, public_url=PUBLIC, proxies=("127.0.0.1",)) as (site, url, _):
        entry = {"token": team.setup_token(site.book) or "", "name": "Ada", "password": PASSWORD}
        for host in ("labels.example", "127.0.0.1"):  # proxies pass the name on, or do not
            headers = {"Host": host, "Origin": PUBLIC, "X-Forwarded-Proto": "https", "X-Forwarded-For": "198.51.100.7"}
            road = "/api/setup" if host == "labels.example" else "/api/login"
            body = entry if road == "/api/setup" else {"name": "Ada", "password": PASSWORD}
            answer = httpx.post(f"{url}{road}", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            assert "Secure" in answer.headers["set-cookie"]
            assert "strict-transport-security" in answer.headers
        for host, origin in (("evil.example", PUBLIC), ("labels.example", "https://evil.example")):
            assert httpx.post(f"{url}/api/login", json=entry, headers={"Host": host, "Origin": origin}).status_code in (
                421,
                403,
            )


@pytest.mark.parametrize(
    ("given", "locked_out"),
    [
        ({"public_url": PUBLIC, "proxies": ("127.0.0.0/8",)}, False),
        ({"public_url": PUBLIC}, False),  # nobody is named: an address then says nothing
        ({}, True),  # and a header alone is not believed
    ],
)
def test_wrong_logins_behind_a_proxy_lock_nobody_else_out(
    tmp_path: Path, given: dict[str, Any], locked_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(team, "_verify", lambda hashed, password: password == PASSWORD)
    with served(tmp_path, **given) as (site, url, _), httpx.Client(base_url=url) as http:
        team.set_up(site.book, team.setup_token(site.book) or "", "Ada", PASSWORD)
        guess = {"password": "a guess that fails"}
        for n in range(team.FREE_FAILURES["address"] + 2):
            http.post("/api/login", json=guess | {"name": f"n{n}"}, headers={"X-Forwarded-For": "203.0.113.9"})
        entry = {"name": "Ada", "password": PASSWORD}
        answer = http.post("/api/login", json=entry, headers={"X-Forwarded-For": "198.51.100.7"})
        assert answer.status_code == (429 if locked_out else 200)


def test_a_certificate_of_its_own(tmp_path: Path) -> None:
    with served(tmp_path, tls_self_signed=True) as (site, url, _):
        (cert,) = (tmp_path / "state").glob("*.crt")
        entry = {"token": team.setup_token(site.book) or "", "name": "Ada", "password": PASSWORD}
        with httpx.Client(base_url=url, verify=str(cert)) as http:
            assert "Secure" in http.post("/api/setup", json=entry).headers["set-cookie"]
            assert http.get("/api/me").status_code == 200


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"public_url": "labels.example"}, "expected https://name"),
        ({"public_url": "https://labels.example/app"}, "without a path"),
        ({"proxies": ("proxy.example",)}, "expected an address or network"),
        ({"tls_self_signed": True, "cert": Path("a"), "key": Path("b")}, "exclude each other"),
        ({"host": "0.0.0.0"}, "--tls self-signed"),
        ({"host": "0.0.0.0", "public_url": PUBLIC}, "would travel in the clear"),
    ],
)
def test_options_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ServerOptions(**given)


def test_half_open_heads_keep_nobody_out(tmp_path: Path) -> None:
    limits = ConnectionLimits(connections=60, waiting=30, per_address=40)
    with served(tmp_path, limits) as (_, url, port), ExitStack() as held:
        for _ in range(260):
            slow = held.enter_context(socket.create_connection(("127.0.0.1", port)))
            slow.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        assert httpx.get(f"{url}/health").status_code == 200


def test_a_head_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    limits = ConnectionLimits(head_s=0.2)
    with served(tmp_path, limits) as (_, _, port), socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\n")
        assert slow.recv(100) == b""


@pytest.fixture
def job(tmp_path: Path) -> Iterator[tuple[Site, TestClient, str]]:
    site = Site(tmp_path / "project")
    admin = site.person("Ada", "admin")
    body = {"name": "j", "video_ids": [ready_video(site.book, "a.mp4", 20).id]}
    made = admin.post("/api/jobs", json=body).json()
    yield site, admin, f"/api/jobs/{made['id']}/import"
    site.close()


def _zipped(name: str, data: bytes) -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return packed.getvalue()


def test_a_small_zip_of_large_json_costs_the_server_nothing(
    job: tuple[Site, TestClient, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, admin, road = job
    assert intake.LIMITS.memory <= 640 * 2**20
    monkeypatch.setattr(intake, "LIMITS", dataclasses.replace(intake.LIMITS, memory=300 * 2**20))
    # Objects that shrink to almost nothing, but not beyond the ratio that is refused unread.
    rows = b",".join(b'{"id":%d,"a":[[],[],[],[],[],[]]}' % (n % 7919) for n in range(300_000))
    bomb = _zipped("annotations/instances.json", b'{"images":[],"categories":[],"annotations":[' + rows + b"]}")
    assert len(bomb) < 2**20
    before = _peak()
    answer = admin.post(road, params={"name": "a.zip", "format": "coco"}, content=bomb)
    assert error_of(answer) == (400, "invalid")
    assert "that are allowed here" in answer.json()["error"]["message"]
    assert _peak() - before < 50 * 2**20


def _peak() -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


def test_what_is_read_in_the_child_comes_whole(job: tuple[Site, TestClient, str]) -> None:
    _, admin, road = job
    rows = ["Frame,Visibility,X,Y,Event", *(f"{n},1,{n + 5},20,{'hit' if n == 3 else ''}" for n in range(30))]
    answer = admin.post(road, params={"name": "a_ball.csv"}, content="\n".join(rows))
    assert answer.status_code == 400, "frames that the video does not have"
    done = admin.post(road, params={"name": "a_ball.csv"}, content="\n".join(rows[:21])).json()
    assert (done["imported"], done["skipped"]) == (20, 0)
    task_id = admin.get("/api/tasks").json()[0]["id"]
    labels = admin.get(f"/api/tasks/{task_id}/labels").json()["labels"]
    assert [(each["frame"], each["x"], each["event"]) for each in labels[2:5]] == [
        (2, 7.0, ""),
        (3, 8.0, "hit"),
        (4, 9.0, ""),
    ]
    coco = json.dumps({"images": [{"id": 1, "file_name": "other/0.png", "width": 9, "height": 9}], "annotations": []})
    two = admin.post(road, params={"name": "x.json", "format": "nonsense"}, content=coco)
    assert error_of(two) == (400, "invalid")
    assert "nonsense" in two.json()["error"]["message"]
