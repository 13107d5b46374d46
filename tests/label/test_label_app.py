"""The workspace over HTTP, from set-up to export, as its front end and scripts use it."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rallytrace.label import team

from .conftest import said
from .sites import Site, clip, error_of, number_on, numbered, wait_for


@pytest.fixture
def site(tmp_path: Path, book_url: str) -> Iterator[Site]:
    made = Site(tmp_path / "project", database=book_url)
    yield made
    made.close()


@pytest.fixture
def video(site: Site) -> dict[str, Any]:
    return site.imported(clip())[0]


def make_job(admin: TestClient, video: dict[str, Any], **more: Any) -> dict[str, Any]:
    made = admin.post("/api/jobs", json={"name": "rallies", "video_ids": [video["id"]], "sequence_length": 30} | more)
    assert made.status_code == 201, made.text
    return made.json()


def send(browser: TestClient, task_id: int, *events: dict[str, Any], client_id: str = "tab") -> dict[str, Any]:
    answer = browser.post(f"/api/tasks/{task_id}/events", json={"client_id": client_id, "events": list(events)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_from_set_up_to_login(site: Site) -> None:
    browser = site.stranger()
    assert error_of(browser.get("/api/me")) == (401, "setup_needed")
    token = team.setup_token(site.book)
    entry = {"token": token, "name": "Ada", "password": "a long password"}
    assert error_of(browser.post("/api/setup", json=entry | {"token": "x"})) == (404, "not_found")
    made = browser.post("/api/setup", json=entry)
    assert made.json()["user"] == {"id": 1, "name": "Ada", "role": "admin", "active": True}
    assert browser.get("/api/me").json() == made.json()
    csrf = {"X-CSRF-Token": made.json()["csrf"]}
    invite = browser.post("/api/invites", json={"role": "annotator"}, headers=csrf).json()
    assert invite["url"] == f"/#/invite/{invite['token']}"
    assert [each["id"] for each in browser.get("/api/invites").json()] == [invite["id"]]
    other = site.stranger()
    came = other.post("/api/invites/accept", json=entry | {"token": invite["token"], "name": "Bob"})
    assert came.json()["user"]["role"] == "annotator"
    assert [user["name"] for user in browser.get("/api/users").json()] == ["Ada", "Bob"]
    assert [user["name"] for user in other.get("/api/users").json()] == ["Bob"]
    assert browser.post("/api/logout", headers=csrf).json() == {"ok": True}
    assert error_of(browser.get("/api/me")) == (401, "login_needed")
    wrong = {"name": "ada", "password": "another password"}
    assert error_of(browser.post("/api/login", json=wrong)) == (401, "bad_login")
    back = browser.post("/api/login", json=wrong | {"password": "a long password"})
    assert back.json()["user"]["name"] == "Ada"
    left = browser.patch("/api/users/2", json={"active": False}, headers={"X-CSRF-Token": back.json()["csrf"]})
    assert left.json()["active"] is False
    assert error_of(other.get("/api/me")) == (401, "login_needed")


def test_a_changed_password_ends_other_sessions(site: Site) -> None:
    one, two = site.stranger(), site.stranger()
    entry = {"token": team.setup_token(site.book), "name": "Ada", "password": "a long password"}
    one.post("/api/setup", json=entry)
    csrf = two.post("/api/login", json={"name": "Ada", "password": "a long password"}).json()["csrf"]
    body = {"old": "a long password", "new": "a longer password"}
    assert two.post("/api/password", json=body, headers={"X-CSRF-Token": csrf}).status_code == 200
    assert error_of(one.get("/api/me")) == (401, "login_needed")
    assert two.get("/api/me").status_code == 200


def test_a_script_works_with_a_token(site: Site) -> None:
    admin = site.person("Ada", "admin")
    made = admin.post("/api/tokens", json={"name": "nightly"}).json()
    script = site.stranger()
    script.headers["Authorization"] = f"Bearer {made['token']}"
    assert script.post("/api/invites", json={"role": "reviewer"}).status_code == 200
    assert [token["name"] for token in script.get("/api/tokens").json()] == ["nightly"]
    assert "token" not in script.get("/api/tokens").json()[0]
    assert admin.delete(f"/api/tokens/{made['id']}").json() == {"ok": True}
    assert error_of(script.get("/api/me")) == (401, "bad_token")
    of_bob = site.person("Bob").post("/api/tokens", json={"name": "import"}).json()
    assert [(token["user"], token["name"]) for token in admin.get("/api/tokens").json()] == [("Bob", "import")]
    assert admin.delete(f"/api/tokens/{of_bob['id']}").json() == {"ok": True}


def test_an_upload_becomes_a_video(site: Site) -> None:
    admin = site.person("Ada", "admin")
    made = admin.post("/api/videos?name=rally <1>.mp4", content=clip().read_bytes())
    assert made.status_code == 201
    video_id = made.json()["id"]
    found = wait_for(lambda: (v := admin.get(f"/api/videos/{video_id}").json())["state"] == "ready" and v)
    assert (found["name"], found["w"], found["h"], found["n_frames"], found["rate"]) == (
        "rally <1>.mp4",
        320,
        180,
        90,
        "30000/1001",
    )
    assert found["pts"][30] == pytest.approx(1.001)
    assert [each["id"] for each in admin.get("/api/videos").json()] == [video_id]
    assert admin.get(f"/api/videos?after={video_id}").json() == []


def test_pictures_by_index(site: Site, video: dict[str, Any]) -> None:
    browser = site.person("Bob")
    path = f"/frames/{video['id']}/41.jpg?v={video['sha'][:12]}"
    answer = browser.get(path)
    assert number_on(answer.content) == 41
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    again = browser.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert number_on(browser.get(f"{path}&w=150").content) == 41
    assert "immutable" not in browser.get(path.partition("?")[0]).headers["cache-control"]
    assert error_of(browser.get(path.replace("41", "90"))) == (404, "not_found")
    assert error_of(browser.get(f"/frames/{video['id']}/41.jpg?v=0123456789ab")) == (404, "not_found")
    assert error_of(browser.get("/frames/77/41.jpg")) == (404, "not_found")


def test_several_pictures_at_once(site: Site, video: dict[str, Any]) -> None:
    data = site.person("Bob").get(f"/frames/{video['id']}/chunk?start=80&count=16").content
    found = []
    while data:
        index, size = struct.unpack_from("<II", data)
        assert number_on(data[8 : 8 + size]) == index
        found.append(index)
        data = data[8 + size :]
    assert found == list(range(80, 90))
    assert error_of(site.person("Cy").get(f"/frames/{video['id']}/chunk?start=90")) == (404, "not_found")


def test_prefetch_makes_pictures_before_they_are_asked_for(site: Site, video: dict[str, Any]) -> None:
    body = {"start": 89, "count": 20, "direction": -1}
    assert site.person("Bob").post(f"/frames/{video['id']}/prefetch", json=body).status_code == 202
    source = site.workspace.library.source(video["id"])
    wait_for(lambda: all(site.workspace.frames.cache.has(source.key(i)) for i in range(64, 90)))
    assert not site.workspace.frames.cache.has(source.key(10))


def test_a_video_that_disappears_loses_nothing(site: Site, tmp_path: Path) -> None:
    path = numbered(tmp_path / "gone.mp4", 40)
    video = site.imported(path)[0]
    admin = site.person("Ada", "admin")
    make_job(admin, video)
    task = admin.post("/api/tasks/next").json()
    path.rename(tmp_path / "away.mp4")
    answer = admin.get(f"/frames/{video['id']}/9.jpg")
    assert error_of(answer) == (409, "wrong_state")
    assert "put it back" in answer.json()["error"]["message"]
    assert admin.get("/api/videos").json()[0]["state"] == "missing"
    assert len(send(admin, task["id"], said(3))["acked"]) == 1
    (tmp_path / "away.mp4").rename(path)
    assert number_on(admin.get(f"/frames/{video['id']}/9.jpg").content) == 9
    assert admin.get("/api/videos").json()[0]["state"] == "ready"


def test_the_life_of_a_task(site: Site, video: dict[str, Any]) -> None:
    admin, bob, rea = site.person("Ada", "admin"), site.person("Bob"), site.person("Rea", "reviewer")
    job = make_job(admin, video, instructions="Mark the\nball's centre.")
    task = bob.post("/api/tasks/next", json={"job": job["id"]}).json()
    assert (task["start"], task["stop"], task["frames"], task["labelled"]) == (0, 30, 30, 0)
    shown = bob.get(f"/api/tasks/{task['id']}").json()
    assert shown["instructions"] == "Mark the\nball's centre."
    assert len(shown["video"]["pts"]) == 30
    assert "is_gold" not in shown
    assert "is_gold" in rea.get(f"/api/tasks/{task['id']}").json()
    done = send(bob, task["id"], *(said(n, (n, 2.5)) for n in range(29)), said(29, None), said(30))
    assert len(done["acked"]) == 30
    assert len(done["rejected"]) == 1
    assert bob.get(f"/api/tasks/{task['id']}/queue").json() == {"frames": []}
    labels = bob.get(f"/api/tasks/{task['id']}/labels").json()
    assert labels["rev"] == done["rev"]
    assert [(each["frame"], each["x"], each["visibility"]) for each in labels["labels"]][-2:] == [
        (28, 28.0, 1),
        (29, None, 0),
    ]
    assert bob.get(f"/api/tasks/{task['id']}/labels?since={done['rev']}").json()["labels"] == []
    assert bob.post(f"/api/tasks/{task['id']}/active", json={"seconds": 5}).json()["granted_s"] >= 0
    assert bob.post(f"/api/tasks/{task['id']}/submit").json()["state"] == "submitted"
    body = {"verdict": "return", "comment": "Look at 3.", "frames": [3]}
    assert rea.post(f"/api/tasks/{task['id']}/review", json=body).json()["state"] == "returned"
    review = bob.get(f"/api/tasks/{task['id']}").json()["reviews"][0]
    assert (review["user"], review["comment"], review["frames"]) == ("Rea", "Look at 3.", [3])
    assert bob.post(f"/api/tasks/{task['id']}/submit").status_code == 200
    assert rea.post(f"/api/tasks/{task['id']}/review", json={"verdict": "approve"}).json()["state"] == "approved"
    progress = admin.get(f"/api/jobs/{job['id']}").json()["progress"]
    assert (progress["frames"], progress["labelled"], progress["approved"]) == (90, 30, 30)
    assert [(each["user"], each["labels"]) for each in progress["per_person"]] == [("Bob", 30)]


def test_two_tabs_conflict_and_nothing_is_overwritten(site: Site, video: dict[str, Any]) -> None:
    bob = site.person("Bob")
    make_job(site.person("Ada", "admin"), video)
    task_id = bob.post("/api/tasks/next").json()["id"]
    first = send(bob, task_id, said(5, (1, 1)), client_id="one")
    answer = send(bob, task_id, said(5, (9, 9)), client_id="two")
    assert answer["acked"] == []
    assert answer["conflicts"][0]["current"]["x"] == 1.0
    fresh = send(bob, task_id, said(5, (9, 9), base_rev=first["rev"]), client_id="two")
    assert len(fresh["acked"]) == 1
    cleared = send(bob, task_id, said(5, None, op="clear", base_rev=fresh["rev"]), client_id="two")
    labels = bob.get(f"/api/tasks/{task_id}/labels?since={fresh['rev']}").json()["labels"]
    assert labels == [{"frame": 5, "object": "ball:1", "cleared": True, "rev": cleared["rev"], "user": 1}]


def test_tasks_are_given_up_and_given_on(site: Site, video: dict[str, Any]) -> None:
    admin, bob = site.person("Ada", "admin"), site.person("Bob")
    make_job(admin, video)
    assert [task["state"] for task in bob.get("/api/tasks").json()] == ["available"] * 3
    first, second = (bob.post("/api/tasks/next").json()["id"] for _ in range(2))
    assert bob.post(f"/api/tasks/{first}/renew").json()["state"] == "claimed"
    assert bob.post(f"/api/tasks/{first}/release").json()["state"] == "available"
    assert bob.post(f"/api/tasks/{first}/claim").json()["assignee"] == 2
    assert bob.post(f"/api/tasks/{second}/decline", json={"reason": "too dark"}).json() == {"ok": True}
    assert [task["id"] for task in bob.get("/api/tasks?mine=1").json()] == [first]
    assert [task["comment"] for task in admin.get("/api/tasks?state=declined").json()] == ["too dark"]
    assert admin.post(f"/api/tasks/{second}/assign", json={"user": 1}).json()["assignee"] == 1
    bob.post("/api/tasks/next")
    assert error_of(bob.post("/api/tasks/next")) == (404, "no_task")


def test_replicas_agree_and_are_exported(site: Site, video: dict[str, Any]) -> None:
    admin, bob, cy = site.person("Ada", "admin"), site.person("Bob"), site.person("Cy")
    job = make_job(admin, video, replicas=2, sequence_length=0)
    for browser, shift in ((bob, 0.0), (cy, 1.0)):
        task_id = browser.post("/api/tasks/next").json()["id"]
        send(browser, task_id, *(said(n, (10 + 2 * n + shift, 50) if n != 7 or shift else None) for n in range(90)))
        browser.post(f"/api/tasks/{task_id}/submit")
        admin.post(f"/api/tasks/{task_id}/review", json={"verdict": "approve"})
    doubtful = admin.get(f"/api/tasks/{task_id}/queue?by=disagreement").json()
    assert doubtful == {"frames": [7]}
    assert error_of(cy.get(f"/api/tasks/{task_id}/queue?by=disagreement")) == (403, "forbidden")
    pair = admin.get(f"/api/jobs/{job['id']}/agreement").json()["pairs"][0]
    assert {pair["a"], pair["b"]} == {"Bob", "Cy"}
    assert (pair["n"], pair["median_px"]) == (90, 1.0)
    made = admin.post(f"/api/jobs/{job['id']}/consensus").json()
    assert (made["version"], made["adjudicate"]) == (1, [7])
    assert admin.get(f"/api/jobs/{job['id']}/consensus").json() == made
    assert error_of(admin.get(f"/api/jobs/{job['id']}/consensus?version=9")) == (404, "not_found")
    assert error_of(admin.get(f"/api/jobs/{job['id']}/export")) == (409, "unlabelled")
    answer = admin.get(f"/api/jobs/{job['id']}/export?format=tracknetv2&unlabelled=drop")
    assert answer.headers["content-disposition"] == f'attachment; filename="job-{job["id"]}-tracknetv2.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        rows = archive.read(archive.namelist()[0]).decode().splitlines()
    assert rows[1].startswith("0,1,10.5,50")


def test_labels_of_a_file_fill_what_is_unlabelled(site: Site, video: dict[str, Any]) -> None:
    admin = site.person("Ada", "admin")
    job = make_job(admin, video, sequence_length=0)
    task_id = admin.post("/api/tasks/next").json()["id"]
    send(admin, task_id, said(0, (1, 1)))
    rows = ["Frame,Visibility,X,Y", *(f"{n},1,{n + 5},20" for n in range(10))]
    path = f"/api/jobs/{job['id']}/import?name=rally_one_ball.csv"
    answer = admin.post(path, content="\n".join(rows)).json()
    assert (answer["imported"], answer["skipped"]) == (9, 1)
    labels = admin.get(f"/api/tasks/{task_id}/labels").json()["labels"]
    assert (labels[0]["source"], labels[-1]["source"], labels[-1]["x"]) == (
        "manual",
        "import:rally_one_ball.csv",
        14.0,
    )
    broken = admin.post(path, content="\n".join([*rows, "11,1,abc,3"]))
    assert error_of(broken) == (400, "invalid")
    assert "/" not in broken.json()["error"]["message"].replace("X,Y", "")


def test_what_a_tool_interpolated_is_not_taken_in(site: Site, video: dict[str, Any]) -> None:
    admin = site.person("Ada", "admin")
    job = make_job(admin, video, sequence_length=0)
    task_id = admin.post("/api/tasks/next").json()["id"]
    rows = ["Frame,Visibility,X,Y,Keyframe", *(f"{n},1,{n + 5},20,{int(n % 3 == 0)}" for n in range(7))]
    path = f"/api/jobs/{job['id']}/import?name=rally_one_ball.csv"
    answer = admin.post(path, content="\n".join(rows)).json()
    assert (answer["imported"], answer["skipped"]) == (3, 0)
    assert answer["notes"] == ["4 labels that a tool interpolated were left out: nobody has seen them"]
    labels = admin.get(f"/api/tasks/{task_id}/labels").json()["labels"]
    assert [label["frame"] for label in labels] == [0, 3, 6]


def test_proposals_reach_the_task(site: Site, tmp_path: Path) -> None:
    admin, (video,) = site.person("Ada", "admin"), site.imported(numbered(tmp_path / "short.mp4", 12))
    job = make_job(admin, video)
    task_id = admin.post("/api/tasks/next").json()["id"]
    assert admin.get(f"/api/tasks/{task_id}/proposals").json()["state"] == "none"
    assert "accurate" in admin.get("/api/models").json()
    run_id = admin.post("/api/prelabel", json={"job_id": job["id"], "model": "fast"}).json()["id"]
    wait_for(lambda: admin.get("/api/prelabel").json()[0]["state"] == "done")
    found = admin.get(f"/api/tasks/{task_id}/proposals").json()
    assert (found["model"], found["state"], found["progress"]) == ("fast", "done", 1.0)
    assert [each["frame"] for each in found["proposals"]] == list(range(12))
    for by in ("score", "jump", "residual", "model"):
        assert admin.get(f"/api/tasks/{task_id}/queue?by={by}").status_code == 200
    assert admin.delete(f"/api/prelabel/{run_id}").json() == {"ok": True}
    assert error_of(admin.delete(f"/api/prelabel/{run_id}")) == (404, "not_found")


def test_formats_are_listed(site: Site) -> None:
    found = {each["name"]: each for each in site.person("Bob").get("/api/formats").json()}
    assert {"tracknetv2", "cvat", "ground_truth", "coco"} <= set(found)
    assert ".csv" in found["tracknetv2"]["extensions"]


def test_without_a_front_end_a_page_says_so(tmp_path: Path, site: Site) -> None:
    from rallytrace.label import create_app

    page = TestClient(create_app(site.workspace, static=tmp_path), base_url="http://localhost").get("/")
    assert page.status_code == 200
    assert "make frontend" in page.text
    (tmp_path / "index.html").write_text("<!doctype html>built")
    browser = TestClient(create_app(site.workspace, static=tmp_path), base_url="http://localhost")
    assert browser.get("/").text == "<!doctype html>built"
    assert error_of(browser.get("/api/nothing")) == (404, "not_found")
