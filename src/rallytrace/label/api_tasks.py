"""Routes of one's work: tasks, their labels and events, reviews, proposals, queues."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Field

from rallytrace.label import api_common as common
from rallytrace.label import events, jobs, team
from rallytrace.label.api_common import MAX_FRAME, MAX_ID, After, Denied, Id, Limit, MaybeId, Me, Name, Text, Ws
from rallytrace.label.api_videos import video_json
from rallytrace.label.events import Label
from rallytrace.label.jobs import Task
from rallytrace.label.proposals import QueueBy, uncertain

router = APIRouter(prefix="/api/tasks", tags=["tasks"])
MAX_EVENTS = 500


class Next(common.Body):
    """Of which job; of any when None."""

    job: Annotated[int, Field(ge=1, le=MAX_ID)] | None = None


class Submission(common.Body):
    """Unlabelled frames must be allowed in so many words."""

    allow_unlabelled: bool = False


class Reason(common.Body):
    """Why a task is declined."""

    reason: Text = ""


class Assignment(common.Body):
    """To whom."""

    user: Annotated[int, Field(ge=1, le=MAX_ID)]


class Verdict(common.Body):
    """Of a reviewer."""

    verdict: Literal["approve", "return"]
    comment: Text = ""
    frames: Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_FRAME)], ...], Field(max_length=1000)] = ()


class Events(common.Body):
    """What an annotator did, in order. Each event is checked by itself: a bad one is rejected alone."""

    client_id: Name
    events: Annotated[list[dict[str, Any]], Field(max_length=MAX_EVENTS)]


class Active(common.Body):
    """Seconds of active work since the last report."""

    seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


UNCLAIMED = ("id", "job", "job_name", "kind", "state")  # what annotators see of a task that they could claim
FOR_REVIEWERS = {"is_gold", "sequence_id"}


def task_json(task: Task, user: team.User) -> dict[str, Any]:
    """As the browser wants it. Annotators see nothing that tells a hidden test from other work."""
    shown = asdict(task) | {"job": task.job_id, "video": task.video_id, "frames": task.frames}
    hidden = {"job_id", "video_id"} | (set() if user.reviews else FOR_REVIEWERS)
    return {name: value for name, value in shown.items() if name not in hidden}


def _listed_json(task: Task, user: team.User) -> dict[str, Any]:
    """In a list, where the ranges of all tasks beside each other would tell which one is no part of the whole."""
    if user.reviews or task.assignee == user.id:
        return task_json(task, user)
    shown = task_json(task, user)
    return {name: shown[name] for name in UNCLAIMED}


def label_json(label: Label) -> dict[str, Any]:
    """As the browser wants it."""
    shown = asdict(label)
    who = shown.pop("user_id")
    if label.cleared:
        return {"frame": label.frame, "object": label.object, "cleared": True, "rev": label.rev, "user": who}
    return shown | {"user": who}


@router.get("")
def tasks(
    ws: Ws,
    user: Me,
    job: MaybeId = None,
    state: Literal["available", "claimed", "submitted", "approved", "returned", "declined"] | None = None,
    mine: bool = False,
    after: After = 0,
    limit: Limit = 1000,
) -> list[dict[str, Any]]:
    """Annotators see their own, and that there is something which they could claim."""
    found = jobs.tasks(ws.book, user, job_id=job, state=state, mine=mine, after=after, limit=limit)
    return [_listed_json(task, user) for task in found]


@router.post("/next")
def claim_next(ws: Ws, user: Me, body: Next | None = None) -> dict[str, Any]:
    """Claims the next task that is free."""
    task = jobs.claim_next(ws.book, user, body.job if body else None)
    if task is None:
        raise Denied(404, "no_task", "there is no task for you now")
    return task_json(task, user)


@router.get("/{task_id}")
def task(task_id: Id, ws: Ws, user: Me) -> dict[str, Any]:
    """With its video, the presentation times of its frames, the job's instructions and the reviews."""
    found = jobs.task(ws.book, user, task_id)
    times = ws.book.frame_times(found.video_id)[found.start : found.stop].tolist()
    names = common.named(ws.book)
    reviews = [
        asdict(review) | {"user": names.get(review.reviewer, "")} for review in jobs.reviews(ws.book, user, task_id)
    ]
    return task_json(found, user) | {
        "video": video_json(ws.library.video(found.video_id)) | {"pts": times},
        "instructions": jobs.job(ws.book, found.job_id).instructions,
        "reviews": reviews,
    }


