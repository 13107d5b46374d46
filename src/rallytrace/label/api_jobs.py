"""Routes of jobs: progress, agreement, consensus, labels out and in, networks and pre-labelling."""

from __future__ import annotations

import io
import re
import tempfile
import threading
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from rallytrace.errors import InputError
from rallytrace.label import agreement, events, exchange, jobs
from rallytrace.label import api_common as common
from rallytrace.label.api_common import MAX_ID, Admin, After, Body, Denied, Id, Limit, MaybeId, Me, Reviewer, Ws
from rallytrace.label.book import Video, WrongState, every
from rallytrace.label.proposals import ProposalRun
from rallytrace.label.team import User
from rallytrace.labels.formats import FORMATS, get_format, render_sets
from rallytrace.labels.sets import LabelSet, ReadOptions, WriteOptions

if TYPE_CHECKING:
    from rallytrace.label.intake import Heading

router = APIRouter(prefix="/api", tags=["jobs"])
MAX_IMPORT_BYTES = 64 * 2**20
_intake = threading.Semaphore(1)  # its child may take 640 MiB for a moment


class NewJob(Body):
    """What is asked, of which videos, in which pieces."""

    name: common.Name
    video_ids: Annotated[list[Annotated[int, Field(ge=1, le=MAX_ID)]], Field(min_length=1, max_length=1000)]
    instructions: common.Text = ""
    kind: Literal["label", "adjust", "verify"] = "label"
    sequence_length: Annotated[int, Field(ge=0, le=10**6)] = 600
    replicas: Annotated[int, Field(ge=1, le=10)] = 1
    gold_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0


class Prelabel(Body):
    """Of one video, or of all of a job."""

    video_id: Annotated[int, Field(ge=1, le=MAX_ID)] | None = None
    job_id: Annotated[int, Field(ge=1, le=MAX_ID)] | None = None
    model: common.Name = "accurate"


def _job_json(job: jobs.Job, user: User) -> dict[str, Any]:
    shown = asdict(job)
    return shown if user.reviews else {name: shown[name] for name in shown if name != "gold_fraction"}


@router.get("/jobs")
def list_jobs(ws: Ws, user: Me, after: After = 0, limit: Limit = 1000) -> list[dict[str, Any]]:
    """All of the project."""
    return [_job_json(job, user) for job in jobs.jobs(ws.book, after, limit)]


@router.post("/jobs", status_code=201)
def create_job(body: NewJob, ws: Ws, user: Admin) -> dict[str, Any]:
    """Cuts the videos into tasks."""
    return _job_json(jobs.create_job(ws.book, user, **body.model_dump()), user)


@router.get("/jobs/{job_id}")
def job(job_id: Id, ws: Ws, user: Me) -> dict[str, Any]:
    """With its progress; annotators see their own share alone, which tells nothing of hidden tests."""
    found = jobs.job(ws.book, job_id)
    progress = jobs.progress(ws.book, job_id, user)
    people = [asdict(each) | {"user": each.name} for each in progress.per_person]
    return _job_json(found, user) | {"progress": asdict(progress) | {"per_person": people}}


@router.get("/jobs/{job_id}/agreement")
def agree(job_id: Id, ws: Ws, user: Me) -> dict[str, Any]:
    """Between annotators, and with the hidden tests. Reviewers and admins."""
    names = common.named(ws.book)

    def shown(pair: agreement.Agreement) -> dict[str, Any]:
        return asdict(pair) | {"a": names.get(pair.a, ""), "b": names.get(pair.b, "")}

    scores = agreement.gold_scores(ws.book, user, job_id)
    gold = [shown(each) | {"user": names.get(each.b, ""), "task": task_id} for task_id, each in scores.items()]
    return {"pairs": [shown(pair) for pair in agreement.agreement(ws.book, user, job_id)], "gold": gold}


