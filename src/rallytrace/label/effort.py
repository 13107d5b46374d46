"""Who labelled how much, and how fast."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, and_, func, select

from rallytrace.label.schema import annotation_event, member, participation, task


@dataclass(frozen=True, slots=True)
class PersonProgress:
    """`labels` counts frames, however often one was corrected. `labels_per_min` is of active time; None without any."""

    user_id: int
    name: str
    labels: int
    active_s: float
    labels_per_min: float | None


def per_person(connection: Connection, job_id: int) -> tuple[PersonProgress, ...]:
    """Everyone who took part in a job, by id. Imported labels are nobody's work."""
    events = annotation_event
    by_hand = and_(events.c.op == "set", events.c.outcome == "applied", ~events.c.source.startswith("import:"))
    once = select(events.c.user_id, events.c.task_id, events.c.frame).distinct()
    made = once.join(task).where(task.c.job_id == job_id, by_hand).subquery()
    counted = select(made.c.user_id, func.count()).group_by(made.c.user_id)
    labels = {row[0]: int(row[1]) for row in connection.execute(counted)}
    busy = select(participation.c.user_id, func.sum(participation.c.active_s)).group_by(participation.c.user_id)
    active = {row[0]: float(row[1]) for row in connection.execute(busy.where(participation.c.job_id == job_id))}
    names = select(member.c.id, member.c.name).where(member.c.id.in_([*labels, *active])).order_by(member.c.id)
    people = [(row.id, row.name, labels.get(row.id, 0), active.get(row.id, 0.0)) for row in connection.execute(names)]
    return tuple(PersonProgress(*person, person[2] / person[3] * 60 if person[3] else None) for person in people)
