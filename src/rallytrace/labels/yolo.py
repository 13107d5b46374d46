"""YOLO and YOLO-pose: a text file per picture, a line per object, in shares of the picture.

Boxes `class xc yc w h [conf]`; poses `class xc yc w h px py [v]` (v as in COCO). The ball is the middle of the box or
the first keypoint. The number in a file's name is its frame. An empty file is no ball, and so is a missing one, of
those pictures that are known: by lying in the folder or by a list of them (as Ultralytics takes for a split); where
neither is there, of all up to the last file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from rallytrace.errors import LabelError
from rallytrace.labels.sets import (
    Builder,
    Extra,
    LabelSet,
    ReadOptions,
    WriteOptions,
    choose_label,
    clip_of,
    frame_number,
    number,
    safe_name,
    score_of,
)
from rallytrace.labels.source import PICTURES, Source
from rallytrace.types import XY, Visibility

_LINE = re.compile(r"\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*")
_NAMES = ("data.yaml", "dataset.yaml", "data.yml", "classes.txt", "obj.names", "labels.txt")


def _columns(source: Source) -> int:
    for name in _label_files(source)[:2000]:
        line = source.head(name).strip().partition("\n")[0]
        if line:
            return len(line.split()) if _LINE.fullmatch(line) else 0
    return 0


def _label_files(source: Source) -> list[str]:
    return [name for name in source.names if name.lower().endswith(".txt") and _is_label(source, name)]


def _is_label(source: Source, name: str) -> bool:
    plain = PurePosixPath(name).name.lower()
    listed = plain in (*_NAMES, "images.txt", "train.txt", "val.txt", "test.txt", "readme.txt", "gt.txt")
    return not listed and frame_number(name, 0) is not None


def _read(source: Source, options: ReadOptions) -> list[LabelSet]:
    """One set per clip, which is a label file's name up to its number. Needs the picture's size. Raises LabelError."""
    files = _label_files(source)
    if not files:
        raise LabelError(f"{source.path}: no label files with a frame's number in their names, such as clip_000007.txt")
    lines = {name: _lines(source, name) for name in files}
    classes = sorted({line[0] for found in lines.values() for line in found}, key=lambda c: number(c, "class"))
    names = _class_names(source)
    called = [names.get(int(number(c, "class")), c) for c in classes]
    ball = classes[called.index(choose_label(called, options.label, str(source.path)))] if classes else None
    pictures = _pictures(source)
    builders: dict[str, Builder] = {}
    for name in files:
        clip = clip_of(name) or source.stem(source.path.name)
        found = builders.setdefault(clip, Builder(clip, source.where(name), options))
        found.where = source.where(name)
        frame = found.frame(frame_number(name, options.first_frame))
        if not lines[name]:
            found.put_absent(frame)
        for line in lines[name]:
            _put(found, frame, line) if line[0] == ball else found.put_absent(frame)
    return [
        found.done(_looked_at(found, pictures.get(clip) or pictures.get("", [])), "absent")
        for clip, found in builders.items()
    ]


def _lines(source: Source, name: str) -> list[list[str]]:
    rows = [line.split() for line in source.text(name).splitlines() if line.strip()]
    for row in rows:
        if len(row) < 5:
            raise LabelError(f"{source.where(name)}: {' '.join(row)[:60]!r}, expected class xc yc w h")
    return rows


def _pictures(source: Source) -> dict[str, list[str]]:
    """By clip, the pictures in the folder and those of a list of them."""
    lists = [name for name in source.names if PurePosixPath(name).name.lower() in ("images.txt", "train.txt")]
    lines = [line.strip() for name in lists for line in source.text(name).splitlines()]
    found: dict[str, list[str]] = {}
    for name in (*source.names, *lines):
        if name.lower().endswith(PICTURES):
            found.setdefault(clip_of(name), []).append(name)
    return found


def _looked_at(found: Builder, pictures: list[str]) -> list[int]:
    numbers = [frame_number(name, found.options.first_frame) for name in pictures]
    known = [found.frame(n) for n in numbers if n is not None and n >= 0]
    return known or list(range(found.n_frames or found.last + 1))


def _class_names(source: Source) -> dict[int, str]:
    """From classes.txt and its kin, or from the names of a data.yaml, of which only the two usual forms are read."""
    for name in source.names:
        plain = PurePosixPath(name).name.lower()
        if plain not in _NAMES or source.is_file:
            continue
        text = source.text(name)
        if not plain.endswith((".yaml", ".yml")):
            return dict(enumerate(line.strip() for line in text.splitlines()))
        inline = re.search(r"^names:\s*\[(.*?)\]", text, re.MULTILINE | re.DOTALL)
        if inline:
            return {n: item.strip(" '\"\n") for n, item in enumerate(inline[1].split(","))}
        block = re.search(r"^names:\s*\n((?:[ \t-].*\n?)+)", text, re.MULTILINE)
        items = re.findall(r"^\s*(?:(\d+)\s*:|-)\s*(.+?)\s*$", block[1] if block else "", re.MULTILINE)
        return {int(key) if key else n: item.strip("'\"") for n, (key, item) in enumerate(items)}
    return {}


def _put(found: Builder, frame: int, line: list[str]) -> None:
    if found.wh is None:
        raise LabelError(f"{found.where}: positions are shares of the picture: give its size with --size or --video")
    values = [found.number(cell, "a value") for cell in line[1:]]
    xy: XY = (values[0] * found.wh[0], values[1] * found.wh[1])
    visibility = Visibility.CLEAR
    score = score_of(values[4]) if len(values) == 5 else None
    if len(values) >= 6:
        xy = (values[4] * found.wh[0], values[5] * found.wh[1])
        v = values[6] if len(values) % 3 == 1 else 2
        if v <= 0:
            found.put_unlabelled(frame)
            return
        visibility = Visibility.OCCLUDED if v == 1 else Visibility.CLEAR
    found.put(frame, xy, visibility, Extra(score=score))


def _line(labels: LabelSet, frame: int, box_px: float, poses: bool) -> str:
    label = labels.labels[frame]
    assert labels.wh
    if label.xy is None:
        return ""
    x, y = label.xy[0] / labels.wh[0], label.xy[1] / labels.wh[1]
    box = f"0 {x:.8f} {y:.8f} {box_px / labels.wh[0]:.8f} {box_px / labels.wh[1]:.8f}"
    v = 1 if label.visibility is Visibility.OCCLUDED else 2
    return f"{box} {x:.8f} {y:.8f} {v}\n" if poses else f"{box}\n"


@dataclass(frozen=True, slots=True)
class Yolo:
    """Boxes, or poses of one keypoint."""

    poses: bool

    def detect(self, source: Source) -> bool:
        """Whether the first text file that is not empty has lines of boxes, or of boxes with keypoints."""
        return _columns(source) > 6 if self.poses else _columns(source) in (5, 6)

    def read(self, source: Source, options: ReadOptions) -> list[LabelSet]:
        """One set per clip, which is a label file's name up to its number. Raises LabelError."""
        return _read(source, options)

    def render(self, sets: Sequence[LabelSet], options: WriteOptions) -> dict[str, str]:
        """`<clip>/labels/<clip>_000000.txt`, empty where there is no ball; the list of pictures; data.yaml."""
        files: dict[str, str] = {}
        for labels in sets:
            name, frames = safe_name(labels.name), sorted(labels.labels)
            shape = "kpt_shape: [1, 3]\nflip_idx: [0]\n" if self.poses else ""
            files[f"{name}/data.yaml"] = f"path: .\ntrain: images.txt\nval: images.txt\n{shape}names:\n  0: ball\n"
            files[f"{name}/images.txt"] = "".join(f"./images/{name}_{frame:06}.jpg\n" for frame in frames)
            for frame in frames:
                files[f"{name}/labels/{name}_{frame:06}.txt"] = _line(labels, frame, options.box_px, self.poses)
        return files


BOXES, POSES = Yolo(poses=False), Yolo(poses=True)
