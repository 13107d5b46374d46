"""What was said of each frame, in the order in which it was said: append-only events, and the labels they leave.

A frame of a task has three states: unlabelled (no label, or a cleared one), absent (visibility 0, no place), located.
Every event is stored. It is not applied where it would silently overwrite what its author had not seen: a label of
another person or browser tab that is newer than `base_rev` makes it a conflict. Undo is one more event.
"""

from __future__ import annotations

import math
import re
import uuid as uuids
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, delete, func, insert, select, tuple_
from sqlalchemy.exc import IntegrityError

from rallytrace.label import schema
from rallytrace.label.book import BookError, LabelBook, NotAllowed, Video, WrongState, as_row, bounded_text
from rallytrace.label.jobs import BALL, OPEN_STATES, job, locked_for_work, task
from rallytrace.label.schema import annotation_event, label
from rallytrace.label.team import User
from rallytrace.types import BallLabel, Visibility

MAX_EVENTS = 500  # of one call
MARGIN_PX = 16.0  # how far outside the picture a ball may be
BALL_EVENTS = ("", "hit", "bounce")
MAX_LABELS = 100_000  # of one call

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OBJECT = re.compile(r"ball:[1-9][0-9]{0,2}")
_SOURCE = re.compile(r"manual|accepted|nudged|tracker|interpolated|(model|import):.+", re.DOTALL)
_WHOLE = 2**53


@dataclass(frozen=True, slots=True)
class Label:
    """What holds now of one frame. `visibility` None: cleared, so unlabelled again, but with a revision.

    `x`, `y` are source pixels; `blur_l` is half the length of the streak in source pixels, `blur_theta` its angle in
    radians from the x axis to the y axis. `rev` grows with every event of the book.
    """

    frame: int
    object: str
    visibility: int | None
    x: float | None
    y: float | None
    event: str
    blur_l: float | None
    blur_theta: float | None
    source: str
    score: float | None
    rev: int
    user_id: int

    @property
    def cleared(self) -> bool:
        return self.visibility is None

    @property
    def ball(self) -> BallLabel:
        """For training and evaluation. Not for a cleared label."""
        xy = None if self.x is None or self.y is None else (self.x, self.y)
        return BallLabel(self.frame, xy, Visibility(self.visibility or 0))


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the history. `outcome`: applied, conflict, or late (a newer one of the same client was first)."""

    seq: int
    uuid: str
    frame: int
    object: str
    op: str
    visibility: int | None
    x: float | None
    y: float | None
    event: str
    blur_l: float | None
    blur_theta: float | None
    source: str
    score: float | None
    user_id: int
    client_id: str
    client_seq: int
    base_rev: int
    outcome: str
    server_ts: float


@dataclass(frozen=True, slots=True)
class Conflict:
    """An event that is stored, but would have overwritten `current` unseen."""

    uuid: str
    frame: int
    current: Label | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that is malformed and was not stored."""

    uuid: str
    message: str


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of each event of a call; every uuid is in one of the three. `rev` is the task's newest revision."""

    acked: tuple[str, ...]
    conflicts: tuple[Conflict, ...]
    rejected: tuple[Rejected, ...]
    rev: int


@dataclass(frozen=True, slots=True)
class VideoLabels:
    """What a job knows of one video: its labels, how many frames it asks for, and which of them have no label."""

    video: Video
    labels: dict[int, Label]
    frames: int
    unlabelled: tuple[int, ...]


# In the order of the fields: thousands at once are made without looking each column up.
_LABELS = select(*(label.c[field.name] for field in fields(Label)))


def append(book: LabelBook, user: User, task_id: int, client_id: str, events: Sequence[Mapping[str, Any]]) -> Appended:
    """Stores `events` (as they come from JSON) in their order and applies them; once only for each uuid.

    A malformed event is rejected alone. When this returns, what was accepted survives a crash. Raises NotFound,
    WrongState (the task is closed), BookError (too many events, no client id).
    """
    client_id = bounded_text(client_id, "client_id", 64)
    if len(events) > MAX_EVENTS:
        raise BookError(f"{len(events)} events at once, expected up to {MAX_EVENTS}")
    try:
        with book.write() as connection:
            return _append(book, connection, user, task_id, client_id, events)
    except IntegrityError:  # an event of the same uuid went into another task at the same moment; now it is known
        with book.write() as connection:
            return _append(book, connection, user, task_id, client_id, events)


