"""Between the label book and label files: what a job has as sets that any format takes, and sets as events."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Protocol

from sqlalchemy import delete, insert, select

from rallytrace.label import events
from rallytrace.label.book import LabelBook, inserted
from rallytrace.label.events import Label, VideoLabels
from rallytrace.label.schema import proposal, proposal_run
from rallytrace.label.team import User
from rallytrace.labels.sets import Extra, LabelSet, safe_name
from rallytrace.labels.tracknetv2 import TRACKED
from rallytrace.types import BallLabel


def label_sets(parts: Sequence[VideoLabels]) -> list[LabelSet]:
    """One set per video, under its file's name; a name that two videos share gets the video's id."""
    stems = [safe_name(Path(part.video.name).stem) for part in parts]
    sets = []
    for part, stem in zip(parts, stems, strict=True):
        video = part.video
        sets.append(
            LabelSet(
                stem if stems.count(stem) == 1 else f"{stem}-{video.id}",
                {frame: label.ball for frame, label in part.labels.items()},
                {frame: _extra(label) for frame, label in part.labels.items()},
                (video.w, video.h) if video.w and video.h else None,
                Fraction(video.rate) if video.rate else None,
                video.n_frames,
                Path(video.name).name,
            )
        )
    return sets


class Named(Protocol):
    """A clip of a label file, and the video that it names."""

    @property
    def name(self) -> str: ...
    @property
    def video(self) -> str: ...


def is_of(found: Named, video_name: str) -> bool:
    """Whether a set's clip, or the video that its file names, is called as the video is."""
    stem = Path(video_name).stem
    return bool({stem, safe_name(stem)} & {found.name, Path(found.name).stem, Path(found.video).stem})


class Imported(NamedTuple):
    """How many labels of a set were taken in, and were not: frames that have one or that nobody is to label; what a
    tool interpolated. proposed: positions that a tracker wrote, which people now see as proposals."""

    imported: int
    skipped: int
    interpolated: int
    proposed: int


def import_set(book: LabelBook, by: User, job_id: int, video_id: int, found: LabelSet, file_name: str) -> Imported:
    """As `events.import_labels`, and a run of proposals of what a tracker wrote."""
    seen = {frame: label for frame, label in found.labels.items() if found.extra(frame).keyframe}
    imported, skipped = events.import_labels(book, by, job_id, video_id, seen, file_name, found.extras)
    unseen = [label for label in found.located() if label.frame not in seen]
    proposed = [label for label in unseen if found.extra(label.frame).source in TRACKED]
    if proposed:
        _propose(book, video_id, proposed, found, f"import:{file_name}"[:150])
    return Imported(imported, skipped, len(found.labels) - len(seen) - len(proposed), len(proposed))


def _propose(book: LabelBook, video_id: int, places: Sequence[BallLabel], found: LabelSet, name: str) -> None:
    """A run that is done, instead of an earlier one of the same file."""
    mine = select(proposal_run.c.id).where(proposal_run.c.video_id == video_id, proposal_run.c.model == name)
    run = {"video_id": video_id, "model": name, "state": "done", "progress": 1.0, "error": "", "created": book.clock()}
    with book.write() as connection:
        older = list(connection.scalars(mine))
        connection.execute(delete(proposal).where(proposal.c.run_id.in_(older)))
        connection.execute(delete(proposal_run).where(proposal_run.c.id.in_(older)))
        run_id = inserted(connection, proposal_run, run)
        rows = []
        for label in places:
            assert label.xy
            x, y = label.xy
            score = found.extra(label.frame).score
            said = {"frame": label.frame, "x": x, "y": y, "score": 1.0 if score is None else score}
            rows.append({"run_id": run_id, **said})
        connection.execute(insert(proposal), rows)


def _extra(label: Label) -> Extra:
    blur = None if label.blur_l is None or label.blur_theta is None else (label.blur_l, label.blur_theta)
    return Extra(label.event, label.source != "interpolated", label.score, label.source, blur)
