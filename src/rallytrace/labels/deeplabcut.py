"""DeepLabCut and Lightning Pose CSV: header rows scorer, (individuals,) bodyparts and coords, then a row per picture.

CollectedData has the labelled pictures by path: the number in a name is the frame, an empty position is no ball, a
frame without a row is unlabelled. A predictions file has frame numbers and a likelihood, which becomes the score.
Lightning Pose's `visible` column: 2 clear, 1 occluded, 0 no ball.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import PurePosixPath
from typing import NamedTuple

from rallytrace.errors import LabelError
from rallytrace.labels import sets
from rallytrace.labels.source import Source
from rallytrace.trajectory.table import cells_of
from rallytrace.types import Visibility

SCORER = "rallytrace"
HEADERS = ("scorer", "individuals", "bodyparts", "coords")


def detect(source: Source) -> bool:
    """Whether a CSV begins with the row of the scorer, followed by one of the body parts."""
    return any(_is_table(source, name) for name in _tables(source)[:20])


def _tables(source: Source) -> list[str]:
    names = source.find(".csv")
    return [name for name in names if PurePosixPath(name).name.startswith("CollectedData")] or names


def _is_table(source: Source, name: str) -> bool:
    starts: list[str] = []
    with suppress(LabelError):
        starts = [cells[0].lower() for _, cells in islice(cells_of(source.head(name), name), 4)]
    return "scorer" in starts[:1] and "bodyparts" in starts


class _Columns(NamedTuple):
    """Where the ball is; -1 for a column that is not there."""

    x: int
    y: int
    likelihood: int
    visible: int


def read(source: Source, options: sets.ReadOptions) -> list[sets.LabelSet]:
    """One set per folder of pictures, or per predictions file. Raises LabelError."""
    tables = [name for name in _tables(source) if source.is_file or _is_table(source, name)]
    if not tables:
        raise LabelError(f"{source.path}: no CSV with header rows scorer, bodyparts, coords")
    return [labels for name in tables for labels in _read_one(source, name, options)]


def _read_one(source: Source, name: str, options: sets.ReadOptions) -> list[sets.LabelSet]:
    where = source.where(name)
    rows = [cells for _, cells in cells_of(source.text(name), where)]
    heads = {row[0].strip().lower(): row for row in rows[:4] if row[0].strip().lower() in HEADERS}
    if not {"bodyparts", "coords"} <= heads.keys() or any(len(head) != len(rows[0]) for head in heads.values()):
        raise LabelError(f"{where}: expected equally long header rows scorer, bodyparts, coords")
    balls, first = _choose(heads, options, where)
    builders: dict[str, sets.Builder] = {}
    for row in rows[len(heads) :]:
        if len(row) != len(rows[0]):
            raise LabelError(f"{where}: row {row[0][:60]!r} has {len(row)} values, expected {len(rows[0])}")
        path = PurePosixPath("/".join(cell.strip().replace("\\", "/") for cell in row[:first] if cell.strip()))
        clip = path.parent.name or PurePosixPath(name).stem.partition("DLC_")[0]
        found = builders.setdefault(clip, sets.Builder(clip, where, options))
        frame = sets.frame_number(path.name, options.first_frame)
        if frame is None:
            raise LabelError(f"{where}: no frame number in {str(path)[:80]!r}")
        for columns in balls:
            _put(found, found.frame(frame), row, columns)
    return [found.done(range(found.n_frames or found.last + 1), "unlabelled") for found in builders.values()]


def _choose(heads: dict[str, list[str]], options: sets.ReadOptions, where: str) -> tuple[list[_Columns], int]:
    """The ball's columns, of each individual that has some, and how many columns name the picture: one, or three in
    newer files. The ball may be a body part or an individual."""
    coords = [cell.strip().lower() for cell in heads["coords"]]
    if "x" not in coords or "y" not in coords:
        raise LabelError(f"{where}: the row coords has no x and y")
    first = coords.index("x")
    parts = [cell.strip() for cell in heads["bodyparts"]]
    animals = [cell.strip() for cell in heads.get("individuals", parts)]
    mine, wanted = list(range(first, len(parts))), options.label
    if _names_one(animals[first:], wanted) and not _names_one(parts[first:], wanted):
        animal = sets.choose_label(animals[first:], wanted, where)
        mine, wanted = [n for n in mine if animals[n] == animal], None
    part = sets.choose_label([parts[n] for n in mine], wanted, where)
    found: dict[str, dict[str, int]] = {}
    for n in mine:
        if parts[n] == part:
            found.setdefault(animals[n], {})[coords[n]] = n
    if not all({"x", "y"} <= at.keys() for at in found.values()):
        raise LabelError(f"{where}: {part[:40]!r} has no x and y")
    return [_Columns(at["x"], at["y"], at.get("likelihood", -1), at.get("visible", -1)) for at in found.values()], first


def _names_one(names: Sequence[str], wanted: str | None) -> bool:
    """Whether one of them is the wanted label, or sounds like a ball."""
    words = (wanted.casefold(),) if wanted else sets.BALL_LIKE
    return any(
        name.casefold() == words[0] if wanted else any(word in name.casefold() for word in words) for name in names
    )


def _put(found: sets.Builder, frame: int, row: list[str], columns: _Columns) -> None:
    texts = ["" if n < 0 or row[n].strip().lower() == "nan" else row[n].strip() for n in columns]
    x, y, likelihood, visible = texts
    extra = sets.Extra(score=sets.score_of(found.number(likelihood, "likelihood")) if likelihood else None)
    seen = found.number(visible, "visible") if visible else 2.0
    if not x or not y or seen == 0:
        found.put_absent(frame, extra)
        return
    xy = (found.number(x, "x"), found.number(y, "y"))
    found.put(frame, xy, Visibility.OCCLUDED if seen == 1 else Visibility.CLEAR, extra)


def render(clips: Sequence[sets.LabelSet], options: sets.WriteOptions) -> dict[str, str]:
    """`labeled-data/<clip>/CollectedData_rallytrace.csv`, a row per labelled frame."""
    return {f"labeled-data/{sets.safe_name(each.name)}/CollectedData_{SCORER}.csv": _table(each) for each in clips}


def _table(labels: sets.LabelSet) -> str:
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerows([("scorer", SCORER, SCORER), ("bodyparts", "ball", "ball"), ("coords", "x", "y")])
    for frame, label in sorted(labels.labels.items()):
        xy = ("", "") if label.xy is None else (sets.short(label.xy[0], 3), sets.short(label.xy[1], 3))
        table.writerow([f"labeled-data/{sets.safe_name(labels.name)}/img{frame:06}.png", *xy])
    return out.getvalue()
