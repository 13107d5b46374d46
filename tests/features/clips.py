"""Tiny labelled clips for feature sets."""

from __future__ import annotations

import csv
import hashlib
from fractions import Fraction
from pathlib import Path

from rallytrace import Clip, RallyOptions, load_clips, make_clip
from rallytrace.features import PrepareOptions, Recording
from rallytrace.models import get_spec

WH = (256, 144)
OPTIONS = PrepareOptions(get_spec("rallynet", size_wh=WH))
SPLITS = {"first": "train", "second": "val", "third": "train"}


def make_folder(folder: Path, count: int = 3, seconds: float = 0.5) -> Path:
    """Clips a, b, ... of three matches at 30000/1001 frames/s, with repeated frames."""
    folder.mkdir(parents=True)
    rows = ["clip,match,split"]
    for n in range(count):
        name, match = chr(ord("a") + n), list(SPLITS)[n % 3]
        rate = Fraction(30000, 1001)
        make_clip(folder / f"{name}.mp4", RallyOptions(wh=WH, fps=rate, seconds=seconds, seed=n, repeats=True))
        rows.append(f"{name},{match},{SPLITS[match]}")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    return folder


def forget(table: Path, *frames: int) -> None:
    """Makes frames of a ball CSV unlabelled."""
    rows = list(csv.reader(table.read_text().splitlines()))
    kept = [row for row in rows if row[0] not in map(str, frames)]
    table.write_text("\n".join(",".join(row) for row in kept) + "\n")


def files(folder: Path) -> dict[str, str]:
    """Checksums of all files below a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def as_recordings(folder: Path) -> list[Recording]:
    return [Recording(clip, str(clip.video)) for clip in load_clips(folder)]


def without_place(clip: Clip) -> tuple[object, ...]:
    """What must be equal of a clip and its copy in a feature set."""
    return clip.name, clip.labels, clip.match, clip.sport, clip.split
