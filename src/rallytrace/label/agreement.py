"""How well annotators agree, and what they say together.

Cohen's kappa (1960) on visibility; distances where both see the ball; F1 of hits and bounces at +-1 frame; a constant
shift in time between two people. A consensus is computed from all replicas and kept under a new version each time.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np
from sqlalchemy import func, insert, select

from rallytrace.label import schema
from rallytrace.label.book import LabelBook, as_row, inserted
from rallytrace.label.events import Label, job_parts, labels_of
from rallytrace.label.jobs import BALL, job
from rallytrace.label.team import User
from rallytrace.types import XY

CLOSE_PX = 4.0
EVENT_TOLERANCE = 1  # frames
MAX_DRIFT = 3  # frames
MIN_PAIRS = 10  # frames that both see, for a drift to be named
FINISHED = ("submitted", "approved")

Labels: TypeAlias = Mapping[int, Label]  # by frame; unlabelled frames have no entry


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of users `a` and `b` over the `n` frames that both labelled; what nothing can be said of is None.

    `n_both`: frames in which both see the ball, for `median_px`, `p95_px` and the share within 4 px. `drift_frames`:
    how many frames `b` is late throughout (0: none).
    """

    a: int
    b: int
    n: int
    kappa: float | None
    n_both: int
    median_px: float | None
    p95_px: float | None
    share_4px: float | None
    event_f1: float | None
    drift_frames: int | None


@dataclass(frozen=True, slots=True)
class Point:
    """What `n` annotators say together of a frame. `spread_px`: the largest distance between two of them.

    `method`: single, absent, mean, median (geometric), or adjudicate, where `visibility` is None.
    """

    sequence_id: int
    frame: int
    visibility: int | None
    x: float | None
    y: float | None
    event: str
    n: int
    spread_px: float | None
    method: str


@dataclass(frozen=True, slots=True, repr=False)
class Consensus:
    """One version of what the annotators of a job say together. `adjudicate`: (video, frame) for a person to settle."""

    job_id: int
    version: int
    created: float
    points: tuple[Point, ...]
    adjudicate: tuple[tuple[int, int], ...]

    def by_sequence(self) -> dict[int, dict[int, Label]]:
        """The labels of each sequence by frame, without those to be adjudicated."""
        found: dict[int, dict[int, Label]] = defaultdict(dict)
        for p in self.points:
            if p.visibility is not None:
                place = (p.frame, BALL, p.visibility, p.x, p.y, p.event, None, None)
                found[p.sequence_id][p.frame] = Label(*place, f"consensus:{self.version}", None, self.version, 0)
        return dict(found)


def cohen_kappa(a: Sequence[int], b: Sequence[int]) -> float | None:
    """Agreement of two raters beyond chance, (po - pe) / (1 - pe); None where both give one class alone, or nothing."""
    n = len(a)
    if n == 0:
        return None
    seen = sum(x == y for x, y in zip(a, b, strict=True)) / n
    of_a, of_b = Counter(a), Counter(b)
    chance = sum(of_a[kind] * of_b[kind] for kind in of_a) / n**2
    return None if chance == 1 else (seen - chance) / (1 - chance)


def event_f1(a: Labels, b: Labels, frames: set[int]) -> float | None:
    """2 matched / (all of a + all of b), each event matched once, the same kind within 1 frame; None without any."""
    matched = total = 0
    for kind in ("hit", "bounce"):
        of_a, of_b = (sorted(f for f in frames if who[f].event == kind) for who in (a, b))
        total += len(of_a) + len(of_b)
        at = 0
        for frame in of_a:  # earliest first is an optimal matching of points on a line with one tolerance
            while at < len(of_b) and of_b[at] < frame - EVENT_TOLERANCE:
                at += 1
            if at < len(of_b) and of_b[at] <= frame + EVENT_TOLERANCE:
                matched, at = matched + 1, at + 1
    return 2 * matched / total if total else None


def drift(a: Mapping[int, XY], b: Mapping[int, XY]) -> int | None:
    """The shift, up to 3 frames, at which `b` lies on `a` at least twice as closely as without it; b is late if > 0.

    None where fewer than 10 frames can be compared.
    """
    medians = {}
    for shift in range(-MAX_DRIFT, MAX_DRIFT + 1):
        distances = [math.dist(xy, b[frame + shift]) for frame, xy in a.items() if frame + shift in b]
        if len(distances) >= MIN_PAIRS:
            medians[shift] = float(np.median(distances))
    if 0 not in medians:
        return None
    best = min(medians, key=lambda shift: (medians[shift], abs(shift)))
    return best if medians[0] > 1 and medians[best] < medians[0] / 2 else 0


