"""What strangers, other people and hostile input can do: nothing."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, settings

from rallytrace.label import create_app, team
from rallytrace.label.api_common import COOKIE, MAX_BODY_BYTES
from rallytrace.label.app import SECURITY

from ..often import often
from .conftest import said
from .sites import HERE, Site, clip, error_of

OPEN = {"/health", "/api/login", "/api/setup", "/api/invites/accept"}


@pytest.fixture
def site(tmp_path: Path, book_url: str) -> Iterator[Site]:
    made = Site(tmp_path / "project", database=book_url, max_upload_bytes=100_000)
    yield made
    made.close()


@pytest.fixture
def admin(site: Site) -> TestClient:
    return site.person("Ada", "admin")


@pytest.fixture
def job(site: Site, admin: TestClient) -> dict[str, Any]:
    body = {"name": "j", "video_ids": [site.imported(clip())[0]["id"]], "sequence_length": 30}
    return admin.post("/api/jobs", json=body).json()


def roads(site: Site) -> list[tuple[str, str]]:
    paths = site.app.openapi()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def filled(path: str) -> str:
    for name in ("video_id", "job_id", "task_id", "user_id", "token_id", "invite_id", "run_id", "index"):
        path = path.replace(f"{{{name}}}", "1")
    return path.replace("{action}", "renew")


def test_a_stranger_gets_nothing(site: Site, job: dict[str, Any]) -> None:
    stranger = site.stranger()
    asked = [(method, path) for method, path in roads(site) if path not in OPEN]
    assert len(asked) > 40
    for method, path in asked:
        answer = stranger.request(method, filled(path) + "?name=a.mp4&start=0")
        assert error_of(answer)[0] == 401, f"{method} {path}"


def test_forged_sessions_are_nobody(site: Site, admin: TestClient) -> None:
    stranger = site.stranger()
    for cookie in ("", "x", "a" * 5000, "' OR 1=1 --", "%00"):
        answer = stranger.get("/api/me", headers={"Cookie": f"{COOKIE}={cookie}"})
        assert error_of(answer) == (401, "login_needed")
        assert error_of(stranger.get("/api/me", headers={"Authorization": f"Bearer {cookie}"})) == (401, "bad_token")


def test_nothing_changes_without_the_page_s_token(site: Site, admin: TestClient, job: dict[str, Any]) -> None:
    right = admin.headers.pop("X-CSRF-Token")
    for method, path in roads(site):
        if method != "GET" and path not in OPEN:
            for sent in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": right[:-1] + "x"}, {"X-CSRF-Token": "é"}):
                headers = {name: value.encode() for name, value in sent.items()}
                answer = admin.request(method, filled(path) + "?name=a.mp4", json={}, headers=headers)
                assert error_of(answer) == (403, "csrf"), f"{method} {path}"


def test_other_sites_are_refused(site: Site, admin: TestClient) -> None:
    for origin in ("https://evil.example", "http://127.0.0.1:9", "null", "http://127.0.0.1.evil.example"):
        answer = admin.post("/api/invites", json={"role": "admin"}, headers={"Origin": origin})
        assert error_of(answer) == (403, "wrong_origin")
        body = {"name": "a", "password": "b"}
        assert error_of(site.stranger().post("/api/login", json=body, headers={"Origin": origin}))[0] == 403
    assert admin.post("/api/invites", json={"role": "admin"}, headers={"Origin": HERE}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8421", "127.0.0.1.evil.example", "", "[::1"])
def test_other_names_of_the_host_are_refused(site: Site, admin: TestClient, host: str) -> None:
    """A page of another site whose name is bound to 127.0.0.1 (DNS rebinding)."""
    for path in ("/", "/api/me", "/health"):
        assert error_of(admin.get(path, headers={"Host": host})) == (421, "wrong_host")
    for good in ("localhost", "LOCALHOST:8421", "127.0.0.1:1", "[::1]:80"):
        assert admin.get("/api/me", headers={"Host": good}).status_code == 200


def test_the_cookie_cannot_be_read_or_sent_from_elsewhere(site: Site) -> None:
    for secure in (False, True):
        entry = {"token": team.setup_token(site.book) or "", "name": "Ada", "password": "a long password"}
        road = "/api/setup"
        if secure:
            object.__setattr__(site.workspace, "secure", True)
            road, entry = "/api/login", {"name": "Ada", "password": "a long password"}
        answer = TestClient(create_app(site.workspace), base_url=HERE).post(road, json=entry)
        parts = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
        assert {"httponly", "samesite=strict", "path=/"} <= parts
        assert ("secure" in parts) is secure
        assert ("strict-transport-security" in answer.headers) is secure


def test_every_answer_binds_the_browser(site: Site, admin: TestClient, job: dict[str, Any]) -> None:
    answers = [admin.get(path) for path in ("/", "/api/me", "/frames/1/3.jpg", "/api/none", "/none", "/health")]
    answers += [admin.post("/api/jobs", content=b"{"), admin.get("/", headers={"Host": "evil.example"})]
    for answer in answers:
        for name, value in SECURITY.items():
            assert answer.headers[name] == value
    policy = SECURITY["Content-Security-Policy"]
    assert "http" not in policy
    assert "unsafe" not in policy
    assert admin.get("/api/me").headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in admin.get("/api/me", headers={"Origin": HERE}).headers


def test_other_people_s_tasks_are_not_there(site: Site, job: dict[str, Any]) -> None:
    bob, eve = site.person("Bob"), site.person("Eve")
    task_id = bob.post("/api/tasks/next").json()["id"]
    body = {"client_id": "a", "events": [said(1)]}
    for road in ("", "/labels", "/proposals", "/queue"):
        assert error_of(eve.get(f"/api/tasks/{task_id}{road}")) == (404, "not_found")
    for road in ("renew", "release", "submit", "decline"):
        assert error_of(eve.post(f"/api/tasks/{task_id}/{road}")) == (404, "not_found"), road
    assert error_of(eve.post(f"/api/tasks/{task_id}/events", json=body)) == (404, "not_found")
    assert error_of(eve.post(f"/api/tasks/{task_id}/active", json={"seconds": 1})) == (404, "not_found")
    assert eve.post(f"/api/tasks/{task_id}/claim").status_code in (404, 409)
    assert task_id not in [task["id"] for task in eve.get("/api/tasks").json()]
    assert bob.get(f"/api/tasks/{task_id}/labels").json() == {"rev": 0, "labels": []}


def test_roles_bound_what_one_may_do(site: Site, job: dict[str, Any]) -> None:
    video = {"name": "x", "video_ids": [1]}
    admins = [("POST", "/api/invites", {"role": "admin"}), ("POST", "/api/jobs", video), ("GET", "/api/invites", None)]
    admins += [("POST", "/api/videos?name=a.mp4", None), ("PATCH", "/api/users/1", {"role": "admin"})]
    reviewers: list[tuple[str, str, Any]] = [("POST", "/api/prelabel", {"video_id": 1, "model": "accurate"})]
    reviewers += [("GET", f"/api/jobs/{job['id']}/{road}", None) for road in ("agreement", "consensus", "export")]
    reviewers += [("POST", f"/api/jobs/{job['id']}/{road}", None) for road in ("consensus", "import")]
    reviewers += [("POST", "/api/tasks/1/review", {"verdict": "approve"}), ("DELETE", "/api/prelabel/1", None)]
    bob, rea = site.person("Bob"), site.person("Rea", "reviewer")
    for method, path, body in admins + reviewers:
        assert error_of(bob.request(method, path, json=body)) == (403, "forbidden"), f"{method} {path}"
    for method, path, body in admins:
        assert error_of(rea.request(method, path, json=body)) == (403, "forbidden"), f"{method} {path}"


@pytest.mark.parametrize(
    "path",
    [
        "/../book.sqlite",
        "/..%2f..%2fbook.sqlite",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/static/../../app.py",
        "/....//app.py",
        "/frames/1/../../book.sqlite",
        "/frames/1/%2e%2e%2f%2e%2e%2fbook.sqlite.jpg",
        "/frames/..%2f1/1.jpg",
        "/frames/1/1.jpg%00",
        "/\\..\\book.sqlite",
    ],
)
def test_paths_lead_nowhere(site: Site, tmp_path: Path, admin: TestClient, path: str) -> None:
    static = tmp_path / "static"
    static.mkdir()
    (static / "index.html").write_text("front end")
    for app in (site.app, create_app(site.workspace, static=static)):
        browser = TestClient(app, base_url=HERE, cookies=dict(admin.cookies))
        answer = browser.get(HERE + path)
        assert answer.status_code in (404, 422)
        assert b"SQLite" not in answer.content
        assert error_of(answer)[0] in (404, 422)


def test_names_are_kept_as_they_are_or_refused(site: Site, admin: TestClient) -> None:
    html = "<img src=x onerror=alert(1)>"
    made = admin.post("/api/jobs", json={"name": html, "video_ids": [site.imported(clip())[0]["id"]]})
    assert made.json()["name"] == html
    assert admin.get("/api/jobs").headers["content-type"] == "application/json"  # never read as HTML
    for name in ("a\u202egpj.exe", "x" * 4096, "", "\0", "a\nb", "\ud800", 7, None, ["a"]):
        body = json.dumps({"name": name, "video_ids": [1]})
        answer = admin.post("/api/jobs", content=body, headers={"Content-Type": "application/json"})
        assert error_of(answer)[0] in (400, 422), repr(name)
        token = admin.post(
            "/api/tokens", content=json.dumps({"name": name}), headers={"Content-Type": "application/json"}
        )
        assert error_of(token)[0] in (400, 422), repr(name)
    uploads = site.workspace.folder / "videos"
    for name in ("../../evil.mp4", "/etc/cron.d/evil.mp4", "..\\evil.mp4", f"{html}.mp4", ".mp4.mp4"):
        admin.post("/api/videos", params={"name": name}, content=b"junk").raise_for_status()
    assert len(list(uploads.iterdir())) == 5
    assert all(path.name.isascii() and not set(path.name) & set("<>/\\ ") for path in uploads.iterdir())
    for name in ("evil.py", "mp4", "a.mp4\0", "\u202egpm.mp4", "x" * 300 + ".mp4"):
        assert error_of(admin.post("/api/videos", params={"name": name}, content=b"junk"))[0] in (400, 422)


def test_bodies_are_bounded(site: Site, admin: TestClient, job: dict[str, Any]) -> None:
    large = b'{"name": "' + b"x" * MAX_BODY_BYTES + b'"}'
    json_type = {"Content-Type": "application/json"}
    assert error_of(admin.post("/api/tokens", content=large, headers=json_type)) == (413, "too_large")

    def pieces() -> Iterator[bytes]:  # without a Content-Length
        for at in range(0, len(large), 2**16):
            yield large[at : at + 2**16]

    assert error_of(admin.post("/api/tokens", content=pieces(), headers=json_type)) == (413, "too_large")
    upload = admin.post("/api/videos?name=a.mp4", content=bytes(100_001))
    assert error_of(upload) == (413, "too_large")
    assert error_of(admin.post("/api/videos?name=a.mp4", content=b"")) == (400, "invalid")
    assert list((site.workspace.folder / "videos").iterdir()) == []
    many = {"client_id": "a", "events": [said(1) for _ in range(501)]}
    assert error_of(admin.post("/api/tasks/1/events", json=many))[0] == 422


MALFORMED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"seconds": NaN}',
    b'{"seconds": 1e999}',
    b'{"seconds": "x"}',
    b'{"seconds": 1, "more": 2}',
    b"\xff\xfe\x00",
    b'{"seconds": ' + b"9" * 5000 + b"}",
]


def test_malformed_json_is_refused(site: Site, admin: TestClient, job: dict[str, Any]) -> None:
    task_id = admin.post("/api/tasks/next").json()["id"]
    for body, kind in product(MALFORMED, ("application/json", "text/plain")):
        answer = admin.post(f"/api/tasks/{task_id}/active", content=body, headers={"Content-Type": kind})
        assert error_of(answer)[0] in (400, 422), body[:20]


def test_imports_that_are_bombs_are_refused(site: Site, admin: TestClient, job: dict[str, Any]) -> None:
    path = f"/api/jobs/{job['id']}/import"
    entities = (
        b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "' + b"&a;" * 999 + b'">]><annotations>&b;</annotations>'
    )
    outside = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations>&x;</annotations>'
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations.xml", bytes(300 * 2**20))
    for name, body in (("a.xml", entities), ("a.xml", outside), ("a.zip", packed.getvalue()), ("../../a.csv", b"\0\0")):
        answer = admin.post(path, params={"name": name, "format": "cvat"}, content=body)
        assert error_of(answer) == (400, "invalid")
        assert "root:" not in answer.text
        assert str(site.workspace.folder) not in answer.text
    assert error_of(admin.post(path, params={"format": "../cvat"}, content=b"x"))[0] == 400


def test_guessing_passwords_is_slowed_down(site: Site) -> None:
    entry = {"token": team.setup_token(site.book), "name": "Ada", "password": "a long password"}
    site.stranger().post("/api/setup", json=entry)
    codes = []
    for _ in range(8):
        answer = site.stranger().post("/api/login", json={"name": "Ada", "password": "a wrong password"})
        codes.append(answer.status_code)
    assert codes[0] == 401
    assert codes[-1] == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert error_of(answer) == (429, "throttled")


def test_what_was_not_foreseen_says_nothing(site: Site, admin: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    @site.app.get("/api/broken")
    def broken() -> None:
        raise ZeroDivisionError("secret inside")

    site.app.router.routes.insert(0, site.app.router.routes.pop())  # before the front end, which takes the rest
    answer = admin.get("/api/broken")
    assert error_of(answer) == (500, "internal")
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "secret inside" in caplog.text


def test_one_server_per_project(site: Site) -> None:
    with pytest.raises(ValueError, match="is open in another rallytrace label"):
        Site(site.workspace.folder)


def test_generated_requests_never_make_the_server_fail(site: Site, admin: TestClient, job: dict[str, Any]) -> None:
    """schemathesis: requests of the right form and of the wrong one, on every road, logged in as an admin."""
    admin.post("/api/tasks/next")
    mine = {"Cookie": f"{COOKIE}={admin.cookies[COOKIE]}", "X-CSRF-Token": str(admin.headers["X-CSRF-Token"])}
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", site.app, headers={"Host": "localhost"})
    failed, tried, statuses = [], set[str](), Counter[int]()
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in ("/api/logout", "/api/password"):
            continue

        @settings(
            max_examples=often(8, 100),
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @schemathesis_given(operation)
        def ask(case: Any) -> None:
            if sum(statuses.values()) % 2:  # of what is there, and of what is not
                case.path_parameters |= {name: 1 for name in case.path_parameters if name.endswith("_id")}
            answer = case.call(headers={"Host": "localhost"} | mine)
            statuses[answer.status_code] += 1
            tried.add(f"{case.method} {case.operation.path}")
            if answer.status_code >= 500 and answer.status_code != 503:
                failed.append(f"{case.as_curl_command()} -> {answer.status_code}")

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ask()
    assert failed == []
    assert len(tried) > 40
    assert statuses[200] > 40
    assert statuses[422] > 40
    assert statuses[401] < 30  # the login alone


def schemathesis_given(operation: Any) -> Any:
    """Valid and invalid cases of one operation, for hypothesis."""
    from hypothesis import given
    from hypothesis import strategies as st

    both = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]
    return given(case=st.one_of(both))
