"""Every event is kept, once; what was not seen is never overwritten; a frame has three states."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy import Row, delete, func, select, update
from sqlalchemy.exc import DBAPIError

from rallytrace.label import jobs, schema
from rallytrace.label.book import BookError, LabelBook, NotAllowed, NotFound, WrongState, open_book
from rallytrace.label.events import (
    MAX_EVENTS,
    append,
    import_labels,
    job_labels,
    labels,
    task_labels,
)
from rallytrace.label.exchange import import_set, is_of, label_sets
from rallytrace.label.jobs import Job, Task
from rallytrace.label.team import User
from rallytrace.labels.sets import Extra, LabelSet
from rallytrace.types import BallLabel, Visibility
from tests.label.conftest import ready_video, said

from ..often import examples

MakeJob = Callable[..., Job]
Person = Callable[..., User]


@pytest.fixture
def bob(person: Person) -> User:
    return person("bob")


@pytest.fixture
def mine(book: LabelBook, make_job: MakeJob, bob: User) -> Task:
    """A task of 20 frames that bob has claimed."""
    job = make_job(20)
    task = jobs.claim_next(book, bob, job.id)
    assert task is not None
    return task


def test_a_frame_is_unlabelled_absent_or_located(book: LabelBook, mine: Task, bob: User) -> None:
    sent = [said(3, (11.5, 20.25)), said(4, None), said(5)]
    done = append(book, bob, mine.id, "tab", sent)
    assert done.acked == tuple(event["uuid"] for event in sent)
    assert (done.conflicts, done.rejected) == ((), ())
    cleared = said(5, op="clear", base_rev=done.rev)
    after = append(book, bob, mine.id, "tab", [cleared])
    found = task_labels(book, mine.id)
    assert {frame: one.ball for frame, one in found.items()} == {
        3: BallLabel(3, (11.5, 20.25), Visibility.CLEAR),
        4: BallLabel(4, None, Visibility.ABSENT),
    }
    rev, changed = labels(book, bob, mine.id, since=done.rev)
    assert rev == after.rev > done.rev
    assert [(one.frame, one.cleared) for one in changed] == [(5, True)]


def test_everything_that_was_said_comes_back(book: LabelBook, mine: Task, bob: User) -> None:
    sent = said(
        7, (-8.0, 727.5), visibility=2, event="bounce", blur_l=12.5, blur_theta=-0.5, source="model:accurate", score=0.5
    )
    append(book, bob, mine.id, "tab", [sent])
    one = task_labels(book, mine.id)[7]
    for name in ("x", "y", "visibility", "event", "blur_l", "blur_theta", "source", "score", "object"):
        assert getattr(one, name) == sent[name]
    assert one.user_id == bob.id


def test_an_event_sent_again_is_acknowledged_and_not_applied_twice(book: LabelBook, mine: Task, bob: User) -> None:
    first, second = said(1, (1.0, 1.0)), said(1, (2.0, 2.0), client_seq=1)
    append(book, bob, mine.id, "tab", [first, second, first])
    again = append(book, bob, mine.id, "tab", [first])
    assert again.acked == (first["uuid"],)
    assert task_labels(book, mine.id)[1].x == 2.0
    assert [event.uuid for event in history(book, mine.id, 1)] == [first["uuid"], second["uuid"]]


def test_what_another_tab_said_is_never_overwritten_unseen(book: LabelBook, mine: Task, bob: User) -> None:
    append(book, bob, mine.id, "tab 1", [said(1, (1.0, 1.0))])
    late = said(1, (9.0, 9.0))
    done = append(book, bob, mine.id, "tab 2", [late, said(2)])
    assert len(done.acked) == 1
    assert [(c.uuid, c.frame, c.current and c.current.x) for c in done.conflicts] == [(late["uuid"], 1, 1.0)]
    assert append(book, bob, mine.id, "tab 2", [late]).conflicts == done.conflicts, "a lost answer is given again"
    assert task_labels(book, mine.id)[1].x == 1.0
    assert [event.outcome for event in history(book, mine.id, 1)] == ["applied", "conflict"]
    seen = said(1, (9.0, 9.0), base_rev=done.conflicts[0].current.rev)
    assert append(book, bob, mine.id, "tab 2", [seen]).acked
    assert task_labels(book, mine.id)[1].x == 9.0


def test_a_clear_of_another_is_not_overwritten_unseen_either(book: LabelBook, mine: Task, bob: User) -> None:
    rev = append(book, bob, mine.id, "tab 1", [said(1)]).rev
    append(book, bob, mine.id, "tab 1", [said(1, op="clear", base_rev=rev)])
    done = append(book, bob, mine.id, "tab 2", [said(1, base_rev=rev)])
    assert done.conflicts[0].current is not None
    assert done.conflicts[0].current.cleared
    assert task_labels(book, mine.id) == {}


def test_two_people_on_one_task(book: LabelBook, mine: Task, bob: User, person: Person, clock: Any) -> None:
    eve = person("eve")
    clock.now += jobs.LEASE_S + 1  # bob went offline; eve took the task over
    assert jobs.claim(book, eve, mine.id).assignee == eve.id
    append(book, eve, mine.id, "eve's", [said(1, (50.0, 50.0))])
    done = append(book, bob, mine.id, "bob's", [said(1), said(2)])
    assert ([c.frame for c in done.conflicts], len(done.acked)) == ([1], 1)
    assert {frame: one.user_id for frame, one in task_labels(book, mine.id).items()} == {1: eve.id, 2: bob.id}


def test_a_late_event_of_the_same_client_does_not_win(book: LabelBook, mine: Task, bob: User) -> None:
    append(book, bob, mine.id, "tab", [said(1, (2.0, 2.0), client_seq=7)])
    late = said(1, (1.0, 1.0), client_seq=6)
    assert append(book, bob, mine.id, "tab", [late]).acked == (late["uuid"],)
    assert task_labels(book, mine.id)[1].x == 2.0
    assert [event.outcome for event in history(book, mine.id, 1)] == ["applied", "late"]


def test_a_client_that_counts_anew_is_heard_once_it_has_seen_the_label(book: LabelBook, mine: Task, bob: User) -> None:
    rev = append(book, bob, mine.id, "tab", [said(1, client_seq=99)]).rev
    append(book, bob, mine.id, "tab", [said(1, (3.0, 3.0), client_seq=0, base_rev=rev)])
    assert task_labels(book, mine.id)[1].x == 3.0


def test_undo_is_one_more_event(book: LabelBook, mine: Task, bob: User) -> None:
    for i, xy in enumerate([(1.0, 1.0), (2.0, 2.0)]):
        append(book, bob, mine.id, "tab", [said(1, xy, client_seq=i)])
    before = history(book, mine.id, 1)[-2]
    append(book, bob, mine.id, "tab", [said(1, (before.x, before.y), client_seq=2)])
    assert task_labels(book, mine.id)[1].x == 1.0
    assert [event.x for event in history(book, mine.id, 1)] == [1.0, 2.0, 1.0]


BAD = [
    {"x": math.nan},
    {"x": math.inf},
    {"x": 10**400},
    {"y": 720 + 16.0},
    {"x": -17.0},
    {"x": "10"},
    {"x": True},
    {"x": None},
    {"x": None, "y": None},
    {"visibility": 0},
    {"visibility": 4},
    {"visibility": 1.0},
    {"visibility": True},
    {"visibility": None},
    {"frame": 20},
    {"frame": -1},
    {"frame": 1.5},
    {"frame": None},
    {"op": "drop"},
    {"op": ["set"]},
    {"event": "smash"},
    {"event": {}},
    {"source": "import:" + "x" * 200},
    {"source": "import:a\0b"},
    {"source": "model:\ud800"},
    {"source": "magic"},
    {"object": "ball:0"},
    {"object": "ball:1\n"},
    {"score": 1.5},
    {"blur_l": 3.0},
    {"blur_l": -1.0, "blur_theta": 0.0},
    {"blur_theta": 4.0, "blur_l": 3.0},
    {"client_seq": 2**60},
    {"base_rev": -1},
    {"uuid": "1"},
    {"uuid": None},
    {"uuid": str(uuid.uuid4()).upper() + "0"},
]


@pytest.mark.parametrize("book_url", ["sqlite"], indirect=True)
def test_what_is_malformed_is_rejected_alone(book: LabelBook, mine: Task, bob: User) -> None:
    for bad in BAD:
        good = said(1)
        event = said(2) | bad
        done = append(book, bob, mine.id, "tab", [event, good])
        assert done.acked == (good["uuid"],), bad
        assert len(done.rejected) == 1, bad
        assert next(iter(bad)) in done.rejected[0].message or "fit" in done.rejected[0].message, bad
        assert "\n" not in done.rejected[0].message
    assert set(task_labels(book, mine.id)) == {1}
    assert len(append(book, bob, mine.id, "tab", [None, 3]).rejected) == 2  # type: ignore[list-item]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize("book_url", ["postgresql"], indirect=True)
@examples(20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_comes_is_stored_or_rejected(book: LabelBook, mine: Task, bob: User, data: st.DataObject) -> None:
    names = ["frame", "op", "x", "y", "visibility", "event", "source", "object", "score", "client_ts", "client_seq"]
    event = said(1) | data.draw(st.dictionaries(st.sampled_from(names), _JSON, max_size=3))
    done = append(book, bob, mine.id, "tab", [event])
    assert len(done.acked) + len(done.conflicts) + len(done.rejected) == 1


def test_too_many_events_and_no_client_are_refused(book: LabelBook, mine: Task, bob: User) -> None:
    with pytest.raises(BookError, match="expected up to 500"):
        append(book, bob, mine.id, "tab", [said(1)] * (MAX_EVENTS + 1))
    with pytest.raises(BookError, match="client_id"):
        append(book, bob, mine.id, "", [said(1)])


def test_a_full_call_keeps_its_order(book: LabelBook, mine: Task, bob: User) -> None:
    sent = [said(i % 20, (float(i), 0.0), client_seq=i) for i in range(MAX_EVENTS)]
    append(book, bob, mine.id, "tab", sent)
    assert {frame: one.x for frame, one in task_labels(book, mine.id).items()} == {i: 480.0 + i for i in range(20)}
    assert [event.x for event in history(book, mine.id, 3)] == [float(i) for i in range(3, 500, 20)]


def test_tasks_of_others_do_not_exist_for_annotators(
    book: LabelBook, mine: Task, admin: User, person: Person, bob: User
) -> None:
    eve = person("eve")
    for call in (
        lambda: append(book, eve, mine.id, "tab", [said(1)]),
        lambda: labels(book, eve, mine.id),
        lambda: append(book, bob, 10**9, "tab", [said(1)]),
    ):
        with pytest.raises(NotFound):
            call()
    assert append(book, admin, mine.id, "tab", [said(1)]).acked


def test_a_uuid_of_another_task_is_no_way_in(book: LabelBook, mine: Task, bob: User, make_job: MakeJob) -> None:
    event = said(1)
    append(book, bob, mine.id, "tab", [event])
    other = jobs.claim_next(book, bob, make_job(20).id)
    assert other is not None
    done = append(book, bob, other.id, "tab", [event])
    assert [one.uuid for one in done.rejected] == [event["uuid"]]
    assert task_labels(book, other.id) == {}


def test_a_submitted_task_takes_corrections_of_reviewers_alone(
    book: LabelBook, mine: Task, bob: User, person: Person, admin: User
) -> None:
    rita = person("rita", "reviewer")
    jobs.submit(book, bob, mine.id, allow_unlabelled=True)
    with pytest.raises(WrongState, match="is submitted"):
        append(book, bob, mine.id, "tab", [said(1)])
    assert append(book, rita, mine.id, "tab", [said(1)]).acked
    jobs.review(book, rita, mine.id, "approve")
    with pytest.raises(WrongState, match="is approved"):
        append(book, admin, mine.id, "tab", [said(1)])


def test_the_database_itself_refuses_to_change_what_was_said(book: LabelBook, mine: Task, bob: User) -> None:
    append(book, bob, mine.id, "tab", [said(1)])
    events = schema.annotation_event
    for change in (update(events).values(x=0.0), delete(events)):
        with pytest.raises(DBAPIError, match="append-only"), book.write() as connection:
            connection.execute(change)
    assert len(history(book, mine.id, 1)) == 1


def history(book: LabelBook, task_id: int, frame: int) -> Sequence[Row[Any]]:
    """All that was ever said of a frame, in order."""
    said_of = schema.annotation_event
    query = select(said_of).where(said_of.c.task_id == task_id, said_of.c.frame == frame).order_by(said_of.c.seq)
    with book.read() as connection:
        return connection.execute(query).all()


def _count(book: LabelBook) -> int:
    with book.read() as connection:
        return int(connection.scalar(select(func.count()).select_from(schema.annotation_event)) or 0)


def _send(url: str, bob: User, task_id: int, name: str, calls: int) -> None:
    with open_book(url) as book:
        threads = [
            threading.Thread(target=_append_many, args=(book, bob, task_id, f"{name}.{i}", calls)) for i in (0, 1)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _append_many(book: LabelBook, bob: User, task_id: int, client: str, calls: int) -> None:
    for i in range(calls):
        append(book, bob, task_id, client, [said(frame, (float(i), 1.0), client_seq=i) for frame in (0, 1, 2)])


def test_many_threads_and_processes_lose_nothing(book: LabelBook, book_url: str, mine: Task, bob: User) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_send, args=(book_url, bob, mine.id, str(i), 6), daemon=True) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert _count(book) == 2 * 2 * 6 * 3
    for frame in (0, 1, 2):
        said_of_it = history(book, mine.id, frame)
        applied = [event for event in said_of_it if event.outcome == "applied"]
        assert task_labels(book, mine.id)[frame].rev == applied[-1].seq
        for client in {event.client_id for event in said_of_it} - {applied[0].client_id}:
            assert {event.outcome for event in said_of_it if event.client_id == client} == {"conflict"}


def test_writers_of_a_task_take_turns(book: LabelBook, mine: Task, bob: User, admin: User) -> None:
    done: list[object] = []
    other = threading.Thread(target=lambda: done.append(append(book, admin, mine.id, "b", [said(1, (2.0, 2.0))])))
    with book.write() as connection:
        jobs.locked_for_work(book, connection, bob, mine.id)
        other.start()
        other.join(0.5)
        assert done == [], "revisions must become visible in their order"
    other.join(60)
    assert len(done) == 1


WRITER = """
import sys, itertools
from rallytrace.label import open_book
from rallytrace.label.events import append
from rallytrace.label.team import users
from tests.label.conftest import said
book = open_book(sys.argv[1])
bob = next(one for one in users(book) if one.id == int(sys.argv[2]))
for i in itertools.count():
    event = said(i % 20, client_seq=i)
    assert append(book, bob, int(sys.argv[3]), "tab", [event]).acked
    print(event["uuid"], flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(book: LabelBook, book_url: str, mine: Task, bob: User) -> None:
    command = [sys.executable, "-c", WRITER, book_url, str(bob.id), str(mine.id)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acked = [process.stdout.readline().strip() for _ in range(25)]
        os.kill(process.pid, signal.SIGKILL)
        acked += process.stdout.read().split()
    stored = {event.uuid for frame in range(20) for event in history(book, mine.id, frame)}
    assert len(acked) >= 25
    assert set(acked) <= stored
    assert append(book, bob, mine.id, "tab", [said(0, client_seq=10**6)]).acked


def test_a_job_is_exported_by_video_with_what_is_missing(book: LabelBook, make_job: MakeJob, bob: User) -> None:
    job = make_job(20, sequence_length=10)
    for start in (0, 10):
        task = jobs.claim_next(book, bob, job.id)
        assert task is not None
        append(book, bob, task.id, "tab", [said(start + i) for i in range(8)])
    (found,) = job_labels(book, job.id)
    assert (found.frames, found.unlabelled) == (20, (8, 9, 18, 19))
    assert sorted(found.labels) == [*range(8), *range(10, 18)]
    assert found.video.n_frames == 20


def test_import_fills_what_is_unlabelled_and_says_where_it_comes_from(
    book: LabelBook, make_job: MakeJob, bob: User, admin: User
) -> None:
    job = make_job(20, sequence_length=10)
    task = jobs.claim_next(book, bob, job.id)
    assert task is not None
    append(book, bob, task.id, "tab", [said(0)])
    found = {f: BallLabel(f, (float(f), 5.0)) for f in range(12)} | {
        12: BallLabel(12, (5000.0, 0.0)),
        30: BallLabel(30, (0.0, 0.0)),
    }
    found[3] = BallLabel(3, None, Visibility.ABSENT)
    assert import_labels(book, admin, job.id, task.video_id, found, "a.csv") == (11, 3)
    assert import_labels(book, admin, job.id, task.video_id, found, "a.csv") == (0, 14)
    (video,) = job_labels(book, job.id)
    assert {frame: one.ball for frame, one in video.labels.items() if frame} == {f: found[f] for f in range(1, 12)}
    assert {one.source for frame, one in video.labels.items() if frame} == {"import:a.csv"}
    assert video.labels[0].source == "manual"
    with pytest.raises(NotAllowed):
        import_labels(book, bob, job.id, task.video_id, found, "a.csv")
    append(book, bob, task.id, "tab", [said(2) | {"op": "clear", "base_rev": video.labels[2].rev}])
    assert import_labels(book, admin, job.id, task.video_id, found, "a.csv") == (1, 13)  # cleared is unlabelled


def test_import_loses_nothing_that_the_book_can_hold(book: LabelBook, make_job: MakeJob, admin: User) -> None:
    job = make_job(20)
    first = BallLabel(0, (1.0, 5.0))
    extra = Extra(event="hit", score=0.9, blur=(3.0, 0.5))
    turned = Extra(event="bounce", blur=(2.0, 4.0))
    found = LabelSet("a", {0: first, 1: BallLabel(1, (2.0, 5.0))}, {0: extra, 1: turned})
    (video,) = job_labels(book, job.id)
    assert import_set(book, admin, job.id, video.video.id, found, "a.csv") == (2, 0, 0, 0)
    (exported,) = label_sets(job_labels(book, job.id))
    assert exported.labels == found.labels
    assert exported.extras[0] == replace(extra, source="import:a.csv")
    assert (exported.extras[1].event, exported.extras[1].blur) == ("bounce", (2.0, pytest.approx(4.0 - 2 * math.pi)))


def test_what_is_exported_finds_its_video_again(book: LabelBook, admin: User) -> None:
    names = ("Final 2024.mp4", "Halb: 1.mp4")
    videos = [ready_video(book, name, 5) for name in names]
    job = jobs.create_job(book, admin, name="rallies", video_ids=[video.id for video in videos])
    sets = label_sets(job_labels(book, job.id))
    assert [[is_of(each, name) for name in names] for each in sets] == [[True, False], [False, True]]


def test_a_revision_that_nobody_was_shown_is_no_ticket(
    book: LabelBook, mine: Task, bob: User, person: Person, clock: Any
) -> None:
    """A script may claim any base revision: a label of another is overwritten by who saw it alone."""
    eve = person("eve")
    rev = append(book, bob, mine.id, "bob's", [said(frame, (50.0, 50.0)) for frame in range(5)]).rev
    clock.now += jobs.LEASE_S + 1
    jobs.claim(book, eve, mine.id)

    def sent(frame: int, base_rev: int) -> Any:
        event = said(frame, base_rev=base_rev)
        return append(book, eve, mine.id, "eve's", [event], checked=True)

    answered = sent(9, 0).rev
    assert answered > rev
    for frame, claimed in enumerate((2**53, rev + 1000, rev, answered)):
        assert [one.frame for one in sent(frame, claimed).conflicts] == [frame], claimed
    assert append(book, eve, mine.id, "eve's", [said(4, base_rev=2**53)]).conflicts, "nor where nothing is checked"
    assert {label.x for frame, label in task_labels(book, mine.id).items() if frame < 5} == {50.0}
    assert labels(book, eve, mine.id, since=2**40) == (2**40, [])
    latest = append(book, bob, mine.id, "bob's", [said(10), said(11)]).rev
    assert [one.frame for one in labels(book, eve, mine.id, since=latest - 1)[1]] == [11]
    assert sent(10, latest).conflicts, "she skipped it"
    assert labels(book, eve, mine.id)[0] == latest
    assert sent(11, latest).acked
    fresh = append(book, bob, mine.id, "bob's", [said(12, (60.0, 60.0))]).rev
    assert sent(12, fresh).conflicts, "it came after she looked"
    assert sent(12, fresh).acked, "the conflict showed her the label"


def test_who_declined_a_task_is_out_of_it(book: LabelBook, mine: Task, bob: User, admin: User, clock: Any) -> None:
    append(book, bob, mine.id, "tab", [said(1)])
    jobs.decline(book, bob, mine.id, "too dark")
    clock.now += 60
    for call in (
        lambda: append(book, bob, mine.id, "tab", [said(2)]),
        lambda: labels(book, bob, mine.id),
        lambda: jobs.add_active(book, bob, mine.id, 1),
        lambda: jobs.claim(book, bob, mine.id),
        lambda: jobs.submit(book, bob, mine.id),
    ):
        with pytest.raises(NotFound):
            call()
    assert set(task_labels(book, mine.id)) == {1}
    jobs.assign(book, admin, mine.id, bob.id)
    assert append(book, bob, mine.id, "tab", [said(2)]).acked, "an admin gave it back"
