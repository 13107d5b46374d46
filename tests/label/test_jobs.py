"""The life of a task, on one path and on all the others; nothing is given out twice and nothing is lost."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from rallytrace.label import jobs, team
from rallytrace.label.agreement import gold_scores
from rallytrace.label.book import BookError, LabelBook, NotAllowed, NotFound, WrongState
from rallytrace.label.events import append, import_labels, job_labels, task_labels
from rallytrace.label.jobs import LEASE_S, Job, Task, create_job
from rallytrace.label.team import User
from rallytrace.types import BallLabel
from tests.label.conftest import Clock, ready_video, said

MakeJob = Callable[..., Job]
Person = Callable[..., User]


@pytest.fixture
def bob(person: Person) -> User:
    return person("bob")


@pytest.fixture
def eve(person: Person) -> User:
    return person("eve")


@pytest.fixture
def rita(person: Person) -> User:
    return person("rita", "reviewer")


def _next(book: LabelBook, user: User, job: Job | None = None) -> Task:
    task = jobs.claim_next(book, user, job and job.id)
    assert task is not None
    return task


def _finish(book: LabelBook, user: User, task: Task, shift_px: float = 0.0) -> Task:
    frames = range(task.start, task.stop)
    append(book, user, task.id, user.name, [said(f, (f + shift_px, 0.0)) for f in frames])
    return jobs.submit(book, user, task.id)


def test_a_task_from_its_claim_to_its_approval(book: LabelBook, make_job: MakeJob, bob: User, rita: User) -> None:
    job = make_job(10, name="semi-finals", instructions="centre of the ball\nnever the shadow", kind="adjust")
    assert jobs.job(book, job.id) == job
    assert jobs.jobs(book) == [job]
    task = _next(book, bob, job)
    assert (task.state, task.assignee, task.start, task.stop, task.frames) == ("claimed", bob.id, 0, 10, 10)
    assert (task.job_name, task.kind, task.labelled) == ("semi-finals", "adjust", 0)
    append(book, bob, task.id, "tab", [said(f) for f in range(9)])
    with pytest.raises(WrongState, match="1 of 10 frames are unlabelled"):
        jobs.submit(book, bob, task.id)
    append(book, bob, task.id, "tab", [said(9)])
    assert jobs.submit(book, bob, task.id).state == "submitted"
    returned = jobs.review(book, rita, task.id, "return", "frame 3 is the shuttle's shadow", [3])
    assert (returned.state, returned.assignee, returned.comment) == (
        "returned",
        bob.id,
        "frame 3 is the shuttle's shadow",
    )
    assert jobs.claim_next(book, rita, job.id) is None, "a returned task is nobody else's"
    jobs.submit(book, bob, task.id)
    assert jobs.review(book, rita, task.id, "approve").state == "approved"
    assert [(one.verdict, one.reviewer, one.frames) for one in jobs.reviews(book, bob, task.id)] == [
        ("return", rita.id, (3,)),
        ("approve", rita.id, ()),
    ]
    assert jobs.review(book, rita, task.id, "return", "once more").state == "returned"


def test_videos_are_cut_evenly(book: LabelBook, admin: User) -> None:
    videos = [ready_video(book, f"{n}.mp4", n).id for n in (1250, 600, 1)]
    job = create_job(book, admin, name="cut", video_ids=[*videos, videos[0]], sequence_length=600)
    cut = [(task.start, task.stop) for task in jobs.tasks(book, admin, job_id=job.id)]
    assert cut == [(0, 416), (416, 833), (833, 1250), (0, 600), (0, 1)]
    whole = create_job(book, admin, name="whole", video_ids=videos, sequence_length=0)
    assert [task.frames for task in jobs.tasks(book, admin, job_id=whole.id)] == [1250, 600, 1]


@pytest.mark.parametrize("book_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "name of the job"),
        ({"kind": "draw"}, "label, adjust, verify"),
        ({"replicas": 0}, "1 to 10 replicas"),
        ({"gold_fraction": float("nan")}, "gold fraction"),
        ({"sequence_length": -1}, "sequence length"),
        ({"video_ids": []}, "0 tasks"),
        ({"video_ids": [99]}, "no video 99"),
    ],
)
def test_a_job_that_cannot_be(book: LabelBook, make_job: MakeJob, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BookError, match=message):
        make_job(**options)
    assert jobs.jobs(book) == []


def test_jobs_are_for_admins_and_videos_that_are_imported(book: LabelBook, admin: User, rita: User) -> None:
    video = book.add_video("a", "/a")
    with pytest.raises(WrongState, match="is importing"):
        create_job(book, admin, name="j", video_ids=[video.id])
    with pytest.raises(NotAllowed):
        create_job(book, rita, name="j", video_ids=[video.id])


def test_a_lease_runs_out_and_the_work_stays(
    book: LabelBook, make_job: MakeJob, bob: User, eve: User, clock: Clock
) -> None:
    task = _next(book, bob, make_job())
    append(book, bob, task.id, "tab", [said(1)])
    clock.now += LEASE_S - 1
    append(book, bob, task.id, "tab", [said(2)])  # renews it
    clock.now += LEASE_S - 1
    assert jobs.claim_next(book, eve) is None
    assert jobs.renew(book, bob, task.id).lease_until == clock.now + LEASE_S
    clock.now += LEASE_S + 1
    taken = _next(book, eve)
    assert (taken.id, taken.assignee, taken.labelled) == (task.id, eve.id, 2)
    for call in (jobs.renew, jobs.release, jobs.submit, jobs.decline, jobs.claim):
        with pytest.raises(WrongState):
            call(book, bob, task.id)


def test_release_keeps_the_work_and_another_goes_on(book: LabelBook, make_job: MakeJob, bob: User, eve: User) -> None:
    task = _next(book, bob, make_job())
    append(book, bob, task.id, "tab", [said(1)])
    assert jobs.release(book, bob, task.id).state == "available"
    again = _next(book, eve)
    assert (again.id, again.labelled) == (task.id, 1)
    append(book, bob, task.id, "tab", [said(5)])  # what bob's browser still had
    assert set(task_labels(book, task.id)) == {1, 5}


def test_a_declined_task_goes_to_an_admin(
    book: LabelBook, make_job: MakeJob, bob: User, eve: User, admin: User
) -> None:
    task = _next(book, bob, make_job())
    jobs.decline(book, bob, task.id, "the picture is black")
    (found,) = jobs.tasks(book, admin, state="declined")
    assert (found.comment, found.assignee) == ("the picture is black", None)
    assert jobs.claim_next(book, eve) is None
    jobs.release(book, admin, task.id)
    assert jobs.claim_next(book, bob) is None, "it does not come back by itself"
    assert _next(book, eve).id == task.id


def test_assigned_tasks_wait_for_their_person(
    book: LabelBook, make_job: MakeJob, bob: User, eve: User, rita: User, admin: User, clock: Clock
) -> None:
    (task,) = jobs.tasks(book, admin, job_id=make_job().id)
    assert jobs.assign(book, rita, task.id, bob.id).assignee == bob.id
    clock.now += 30 * 86_400
    assert jobs.claim_next(book, eve) is None
    append(book, bob, task.id, "tab", [said(1)])
    assert jobs.task(book, bob, task.id).lease_until is None
    assert jobs.assign(book, rita, task.id, eve.id).assignee == eve.id
    with pytest.raises(NotAllowed):
        jobs.assign(book, bob, task.id, bob.id)
    team.change_user(book, admin, bob.id, active=False)
    for gone in (bob.id, 999):
        with pytest.raises(NotFound, match="no active user"):
            jobs.assign(book, rita, task.id, gone)


def test_nobody_gets_two_replicas_of_a_sequence(
    book: LabelBook, make_job: MakeJob, bob: User, eve: User, admin: User
) -> None:
    job = make_job(20, sequence_length=10, replicas=2)
    got = [_next(book, bob, job) for _ in range(2)]
    assert sorted(task.start for task in got) == [0, 10]
    assert jobs.claim_next(book, bob, job.id) is None
    jobs.release(book, bob, got[0].id)
    other = next(t for t in jobs.tasks(book, admin, job_id=job.id) if t.start == got[0].start and t.id != got[0].id)
    with pytest.raises(WrongState, match="copy"):
        jobs.assign(book, admin, other.id, bob.id)
    with pytest.raises(NotFound):
        jobs.claim(book, bob, other.id)
    assert _next(book, bob, job).id == got[0].id, "the same copy again is fine"
    assert sorted(_next(book, eve, job).start for _ in range(2)) == [0, 10]


def test_a_task_is_claimed_once_however_many_reach_for_it(
    book: LabelBook, make_job: MakeJob, person: Person, admin: User
) -> None:
    job = make_job(24, sequence_length=1, replicas=2)
    people = [person(f"p{i}") for i in range(4)]
    got: list[tuple[User, Task]] = []
    start = threading.Barrier(8)

    def work(user: User) -> None:
        start.wait()
        while (task := jobs.claim_next(book, user, job.id)) is not None:
            got.append((user, task))

    threads = [threading.Thread(target=work, args=(user,)) for user in people * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 48
    assert set(Counter(task.id for _, task in got).values()) == {1}
    assert set(Counter((user.id, task.start) for user, task in got).values()) == {1}
    assert {task.id: task.assignee for task in jobs.tasks(book, admin)} == {task.id: user.id for user, task in got}


def test_what_annotators_see(book: LabelBook, make_job: MakeJob, bob: User, eve: User, rita: User) -> None:
    job = make_job(30, sequence_length=10)
    mine, hers = _next(book, bob, job), _next(book, eve, job)
    assert {task.id for task in jobs.tasks(book, bob)} == {task.id for task in jobs.tasks(book, rita)} - {hers.id}
    assert [task.id for task in jobs.tasks(book, bob, mine=True)] == [mine.id]
    assert [task.id for task in jobs.tasks(book, rita, after=mine.id, limit=1)] == [hers.id]
    for call in (jobs.task, jobs.reviews, jobs.renew, jobs.release, jobs.submit, jobs.decline, jobs.claim):
        with pytest.raises(NotFound):
            call(book, bob, hers.id)
    with pytest.raises(NotFound):
        jobs.add_active(book, bob, hers.id, 1)
    with pytest.raises(BookError):
        jobs.tasks(book, bob, state="a\0")
    with pytest.raises(NotFound):
        jobs.task(book, rita, 10**30)


def test_nobody_reviews_own_work_but_an_admin(
    book: LabelBook, make_job: MakeJob, bob: User, rita: User, admin: User
) -> None:
    task = _finish(book, rita, _next(book, rita, make_job()))
    with pytest.raises(NotAllowed, match="own work"):
        jobs.review(book, rita, task.id, "approve")
    with pytest.raises(NotAllowed):
        jobs.review(book, bob, task.id, "approve")
    with pytest.raises(BookError, match="the comment"):
        jobs.review(book, admin, task.id, "return", " ")
    with pytest.raises(BookError, match="approve or return"):
        jobs.review(book, admin, task.id, "burn", "x")
    with pytest.raises(BookError, match="frame numbers"):
        jobs.review(book, admin, task.id, "return", "x", ["1"])  # type: ignore[list-item]
    assert jobs.review(book, admin, task.id, "approve").state == "approved"
    with pytest.raises(WrongState, match="is approved"):
        jobs.review(book, admin, task.id, "approve")


def test_active_time_never_exceeds_the_time_that_passed(
    book: LabelBook, make_job: MakeJob, bob: User, clock: Clock
) -> None:
    task = _next(book, bob, make_job())
    clock.now += 10
    assert jobs.add_active(book, bob, task.id, 8) == 8
    assert jobs.add_active(book, bob, task.id, 8) == 0
    clock.now += 3600
    assert jobs.add_active(book, bob, task.id, 3600) == jobs.MAX_HEARTBEAT_S
    assert jobs.task(book, bob, task.id).active_s == 8 + jobs.MAX_HEARTBEAT_S
    for bad in (-1, float("nan"), float("inf"), "1"):
        with pytest.raises(BookError):
            jobs.add_active(book, bob, task.id, bad)  # type: ignore[arg-type]


def test_progress_and_labels_per_minute(
    book: LabelBook, make_job: MakeJob, bob: User, eve: User, admin: User, clock: Clock
) -> None:
    job = make_job(40, sequence_length=10)
    first, second = _next(book, bob, job), _next(book, eve, job)
    clock.now += 60
    append(book, bob, first.id, "tab", [said(f % 10, client_seq=f) for f in range(15)])  # 5 of them corrected
    append(book, bob, first.id, "tab", [said(9, op="clear", client_seq=99)])
    append(book, eve, second.id, "tab", [said(f) for f in range(10, 20)])
    jobs.add_active(book, bob, first.id, 30)
    jobs.submit(book, eve, second.id)
    jobs.review(book, admin, second.id, "approve")
    import_labels(book, admin, job.id, first.video_id, {39: BallLabel(39, (1.0, 1.0))}, "a.csv")
    found = jobs.progress(book, job.id)
    assert (found.frames, found.labelled, found.approved) == (40, 20, 10)
    assert found.tasks_by_state == {"claimed": 1, "approved": 1, "available": 2}
    people = {one.name: (one.labels, one.active_s, one.labels_per_min) for one in found.per_person}
    assert people == {"bob": (10, 30.0, 20.0), "eve": (10, 0.0, None)}
    with pytest.raises(NotFound):
        jobs.progress(book, 99)


def test_hidden_gold(book: LabelBook, make_job: MakeJob, bob: User, eve: User, rita: User, admin: User) -> None:
    truth = _finish(book, bob, _next(book, bob, make_job(10)))
    jobs.review(book, rita, truth.id, "approve")
    job = make_job(40, sequence_length=10, gold_fraction=0.25)
    (test,) = [task for task in jobs.tasks(book, admin, job_id=job.id) if task.is_gold]
    assert test.sequence_id == truth.sequence_id
    shown = jobs.tasks(book, eve, job_id=job.id)
    assert (len(shown), {task.is_gold for task in shown}) == (5, {False})
    assert test.id not in {task.id for task in jobs.tasks(book, bob, job_id=job.id)}, "bob made its truth"
    with pytest.raises(WrongState, match="made the labels"):
        jobs.assign(book, admin, test.id, bob.id)
    assert not jobs.claim(book, eve, test.id).is_gold
    assert gold_scores(book, rita, job.id) == {}
    import_labels(book, admin, job.id, truth.video_id, task_labels_of(book, truth), "truth.csv")
    assert jobs.task(book, eve, test.id).labelled == 0, "an import does not fill in the answers"
    _finish(book, eve, test, shift_px=3.0)
    ((task_id, score),) = gold_scores(book, rita, job.id).items()
    assert (score.b, task_id, score.n) == (eve.id, test.id, 10)
    assert score.median_px == pytest.approx(3.0)
    with pytest.raises(NotAllowed):
        gold_scores(book, eve, job.id)
    assert [video.frames for video in job_labels(book, job.id)] == [40], "tests are not exported"
    assert [task.is_gold for task in jobs.tasks(book, admin, job_id=make_job(10, gold_fraction=1).id)].count(True) == 1


def task_labels_of(book: LabelBook, task: Task) -> dict[int, BallLabel]:
    """As a file has them."""
    return {frame: one.ball for frame, one in task_labels(book, task.id).items()}


def test_tests_lie_where_nobody_can_guess(book: LabelBook, make_job: MakeJob, bob: User, admin: User) -> None:
    for task in [_next(book, bob, make_job(2)) for _ in range(3)]:
        jobs.review(book, admin, _finish(book, bob, task).id, "approve")
    places = set()
    for _ in range(6):
        job = make_job(30, sequence_length=1, gold_fraction=0.1)
        places |= {i for i, task in enumerate(jobs.tasks(book, admin, job_id=job.id)) if task.is_gold}
    assert len(places) > 3