def _consensus_json(made: agreement.Consensus) -> dict[str, Any]:
    places = [{"video": video, "frame": frame} for video, frame in made.adjudicate]
    frames = [frame for _, frame in made.adjudicate]
    about = {"version": made.version, "n": len(made.points), "created": made.created}
    return about | {"adjudicate": frames, "places": places}


@router.post("/jobs/{job_id}/consensus")
def make_consensus(job_id: Id, ws: Ws, user: Me) -> dict[str, Any]:
    """A new version of what the annotators say together. Reviewers and admins."""
    return _consensus_json(agreement.make_consensus(ws.book, user, job_id))


@router.get("/jobs/{job_id}/consensus")
def consensus(job_id: Id, ws: Ws, user: Reviewer, version: MaybeId = None) -> dict[str, Any]:
    """A version, the latest by default. Reviewers and admins."""
    jobs.job(ws.book, job_id)
    found = agreement.consensus(ws.book, job_id, version)
    if found is None:
        raise Denied(404, "not_found", f"job {job_id} has no such consensus")
    return _consensus_json(found)


@router.get("/jobs/{job_id}/export", response_class=Response)
def export(
    job_id: Id,
    ws: Ws,
    user: Reviewer,
    format: Annotated[str, Query(max_length=40)] = "tracknetv2",
    unlabelled: Literal["refuse", "drop", "absent"] = "refuse",
) -> Response:
    """A zip of the job's labels, and of how each came about. Reviewers and admins."""
    to, found = get_format(format), events.job_labels(ws.book, job_id)
    missing = sum(len(part.unlabelled) for part in found)
    if missing and unlabelled == "refuse":
        raise Denied(
            409, "unlabelled", f"{missing} frames are unlabelled: label them, or export with unlabelled=drop or absent"
        )
    files = render_sets(exchange.label_sets(found), to, WriteOptions(unlabelled=unlabelled))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    headers = {"Content-Disposition": f'attachment; filename="job-{job_id}-{to.name}.zip"'}
    return Response(out.getvalue(), media_type="application/zip", headers=headers)


@router.post("/jobs/{job_id}/import", openapi_extra=common.RAW_BODY)
async def take_in(
    job_id: Id,
    request: Request,
    ws: Ws,
    user: Reviewer,
    format: Annotated[str, Query(max_length=40)] = "auto",
    name: Annotated[str, Query(min_length=1, max_length=100)] = "labels",
    video: MaybeId = None,
    origin: Literal["labels", "proposals"] | None = None,
) -> dict[str, Any]:
    """Labels of a file (the raw body) for the unlabelled frames of the job's open tasks. Reviewers and admins."""
    safe = re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "labels"
    with tempfile.TemporaryDirectory() as folder:
        path = FilePath(folder) / safe
        with path.open("wb") as file:
            async for chunk in common.bounded_stream(request, MAX_IMPORT_BYTES):
                file.write(chunk)
        return await run_in_threadpool(_take_in, ws, user, job_id, path, format, video, origin)


def _take_in(
    ws: common.Workspace,
    user: User,
    job_id: int,
    path: FilePath,
    format: str,
    video_id: int | None,
    origin: Literal["labels", "proposals"] | None,
) -> dict[str, Any]:
    """Which set of the file belongs to which video is told by their names, or clear where there is one of each."""
    parts = _tasks_of(ws, user, job_id)
    videos = {task.video_id: task.video_name for task in parts}
    if video_id is not None:
        videos = {each: title for each, title in videos.items() if each == video_id}
    if not videos:
        raise Denied(404, "not_found", f"job {job_id} has no such video")
    from rallytrace.label.intake import Intake

    found = [ws.book.video(each) for each in videos]
    longest = max(each.n_frames or 0 for each in found)
    options = replace(_read_options(found), origin=origin)
    if not _intake.acquire(timeout=60):
        raise WrongState("other label files are being read at this moment; try again")
    try:
        with Intake(path, None if format == "auto" else format, options, longest) as intake:
            targets = _targets(intake.headings, videos)
            return _import(ws, user, job_id, path.name, zip(targets, intake, strict=True))
    finally:
        _intake.release()


