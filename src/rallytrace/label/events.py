"""What was said of each frame, in the order in which it was said: append-only events, and the labels they leave.

A frame of a task has three states: unlabelled (no label, or a cleared one), absent (visibility 0, no place), located.
Every event is stored. It is not applied where it would silently overwrite what its author had not seen: a label of
another person or browser tab that is newer than `base_rev` makes it a conflict. What a client claims to have seen is
checked against what it was shown. Undo is one more event.
"""

from __future__ import annotations

import math
import uuid as uuids
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, RowMapping, delete, func, insert, select, tuple_
from sqlalchemy.exc import IntegrityError

from rallytrace.label import schema
from rallytrace.label.book import BookError, LabelBook, Video, WrongState, as_row, bounded_text
from rallytrace.label.jobs import BALL, OPEN_STATES, job, locked_for_work, task
from rallytrace.label.schema import annotation_event, label
from rallytrace.label.sight import Sight, note_shown
from rallytrace.label.team import User
from rallytrace.labels.sets import PLAIN, Extra
from rallytrace.types import BallLabel, Visibility

MAX_EVENTS = 500  # of one call
MARGIN_PX = 16.0  # how far outside the picture a ball may be
MAX_LABELS = 100_000  # of one call

_SOURCE = r"^(manual|accepted|nudged|tracker|interpolated|(model|import):.+)$"
_Counted = Annotated[int, Field(ge=0, le=2**53)]


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


def append(
    book: LabelBook,
    user: User,
    task_id: int,
    client_id: str,
    events: Sequence[Mapping[str, Any]],
    *,
    checked: bool = False,
) -> Appended:
    """Stores `events` (as they come from JSON) in their order and applies them; once only for each uuid.

    A malformed event is rejected alone. When this returns, what was accepted survives a crash. checked: a base
    revision counts as far as `labels`, or the answer of a conflict, showed it to `user`; else up to the newest.
    Raises NotFound, WrongState (the task is closed), BookError (too many events, no client id).
    """
    client_id = bounded_text(client_id, "client_id", 64)
    if len(events) > MAX_EVENTS:
        raise BookError(f"{len(events)} events at once, expected up to {MAX_EVENTS}")
    try:
        with book.write() as connection:
            return _append(book, connection, user, task_id, client_id, events, checked)
    except IntegrityError:  # an event of the same uuid went into another task at the same moment; now it is known
        with book.write() as connection:
            return _append(book, connection, user, task_id, client_id, events, checked)


def _append(
    book: LabelBook,
    connection: Connection,
    user: User,
    task_id: int,
    client_id: str,
    events: Sequence[Mapping[str, Any]],
    checked: bool,
) -> Appended:
    row = locked_for_work(book, connection, user, task_id)
    parsed, rejected = _parse_all(events, row)
    known = _known(connection, [event["uuid"] for event in parsed])
    frames = {event["frame"] for event in parsed}
    current = _current(connection, task_id, frames)
    sight = Sight.of(connection, user, task_id, frames, checked=checked)
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
            made["outcome"] = _outcome(made, newest.get(key), sight)
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


def _outcome(event: Mapping[str, Any], current: Mapping[str, Any] | None, sight: Sight) -> str:
    # The labels of this very call have no revision yet: nobody can have seen them.
    if current is None or sight.has_seen(event, current):
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


def _readable(source: str) -> str:
    return bounded_text(source, "source", 200)