def _append(
    book: LabelBook,
    connection: Connection,
    user: User,
    task_id: int,
    client_id: str,
    events: Sequence[Mapping[str, Any]],
) -> Appended:
    row = locked_for_work(book, connection, user, task_id)
    parsed, rejected = _parse_all(events, row)
    known = _known(connection, [event["uuid"] for event in parsed])
    current = _current(connection, task_id, {event["frame"] for event in parsed})
    fixed = {"task_id": task_id, "user_id": user.id, "client_id": client_id, "server_ts": book.clock()}
    newest: dict[tuple[int, str], Mapping[Any, Any]] = {key: row for key, row in current.items()}  # noqa: C416
    fresh: list[dict[str, Any]] = []
    outcomes: dict[str, tuple[tuple[int, str], str]] = {}
    for event in parsed:
        key = (event["frame"], event["object"])
        old = known.get(event["uuid"])
        if old is not None and (old["task_id"], old["user_id"]) != (task_id, user.id):
            rejected.append(Rejected(event["uuid"], "this uuid belongs to another event; make a new one"))
        elif old is not None:
            outcomes[event["uuid"]] = (key, old["outcome"])
        elif event["uuid"] not in outcomes:
            made = event | fixed
            made["outcome"] = _outcome(made, newest.get(key))
            fresh.append(made)
            outcomes[event["uuid"]] = (key, made["outcome"])
            if made["outcome"] == "applied":
                newest[key] = made
    _store(connection, task_id, fresh)
    lost = {uuid: key for uuid, (key, outcome) in outcomes.items() if outcome == "conflict"}
    now = {
        key: as_row(Label, found) for key, found in _current(connection, task_id, {f for f, _ in lost.values()}).items()
    }
    conflicts = tuple(Conflict(uuid, key[0], now.get(key)) for uuid, key in lost.items())
    acked = tuple(uuid for uuid in outcomes if uuid not in lost)
    return Appended(acked, conflicts, tuple(rejected), _revision(connection, task_id))


def _outcome(event: Mapping[str, Any], current: Mapping[str, Any] | None) -> str:
    # The labels of this very call have no revision yet: nobody can have seen them.
    if current is None or event["base_rev"] >= current.get("rev", math.inf):
        return "applied"
    if (current["user_id"], current["client_id"]) != (event["user_id"], event["client_id"]):
        return "conflict"
    return "late" if event["client_seq"] < current["client_seq"] else "applied"


def _known(connection: Connection, wanted: list[str]) -> dict[str, RowMapping]:
    columns = (annotation_event.c.uuid, annotation_event.c.task_id, annotation_event.c.user_id)
    query = select(*columns, annotation_event.c.outcome).where(annotation_event.c.uuid.in_(wanted))
    return {row["uuid"]: row for row in connection.execute(query).mappings()}


def _current(connection: Connection, task_id: int, frames: set[int]) -> dict[tuple[int, str], RowMapping]:
    query = select(label).where(label.c.task_id == task_id, label.c.frame.in_(frames))
    return {(row["frame"], row["object"]): row for row in connection.execute(query).mappings()}


def _store(connection: Connection, task_id: int, fresh: list[dict[str, Any]]) -> None:
    """The events, and the labels that the applied ones leave."""
    if not fresh:
        return
    made = insert(annotation_event).returning(
        annotation_event.c.uuid, annotation_event.c.seq, sort_by_parameter_order=True
    )
    seqs = {row.uuid: row.seq for row in connection.execute(made, fresh)}
    columns = set(label.c.keys())
    left = {
        (event["frame"], event["object"]): {name: event[name] for name in columns & event.keys()}
        | {"rev": seqs[event["uuid"]]}
        for event in fresh
        if event["outcome"] == "applied"
    }
    if left:
        keys = tuple_(label.c.frame, label.c.object)
        connection.execute(delete(label).where(label.c.task_id == task_id, keys.in_(list(left))))
        connection.execute(insert(label), list(left.values()))


def _revision(connection: Connection, task_id: int) -> int:
    return int(connection.scalar(select(func.max(label.c.rev)).where(label.c.task_id == task_id)) or 0)


def _parse_all(events: Sequence[Mapping[str, Any]], row: RowMapping) -> tuple[list[dict[str, Any]], list[Rejected]]:
    parsed, rejected = [], []
    for raw in events:
        try:
            parsed.append(_parse(raw, row))
        except BookError as error:
            name = raw.get("uuid") if isinstance(raw, Mapping) else None
            rejected.append(Rejected(str(name)[:64], str(error)))
    return parsed, rejected