def _targets(headings: Sequence[Heading], videos: Mapping[int, str]) -> list[int]:
    """The video of each clip of a file. Raises InputError for a clip that is of none, before anything is taken in."""
    found = []
    for each in headings:
        target = next((n for n, title in videos.items() if exchange.is_of(each, title)), None)
        if target is None and len(headings) == len(videos) == 1:
            target = next(iter(videos))
        if target is None:
            names = ", ".join(sorted(set(videos.values())))[:300]
            raise InputError(f"the file labels {each.name[:80]!r}, the job has {names}: say which video it is of")
        found.append(target)
    return found


def _import(
    ws: common.Workspace, user: User, job_id: int, file_name: str, sets: Iterable[tuple[int, tuple[LabelSet, int]]]
) -> dict[str, Any]:
    counts = Counter[str]()
    notes: list[str] = []
    for target, (each, beyond) in sets:
        done = exchange.import_set(ws.book, user, job_id, target, each, file_name)
        counts.update(done._asdict())
        counts["skipped"] += beyond
        notes += each.notes
    if counts["interpolated"]:
        notes.append(f"{counts['interpolated']} labels that a tool interpolated were left out: nobody has seen them")
    if counts["proposed"]:
        notes.append(f"{counts['proposed']} positions that a tracker wrote are shown as proposals")
    return {"imported": counts["imported"], "skipped": counts["skipped"], "notes": notes}


def _read_options(videos: Sequence[Video]) -> ReadOptions:
    if len(videos) != 1:
        return ReadOptions()
    (found,) = videos
    wh = (found.w, found.h) if found.w and found.h else None
    return ReadOptions(wh=wh, fps=Fraction(found.rate) if found.rate else None, n_frames=found.n_frames)


@router.get("/formats")
def formats(user: Me) -> list[dict[str, Any]]:
    """The label formats that are read and written."""
    return [
        {"name": each.name, "title": each.title, "extensions": each.suffixes, "can_read": True, "can_write": True}
        for each in FORMATS.values()
    ]


@router.get("/models")
def models(ws: Ws, user: Me) -> list[str]:
    """The networks that can make proposals."""
    return list(ws.proposer.models())


def _run_json(run: ProposalRun) -> dict[str, Any]:
    shown = asdict(run)
    return shown | {"video": shown.pop("video_id")}


@router.get("/prelabel")
def prelabels(ws: Ws, user: Me, after: After = 0, limit: Limit = 1000) -> list[dict[str, Any]]:
    """All runs of networks over videos."""
    return [_run_json(run) for run in ws.proposer.runs(after, limit)]


@router.post("/prelabel", status_code=202)
def prelabel(body: Prelabel, ws: Ws, user: Reviewer) -> dict[str, Any]:
    """Runs a network over a video, or over those of a job, in the background. Reviewers and admins."""
    if (body.video_id is None) == (body.job_id is None):
        raise Denied(422, "invalid", "expected video_id or job_id, one of the two")
    videos = [body.video_id] if body.video_id else sorted({t.video_id for t in _tasks_of(ws, user, body.job_id)})
    ids = [ws.proposer.start(each, body.model) for each in videos if each]
    return {"id": ids[0], "ids": ids}


def _tasks_of(ws: common.Workspace, user: User, job_id: int | None) -> list[jobs.Task]:
    jobs.job(ws.book, job_id or 0)
    return list(every(lambda after: jobs.tasks(ws.book, user, job_id=job_id, after=after)))


@router.delete("/prelabel/{run_id}")
def cancel(run_id: Id, ws: Ws, user: Reviewer) -> dict[str, bool]:
    """Ends a run, or forgets one that has ended with its proposals. Reviewers and admins."""
    ws.proposer.cancel(run_id)
    return {"ok": True}