@router.post("/{task_id}/submit")
def submit(task_id: Id, ws: Ws, user: Me, body: Submission | None = None) -> dict[str, Any]:
    """To the reviewers."""
    allowed = body is not None and body.allow_unlabelled
    return task_json(jobs.submit(ws.book, user, task_id, allow_unlabelled=allowed), user)


@router.post("/{task_id}/decline")
def decline(task_id: Id, ws: Ws, user: Me, body: Reason | None = None) -> dict[str, bool]:
    """An admin then finds someone else."""
    jobs.decline(ws.book, user, task_id, body.reason if body else "")
    return {"ok": True}


@router.post("/{task_id}/assign")
def assign(task_id: Id, body: Assignment, ws: Ws, user: Me) -> dict[str, Any]:
    """To a member. Reviewers and admins."""
    return task_json(jobs.assign(ws.book, user, task_id, body.user), user)


@router.post("/{task_id}/review")
def review(task_id: Id, body: Verdict, ws: Ws, user: Me) -> dict[str, Any]:
    """Approve, or return with a comment."""
    return task_json(jobs.review(ws.book, user, task_id, body.verdict, body.comment, body.frames), user)


@router.get("/{task_id}/labels")
def labels(task_id: Id, ws: Ws, user: Me, since: After = 0) -> dict[str, Any]:
    """What holds now, as far as it is newer than the revision `since`."""
    rev, found = events.labels(ws.book, user, task_id, since)
    return {"rev": rev, "labels": [label_json(label) for label in found]}


@router.post("/{task_id}/events")
def append(task_id: Id, body: Events, ws: Ws, user: Me) -> dict[str, Any]:
    """Stores events; what is acknowledged survives a killed server."""
    done = events.append(ws.book, user, task_id, body.client_id, body.events, checked=True)
    conflicts = [
        {"uuid": each.uuid, "frame": each.frame, "current": each.current and label_json(each.current)}
        for each in done.conflicts
    ]
    rejected = [{"uuid": each.uuid, "message": each.message} for each in done.rejected]
    return {"acked": list(done.acked), "conflicts": conflicts, "rejected": rejected, "rev": done.rev}


@router.post("/{task_id}/active")
def active(task_id: Id, body: Active, ws: Ws, user: Me) -> dict[str, float]:
    """Active time, granted as far as it can be true."""
    return {"granted_s": jobs.add_active(ws.book, user, task_id, body.seconds)}


@router.get("/{task_id}/proposals")
def proposals(task_id: Id, ws: Ws, user: Me) -> dict[str, Any]:
    """What the latest network says of the task's frames."""
    found = jobs.task(ws.book, user, task_id)
    run = ws.proposer.latest(found.video_id)
    if run is None:
        return {"id": None, "model": None, "state": "none", "progress": 0.0, "error": "", "proposals": []}
    rows = [asdict(each) for each in ws.proposer.proposals(run.id, found.start, found.stop)]
    about = {"id": run.id, "model": run.model, "state": run.state, "progress": run.progress, "error": run.error}
    return about | {"proposals": rows}


@router.get("/{task_id}/queue")
def doubtful(task_id: Id, ws: Ws, user: Me, by: QueueBy = "unlabelled") -> dict[str, list[int]]:
    """The frames to look at first."""
    found = jobs.task(ws.book, user, task_id)
    run = ws.proposer.latest(found.video_id)
    made = ws.proposer.proposals(run.id, found.start, found.stop) if run else []
    others: list[dict[int, Label]] = []
    if by == "disagreement":
        if not user.reviews:
            raise Denied(403, "forbidden", "only a reviewer sees where annotators disagree")
        others = [events.task_labels(ws.book, copy) for copy in jobs.copies(ws.book, found)]
    width = ws.book.video(found.video_id).w or 1280
    by_frame = {each.frame: each for each in made}
    frames = uncertain(
        by, range(found.start, found.stop), events.task_labels(ws.book, task_id), by_frame, others, width
    )
    return {"frames": frames[:10_000]}


@router.post("/{task_id}/{action}")
def act(task_id: Id, action: Literal["claim", "renew", "release"], ws: Ws, user: Me) -> dict[str, Any]:
    """Claim this very task, under a lease; half an hour more; or free it for others, with its labels."""
    do = {"claim": jobs.claim, "renew": jobs.renew, "release": jobs.release}[action]
    return task_json(do(ws.book, user, task_id), user)