def compare(a: Labels, b: Labels, user_a: int = 0, user_b: int = 0) -> Agreement:
    """Of two people's labels of the same frames."""
    both = sorted(a.keys() & b.keys())
    at_a, at_b = _places(a), _places(b)
    distances = [math.dist(at_a[frame], at_b[frame]) for frame in both if frame in at_a and frame in at_b]
    median, p95 = np.percentile(distances, [50, 95]).tolist() if distances else (None, None)
    return Agreement(
        a=user_a,
        b=user_b,
        n=len(both),
        kappa=cohen_kappa([a[f].visibility or 0 for f in both], [b[f].visibility or 0 for f in both]),
        n_both=len(distances),
        median_px=median,
        p95_px=p95,
        share_4px=sum(d <= CLOSE_PX for d in distances) / len(distances) if distances else None,
        event_f1=event_f1(a, b, set(both)),
        drift_frames=drift(at_a, at_b),
    )


def _places(labels: Labels) -> dict[int, XY]:
    return {frame: (one.x, one.y) for frame, one in labels.items() if one.x is not None and one.y is not None}


def agreement(book: LabelBook, by: User, job_id: int) -> list[Agreement]:
    """Of each two people over all sequences of the job that both submitted. Reviewers and admins. Raises NotFound."""
    pooled: dict[tuple[int, int], tuple[dict[int, Label], dict[int, Label]]] = defaultdict(lambda: ({}, {}))
    for sequence_id, done in _finished(book, by, job_id).items():
        for a, b in combinations(sorted(done), 2):
            for user_id, into in zip((a, b), pooled[a, b], strict=True):
                # Frames of different sequences must neither meet nor be neighbours.
                into |= {(sequence_id << 40) + frame: one for frame, one in done[user_id].items()}
    return [compare(*labels, *pair) for pair, labels in sorted(pooled.items())]


def _finished(book: LabelBook, by: User, job_id: int) -> dict[int, dict[int, dict[int, Label]]]:
    """Labels by sequence, user and frame, of submitted and approved tasks; no hidden tests."""
    by.must_review()
    job(book, job_id)
    parts = [part for part in job_parts(book, job_id) if part["state"] in FINISHED]
    found: dict[int, dict[int, dict[int, Label]]] = defaultdict(dict)
    with book.read() as connection:
        by_task = labels_of(connection, [part["id"] for part in parts])
    for part in parts:
        found[part["sequence_id"]][part["assignee"]] = by_task[part["id"]]
    return found


def gold_scores(book: LabelBook, by: User, job_id: int) -> dict[int, Agreement]:
    """By task, of the hidden tests of the job that were submitted: how `b` did, `a` made the approved labels.

    Left out are those of people who worked on the approved labels themselves. Reviewers and admins. Raises NotFound.
    """
    by.must_review()
    job(book, job_id)
    tests = [part for part in job_parts(book, job_id, gold=True) if part["state"] in FINISHED]
    wanted = {test["gold_of"] for test in tests}
    truths = select(schema.task.c.id, schema.task.c.assignee).where(
        schema.task.c.id.in_(wanted), schema.task.c.state == "approved"
    )
    part = schema.participation.c
    with book.read() as connection:
        makers = {row.id: row.assignee for row in connection.execute(truths)}
        rows = connection.execute(select(part.task_id, part.user_id).where(part.task_id.in_(wanted)))
        took_part = {(task_id, user_id) for task_id, user_id in rows}
        labels = labels_of(connection, [*makers, *(test["id"] for test in tests)])
    scored = [test for test in tests if test["gold_of"] in makers]
    scored = [test for test in scored if (test["gold_of"], test["assignee"]) not in took_part]
    return {
        test["id"]: compare(labels[test["gold_of"]], labels[test["id"]], makers[test["gold_of"]], test["assignee"])
        for test in scored
    }


def geometric_median(places: Sequence[XY]) -> XY:
    """The place with the least sum of distances to `places`, to 0.1 px or so (Weiszfeld's iteration)."""
    points = np.asarray(places, dtype=np.float64)
    at = points.mean(axis=0)
    for _ in range(100):
        weights = (((points - at) ** 2).sum(axis=1) + 0.01) ** -0.5  # at one of the places it would stop
        at = weights @ points / weights.sum()
    x, y = min((at, *points), key=lambda place: float(np.hypot(*(points - place).T).sum()))
    return float(x), float(y)


