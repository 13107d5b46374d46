"""Between the label book and label files: what a job has as sets that any format takes, and sets as events."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from rallytrace.label import events
from rallytrace.label.book import LabelBook
from rallytrace.label.events import Label, VideoLabels
from rallytrace.label.team import User
from rallytrace.labels.sets import Extra, LabelSet, safe_name


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


def is_of(found: LabelSet, video_name: str) -> bool:
    """Whether a set's clip, or the video that its file names, is called as the video is."""
    stem = Path(video_name).stem
    return bool({stem, safe_name(stem)} & {found.name, Path(found.name).stem, Path(found.video).stem})


def import_set(
    book: LabelBook, by: User, job_id: int, video_id: int, found: LabelSet, file_name: str
) -> tuple[int, int, int]:
    """(imported, skipped, interpolated): what a tool interpolated is left out. Else as `events.import_labels`."""
    seen = {frame: label for frame, label in found.labels.items() if found.extra(frame).keyframe}
    imported, skipped = events.import_labels(book, by, job_id, video_id, seen, file_name, found.extras)
    return imported, skipped, len(found.labels) - len(seen)


def _extra(label: Label) -> Extra:
    blur = None if label.blur_l is None or label.blur_theta is None else (label.blur_l, label.blur_theta)
    return Extra(label.event, label.source != "interpolated", label.score, label.source, blur)
