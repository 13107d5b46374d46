"""What a member was shown of the labels that others made: without it, no label of another is overwritten.

A client says upon which revision it builds. A browser tells the truth; a script can claim any number. The book keeps
how far each member was shown a task, and knows the conflicts that it answered with the other one's label.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from rallytrace.label.book import LabelBook
from rallytrace.label.schema import annotation_event, label, seen
from rallytrace.label.team import User


@dataclass(frozen=True, slots=True)
class Sight:
    """How far a member knows a task. All are revisions.

    newest: of any label. shown: up to which the labels of others were sent. conflicts: by frame, the last conflict
    that was answered with the label of another.
    """

    newest: int
    shown: int
    conflicts: Mapping[int, int]

    @classmethod
    def of(cls, connection: Connection, user: User, task_id: int, frames: set[int], *, checked: bool) -> Sight:
        """Of `user` in a task, for events of these frames. Not `checked`: of one who reads the book itself."""
        newest = connection.scalar(select(func.max(label.c.rev)).where(label.c.task_id == task_id)) or 0
        if not checked:
            return cls(newest, newest, {})
        shown = connection.scalar(select(seen.c.rev).where(seen.c.task_id == task_id, seen.c.user_id == user.id))
        said = annotation_event.c
        query = select(said.frame, func.max(said.seq)).where(
            said.task_id == task_id, said.frame.in_(frames), said.user_id == user.id, said.outcome == "conflict"
        )
        rows = connection.execute(query.group_by(said.frame))
        return cls(newest, shown or 0, {frame: seq for frame, seq in rows})  # noqa: C416

    def has_seen(self, event: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
        """Whether the author of `event` knew the label `current`, upon which it says to build."""
        rev = current.get("rev")
        if rev is None or not rev <= event["base_rev"] <= self.newest:
            return False
        own: bool = current["user_id"] == event["user_id"]
        return own or rev <= max(self.shown, self.conflicts.get(event["frame"], 0))


def note_shown(book: LabelBook, user: User, task_id: int, since: int, rev: int) -> None:
    """The labels of a task after `since` and up to `rev` are shown to `user`.

    Not noted where the user skips labels of others before `since`, or the book cannot be written at the moment: then
    what they say of such a frame is a conflict, and they decide.
    """
    mine = (seen.c.task_id == task_id, seen.c.user_id == user.id)
    of_others = (label.c.task_id == task_id, label.c.user_id != user.id)
    with book.read() as connection:
        shown = connection.scalar(select(seen.c.rev).where(*mine)) or 0
        between = (label.c.rev > shown, label.c.rev <= since)
        skipped = connection.scalar(select(label.c.rev).where(*of_others, *between).limit(1))
    if skipped is not None or rev <= shown:
        return

    def note(connection: Connection) -> None:
        further = update(seen).where(*mine, seen.c.rev < rev).values(rev=rev)
        if not connection.execute(further).rowcount:
            connection.execute(insert(seen).values(task_id=task_id, user_id=user.id, rev=rev))

    with suppress(IntegrityError):  # another page of the same person has noted more
        book.write_if_free(note)