class _Said(BaseModel):
    """An event as it comes from JSON."""

    model_config = ConfigDict(strict=True)

    uuid: Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    frame: int
    object: Annotated[str, Field(pattern=r"^ball:[1-9][0-9]{0,2}$")] = BALL
    op: Literal["set", "clear"]
    visibility: Annotated[int, Field(ge=0, le=3)] | None = None
    x: float | None = None
    y: float | None = None
    event: Literal["", "hit", "bounce"] | None = None
    blur_l: Annotated[float, Field(ge=0, le=100_000)] | None = None
    blur_theta: Annotated[float, Field(ge=-math.pi, le=math.pi)] | None = None
    source: Annotated[str, Field(pattern=_SOURCE), AfterValidator(_readable)] = "manual"
    score: Annotated[float, Field(ge=0, le=1)] | None = None
    client_ts: Annotated[float, Field(ge=0, le=1e15)] | None = None
    client_seq: _Counted = 0
    base_rev: _Counted = 0


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
    try:
        said = _Said.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise BookError(f"{first['loc'][0] if first['loc'] else 'the event'}: {first['msg']}") from None
    if not row["start"] <= said.frame < row["stop"]:
        raise BookError(f"frame is {said.frame}, expected one of the task, {row['start']} to {row['stop'] - 1}")
    found = said.model_dump() | {"event": said.event or ""}
    if said.op == "clear":
        return found | dict.fromkeys(("visibility", "x", "y", "blur_l", "blur_theta")) | {"event": ""}
    for name, value, size in (("x", said.x, row["w"]), ("y", said.y, row["h"])):
        if value is not None and not -0.5 - MARGIN_PX <= value <= size - 0.5 + MARGIN_PX:
            raise BookError(f"{name} is {value:g}, expected a place in the picture of {row['w']}x{row['h']}")
    if said.visibility is None or (said.x is None, said.y is None) != (said.visibility == 0,) * 2:
        raise BookError(f"visibility {said.visibility} does not fit x {said.x} and y {said.y}: 0 (absent) has no place")
    if (said.blur_l is None) != (said.blur_theta is None) or (said.blur_l is not None and said.x is None):
        raise BookError("a blur streak needs a place, blur_l and blur_theta")
    return found


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
    of_others = [one.rev for one in found if one.user_id != user.id]
    if of_others:
        note_shown(book, user, task_id, since, found[-1].rev)
    return (found[-1].rev if found else since), found


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
    """The tasks of a job with their ranges, in the order of the frames: its work, or with `gold` its hidden tests.

    A task may be both.
    """
    columns = (schema.task, schema.sequence.c.video_id, schema.sequence.c.start, schema.sequence.c.stop)
    test = schema.task.c.gold_of.is_not(None) if gold else schema.task.c.work
    query = select(*columns).join(schema.sequence).where(schema.task.c.job_id == job_id, test)
    order = (schema.sequence.c.video_id, schema.sequence.c.start, schema.task.c.replica)
    with book.read() as connection:
        return list(connection.execute(query.order_by(*order)).mappings())


def import_labels(
    book: LabelBook,
    by: User,
    job_id: int,
    video_id: int,
    found: Mapping[int, BallLabel],
    file_name: str,
    extras: Mapping[int, Extra] | None = None,
) -> tuple[int, int]:
    """(imported, skipped): `found`, and what `extras` says more of it, as events of source `import:<file_name>` in
    every open task of the job and video.

    Skipped are frames that have a label already, that no open task asks for, and places outside the picture. Reviewers
    and admins. Hidden tests get nothing. Raises NotFound, NotAllowed.
    """
    by.must_review()
    job(book, job_id)
    source = "import:" + bounded_text(file_name, "the name of the file", 150)
    imported: set[int] = set()
    for part in job_parts(book, job_id):
        if part["video_id"] != video_id or part["state"] not in OPEN_STATES:
            continue
        frames = sorted(set(range(part["start"], part["stop"])) & found.keys() - task_labels(book, part["id"]).keys())
        with book.read() as connection:  # of frames that were cleared, too
            query = select(label.c.frame, label.c.rev).where(label.c.task_id == part["id"], label.c.object == BALL)
            revs = {row.frame: row.rev for row in connection.execute(query)}
        events = [
            _event_of(found[frame], (extras or {}).get(frame, PLAIN), source)
            | {"client_seq": i, "base_rev": revs.get(frame, 0)}
            for i, frame in enumerate(frames)
        ]
        for at in range(0, len(events), MAX_EVENTS):
            batch = events[at : at + MAX_EVENTS]
            done = append(book, by, part["id"], f"import {uuids.uuid4()}", batch)
            kept = set(done.acked)
            imported |= {event["frame"] for event in batch if event["uuid"] in kept}
    return len(imported), len(found) - len(imported)


def _event_of(ball: BallLabel, extra: Extra, source: str) -> dict[str, Any]:
    (x, y), (length, angle) = ball.xy or (None, None), extra.blur or (None, None)
    what = {"frame": ball.frame, "visibility": int(ball.visibility), "x": x, "y": y, "event": extra.event}
    what |= {"score": extra.score, "blur_l": length, "blur_theta": angle and math.remainder(angle, 2 * math.pi)}
    return {"uuid": str(uuids.uuid4()), "op": "set", "source": source, **what}
