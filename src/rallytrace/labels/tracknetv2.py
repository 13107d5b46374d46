"""The ball CSV of the TrackNetV2 family: `Frame,Visibility,X,Y`, frames from 0, pixels of the original picture.

Read by column name, so that other orders and extra columns (rallytrace's own Time, Score and Source among them) are
fine. Visibility: 0 absent, 1 clear, 2 hard to see, 3 occluded, -1 unknown. Only Visibility says whether there is a
ball: (0, 0) is a pixel like any other.

A table with times, or with Source model, filled or none, is what a tracker says, ours or another, and no label: nobody
has seen it, and where it finds no ball there may be one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from rallytrace.errors import LabelError, UnknownSize
from rallytrace.files import AtomicFile, output_errors
from rallytrace.labels import sets
from rallytrace.labels.source import Source
from rallytrace.trajectory.table import MAX_FRAME, Row, header_of, read_rows
from rallytrace.types import BallLabel, PointSource, Visibility

COLUMNS = ("Frame", "Visibility", "X", "Y")
NORMALISED = ("Frame", "Ball", "x", "y")  # imgLabel.py's: 0 to 1 of the picture, -1 where there is no ball
EXTRAS = ("Keyframe", "Event", "Score", "Source", "BlurL", "BlurTheta")
TRACKED = tuple(each.value for each in PointSource)
UNKNOWN = -1


def read_labels(path: Path | str, *, keyframes_only: bool = True) -> dict[int, BallLabel]:
    """The labels of a clip by frame; a frame without a row, or with Visibility -1, has no entry.

    With `keyframes_only`, rows that a `Keyframe` column marks 0 (interpolated by a tool, not seen by a person) have no
    entry either. Raises LabelError, which names file, line, value and what was expected, also for what a tracker wrote.
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
        if is_keyframe and _is_tracked(row):
            raise LabelError(
                f"{row.path}: a tracker wrote it (Time, Source), expected labels that people made: look through it in "
                f"the workspace (labels import), or say that it is labels (labels convert {row.path} --as labels)"
            )
        if label is not None and (is_keyframe or not keyframes_only):
            labels[frame] = label
    return labels


def _is_tracked(row: Row) -> bool:
    return "time" in row.cells or row.cells.get("source") in TRACKED


def _label_of(row: Row, frame: int) -> BallLabel | None:
    visibility = row.integer("Visibility", UNKNOWN, max(Visibility))
    if visibility > 0:
        xy = (row.number("X"), row.number("Y"))
        if xy == (-1.0, -1.0):
            raise row.error("X", f"and so is Y, which means no ball; expected a place where Visibility is {visibility}")
        return BallLabel(frame, xy, Visibility(visibility))
    columns = ("X", "Y")
    if not all(row.cells[column.lower()].lower() in ("", "nan", "none") for column in columns):
        for column in columns:  # half a place is a mistake
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


def detect(source: Source) -> bool:
    """Whether a CSV of `source` has the columns."""
    return any(_header(source, name) for name in _tables(source)[:20])


def _tables(source: Source) -> list[str]:
    return source.find("_ball.csv") or source.find(".csv")


def _header(source: Source, name: str) -> tuple[str, ...] | None:
    """The columns that the file must have, None where it is of another kind."""
    found = set(header_of(source.head(name)))
    return next((kind for kind in (COLUMNS, NORMALISED) if {column.lower() for column in kind} <= found), None)


def read(source: Source, options: sets.ReadOptions) -> list[sets.LabelSet]:
    """One set per CSV: `match1/csv/a_ball.csv` is the clip match1_a. Raises LabelError."""
    tables = [name for name in _tables(source) if source.is_file or _header(source, name)]
    if not tables:
        raise LabelError(f"{source.path}: no CSV with the columns {','.join(COLUMNS)}")
    return [_read_one(source, name, options) for name in tables]


def _read_one(source: Source, name: str, options: sets.ReadOptions) -> sets.LabelSet:
    parts = PurePosixPath(name).parts
    stem = PurePosixPath(name).stem.removesuffix("_ball")
    clip = f"{parts[-3]}_{stem}" if parts[-2:-1] == ("csv",) and len(parts) > 2 else stem
    found = sets.Builder(clip, source.where(name), options)
    header = _header(source, name) or COLUMNS
    silent: set[int] = set()
    for row in source.rows(name, header):
        frame = found.frame(row.integer("Frame", 0, MAX_FRAME) - (options.first_frame or 0))
        if frame in silent:
            raise row.error("Frame", "expected each frame once")
        silent.add(frame)
        label = _label_of(row, frame) if header == COLUMNS else _normalised(row, frame, found)
        proposed = _is_tracked(row) and options.origin is None
        if proposed:
            found.notes.append(
                f"{clip}: a tracker wrote it (Time, Source): its positions are proposals that nobody has seen, and "
                "frames without one are unlabelled (--as labels: they are labels)"
            )
        if label is None or (proposed and label.xy is None):
            found.put_unlabelled(frame)
        elif label.xy is None:
            found.put_absent(frame, _extra_of(row, proposed))
        else:
            found.put(frame, label.xy, label.visibility, _extra_of(row, proposed))
    return found.done(range(found.n_frames or found.last + 1), "unlabelled")


def _normalised(row: Row, frame: int, found: sets.Builder) -> BallLabel:
    if row.integer("Ball", -1, 1) < 1:
        return BallLabel(frame, None, Visibility.ABSENT)
    if found.wh is None:
        raise UnknownSize(f"{row.path}: positions are shares of the picture: give its size with --size or --video")
    return BallLabel(frame, (row.number("x") * found.wh[0], row.number("y") * found.wh[1]))


def _extra_of(row: Row, proposed: bool) -> sets.Extra:
    cells = row.cells
    source = cells.get("source", "")
    blur = (row.number("BlurL"), row.number("BlurTheta")) if cells.get("blurl") and cells.get("blurtheta") else None
    return sets.Extra(
        event=sets.event_of(cells.get("event", "")),
        keyframe=not proposed and cells.get("keyframe", "") not in {"0", "0.0"} and source != PointSource.FILLED,
        score=sets.score_of(row.number("Score")) if cells.get("score") else None,
        source=source if proposed or source not in TRACKED else "",
        blur=blur,
    )


def render(clips: Sequence[sets.LabelSet], options: sets.WriteOptions) -> dict[str, str]:
    """`<clip>_ball.csv`: a row per labelled frame, and of the other columns those that some frame needs."""
    return {f"{sets.safe_name(labels.name)}_ball.csv": _table(labels) for labels in clips}


def _table(labels: sets.LabelSet) -> str:
    cells = {frame: _extra_cells(labels.extra(frame)) for frame in labels.labels}
    used = [n for n in range(len(EXTRAS)) if any(row[n] != _extra_cells(sets.Extra())[n] for row in cells.values())]
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow([*COLUMNS, *(EXTRAS[n] for n in used)])
    for frame, label in sorted(labels.labels.items()):
        table.writerow([*_cells(frame, label), *(cells[frame][n] for n in used)])
    return out.getvalue()


def _extra_cells(extra: sets.Extra) -> tuple[str, ...]:
    blur_l, blur_theta = (_shortest(extra.blur[0]), _shortest(extra.blur[1])) if extra.blur else ("", "")
    score = "" if extra.score is None else _shortest(extra.score)
    return str(int(extra.keyframe)), extra.event, score, extra.source, blur_l, blur_theta
