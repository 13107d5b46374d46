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

from rallytrace.errors import LabelError, UnknownSize
from rallytrace.labels import sets
from rallytrace.labels.source import PICTURES, Source
from rallytrace.types import Visibility

_LINE = re.compile(r"\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*")
LISTS = ("images.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "autosplit_train.txt", "autosplit_val.txt")
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
    listed = plain in (*_NAMES, *LISTS, "readme.txt", "gt.txt") or plain.startswith("readme.")
    return not listed and sets.frame_number(name, 0) is not None


def _read(source: Source, options: sets.ReadOptions) -> list[sets.LabelSet]:
    """One set per clip, which is a label file's name up to its number. Needs the picture's size. Raises LabelError."""
    files = _label_files(source)
    if not files:
        raise LabelError(f"{source.path}: no label files with a frame's number in their names, such as clip_000007.txt")
    lines = {name: _lines(source, name) for name in files}
    classes = sorted({line[0] for found in lines.values() for line in found}, key=lambda c: sets.number(c, "class"))
    about = _about(source)
    names, dims = _class_names(about), _keypoint_dims(about)
    called = [names.get(int(sets.number(c, "class")), c) for c in classes]
    balls = _balls(classes, called, set(names.values()), options, str(source.path))
    clips = sets.clips_of(files)
    pictures = _pictures(source, clips)
    builders: dict[str, sets.Builder] = {}
    for name in files:
        clip = clips[name] or source.path.stem
        if clip not in builders:
            builders[clip] = sets.Builder(clip, source.where(name), options)
            builders[clip].size(*(source.picture_wh(pictures.get(clips[name], ())) or (0, 0)))
        found = builders[clip]
        found.where = source.where(name)
        frame = found.frame(sets.frame_number(name, options.first_frame))
        if not lines[name]:
            found.put_absent(frame)
        for line in lines[name]:
            _put(found, frame, line, dims) if line[0] in balls else found.put_absent(frame)
    of = {clip or source.path.stem: pictures.get(clip, []) for clip in clips.values()}
    return [found.done(_looked_at(found, of[clip]), "absent") for clip, found in builders.items()]


def _balls(classes: list[str], called: list[str], known: set[str], options: sets.ReadOptions, where: str) -> set[str]:
    """The classes that are the ball, as the lines write them. A data set that names a ball may have none in it."""
    if not classes:
        return set()
    ball = sets.choose_label([*called, *known], options.label, where)
    return {each for each, name in zip(classes, called, strict=True) if name == ball}


def _lines(source: Source, name: str) -> list[list[str]]:
    rows = [line.split() for line in source.text(name).splitlines() if line.strip()]
    for row in rows:
        if len(row) < 5:
            raise LabelError(f"{source.where(name)}: {' '.join(row)[:60]!r}, expected class xc yc w h")
    return rows


def _pictures(source: Source, clips: dict[str, str]) -> dict[str, list[str]]:
    """By clip, the pictures in the folder and those of a list of them, which may be named from further up."""
    lists = [name for name in source.names if PurePosixPath(name).name.lower() in LISTS]
    lines = [
        str(PurePosixPath(name).parent / line.strip()) for name in lists for line in source.text(name).splitlines()
    ]
    keys = {(sets.folders_of(name), sets.clip_of(name)): clip for name, clip in clips.items()}
    found: dict[str, list[str]] = {}
    for name in (*source.names, *lines):
        if name.lower().endswith(PICTURES):
            folders, stem = sets.folders_of(name), sets.clip_of(name)
            tails = (keys.get((folders[n:], stem)) for n in range(len(folders) + 1))
            clip = next((each for each in tails if each is not None), None)
            if clip is not None:
                found.setdefault(clip, []).append(name)
    return found


def _looked_at(found: sets.Builder, pictures: list[str]) -> list[int]:
    numbers = [sets.frame_number(name, found.options.first_frame) for name in pictures]
    known = [found.frame(n) for n in numbers if n is not None and n >= 0]
    return known or list(range(found.n_frames or found.last + 1))


def _about(source: Source) -> tuple[str, str]:
    """The name and text of what describes the data set, a data.yaml rather than a mere list of classes."""
    known = {PurePosixPath(name).name.lower(): name for name in source.names if not source.is_file}
    plain = next((each for each in _NAMES if each in known), None)
    return (plain, source.text(known[plain])) if plain else ("", "")


def _class_names(about: tuple[str, str]) -> dict[int, str]:
    """From classes.txt and its kin, or from the names of a data.yaml, of which only the usual forms are read."""
    plain, text = about
    if not plain.endswith((".yaml", ".yml")):
        return {n: name for n, line in enumerate(text.splitlines()) if (name := line.strip())}
    inline = re.search(r"^names:\s*[\[{](.*?)[\]}]", text, re.MULTILINE | re.DOTALL)
    block = re.search(r"^names:[ \t]*(?:#.*)?\r?\n((?:[ \t-].*\n?)+)", text, re.MULTILINE)
    lines = re.split(r",", inline[1]) if inline else block[1].splitlines() if block else []
    items = [re.fullmatch(r"\s*(?:(\d+)\s*:|-)?\s*(.+?)\s*", line.partition(" #")[0]) for line in lines]
    found = [(each[1], each[2].strip("'\"")) for each in items if each]
    return {int(key) if key else n: name for n, (key, name) in enumerate(found)}


def _keypoint_dims(about: tuple[str, str]) -> int | None:
    """How many numbers a keypoint has: 2, or 3 with its visibility."""
    shape = re.search(r"^kpt_shape:\s*\[\s*\d+\s*,\s*([23])\s*\]", about[1], re.MULTILINE)
    return int(shape[1]) if shape else None


def _put(found: sets.Builder, frame: int, line: list[str], dims: int | None) -> None:
    if found.wh is None:
        raise UnknownSize(f"{found.where}: positions are shares of the picture: give its size with --size or --video")
    values = [found.number(cell, "a value") for cell in line[1:]]
    x, y = values[:2]
    visibility, score = Visibility.CLEAR, None
    if len(values) == 5 or (len(values) == 6 and dims is None and values[5] >= 1 and values[5].is_integer()):
        score = sets.score_of(values[4])  # a sixth is a track's number
    elif len(values) >= 8 and len(values) % 2 == 0 and dims is None:  # the corners of a segment
        x, y = ((min(values[k::2]) + max(values[k::2])) / 2 for k in (0, 1))
    elif len(values) >= 6:
        x, y = values[4:6]
        v = values[6] if len(values) > 6 and (dims == 3 or (dims is None and len(values) % 3 == 1)) else 2
        if v <= 0:
            found.put_unlabelled(frame)
            return
        visibility = Visibility.OCCLUDED if v == 1 else Visibility.CLEAR
    found.put(frame, (x * found.wh[0], y * found.wh[1]), visibility, sets.Extra(score=score))


def _line(labels: sets.LabelSet, frame: int, box_px: float, poses: bool) -> str:
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

    def read(self, source: Source, options: sets.ReadOptions) -> list[sets.LabelSet]:
        """One set per clip, which is a label file's name up to its number. Raises LabelError."""
        return _read(source, options)

    def render(self, clips: Sequence[sets.LabelSet], options: sets.WriteOptions) -> dict[str, str]:
        """`<clip>/labels/<clip>_000000.txt`, empty where there is no ball; the list of pictures; data.yaml."""
        files: dict[str, str] = {}
        for labels in clips:
            name, frames = sets.safe_name(labels.name), sorted(labels.labels)
            shape = "kpt_shape: [1, 3]\nflip_idx: [0]\n" if self.poses else ""
            files[f"{name}/data.yaml"] = f"path: .\ntrain: images.txt\nval: images.txt\n{shape}names:\n  0: ball\n"
            files[f"{name}/images.txt"] = "".join(f"./images/{name}_{frame:06}.jpg\n" for frame in frames)
            for frame in frames:
                files[f"{name}/labels/{name}_{frame:06}.txt"] = _line(labels, frame, options.box_px, self.poses)
        return files


BOXES, POSES = Yolo(poses=False), Yolo(poses=True)