def _parse(raw: Mapping[str, Any], row: RowMapping) -> dict[str, Any]:
    """The columns that an event of task `row` brings. Raises BookError."""
    if not isinstance(raw, Mapping):
        raise BookError(f"an event must be an object, got {type(raw).__name__}")
    event: dict[str, Any] = {
        "uuid": _match(raw, "uuid", _UUID, "a uuid in lower case"),
        "frame": _whole(raw, "frame", row["start"], row["stop"] - 1),
        "object": _match(raw, "object", _OBJECT, "ball:1", BALL),
        "op": raw.get("op"),
        "event": "" if raw.get("event") is None else raw["event"],
        "source": bounded_text(raw.get("source", "manual"), "source", 200),
        "score": _number(raw, "score", 0.0, 1.0),
        "client_ts": _number(raw, "client_ts", 0.0, 1e15),
        "client_seq": _whole(raw, "client_seq", 0, _WHOLE, 0),
        "base_rev": _whole(raw, "base_rev", 0, _WHOLE, 0),
    }
    if event["op"] not in ("set", "clear"):
        raise BookError(f"op is {_shown(event['op'])}, expected set or clear")
    if event["event"] not in BALL_EVENTS:
        raise BookError(f"event is {_shown(event['event'])}, expected hit, bounce or nothing")
    if not _SOURCE.fullmatch(event["source"]):
        raise BookError(f"source is {_shown(event['source'])}, expected manual, accepted, model:<name> or the like")
    place = dict.fromkeys(("visibility", "x", "y", "blur_l", "blur_theta"))
    if event["op"] == "clear":
        return event | place | {"event": ""}
    return event | _place(raw, (row["w"], row["h"]))


def _place(raw: Mapping[str, Any], wh: tuple[int, int]) -> dict[str, Any]:
    """Whether there is a ball, where, and its streak."""
    visibility = _whole(raw, "visibility", 0, 3)
    x = _number(raw, "x", -0.5 - MARGIN_PX, wh[0] - 0.5 + MARGIN_PX)
    y = _number(raw, "y", -0.5 - MARGIN_PX, wh[1] - 0.5 + MARGIN_PX)
    blur_l = _number(raw, "blur_l", 0.0, math.hypot(*wh))
    blur_theta = _number(raw, "blur_theta", -math.pi, math.pi)
    if (x is None) != (y is None) or (x is None) != (visibility == 0):
        raise BookError(f"visibility {visibility} does not fit x {x} and y {y}: only 0 (absent) has no place")
    if (blur_l is None) != (blur_theta is None) or (blur_l is not None and x is None):
        raise BookError("a blur streak needs a place, blur_l and blur_theta")
    return {"visibility": visibility, "x": x, "y": y, "blur_l": blur_l, "blur_theta": blur_theta}


def _shown(value: object) -> str:
    return ascii(value)[:60]


def _match(raw: Mapping[str, Any], name: str, pattern: re.Pattern[str], expected: str, default: str = "") -> str:
    value = raw.get(name, default)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise BookError(f"{name} is {_shown(value)}, expected {expected}")
    return value


def _whole(raw: Mapping[str, Any], name: str, low: int, high: int, default: int | None = None) -> int:
    value = raw.get(name, default)
    if type(value) is not int or not low <= value <= high:
        raise BookError(f"{name} is {_shown(value)}, expected a whole number from {low} to {high}")
    return value


