"""Agreement by hand-computed cases; a consensus decides what can be decided and keeps every version."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete
from sqlalchemy.exc import DBAPIError

from rallytrace.label import jobs, schema
from rallytrace.label.agreement import (
    agree,
    agreed_events,
    agreement,
    cohen_kappa,
    compare,
    consensus,
    drift,
    geometric_median,
    make_consensus,
)
from rallytrace.label.book import LabelBook, NotAllowed, WrongState
from rallytrace.label.events import Label, append, job_labels
from rallytrace.label.jobs import Job
from rallytrace.label.team import User
from rallytrace.types import XY
from tests.label.conftest import ready_video, said

from ..often import examples

MakeJob = Callable[..., Job]
Person = Callable[..., User]


def one(frame: int, xy: XY | None, visibility: int | None = None, event: str = "") -> Label:
    """A label as the book gives it."""
    seen = (1 if xy else 0) if visibility is None else visibility
    x, y = xy or (None, None)
    return Label(frame, "ball:1", seen, x, y, event, None, None, "manual", None, 1, 1)


def test_kappa_by_hand() -> None:
    # 50 items: both yes 20, both no 15, a alone 5, b alone 10. po = 0.7, pe = 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    a = [1] * 20 + [0] * 15 + [1] * 5 + [0] * 10
    b = [1] * 20 + [0] * 15 + [0] * 5 + [1] * 10
    assert cohen_kappa(a, b) == pytest.approx(0.4)
    # Three classes: po = 4/6, pe = (2*2 + 2*1 + 2*3) / 36 = 1/3
    assert cohen_kappa([0, 0, 1, 1, 2, 2], [0, 0, 1, 2, 2, 2]) == pytest.approx(0.75)
    assert cohen_kappa([0, 1, 0, 1], [0, 1, 0, 1]) == 1.0
    assert cohen_kappa([0, 1, 0, 1], [1, 0, 1, 0]) == -1.0
    assert cohen_kappa([0, 0, 1, 1], [0, 1, 0, 1]) == 0.0
    assert cohen_kappa([1, 1], [1, 1]) is None
    assert cohen_kappa([], []) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_kappa_is_symmetric_and_at_most_one(pairs: list[tuple[int, int]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    kappa = cohen_kappa(a, b)
    assert kappa == (pytest.approx(cohen_kappa(b, a)) if kappa is not None else cohen_kappa(b, a))
    assert kappa is None or kappa <= 1 + 1e-12


def test_two_people_by_hand() -> None:
    a = {f: one(f, (10.0 * f, 5.0)) for f in range(8)} | {8: one(8, None), 9: one(9, (0.0, 0.0)), 20: one(20, None)}
    b = {f: one(f, (10.0 * f, 5.0 + f)) for f in range(8)} | {8: one(8, None), 9: one(9, None), 30: one(30, None)}
    found = compare(a, b, 7, 8)
    assert (found.a, found.b, found.n, found.n_both) == (7, 8, 10, 8)
    assert found.median_px == pytest.approx(3.5)  # of 0 1 2 3 4 5 6 7
    assert found.p95_px == pytest.approx(6.65)
    assert found.share_4px == 5 / 8
    # po = 0.9, pe = 0.9 * 0.8 + 0.1 * 0.2 = 0.74
    assert found.kappa == pytest.approx(0.16 / 0.26)
    assert found.event_f1 is None
    nothing = compare({}, {})
    assert (nothing.n, nothing.kappa, nothing.median_px, nothing.share_4px, nothing.drift_frames) == (
        0, None, None, None, None,
    )  # fmt: skip


def test_events_match_within_a_frame_once_and_in_kind() -> None:
    def of(events: dict[int, str]) -> dict[int, Label]:
        return {f: one(f, (0.0, 0.0), event=events.get(f, "")) for f in range(40)}

    a = of({5: "hit", 10: "hit", 20: "bounce", 30: "hit"})
    b = of({6: "hit", 12: "hit", 20: "hit", 29: "hit", 31: "hit"})
    # Matched: 5-6 and 30-29. 10-12 is too far, 20 of another kind, 31 left over: 2 * 2 / (4 + 5)
    assert compare(a, b).event_f1 == pytest.approx(4 / 9)
    assert compare(b, a).event_f1 == pytest.approx(4 / 9)
    assert compare(a, a).event_f1 == 1.0


def test_a_constant_shift_in_time_is_named() -> None:
    path = {f: (30.0 * f % 700, 100 + 80 * math.sin(f / 3)) for f in range(60)}
    for late in (-3, -1, 0, 1, 2):
        other = {f + late: (x + 0.4, y) for f, (x, y) in path.items()}
        assert drift(path, other) == late
    still = dict.fromkeys(range(60), (100.0, 100.0))
    assert drift(still, {f + 1: xy for f, xy in still.items()}) == 0, "a ball at rest tells nothing"
    noisy = {f: (x + 9 * (-1) ** f, y) for f, (x, y) in path.items()}
    assert drift(path, noisy) == 0
    assert drift({f: path[f] for f in range(9)}, path) is None


@examples(20)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=3, max_size=6))
def test_the_geometric_median_has_the_least_sum_of_distances(places: list[XY]) -> None:
    def cost(at: XY) -> float:
        return sum(math.dist(at, place) for place in places)

    at = geometric_median(places)
    x, y = at
    near = [(x + dx, y + dy) for dx in (-5.0, 0.0, 5.0) for dy in (-5.0, 0.0, 5.0)]
    assert cost(at) <= min(map(cost, near + places)) + 0.1 * len(places)


def test_what_a_frame_is_when_people_differ() -> None:
    here, near, far = one(1, (100.0, 100.0)), one(1, (102.0, 100.0), 2), one(1, (300.0, 100.0))
    absent = one(1, None)
    assert agree([here, near]) == (2, (101.0, 100.0), 2.0, "mean")
    assert agree([here]) == (1, (100.0, 100.0), 0.0, "single")
    assert agree([here], quorum=2)[3] == "adjudicate"
    assert agree([here, far]) == (None, None, 200.0, "adjudicate")
    assert agree([here, absent])[3] == "adjudicate"
    assert agree([absent, absent, here]) == (0, None, 0.0, "absent")
    assert agree([here, here, absent]) == (1, (100.0, 100.0), 0.0, "mean")
    visibility, xy, spread, method = agree([here, here, near, far])
    assert (visibility, spread, method) == (1, 200.0, "median")
    assert xy is not None
    assert math.dist(xy, (100.0, 100.0)) < 2.5, "one outlier does not carry it away"
    assert agree([here, one(1, (104.0, 100.0))])[3] == "mean"
    assert agree([here, one(1, (104.1, 100.0))])[3] == "adjudicate"


def test_events_that_most_agree_on() -> None:
    people = [{f: one(f, None, event=kind) for f, kind in who.items()} for who in (
        {5: "hit", 20: "bounce", 30: "hit"},
        {6: "hit", 21: "hit", 30: "hit"},
        {7: "hit", 33: "hit"},
    )]  # fmt: skip
    assert agreed_events(people) == {6: "hit", 30: "hit"}
    assert agreed_events(people[:1]) == {5: "hit", 20: "bounce", 30: "hit"}


def _work(book: LabelBook, job: Job, user: User, labels: dict[int, XY | None]) -> None:
    task = jobs.claim_next(book, user, job.id)
    assert task is not None
    sent = [said(f, xy, event="hit" if f == 2 else "") for f, xy in labels.items()]
    assert len(append(book, user, task.id, user.name, sent).acked) == len(labels)
    jobs.submit(book, user, task.id, allow_unlabelled=True)


def test_a_job_of_three_people(book: LabelBook, make_job: MakeJob, person: Person, admin: User) -> None:
    job = make_job(6, replicas=3)
    ann, bob, eve = person("ann"), person("bob"), person("eve")
    with pytest.raises(WrongState, match="no consensus"):
        job_labels(book, job.id)
    _work(book, job, ann, {0: (10.0, 10.0), 1: None, 2: (50.0, 50.0), 3: (1.0, 1.0)})
    first = make_consensus(book, admin, job.id)
    assert (first.version, [p.method for p in first.points]) == (1, ["adjudicate"] * 4)
    _work(book, job, bob, {0: (12.0, 10.0), 1: None, 2: (50.0, 52.0), 3: None})
    _work(book, job, eve, {0: (11.0, 13.0), 1: (5.0, 5.0), 2: (90.0, 50.0), 4: (3.0, 3.0)})
    pairs = agreement(book, admin, job.id)
    assert [(pair.a, pair.b, pair.n, pair.n_both) for pair in pairs] == [
        (ann.id, bob.id, 4, 2),
        (ann.id, eve.id, 3, 2),
        (bob.id, eve.id, 3, 2),
    ]
    assert (pairs[0].median_px, pairs[0].share_4px, pairs[0].event_f1) == (2.0, 1.0, 1.0)
    second = make_consensus(book, admin, job.id)
    assert [(p.frame, p.method, p.n) for p in second.points] == [
        (0, "mean", 3),
        (1, "absent", 3),
        (2, "median", 3),
        (3, "adjudicate", 2),
        (4, "adjudicate", 1),
    ]
    (video,) = job_labels(book, job.id)
    assert second.adjudicate == ((video.video.id, 3), (video.video.id, 4))
    assert (sorted(video.labels), video.unlabelled, video.frames) == ([0, 1, 2], (3, 4, 5), 6)
    assert video.labels[0].ball.xy == (11.0, 11.0)
    assert (video.labels[2].event, video.labels[2].source) == ("hit", "consensus:2")
    assert consensus(book, job.id, 1) == first, "older versions stay as they were"
    assert consensus(book, job.id) == second
    assert consensus(book, job.id, 3) is None
    assert job_labels(book, job.id, version=1)[0].labels == {}
    with pytest.raises(DBAPIError, match="append-only"), book.write() as connection:
        connection.execute(delete(schema.consensus_label))
    for call in (agreement, make_consensus):
        with pytest.raises(NotAllowed):
            call(book, ann, job.id)


def test_a_shift_of_a_frame_is_seen_over_several_videos(book: LabelBook, person: Person, admin: User) -> None:
    videos = [ready_video(book, f"{i}.mp4", 15).id for i in range(2)]
    job = jobs.create_job(book, admin, name="two", video_ids=videos, sequence_length=0, replicas=2)
    ann, bob = person("ann"), person("bob")
    for user, late in ((ann, 0), (bob, 1)):
        for _ in videos:
            _work(book, job, user, {f: (20.0 * (f - late) + 30, 5.0) for f in range(15)})
    (pair,) = agreement(book, admin, job.id)
    assert (pair.n, pair.median_px, pair.share_4px, pair.drift_frames) == (30, 20.0, 0.0, 1)