def agree(votes: Sequence[Label], quorum: int = 1) -> tuple[int | None, XY | None, float | None, str]:
    """(visibility, xy, spread in px, method) of what several people said of a frame.

    Whether there is a ball is up to the majority; its visibility to the most frequent of theirs, the harder on a tie.
    Its place is their mean where all lie within 4 px, the geometric median of three or more, else not decided.
    """
    seen = [vote for vote in votes if vote.visibility]
    places = [(vote.x, vote.y) for vote in seen if vote.x is not None and vote.y is not None]
    spread = max((math.dist(p, q) for p, q in combinations(places, 2)), default=0.0) if places else None
    if len(votes) < quorum or 2 * len(seen) == len(votes):
        return None, None, spread, "adjudicate"
    if 2 * len(seen) < len(votes):
        return 0, None, spread, "single" if len(votes) == 1 else "absent"
    counts = Counter(vote.visibility or 0 for vote in seen)
    visibility = max(counts, key=lambda kind: (counts[kind], kind))
    if spread is not None and spread <= CLOSE_PX:
        x, y = np.mean(places, axis=0).tolist()
        return visibility, (x, y), spread, "single" if len(votes) == 1 else "mean"
    if len(places) >= 3:
        return visibility, geometric_median(places), spread, "median"
    return None, None, spread, "adjudicate"


def agreed_events(people: Sequence[Labels]) -> dict[int, str]:
    """The hits and bounces that more than half of `people` marked within 1 frame, at the median of their frames."""
    agreed = {}
    for kind in ("hit", "bounce"):
        marks = sorted((f, who) for who, labels in enumerate(people) for f, one in labels.items() if one.event == kind)
        while marks:
            group = [mark for mark in marks if mark[0] <= marks[0][0] + 2 * EVENT_TOLERANCE]
            if 2 * len({who for _, who in group}) > len(people):
                agreed[group[len(group) // 2][0]] = kind
                marks = marks[len(group) :]
            else:
                marks = marks[1:]
    return agreed


def make_consensus(book: LabelBook, by: User, job_id: int) -> Consensus:
    """A new version, from the tasks that are submitted or approved; older ones stay. Reviewers and admins.

    With replicas, a frame that fewer than two people labelled is for adjudication. Raises NotFound, NotAllowed.
    """
    points = []
    quorum = min(2, job(book, job_id).replicas)
    for sequence_id, done in _finished(book, by, job_id).items():
        people = list(done.values())
        happened = agreed_events(people)
        for frame in sorted(set().union(*people)):
            votes = [labels[frame] for labels in people if frame in labels]
            visibility, xy, spread, method = agree(votes, quorum)
            x, y = xy or (None, None)
            event = happened.get(frame, "")
            points.append(Point(sequence_id, frame, visibility, x, y, event, len(votes), spread, method))
    versions, jobs = schema.consensus, schema.job
    with book.write() as connection:
        connection.execute(select(jobs.c.id).where(jobs.c.id == job_id).with_for_update())  # one version at a time
        newest = connection.scalar(select(func.max(versions.c.version)).where(versions.c.job_id == job_id)) or 0
        values = {"job_id": job_id, "version": newest + 1, "created_by": by.id, "created": book.clock()}
        found = inserted(connection, versions, values)
        rows = [{name: getattr(p, name) for name in Point.__slots__} | {"consensus_id": found} for p in points]
        if rows:
            connection.execute(insert(schema.consensus_label), rows)
    made = consensus(book, job_id, newest + 1)
    assert made is not None
    return made


def consensus(book: LabelBook, job_id: int, version: int | None = None) -> Consensus | None:
    """The `version` of the job's consensus, the latest by default; None where there is none."""
    versions, kept = schema.consensus, schema.consensus_label
    query = select(versions).where(versions.c.job_id == job_id).order_by(versions.c.version.desc()).limit(1)
    if version is not None:
        query = query.where(versions.c.version == version)
    columns = select(kept, schema.sequence.c.video_id).join(schema.sequence)
    with book.read() as connection:
        head = connection.execute(query).mappings().first()
        if head is None:
            return None
        rows = connection.execute(
            columns.where(kept.c.consensus_id == head["id"]).order_by(kept.c.sequence_id, kept.c.frame)
        )
        found = rows.mappings().all()
    return Consensus(
        job_id=job_id,
        version=head["version"],
        created=head["created"],
        points=tuple(as_row(Point, row) for row in found),
        adjudicate=tuple((row["video_id"], row["frame"]) for row in found if row["visibility"] is None),
    )
