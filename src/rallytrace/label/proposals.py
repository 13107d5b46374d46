"""The model in the loop: proposals made in the background, and the frames that a person should look at first.

A proposal is what a network says of one frame; it is never a label. Queues order frames by doubt: DeepLabCut's outlier
rules (low score, jump, deviation from a fitted course) and disagreement with the model or with another annotator.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from sqlalchemy import case, delete, insert, select, update

from rallytrace import video
from rallytrace.label.book import LabelBook, NotFound, WrongState, every, inserted
from rallytrace.label.events import Label
from rallytrace.label.library import Library
from rallytrace.label.schema import proposal, proposal_run
from rallytrace.label.worker import Stopped, Worker
from rallytrace.runtime import bundled, load_network
from rallytrace.tracker import Tracker
from rallytrace.types import XY, BallPoint

QueueBy: TypeAlias = Literal["unlabelled", "score", "jump", "residual", "disagreement", "model"]
BATCH = 200  # proposals that are stored together
UNFINISHED = ("queued", "running")
JUMP = 5.0  # times the median step
FAR_PX = 4.0  # at a width of 1280: the distance within which two people agree
REACH = 4  # frames on each side that a parabola is fitted to


@dataclass(frozen=True, slots=True)
class ProposalRun:
    """One pass of a network over a video. state: queued, running, done, failed or cancelled."""

    id: int
    video_id: int
    model: str
    state: str
    progress: float
    error: str
    created: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the network says of a frame; `x` and `y`, source px, are None where it finds no ball."""

    frame: int
    x: float | None
    y: float | None
    score: float


