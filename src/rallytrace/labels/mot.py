"""MOTChallenge: gt.txt or det.txt, `frame,id,left,top,width,height,conf,x,y,z`, frames and boxes from 1.

Nine columns are `frame,id,left,top,width,height,considered,class,visibility`; with a labels.txt beside them they are
CVAT's, whose boxes count from 0. The ball is the middle of the box. A frame without a row has no ball. A row with
conf 0 is not to be considered: its frame is unlabelled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import PurePosixPath

from rallytrace.errors import LabelError
from rallytrace.labels import sets
from rallytrace.labels.source import Source
from rallytrace.types import Visibility

_ROW = re.compile(r"\s*\d+(\.0*)?\s*([,;\s]\s*[-+.\deE]+\s*){5,9}[,;]?\s*")


_LINES = re.MULTILINE | re.IGNORECASE


def detect(source: Source) -> bool:
    """Whether a text file has rows of six to ten numbers between commas."""
    return any(_is_table(source, name) for name in _tables(source)[:20])


def _tables(source: Source) -> list[str]:
    if source.is_file:
        return list(source.names)
    names = [name for name in source.names if PurePosixPath(name).name.lower() in ("gt.txt", "det.txt")]
    return [name for name in names if name.lower().endswith("gt.txt")] or names


def _is_table(source: Source, name: str) -> bool:
    line = source.head(name).strip().partition("\n")[0]
    return max(map(line.count, ",;")) >= 5 and _ROW.fullmatch(line) is not None


def read(source: Source, options: sets.ReadOptions) -> list[sets.LabelSet]:
    """One set per gt.txt (or, where there is none, det.txt), named by seqinfo.ini or its folder. Raises LabelError."""
    tables = _tables(source)
    if not tables:
        raise LabelError(f"{source.path}: no gt.txt or det.txt inside")
    return [_read_one(source, name, options) for name in tables]


def _read_one(source: Source, name: str, options: sets.ReadOptions) -> sets.LabelSet:
    info = dict(re.findall(r"^\s*(\w+)\s*=\s*(.*?)\s*$", _beside(source, name, "seqinfo.ini"), re.MULTILINE))
    classes = _beside(source, name, "labels.txt").splitlines()
    path = source.path.resolve() if source.is_file else source.path.resolve() / name
    folders = [part for part in path.parts[:-1] if part not in ("gt", "det")]
    plain = PurePosixPath(name).stem
    found = sets.Builder(
        info.get("name") or (folders[-1] if plain in ("gt", "det") else plain), source.where(name), options
    )
    found.size(info.get("imWidth"), info.get("imHeight"))
    if info.get("seqLength"):
        found.length(info["seqLength"])
    if info.get("frameRate") and found.fps is None:
        found.fps = Fraction(str(found.number(info["frameRate"], "frameRate"))) or None
    rows = [_cells(line, found.where) for line in source.text(name).splitlines() if line.strip()]
    roles = dict(
        re.findall(r"^\s*trackletID_(\d+)\s*=\s*([^;\r\n]*?)\s*(?:;|$)", _beside(source, name, "gameinfo.ini"), _LINES)
    )
    kinds = [roles.get(str(int(row[1]))) or _class_of(row, classes) for row in rows]
    ball = sets.choose_label(dict.fromkeys(kinds), options.label, found.where) if rows else ""
    lengths: dict[float, int] = {}
    for row in rows:
        lengths[row[1]] = lengths.get(row[1], 0) + 1
    for row, kind in zip(rows, kinds, strict=True):
        if kind == ball:
            _put(found, row, lengths[row[1]], corner_px=0 if classes else 1)
    return found.done(range(found.n_frames or found.last + 1), "absent")


def _beside(source: Source, name: str, wanted: str) -> str:
    """The text of a file in the table's folder or the one above, "" where there is none."""
    if source.is_file:
        folder = source.path.resolve().parent
        paths = [folder / wanted, folder.parent / wanted] if folder.name in ("gt", "det") else [folder / wanted]
        found = [Source(path) for path in paths if path.is_file()]
        return found[0].text(wanted) if found else ""
    folders = list(PurePosixPath(name).parents)[:2]
    names = [str(folder / wanted) for folder in folders if str(folder / wanted) in source.names]
    return source.text(names[0]) if names else ""


def _cells(line: str, where: str) -> list[float]:
    cells = [cell for cell in re.split(r"[,;\s]+", line.strip()) if cell]
    if not 6 <= len(cells) <= 10:
        raise LabelError(f"{where}: {line[:60]!r} has {len(cells)} values, expected 6 to 10")
    return [sets.number(cell, f"{where}: a value") for cell in cells]


def _class_of(row: list[float], classes: list[str]) -> str:
    if len(row) != 9:
        return "ball"
    n = int(row[7])
    return classes[n - 1].strip() if 0 < n <= len(classes) else str(n)


def _put(found: sets.Builder, row: list[float], rank: int, corner_px: int) -> None:
    first = 1 if found.options.first_frame is None else found.options.first_frame
    frame = found.frame(row[0] - first)
    conf = row[6] if len(row) > 6 else 1.0
    if conf == 0:
        found.put_unlabelled(frame)
        return
    xy = (row[2] - corner_px + row[4] / 2, row[3] - corner_px + row[5] / 2)
    hidden = len(row) == 9 and row[8] == 0
    score = sets.score_of(conf) if conf != 1 else None
    found.put(frame, xy, Visibility.OCCLUDED if hidden else Visibility.CLEAR, sets.Extra(score=score), rank)


def render(clips: Sequence[sets.LabelSet], options: sets.WriteOptions) -> dict[str, str]:
    """`<clip>/gt/gt.txt` with ten columns and `<clip>/seqinfo.ini`."""
    files: dict[str, str] = {}
    for labels in clips:
        name = sets.safe_name(labels.name)
        files[f"{name}/gt/gt.txt"] = "".join(_row(labels, frame, options.box_px) for frame in sorted(labels.labels))
        size = f"imWidth={labels.wh[0]}\nimHeight={labels.wh[1]}\n" if labels.wh else ""
        rate = f"frameRate={float(labels.fps):g}\n" if labels.fps else ""
        head = f"[Sequence]\nname={name}\nimDir=img1\n{rate}seqLength={labels.length}\n"
        files[f"{name}/seqinfo.ini"] = f"{head}{size}imExt=.jpg\n"
    return files


def _row(labels: sets.LabelSet, frame: int, box_px: float) -> str:
    xy = labels.labels[frame].xy
    if xy is None:
        return ""
    left, top = xy[0] + 1 - box_px / 2, xy[1] + 1 - box_px / 2
    score = labels.extra(frame).score
    conf = 1 if score is None else max(score, 0.0001)
    return f"{frame + 1},1,{left:z.3f},{top:z.3f},{box_px:g},{box_px:g},{conf:g},-1,-1,-1\n"
