"""The ball CSV of the TrackNetV2 family: `Frame,Visibility,X,Y`, frames from 0, pixels of the original picture.

Read by column name, so that other orders and extra columns (rallytrace's own Time, Score and Source among them) are
fine. Visibility: 0 absent, 1 clear, 2 hard to see, 3 occluded, -1 unknown. Only Visibility says whether there is a
ball: (0, 0) is a pixel like any other.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from rallytrace.errors import LabelError
from rallytrace.files import AtomicFile, output_errors
from rallytrace.trajectory.table import MAX_FRAME, Row, read_rows
from rallytrace.types import BallLabel, Visibility

COLUMNS = ("Frame", "Visibility", "X", "Y")
UNKNOWN = -1


def read_labels(path: Path | str, *, keyframes_only: bool = True) -> dict[int, BallLabel]:
    """The labels of a clip by frame; a frame without a row, or with Visibility -1, has no entry.

    With `keyframes_only`, rows that a `Keyframe` column marks 0 (interpolated by a tool, not seen by a person) have no
    entry either. Raises LabelError, which names file, line, value and what was expected.
    """
    labels: dict[int, BallLabel] = {}
    lines: dict[int, int] = {}
    for row in read_rows(Path(path), COLUMNS):
        frame = row.integer("Frame", 0, MAX_FRAME)
        if frame in lines:
            raise row.error("Frame", f"expected each frame once, but line {lines[frame]} has it too")
        lines[frame] = row.line
        label = _label_of(row, frame)
        is_keyframe = "keyframe" not in row.cells or row.integer("Keyframe", 0, 1) == 1
        if label is not None and (is_keyframe or not keyframes_only):
            labels[frame] = label
    return labels


def _label_of(row: Row, frame: int) -> BallLabel | None:
    visibility = row.integer("Visibility", UNKNOWN, max(Visibility))
    if visibility > 0:
        xy = (row.number("X"), row.number("Y"))
        if xy == (-1.0, -1.0):
            raise row.error("X", f"and so is Y, which means no ball; expected a place where Visibility is {visibility}")
        return BallLabel(frame, xy, Visibility(visibility))
    for column in ("X", "Y"):
        if row.cells[column.lower()]:
            row.number(column)
    return None if visibility == UNKNOWN else BallLabel(frame, None, Visibility.ABSENT)


def write_labels(path: Path | str, labels: Mapping[int, BallLabel], n_frames: int | None = None) -> None:
    """Writes `labels` in the order of their frames, exactly (`read_labels` gives back equal ones), atomically.

    With `n_frames` there is a row for every frame of the clip, Visibility -1 where it is unlabelled. Raises LabelError
    for labels that no file can hold, OutputError where the file cannot be written.
    """
    for frame, label in labels.items():
        _check(frame, label, n_frames)
    frames: Iterable[int] = sorted(labels) if n_frames is None else range(n_frames)
    with AtomicFile(path) as file, output_errors(Path(path)):
        out = csv.writer(file, lineterminator="\n")
        out.writerow(COLUMNS)
        out.writerows(_cells(frame, labels.get(frame)) for frame in frames)


def _check(frame: int, label: BallLabel, n_frames: int | None) -> None:
    last = MAX_FRAME if n_frames is None else n_frames - 1
    if label.frame != frame or not 0 <= frame <= last:
        raise LabelError(f"label of frame {label.frame} under {frame}: expected the same frame, from 0 to {last}")
    if label.xy == (-1, -1):
        raise LabelError(f"frame {frame}: xy is (-1, -1), which means no ball in files; expected a place or None")


def _cells(frame: int, label: BallLabel | None) -> tuple[int | str, ...]:
    if label is None:
        return frame, UNKNOWN, "", ""
    x, y = label.xy or (0, 0)
    return frame, int(label.visibility), _shortest(x), _shortest(y)


def _shortest(value: float) -> str:
    """483 for 483.0, so that readers of whole pixels read whole pixels; otherwise all digits."""
    return repr(float(value)).removesuffix(".0")