def _number(raw: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    value = raw.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not low <= value <= high:  # NaN is in no range
        raise BookError(f"{name} is {_shown(value)}, expected a number from {low:g} to {high:g}, or null")
    return float(value)


def labels(
    book: LabelBook, user: User, task_id: int, since: int = 0, limit: int = MAX_LABELS
) -> tuple[int, list[Label]]:
    """The labels, also cleared ones, that changed after revision `since`, oldest change first, and the revision to
    go on from. Raises NotFound.
    """
    task(book, user, task_id)
    query = _LABELS.where(label.c.task_id == task_id, label.c.rev > since).order_by(label.c.rev)
    with book.read() as connection:
        found = [Label(*row) for row in connection.execute(query.limit(max(1, min(limit, MAX_LABELS))))]
    return (found[-1].rev if found else since), found


def history(book: LabelBook, user: User, task_id: int, frame: int) -> list[Event]:
    """All that was ever said of a frame, in order. Raises NotFound."""
    task(book, user, task_id)
    where = and_(annotation_event.c.task_id == task_id, annotation_event.c.frame == frame)
    with book.read() as connection:
        rows = connection.execute(select(annotation_event).where(where).order_by(annotation_event.c.seq)).mappings()
        return [as_row(Event, row) for row in rows]


def task_labels(book: LabelBook, task_id: int) -> dict[int, Label]:
    """The ball of a task by frame; unlabelled frames have no entry."""
    with book.read() as connection:
        return labels_of(connection, [task_id])[task_id]


def labels_of(connection: Connection, task_ids: Sequence[int]) -> dict[int, dict[int, Label]]:
    """As `task_labels`, for many tasks."""
    found: dict[int, dict[int, Label]] = {}
    for task_id in task_ids:
        query = _LABELS.where(label.c.task_id == task_id, label.c.object == BALL, label.c.visibility.is_not(None))
        rows = connection.execute(query.order_by(label.c.frame))
        found[task_id] = {row.frame: Label(*row) for row in rows}
    return found


def job_labels(book: LabelBook, job_id: int, version: int | None = None) -> list[VideoLabels]:
    """What a job has, by video, whatever the state of its tasks; hidden tests are left out.

    With replicas, the labels are those of the consensus `version`, the latest by default. Raises NotFound, and
    WrongState where replicas have no consensus yet.
    """
    from rallytrace.label.agreement import consensus

    parts = job_parts(book, job_id)
    if job(book, job_id).replicas > 1:
        agreed = consensus(book, job_id, version)
        if agreed is None:
            raise WrongState(f"job {job_id} has replicas and no consensus; make one first")
        by_sequence = agreed.by_sequence()
    else:
        with book.read() as connection:
            found = labels_of(connection, [part["id"] for part in parts])
        by_sequence = {part["sequence_id"]: found[part["id"]] for part in parts}
    return list(_by_video(book, parts, by_sequence))


def _by_video(
    book: LabelBook, parts: Sequence[RowMapping], by_sequence: Mapping[int, dict[int, Label]]
) -> Iterator[VideoLabels]:
    for video_id in dict.fromkeys(part["video_id"] for part in parts):
        asked: list[int] = []
        merged: dict[int, Label] = {}
        for part in parts:
            if part["video_id"] == video_id and part["replica"] == 0:
                asked += range(part["start"], part["stop"])
                merged |= by_sequence.get(part["sequence_id"], {})
        unlabelled = tuple(frame for frame in asked if frame not in merged)
        yield VideoLabels(book.video(video_id), merged, len(asked), unlabelled)


def job_parts(book: LabelBook, job_id: int, *, gold: bool = False) -> list[RowMapping]:
    """The tasks of a job with their ranges, in the order of the frames: its work, or with `gold` its hidden tests."""
    columns = (schema.task, schema.sequence.c.video_id, schema.sequence.c.start, schema.sequence.c.stop)
    test = schema.task.c.gold_of.is_not(None) if gold else schema.task.c.gold_of.is_(None)
    query = select(*columns).join(schema.sequence).where(schema.task.c.job_id == job_id, test)
    order = (schema.sequence.c.video_id, schema.sequence.c.start, schema.task.c.replica)
    with book.read() as connection:
        return list(connection.execute(query.order_by(*order)).mappings())


def import_labels(
    book: LabelBook, by: User, job_id: int, video_id: int, found: Mapping[int, BallLabel], file_name: str
) -> tuple[int, int]:
    """(imported, skipped): `found` as events of source `import:<file_name>` in every open task of the job and video.

    Skipped are frames that have a label already, that no open task asks for, and places outside the picture. Reviewers
    and admins. Hidden tests get nothing. Raises NotFound, NotAllowed.
    """
    if not by.reviews:
        raise NotAllowed("only a reviewer or an admin may import labels")
    job(book, job_id)
    source = "import:" + bounded_text(file_name, "the name of the file", 150)
    imported: set[int] = set()
    for part in job_parts(book, job_id):
        if part["video_id"] != video_id or part["state"] not in OPEN_STATES:
            continue
        frames = sorted(set(range(part["start"], part["stop"])) & found.keys() - task_labels(book, part["id"]).keys())
        events = [_event_of(found[frame], source, i) for i, frame in enumerate(frames)]
        for at in range(0, len(events), MAX_EVENTS):
            done = append(book, by, part["id"], f"import {uuids.uuid4()}", events[at : at + MAX_EVENTS])
            kept = set(done.acked)
            imported |= {event["frame"] for event in events[at : at + MAX_EVENTS] if event["uuid"] in kept}
    return len(imported), len(found) - len(imported)


def _event_of(ball: BallLabel, source: str, client_seq: int) -> dict[str, Any]:
    x, y = ball.xy or (None, None)
    place = {"frame": ball.frame, "visibility": int(ball.visibility), "x": x, "y": y}
    return {"uuid": str(uuids.uuid4()), "op": "set", "source": source, "client_seq": client_seq, **place}
