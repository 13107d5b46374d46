"""Nothing that an annotator can ask for tells a hidden test from other work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rallytrace.label import jobs
from rallytrace.label.agreement import gold_scores
from rallytrace.label.book import LabelBook
from rallytrace.label.events import append, import_labels, job_labels
from rallytrace.label.jobs import create_job
from rallytrace.label.team import User
from rallytrace.types import BallLabel

from .conftest import ready_video, said
from .sites import Site


@pytest.fixture
def site(tmp_path: Path, book_url: str) -> Iterator[Site]:
    made = Site(tmp_path / "project", database=book_url)
    yield made
    made.close()


def approved(site: Site, annotator: TestClient, reviewer: TestClient, job: int) -> None:
    """All tasks of the job, labelled and approved."""
    while (answer := annotator.post("/api/tasks/next", json={"job": job})).status_code == 200:
        task = answer.json()
        events = [said(frame, (frame, 5.0)) for frame in range(task["start"], task["stop"])]
        road = f"/api/tasks/{task['id']}"
        annotator.post(f"{road}/events", json={"client_id": "a", "events": events}).raise_for_status()
        annotator.post(f"{road}/submit").raise_for_status()
        reviewer.post(f"{road}/review", json={"verdict": "approve"}).raise_for_status()


def new_job(admin: TestClient, videos: list[int], **more: Any) -> int:
    body = {"name": "j", "video_ids": videos, "sequence_length": 10}
    return int(admin.post("/api/jobs", json=body | more).raise_for_status().json()["id"])


@pytest.mark.parametrize("other_video", [False, True])
def test_a_test_looks_like_any_other_task(site: Site, other_video: bool) -> None:
    admin, bob, eve = site.person("Ada", "admin"), site.person("Bob"), site.person("Eve")
    first, second = (ready_video(site.book, f"{n}.mp4", 40).id for n in range(2))
    approved(site, bob, admin, new_job(admin, [first], sequence_length=20 if other_video else 10))
    job = new_job(admin, [second if other_video else first], gold_fraction=0.5)
    tasks = admin.get(f"/api/tasks?job={job}").json()
    tests = {task["id"] for task in tasks if task["is_gold"]}
    assert len(tests) == 2
    assert len(tasks) == (6 if other_video else 4)
    listed = eve.get(f"/api/tasks?job={job}").json()
    assert len(listed) == len(tasks)
    assert {tuple(sorted(task)) for task in listed} == {("id", "job", "job_name", "kind", "state")}
    shown: list[dict[str, Any]] = []
    while (answer := eve.post("/api/tasks/next", json={"job": job})).status_code == 200:
        task = answer.json()
        shown.append(task)
        before = eve.get(f"/api/jobs/{job}").json()["progress"]
        events = [said(frame, (frame, 5.0)) for frame in range(task["start"], task["stop"])]
        eve.post(f"/api/tasks/{task['id']}/events", json={"client_id": "a", "events": events}).raise_for_status()
        eve.post(f"/api/tasks/{task['id']}/submit").raise_for_status()
        after = eve.get(f"/api/jobs/{job}").json()["progress"]
        assert after["frames"] == 10 * len(shown)
        assert after["labelled"] - before["labelled"] == 10
        assert after["tasks_by_state"] == {"submitted": len(shown)}
    assert len(shown) == len(tasks)
    ranges = {(task["video"], task["start"], task["stop"]) for task in shown}
    assert len(ranges) == len(shown), "a range that comes twice is a test"
    assert {task["frames"] for task in shown} == {10}
    assert {tuple(sorted(task)) for task in shown} == {tuple(sorted(shown[0]))}
    assert not {"sequence_id", "is_gold"} & set(shown[0])
    for task in shown:
        detail = json.dumps(eve.get(f"/api/tasks/{task['id']}").json())
        assert "gold" not in detail
        assert "sequence" not in detail
    assert {task["state"] for task in eve.get(f"/api/tasks?job={job}").json()} == {"submitted"}
    assert len(admin.get(f"/api/jobs/{job}/agreement").json()["gold"]) == 2


def test_work_that_is_a_test_is_labelled_and_exported_like_all_work(book: LabelBook, admin: User, person: Any) -> None:
    bob, eve = person("bob"), person("eve")
    video = ready_video(book, "a.mp4", 20).id
    old = create_job(book, admin, name="old", video_ids=[video], sequence_length=0)
    truth = jobs.claim_next(book, bob, old.id)
    assert truth is not None
    append(book, bob, truth.id, "tab", [said(frame, (frame, 0.0)) for frame in range(20)])
    jobs.submit(book, bob, truth.id)
    jobs.review(book, admin, truth.id, "approve")
    job = create_job(book, admin, name="new", video_ids=[video], sequence_length=10, gold_fraction=1, kind="adjust")
    found = {frame: BallLabel(frame, (frame + 2.0, 0.0)) for frame in range(20)}
    assert import_labels(book, admin, job.id, video, found, "net.csv") == (20, 0), "tests get what all get"
    mine, hers = jobs.claim_next(book, bob, job.id), jobs.claim_next(book, eve, job.id)
    assert mine is not None, "who made the truth is not kept from the work"
    assert hers is not None
    for user, task in ((bob, mine), (eve, hers)):
        assert task.labelled == 10
        jobs.submit(book, user, task.id)
    scores = gold_scores(book, admin, job.id)
    assert [(task_id, score.a, score.b, score.median_px) for task_id, score in scores.items()] == [
        (hers.id, bob.id, eve.id, pytest.approx(2.0))
    ], "bob is not measured against himself"
    assert [part.frames for part in job_labels(book, job.id)] == [20]


def test_tests_of_other_videos_are_added_to_new_labels_alone(book: LabelBook, admin: User, person: Any) -> None:
    bob = person("bob")
    old = create_job(book, admin, name="old", video_ids=[ready_video(book, "a.mp4", 8).id])
    truth = jobs.claim_next(book, bob, old.id)
    assert truth is not None
    jobs.submit(book, bob, truth.id, allow_unlabelled=True)
    jobs.review(book, admin, truth.id, "approve")
    videos = [ready_video(book, "b.mp4", 12).id]
    for options, tests in (({"kind": "adjust"}, 0), ({"sequence_length": 0}, 0), ({"sequence_length": 6}, 1)):
        settings: dict[str, Any] = {"name": "new", "video_ids": videos, "gold_fraction": 0.5, "sequence_length": 6}
        job = create_job(book, admin, **settings | options)
        found = [task for task in jobs.tasks(book, admin, job_id=job.id) if task.is_gold]
        assert len(found) == tests, options
        assert {task.frames for task in found} <= {6}
