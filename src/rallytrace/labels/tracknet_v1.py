"""TrackNet V1 (tennis): `game1/Clip1/Label.csv`, a row per picture of the clip's folder.

Columns `file name,visibility,x-coordinate,y-coordinate,status`. visibility: 0 no ball, 1 easy, 2 hard, 3 occluded.
status: 0 flying, 1 hit, 2 bounce. The picture's number is the frame. Absent: empty, 0 or -1 in x and y.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import PurePosixPath

from rallytrace.errors import LabelError
from rallytrace.labels import sets
from rallytrace.labels.source import Source
from rallytrace.trajectory.table import Row, header_of
from rallytrace.types import Visibility

COLUMNS = ("file name", "visibility", "x-coordinate", "y-coordinate", "status")


def detect(source: Source) -> bool:
    """Whether a CSV has the columns; status may be missing."""
    return any(_is_table(source, name) for name in source.find("label.csv")[:20])


def _is_table(source: Source, name: str) -> bool:
    return set(COLUMNS[:4]) <= set(header_of(source.head(name)))


def read(source: Source, options: sets.ReadOptions) -> list[sets.LabelSet]:
    """One set per Label.csv, named by its folders: game1_Clip1. Raises LabelError."""
    tables = source.find("label.csv")
    if not tables:
        raise LabelError(f"{source.path}: no Label.csv inside")
    return [_read_one(source, name, options) for name in tables]


def _read_one(source: Source, name: str, options: sets.ReadOptions) -> sets.LabelSet:
    folders = source.folders(name) or (source.path.stem,)
    stem = PurePosixPath(name).stem
    stem = stem if stem.lower() != "label" else "_".join(folders[-1:] if source.is_file else folders[-2:])
    found = sets.Builder(stem, source.where(name), options)
    for row in source.rows(name, COLUMNS[:4]):
        number = sets.frame_number(row.cells["file name"], options.first_frame)
        if number is None:
            raise row.error("file name", "expected a picture's name with its number, such as 0007.jpg")
        _put(found, found.frame(number), row)
    return found.done(range(found.n_frames or found.last + 1), "unlabelled")


def _put(found: sets.Builder, frame: int, row: Row) -> None:
    status = row.integer("status", 0, 2) if row.cells.get("status") else 0
    visibility = Visibility(row.integer("visibility", 0, 3)) if row.cells["visibility"] else Visibility.ABSENT
    extra = sets.Extra(event=sets.EVENTS[status])
    if visibility is Visibility.ABSENT:
        found.put_absent(frame, extra)
        return
    texts = {row.cells["x-coordinate"].lower(), row.cells["y-coordinate"].lower()}
    if texts <= {"", "nan"} or texts <= {"-1", "-1.0"}:
        # An unseen ball whose place someone knew has one; so this is what other writers mean by no ball.
        found.notes.append(f"{found.name}: frames with visibility {visibility.value} but no place are no ball")
        found.put_absent(frame, extra)
        return
    found.put(frame, (row.number("x-coordinate"), row.number("y-coordinate")), visibility, extra)


def render(clips: Sequence[sets.LabelSet], options: sets.WriteOptions) -> dict[str, str]:
    """`<clip>/Label.csv`; an unlabelled frame has no row."""
    return {f"{sets.safe_name(labels.name)}/Label.csv": _table(labels) for labels in clips}


def _table(labels: sets.LabelSet) -> str:
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(COLUMNS)
    for frame, label in sorted(labels.labels.items()):
        xy = ("", "") if label.xy is None else (sets.short(label.xy[0]), sets.short(label.xy[1]))
        status = sets.EVENTS.index(labels.extra(frame).event)
        table.writerow([f"{frame:04}.jpg", int(label.visibility), *xy, status])
    return out.getvalue()
