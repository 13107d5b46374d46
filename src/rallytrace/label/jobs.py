"""Jobs cut into sequences, and the life of their tasks: claimed under a lease, submitted, reviewed; nothing is lost.

available -> claimed -> submitted -> approved, or returned to the same person with a comment; release makes a task
available again with its work, decline hands it to an admin. A lease that runs out makes the task claimable.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, case, exists, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from rallytrace.label import schema
from rallytrace.label.book import BookError, LabelBook, NotAllowed, NotFound, WrongState, as_row, bounded_text, inserted
from rallytrace.label.gold import Stretch, Tests, draw
from rallytrace.label.schema import annotation_event, label, member, participation, sequence, video
from rallytrace.label.team import User

KINDS = ("label", "adjust", "verify")
STATES = ("available", "claimed", "submitted", "approved", "returned", "declined")
HELD_STATES = ("claimed", "returned")
OPEN_STATES = ("available", "claimed", "returned", "declined")
BALL = "ball:1"  # the object that a task asks for
LEASE_S = 30 * 60.0
MAX_TASKS = 20_000  # of one job
MAX_REPLICAS = 10
MAX_HEARTBEAT_S = 300.0
MAX_MARKED = 1000  # frames that a reviewer points at

_task = schema.task
_job = schema.job


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked of the team. `sequence_length` is in frames, 0 for whole videos."""

    id: int
    name: str
    instructions: str
    kind: str
    replicas: int
    gold_fraction: float
    sequence_length: int
    created: float


