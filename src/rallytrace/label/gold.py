"""Hidden tests: which tasks of a new job are compared with approved work, so that nobody can tell them from the rest.

A task of the job's own work is a test where its frames are approved in an earlier job: it is labelled and exported as
any other. Where there are too few of these, tests of other videos lie on top of the work, as long as its sequences are.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from rallytrace.label.schema import sequence, task

_dice = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Stretch:
    """The frames [start, stop) of a video, as a row of `sequence`."""

    sequence_id: int
    video_id: int
    start: int
    stop: int

    @property
    def frames(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Truth(Stretch):
    """An approved task and its frames."""

    task_id: int

    def covers(self, part: Stretch) -> bool:
        """Whether all frames of `part` are approved here."""
        return self.video_id == part.video_id and self.start <= part.start and part.stop <= self.stop

    def overlaps(self, other: Stretch) -> bool:
        """Whether a frame is in both."""
        return self.video_id == other.video_id and self.start < other.stop and other.start < self.stop


@dataclass(frozen=True, slots=True)
class Tests:
    """The truth (a task) by sequence: of `own` work of the job, and of sequences that are `added` to it."""

    own: dict[int, int]
    added: dict[int, int]


def draw(connection: Connection, work: Sequence[Stretch], wanted: int, *, may_add: bool) -> Tests:
    """Up to `wanted` tests for a job of the sequences `work`; fewer where fewer frames are approved."""
    if wanted < 1:
        return Tests({}, {})
    approved = _approved(connection)
    own: dict[int, int] = {}
    for part in _dice.sample(work, len(work)):
        if len(own) == wanted:
            break
        truth = next((each for each in approved[part.video_id] if each.covers(part)), None)
        if truth is not None:
            own[part.sequence_id] = truth.task_id
    if not may_add:
        return Tests(own, {})
    return Tests(own, _added(connection, approved, work, wanted - len(own)))


def _approved(connection: Connection) -> dict[int, list[Truth]]:
    """By video."""
    columns = (sequence.c.id.label("sequence_id"), sequence.c.video_id, sequence.c.start, sequence.c.stop)
    query = select(*columns, task.c.id.label("task_id")).select_from(task).join(sequence)
    found: dict[int, list[Truth]] = defaultdict(list)
    for row in connection.execute(query.where(task.c.state == "approved", task.c.work)):
        found[row.video_id].append(Truth(*row))
    return found


def _added(
    connection: Connection, approved: dict[int, list[Truth]], work: Sequence[Stretch], wanted: int
) -> dict[int, int]:
    """Of videos that the job does not ask for: a range that comes twice, or of another length, betrays a test."""
    asked = {part.video_id for part in work}
    lengths = [part.frames for part in work]
    truths = [truth for video, those in approved.items() if video not in asked for truth in those]
    taken: list[Truth] = []
    found: dict[int, int] = {}
    for truth in _dice.sample(truths, len(truths)):
        fitting = [length for length in lengths if length <= truth.frames]
        if len(taken) >= wanted:
            break
        if fitting and not any(truth.overlaps(other) for other in taken):
            found[_cut_out(connection, truth, _dice.choice(fitting))] = truth.task_id
            taken.append(truth)
    return found


def _cut_out(connection: Connection, truth: Truth, length: int) -> int:
    """The sequence of `length` frames somewhere in those of `truth`."""
    if length == truth.frames:
        return truth.sequence_id
    start = truth.start + _dice.randrange(truth.frames - length + 1)
    values = {"video_id": truth.video_id, "start": start, "stop": start + length}
    return int(connection.execute(insert(sequence).values(values).returning(sequence.c.id)).scalar_one())