class Proposer:
    """Runs networks over videos, one at a time, in a polite thread. Thread-safe.

    What a stopped server left running is marked failed at the next start: start it again.
    """

    def __init__(self, book: LabelBook, library: Library, folder: Path) -> None:
        self._book, self._library, self._weights = book, library, folder / "weights"
        self._worker = Worker("propose", self._work, lambda n, why: self._set(n, state="failed", error=why))
        self._cancelled: set[int] = set()
        for run in every(self.runs):
            if run.state == "running":
                self._set(run.id, state="failed", error="the server was stopped: start it again")
            elif run.state == "queued":
                self._worker.put(run.id)

    def models(self) -> dict[str, Path]:
        """The networks that may be run, by name: those bundled, and files and checkpoints in the project's weights/."""
        found = dict(bundled())
        if self._weights.is_dir():
            own = (p for p in sorted(self._weights.iterdir()) if p.suffix == ".onnx" or (p / "model.json").is_file())
            found |= {path.name: path for path in own}
        return found

    def take(self, path: Path | str) -> str:
        """Copies a network into the project, under its run's name where it is just called best or last, and queues a
        run of it over each video that is ready; returns the name. Raises ModelError for what is no network."""
        path = Path(path).resolve()
        load_network(path, threads=1)
        name = path.parent.name if path.name in ("best", "last") else path.name
        self._weights.mkdir(exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, self._weights / name, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, self._weights / name)
        for each in every(self._library.videos):
            if each.state == "ready":
                self.start(each.id, name)
        return name

    def start(self, video_id: int, model: str) -> int:
        """Queues a run, and gives its id; that of the same run where it is queued or running. Raises BookError."""
        if model not in self.models():
            raise NotFound(f"no network {model[:80]!r} here, expected one of {', '.join(self.models())}")
        found = self._library.video(video_id)
        if found.state != "ready":
            raise WrongState(f"video {found.name!r} is {found.state}, expected one that is imported")
        same = (proposal_run.c.video_id == video_id, proposal_run.c.model == model)
        values = {"video_id": video_id, "model": model, "state": "queued", "progress": 0.0, "error": ""}
        with self._book.write() as connection:
            known = select(proposal_run.c.id).where(*same, proposal_run.c.state.in_(UNFINISHED))
            run_id = connection.scalar(known)
            if run_id is not None:
                return int(run_id)
            run_id = inserted(connection, proposal_run, values | {"created": self._book.clock()})
        self._worker.put(run_id)
        return run_id

    def cancel(self, run_id: int) -> None:
        """Ends a run that is not finished; forgets one that is, with its proposals. Raises NotFound."""
        run = self.run(run_id)
        if run.state in UNFINISHED:
            self._cancelled.add(run_id)
            self._set(run_id, state="cancelled")
            return
        with self._book.write() as connection:
            connection.execute(delete(proposal).where(proposal.c.run_id == run_id))
            connection.execute(delete(proposal_run).where(proposal_run.c.id == run_id))

    def run(self, run_id: int) -> ProposalRun:
        """Raises NotFound."""
        query = select(proposal_run).where(proposal_run.c.id == run_id)
        return self._book.row(ProposalRun, query, f"pre-labelling {run_id}")

    def runs(self, after: int = 0, limit: int = 1000) -> list[ProposalRun]:
        """By id, those after `after`."""
        return self._book.page(ProposalRun, select(proposal_run), proposal_run.c.id, after, limit)

    def latest(self, video_id: int) -> ProposalRun | None:
        """The newest run of a video that has something to show, else the newest."""
        shown = case((proposal_run.c.state.in_(("done", "running")), 0), else_=1)
        query = select(proposal_run).where(proposal_run.c.video_id == video_id)
        found = self._book.rows(ProposalRun, query.order_by(shown, proposal_run.c.id.desc()).limit(1))
        return found[0] if found else None

    def proposals(self, run_id: int, start: int, stop: int) -> list[Proposal]:
        """Of the frames [start, stop), as far as they are made."""
        inside = (proposal.c.run_id == run_id, proposal.c.frame >= start, proposal.c.frame < stop)
        return self._book.rows(Proposal, select(proposal).where(*inside).order_by(proposal.c.frame))

    def _set(self, run_id: int, **values: Any) -> None:
        with self._book.write() as connection:
            connection.execute(update(proposal_run).where(proposal_run.c.id == run_id).values(**values))

    def _work(self, run_id: int) -> None:
        run = self.run(run_id)
        if run.state == "queued":
            self._set(run_id, state="running")
            self._propose(run)
            self._set(run_id, state="done", progress=1.0)
            self._forget_older(run)

    def _propose(self, run: ProposalRun) -> None:
        source = self._library.source(run.video_id)
        source.check()
        network = load_network(self.models()[run.model], threads=max(1, (os.cpu_count() or 2) // 2))
        made: list[BallPoint] = []
        told_s = time.monotonic()
        with video.read(source.path) as reader:
            reader.find_picture()
            tracker = Tracker(network, reader.info.wh, picture=reader.info.picture)
            reader.give_to(tracker)
            for points in itertools.chain(map(tracker.push, reader), iter_once(tracker)):
                self._worker.check()
                if run.id in self._cancelled:
                    self._set(run.id, state="cancelled")
                    raise Stopped
                made += points
                if len(made) >= BATCH or time.monotonic() - told_s > 2.0:
                    self._store(run, made, len(source.table))
                    made, told_s = [], time.monotonic()
        self._store(run, made, len(source.table))

    def _store(self, run: ProposalRun, points: Sequence[BallPoint], length: int) -> None:
        if not points:
            return
        rows = [
            {"run_id": run.id, "frame": p.frame, "x": p.xy and p.xy[0], "y": p.xy and p.xy[1], "score": p.score}
            for p in points
            if p.frame < length
        ]
        with self._book.write() as connection:
            connection.execute(insert(proposal), rows)
            share = {"progress": min(1.0, (points[-1].frame + 1) / length)}
            connection.execute(update(proposal_run).where(proposal_run.c.id == run.id).values(share))

    def _forget_older(self, run: ProposalRun) -> None:
        """The same network's earlier proposals for this video are of no more use."""
        c = proposal_run.c
        older = select(c.id).where(c.video_id == run.video_id, c.model == run.model, c.id < run.id)
        with self._book.write() as connection:
            ids = list(connection.scalars(older))
            connection.execute(delete(proposal).where(proposal.c.run_id.in_(ids)))
            connection.execute(delete(proposal_run).where(c.id.in_(ids)))

    def close(self) -> None:
        """Ends the run in work."""
        self._worker.close()


def iter_once(tracker: Tracker) -> Iterator[list[BallPoint]]:
    """The last points, made when they are asked for."""
    yield tracker.flush()


def uncertain(
    by: QueueBy,
    frames: range,
    labels: Mapping[int, Label],
    proposals: Mapping[int, Proposal],
    others: Sequence[Mapping[int, Label]] = (),
    width_px: int = 1280,
) -> list[int]:
    """Those of `frames` that a person should look at, the most doubtful first.

    unlabelled: in their order. score: not labelled by a person, the model's score nearest to undecided. jump, residual:
    the place (the label's, else the model's) is far from the last one, or from a parabola through its neighbours.
    model, disagreement: the label differs from the model's, or from one of `others`.
    """
    far_px = FAR_PX * width_px / 1280
    if by == "unlabelled":
        return [frame for frame in frames if frame not in labels]
    doubt: dict[int, float] = {}
    if by == "score":
        open_frames = (frame for frame in frames if frame in proposals and not _is_human(labels.get(frame)))
        doubt = {frame: 0.5 - abs(proposals[frame].score - 0.5) for frame in open_frames}
    elif by == "model":
        said = {frame: _place(each) for frame, each in proposals.items()}
        doubt = _apart({n: _place(label) for n, label in labels.items() if _is_human(label)}, said, far_px)
    elif by == "disagreement":
        own = {frame: _place(label) for frame, label in labels.items()}
        for other in others:
            found = _apart(own, {frame: _place(label) for frame, label in other.items()}, far_px)
            doubt = {n: max(doubt.get(n, 0.0), found.get(n, 0.0)) for n in doubt.keys() | found.keys()}
    else:
        known = {n: _place(each) for n, each in proposals.items()} | {n: _place(each) for n, each in labels.items()}
        places = {frame: xy for frame in frames if (xy := known.get(frame)) is not None}
        doubt = _jumps(places, far_px) if by == "jump" else _residuals(places, far_px)
    return sorted((n for n in doubt if n in frames and doubt[n] > 0), key=lambda n: (-doubt[n], n))


def _is_human(label: Label | None) -> bool:
    """Whether a person has looked at the frame, not only a tool."""
    return label is not None and not label.source.startswith(("tracker", "interpolated", "model", "import"))


def _place(what: Label | Proposal) -> XY | None:
    return None if what.x is None or what.y is None else (what.x, what.y)


def _apart(a: Mapping[int, XY | None], b: Mapping[int, XY | None], far_px: float) -> dict[int, float]:
    """By frame of both: how far the two are apart; where one says that there is no ball, farther than any distance."""
    found = {}
    for frame in a.keys() & b.keys():
        one, two = a[frame], b[frame]
        if (one is None) != (two is None):
            found[frame] = math.inf
        elif one is not None and two is not None and math.dist(one, two) > far_px:
            found[frame] = math.dist(one, two)
    return found


def _jumps(places: Mapping[int, XY], far_px: float) -> dict[int, float]:
    """Steps, per frame, of more than some times the median step, over gaps of up to three frames."""
    order = sorted(places)
    steps = {b: math.dist(places[a], places[b]) / (b - a) for a, b in itertools.pairwise(order) if b - a <= 3}
    limit = max(far_px, JUMP * statistics.median(steps.values())) if steps else 0.0
    return {frame: step for frame, step in steps.items() if step > limit}


def _residuals(places: Mapping[int, XY], far_px: float) -> dict[int, float]:
    """How far each place is from the parabola through those around it, where there are enough."""
    found = {}
    for frame, xy in places.items():
        around = [n for n in range(frame - REACH, frame + REACH + 1) if n != frame and n in places]
        if len(around) < REACH + 1 or not min(around) < frame < max(around):
            continue
        t = np.array(around, np.float64) - frame
        fit = np.linalg.lstsq(np.vander(t, 3), np.array([places[n] for n in around]), rcond=None)[0]
        distance = math.dist(xy, fit[2])
        if distance > far_px:
            found[frame] = distance
    return found