@dataclass(frozen=True, slots=True)
class Task:
    """One person's share: the frames [start, stop) of a video. `labelled` of its `frames` have a label.

    `lease_until` None means that the task stays with its assignee. `is_gold` is blanked for annotators.
    """

    id: int
    job_id: int
    job_name: str
    kind: str
    video_id: int
    video_name: str
    sequence_id: int
    start: int
    stop: int
    replica: int
    state: str
    assignee: int | None
    lease_until: float | None
    accepted_at: float | None
    submitted_at: float | None
    comment: str
    labelled: int
    active_s: float
    is_gold: bool

    @property
    def frames(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Review:
    """A verdict, approve or return, on a task; `frames` are those that the reviewer points at."""

    id: int
    task_id: int
    reviewer: int
    verdict: str
    comment: str
    frames: tuple[int, ...]
    created: float


@dataclass(frozen=True, slots=True)
class PersonProgress:
    """`labels` counts frames, however often one was corrected. `labels_per_min` is of active time; None without any."""

    user_id: int
    name: str
    labels: int
    active_s: float
    labels_per_min: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """Of a job, or of a person's share of it, in frames; with replicas every replica's frames count."""

    frames: int
    labelled: int
    approved: int
    tasks_by_state: dict[str, int]
    per_person: tuple[PersonProgress, ...]


def create_job(
    book: LabelBook,
    by: User,
    *,
    name: str,
    video_ids: Sequence[int],
    instructions: str = "",
    kind: str = "label",
    sequence_length: int = 600,
    replicas: int = 1,
    gold_fraction: float = 0.0,
) -> Job:
    """Cuts the videos into sequences of `sequence_length` frames (0: whole videos), each labelled `replicas` times.

    `gold_fraction` of the sequences are hidden tests: tasks whose frames are approved in an earlier job, of the same
    videos first; fewer where fewer are approved. Admins only. Raises BookError, NotFound.
    """
    by.must_administer()
    values: dict[str, Any] = {
        "name": bounded_text(name, "the name of the job", 100),
        "instructions": bounded_text(instructions, "the instructions", 20_000, lines=True, empty=True),
        "kind": kind,
        "replicas": replicas,
        "gold_fraction": float(gold_fraction),
        "sequence_length": sequence_length,
        "created": book.clock(),
    }
    if kind not in KINDS:
        raise BookError(f"the kind of a job is one of {', '.join(KINDS)}, got {str(kind)[:40]!r}")
    if not (1 <= replicas <= MAX_REPLICAS and 0 <= sequence_length <= 10**9 and 0 <= gold_fraction <= 1):
        got = f"got {replicas}, {sequence_length} and {gold_fraction}"
        raise BookError(f"expected 1 to {MAX_REPLICAS} replicas, sequence length >= 0, gold fraction 0 to 1, {got}")
    with book.write() as connection:
        job_id = inserted(connection, _job, values | {"created_by": by.id})
        ranges = _cut(connection, list(dict.fromkeys(video_ids)), sequence_length)
        if not 1 <= len(ranges) * replicas <= MAX_TASKS:
            raise BookError(f"the job would have {len(ranges) * replicas} tasks, expected 1 to {MAX_TASKS}")
        made = insert(sequence).returning(sequence.c.id, sort_by_parameter_order=True)
        ids = list(connection.scalars(made, ranges))
        work = [Stretch(found, **part) for found, part in zip(ids, ranges, strict=True)]
        tests = draw(connection, work, math.ceil(gold_fraction * len(work)), may_add=kind == "label")
        _add_tasks(connection, job_id, work, tests, replicas)
    return Job(job_id, **values)


def _cut(connection: Connection, video_ids: list[int], length: int) -> list[dict[str, int]]:
    """Rows of even parts: 1,250 frames by 600 are three of 417, 417 and 416, not a rest of 50."""
    ranges = []
    for video_id in video_ids:
        row = connection.execute(select(video.c.n_frames, video.c.state).where(video.c.id == video_id)).first()
        if row is None:
            raise NotFound(f"there is no video {video_id}")
        if row.state != "ready":
            raise WrongState(f"video {video_id} is {row.state}, expected one that is imported")
        parts = 1 if length == 0 else math.ceil(row.n_frames / length)
        edges = [row.n_frames * i // parts for i in range(parts + 1)]
        ranges += [{"video_id": video_id, "start": start, "stop": stop} for start, stop in pairwise(edges)]
    return ranges


def _add_tasks(connection: Connection, job_id: int, work: Sequence[Stretch], tests: Tests, replicas: int) -> None:
    """In the order of the videos, the tests that are added at places that nobody can guess."""
    places: list[dict[str, Any]] = [
        {"sequence_id": part.sequence_id, "gold_of": tests.own.get(part.sequence_id), "work": True} for part in work
    ]
    for sequence_id, truth in tests.added.items():
        place = random.SystemRandom().randrange(len(places) + 1)
        places.insert(place, {"sequence_id": sequence_id, "gold_of": truth, "work": False})
    fixed = {"job_id": job_id, "state": "available", "comment": ""}
    rows = [place | fixed | {"replica": replica} for replica in range(replicas) for place in places]
    connection.execute(insert(_task), rows)


def jobs(book: LabelBook, after: int = 0, limit: int = 1000) -> list[Job]:
    """By id, those after `after`."""
    return book.page(Job, select(_job), _job.c.id, after, limit)


def job(book: LabelBook, job_id: int) -> Job:
    """Raises NotFound."""
    return book.row(Job, select(_job).where(_job.c.id == job_id), f"job {job_id}")


def _of_task(what: Any, *where: ColumnElement[bool]) -> Any:
    return select(what).where(*where).correlate(_task).scalar_subquery()


_JOINED = _task.join(_job).join(sequence).join(video)
_RANGE = (sequence.c.video_id, sequence.c.start, sequence.c.stop)
_NAMES = (_job.c.name.label("job_name"), _job.c.kind, video.c.name.label("video_name"))
_HAS_LABEL = (label.c.task_id == _task.c.id, label.c.object == BALL, label.c.visibility.is_not(None))
_ACTIVE_S = func.coalesce(func.sum(participation.c.active_s), 0.0)
_TASKS = select(
    _task,
    *_RANGE,
    *_NAMES,
    _of_task(func.count(), *_HAS_LABEL).label("labelled"),
    _of_task(_ACTIVE_S, participation.c.task_id == _task.c.id).label("active_s"),
    _task.c.gold_of.is_not(None).label("is_gold"),
).select_from(_JOINED)


def _worked_on(user: User, *more: ColumnElement[bool]) -> ColumnElement[bool]:
    mine = (participation.c.task_id == _task.c.id, participation.c.user_id == user.id)
    return exists().where(*mine, *more).correlate(_task)


def _still_on(user: User) -> ColumnElement[bool]:
    """Worked on the task, and did not decline it."""
    return _worked_on(user, ~participation.c.declined)


def _claimable(book: LabelBook, user: User) -> ColumnElement[bool]:
    """Free, not a second replica for this person, not declined by them, and no added test of their own work."""
    free = or_(_task.c.state == "available", and_(_task.c.state == "claimed", _task.c.lease_until < book.clock()))
    same = and_(participation.c.job_id == _task.c.job_id, participation.c.sequence_id == _task.c.sequence_id)
    barred = or_(participation.c.task_id != _task.c.id, participation.c.declined)
    taken = exists().where(same, participation.c.user_id == user.id, barred).correlate(_task)
    own = exists().where(~_task.c.work, participation.c.task_id == _task.c.gold_of, participation.c.user_id == user.id)
    return and_(free, ~taken, ~own.correlate(_task))


def tasks(
    book: LabelBook,
    user: User,
    *,
    job_id: int | None = None,
    state: str | None = None,
    mine: bool = False,
    after: int = 0,
    limit: int = 1000,
) -> list[Task]:
    """By id, those after `after`. Annotators see their own and those that they could claim."""
    query = _TASKS
    if job_id is not None:
        query = query.where(_task.c.job_id == job_id)
    if state is not None:
        if state not in STATES:
            raise BookError(f"a state is one of {', '.join(STATES)}, got {state[:40]!r}")
        query = query.where(_task.c.state == state)
    if mine:
        query = query.where(_task.c.assignee == user.id)
    elif not user.reviews:
        query = query.where(or_(_task.c.assignee == user.id, _claimable(book, user)))
    return [_shown(found, user) for found in book.page(Task, query, _task.c.id, after, limit)]


def task(book: LabelBook, user: User, task_id: int) -> Task:
    """Raises NotFound, also for an annotator who never worked on it."""
    with book.read() as connection:
        return _read_task(connection, user, task_id)


def copies(book: LabelBook, of: Task) -> list[int]:
    """The ids of the other tasks of the job for the same frames."""
    same = (_task.c.job_id == of.job_id, _task.c.sequence_id == of.sequence_id, _task.c.id != of.id)
    with book.read() as connection:
        return list(connection.scalars(select(_task.c.id).where(*same).order_by(_task.c.id)))


def _read_task(connection: Connection, user: User, task_id: int) -> Task:
    query = _TASKS.where(_task.c.id == task_id)
    if not user.reviews:
        query = query.where(or_(_task.c.assignee == user.id, _still_on(user)))
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound(f"there is no task {task_id}")
    return _shown(as_row(Task, row), user)


def _shown(found: Task, user: User) -> Task:
    return found if user.reviews else replace(found, is_gold=False)


def _locked(connection: Connection, user: User, task_id: int) -> RowMapping:
    """The task, its range and the picture's size, and whether `user` worked on it; no other writer until the commit.

    Raises NotFound, also for an annotator who never worked on it, or who declined it.
    """
    part = (_worked_on(user).label("worked_on"), _still_on(user).label("still_on"))
    query = (
        select(_task, *_RANGE, video.c.w, video.c.h, *part)
        .select_from(_JOINED)
        .where(_task.c.id == task_id)
        .with_for_update(of=_task)
    )
    row = connection.execute(query).mappings().first()
    if row is None or not (user.reviews or row["assignee"] == user.id or row["still_on"]):
        raise NotFound(f"there is no task {task_id}")
    return row


def _expect(row: RowMapping, action: str, states: Iterable[str]) -> None:
    if row["state"] not in states:
        raise WrongState(f"task {row['id']} is {row['state']}, expected {' or '.join(states)} to {action} it")


def locked_for_work(book: LabelBook, connection: Connection, user: User, task_id: int) -> RowMapping:
    """The task, locked, for `user` to write labels into; the assignee's lease is renewed.

    Whoever worked on it may still send what they labelled, until it is submitted, but not who declined it; reviewers
    may correct it until it is approved. Raises NotFound, WrongState.
    """
    row = _locked(connection, user, task_id)
    _expect(row, "label", (*OPEN_STATES, "submitted") if user.reviews else OPEN_STATES)
    if row["assignee"] == user.id and row["lease_until"] is not None:
        _set(connection, task_id, lease_until=book.clock() + LEASE_S)
    return row


def _set(connection: Connection, task_id: int, **values: Any) -> None:
    connection.execute(update(_task).where(_task.c.id == task_id).values(values))


def _own(connection: Connection, user: User, task_id: int, action: str) -> RowMapping:
    row = _locked(connection, user, task_id)
    if row["assignee"] != user.id:
        raise WrongState(f"task {task_id} is not yours; take one that is available")
    _expect(row, action, HELD_STATES)
    return row


def claim_next(book: LabelBook, user: User, job_id: int | None = None) -> Task | None:
    """The next task that is free for `user` (of `job_id`, or of any job), theirs for half an hour; None without one."""
    order = case((_task.c.state == "available", 0), else_=1)  # abandoned ones last
    wanted = [_claimable(book, user), *([] if job_id is None else [_task.c.job_id == job_id])]
    first = select(_task).where(*wanted).order_by(order, _task.c.id).limit(1)
    query = first.with_for_update(skip_locked=True, of=_task)
    for _ in range(MAX_REPLICAS):
        try:
            with book.write() as connection:
                row = connection.execute(query).mappings().first()
                if row is None:
                    return None
                _take(book, connection, user.id, row)
                return _read_task(connection, user, row["id"])
        except IntegrityError:
            continue  # the same person took another replica of the sequence at the same moment
    raise WrongState("the tasks are being claimed by many at once; try again")


def claim(book: LabelBook, user: User, task_id: int) -> Task:
    """This very task; what is theirs already is renewed. Raises NotFound where `user` may not have it."""
    query = select(_task).where(_task.c.id == task_id, _claimable(book, user)).with_for_update(of=_task)
    try:
        with book.write() as connection:
            row = connection.execute(query).mappings().first()
            if row is not None:
                _take(book, connection, user.id, row)
                return _read_task(connection, user, task_id)
    except IntegrityError as error:
        raise WrongState(f"you work on another copy of task {task_id} already") from error
    return renew(book, user, task_id)


def _take(book: LabelBook, connection: Connection, user_id: int, row: RowMapping, *, leased: bool = True) -> None:
    now = book.clock()
    lease = now + LEASE_S if leased else None
    _set(connection, row["id"], state="claimed", assignee=user_id, lease_until=lease, accepted_at=now)
    mine = and_(participation.c.task_id == row["id"], participation.c.user_id == user_id)
    values = {"declined": False, "last_active": now}
    if not connection.execute(update(participation).where(mine).values(values)).rowcount:
        values |= {"job_id": row["job_id"], "sequence_id": row["sequence_id"], "user_id": user_id}
        connection.execute(insert(participation).values(values | {"task_id": row["id"], "active_s": 0.0}))


def renew(book: LabelBook, user: User, task_id: int) -> Task:
    """Half an hour more. Raises WrongState where another has claimed the task since."""
    with book.write() as connection:
        if _own(connection, user, task_id, "renew")["lease_until"] is not None:
            _set(connection, task_id, lease_until=book.clock() + LEASE_S)
        return _read_task(connection, user, task_id)


def release(book: LabelBook, user: User, task_id: int) -> Task:
    """Available to others again, with the work that was done. One's own; reviewers and admins anyone's."""
    with book.write() as connection:
        if user.reviews:
            _expect(_locked(connection, user, task_id), "release", (*HELD_STATES, "declined"))
        else:
            _own(connection, user, task_id, "release")
        _set(connection, task_id, state="available", assignee=None, lease_until=None)
        return _read_task(connection, user, task_id)


def submit(book: LabelBook, user: User, task_id: int, *, allow_unlabelled: bool = False) -> Task:
    """To the reviewers. Raises WrongState where frames are unlabelled, unless they are allowed."""
    with book.write() as connection:
        _own(connection, user, task_id, "submit")
        found = _read_task(connection, user, task_id)
        if found.labelled < found.frames and not allow_unlabelled:
            missing = found.frames - found.labelled
            raise WrongState(f"{missing} of {found.frames} frames are unlabelled; label them, or allow it and submit")
        _set(connection, task_id, state="submitted", lease_until=None, submitted_at=book.clock())
        return _read_task(connection, user, task_id)


def decline(book: LabelBook, user: User, task_id: int, reason: str = "") -> None:
    """Hands the task to an admin, who assigns or releases it; its work stays, and it never comes back by itself."""
    reason = bounded_text(reason, "the reason", 2000, lines=True, empty=True)
    with book.write() as connection:
        _own(connection, user, task_id, "decline")
        _set(connection, task_id, state="declined", assignee=None, lease_until=None, comment=reason)
        mine = and_(participation.c.task_id == task_id, participation.c.user_id == user.id)
        connection.execute(update(participation).where(mine).values(declined=True))


def assign(book: LabelBook, by: User, task_id: int, user_id: int) -> Task:
    """Gives the task to a member, without a lease that runs out. Reviewers and admins."""
    by.must_review()
    try:
        with book.write() as connection:
            row = _locked(connection, by, task_id)
            _expect(row, "assign", OPEN_STATES)
            if not connection.scalar(select(member.c.active).where(member.c.id == user_id)):
                raise NotFound(f"there is no active user {user_id}")
            own = and_(participation.c.task_id == row["gold_of"], participation.c.user_id == user_id)
            if not row["work"] and connection.scalar(select(participation.c.user_id).where(own)) is not None:
                raise WrongState(f"user {user_id} made the labels that task {task_id} tests")
            _take(book, connection, user_id, row, leased=False)
            return _read_task(connection, by, task_id)
    except IntegrityError as error:
        raise WrongState(f"user {user_id} works on another copy of task {task_id} already") from error


def review(
    book: LabelBook, by: User, task_id: int, verdict: str, comment: str = "", frames: Sequence[int] = ()
) -> Task:
    """`approve` a submitted task, or `return` it, also an approved one, to its assignee with a comment.

    Nobody but an admin reviews own work. Raises NotAllowed, WrongState, BookError.
    """
    comment = bounded_text(comment, "the comment", 5000, lines=True, empty=verdict == "approve")
    if verdict not in ("approve", "return"):
        raise BookError(f"a verdict is approve or return, got {str(verdict)[:40]!r}")
    if len(frames) > MAX_MARKED or not all(type(frame) is int for frame in frames):
        raise BookError(f"expected up to {MAX_MARKED} frame numbers to point at")
    by.must_review()
    with book.write() as connection:
        row = _locked(connection, by, task_id)
        _expect(row, verdict, ("submitted",) if verdict == "approve" else ("submitted", "approved"))
        if row["worked_on"] and by.role != "admin":
            raise NotAllowed("nobody reviews own work; leave it to another reviewer")
        state = "approved" if verdict == "approve" else "returned"
        _set(connection, task_id, state=state, comment=comment)
        values = {"task_id": task_id, "reviewer": by.id, "verdict": verdict, "comment": comment}
        values |= {"frames": json.dumps(list(frames)), "created": book.clock()}
        connection.execute(insert(schema.review).values(values))
        return _read_task(connection, by, task_id)


def reviews(book: LabelBook, user: User, task_id: int) -> list[Review]:
    """Of a task that `user` may see, oldest first. Raises NotFound."""
    query = select(schema.review).where(schema.review.c.task_id == task_id).order_by(schema.review.c.id)
    with book.read() as connection:
        _read_task(connection, user, task_id)
        found = [as_row(Review, row) for row in connection.execute(query).mappings()]
    return [replace(row, frames=tuple(json.loads(str(row.frames)))) for row in found]


def add_active(book: LabelBook, user: User, task_id: int, seconds: float) -> float:
    """How much of `seconds` of active work is granted: no more than have passed since the last report, or 5 minutes."""
    if not (isinstance(seconds, int | float) and math.isfinite(seconds) and seconds >= 0):
        raise BookError(f"active seconds must be a number of at least 0, got {str(seconds)[:40]}")
    mine = and_(participation.c.task_id == task_id, participation.c.user_id == user.id, ~participation.c.declined)
    with book.write() as connection:
        last = connection.scalar(select(participation.c.last_active).where(mine).with_for_update())
        if last is None:
            raise NotFound(f"there is no task {task_id}")
        now = book.clock()
        granted: float = max(0.0, min(float(seconds), now - last, MAX_HEARTBEAT_S))
        values = {"active_s": participation.c.active_s + granted, "last_active": now}
        connection.execute(update(participation).where(mine).values(values))
    return granted


def progress(book: LabelBook, job_id: int, user: User | None = None) -> Progress:
    """Of all tasks of the job; for an annotator, of their own alone. Raises NotFound."""
    job(book, job_id)
    query = _TASKS.where(_task.c.job_id == job_id)
    alone = user is not None and not user.reviews
    if user is not None and alone:
        query = query.where(_task.c.assignee == user.id)
    rows = query.subquery()
    with book.read() as connection:
        found = connection.execute(select(rows.c.state, rows.c.labelled, rows.c.start, rows.c.stop)).all()
        people = _per_person(connection, job_id)
    if user is not None and alone:
        people = tuple(person for person in people if person.user_id == user.id)
    frames = sum(row.stop - row.start for row in found)
    labelled = sum(row.labelled for row in found)
    approved = sum(row.stop - row.start for row in found if row.state == "approved")
    return Progress(frames, labelled, approved, dict(Counter(row.state for row in found)), people)


def _per_person(connection: Connection, job_id: int) -> tuple[PersonProgress, ...]:
    """Everyone who took part in a job, by id. Imported labels are nobody's work."""
    events = annotation_event
    by_hand = and_(events.c.op == "set", events.c.outcome == "applied", ~events.c.source.startswith("import:"))
    once = select(events.c.user_id, events.c.task_id, events.c.frame).distinct()
    made = once.join(_task).where(_task.c.job_id == job_id, by_hand).subquery()
    counted = select(made.c.user_id, func.count()).group_by(made.c.user_id)
    labels = {row[0]: int(row[1]) for row in connection.execute(counted)}
    busy = select(participation.c.user_id, func.sum(participation.c.active_s)).group_by(participation.c.user_id)
    active = {row[0]: float(row[1]) for row in connection.execute(busy.where(participation.c.job_id == job_id))}
    names = select(member.c.id, member.c.name).where(member.c.id.in_([*labels, *active])).order_by(member.c.id)
    people = [(row.id, row.name, labels.get(row.id, 0), active.get(row.id, 0.0)) for row in connection.execute(names)]
    return tuple(PersonProgress(*person, person[2] / person[3] * 60 if person[3] else None) for person in people)
