"""Label files that somebody sends: read in a bounded child, and given back one clip after the other."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from rallytrace.decode.child import Child, Limits, Pipe
from rallytrace.errors import InputError
from rallytrace.labels.formats import read_sets
from rallytrace.labels.sets import Extra, LabelSet, ReadOptions
from rallytrace.types import BallLabel, Visibility

# Of one file. A small zip may hold JSON that is a thousand times its size in memory.
LIMITS = Limits(memory=640 << 20, cpu_s=60, wall_s=120.0)
BATCH = 10_000  # labels of one message
MAX_MESSAGE = 8 << 20


@dataclass(frozen=True, slots=True)
class Heading:
    """What a clip of the file is called, and its video; notes are for the user."""

    name: str
    video: str
    notes: tuple[str, ...]


class Intake:
    """The clips of a label file. A context manager: leaving it ends the child.

    format: of the file, None for what it looks like. frames: of the longest video; labels beyond come only as a number.
    Raises LabelError and InputError, also where the file takes more than LIMITS.
    """

    def __init__(self, path: Path, format: str | None, options: ReadOptions, frames: int) -> None:
        order = {
            "path": str(path),
            "format": format,
            "wh": options.wh,
            "fps": None if options.fps is None else str(options.fps),
            "n_frames": options.n_frames,
            "frames": frames,
            "origin": options.origin,
        }
        self._path = path
        self._child = Child(f"{__name__}:send_sets", order, LIMITS, "the label file", most=MAX_MESSAGE)
        self.headings: list[Heading] = []

    def __enter__(self) -> Intake:
        try:
            self.headings = [Heading(name, video, tuple(notes)) for name, video, notes in self._receive()]
            self._child.watch(None)  # the file is read: the rest takes as long as it takes to be stored
        except BaseException:
            self._child.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    def __iter__(self) -> Iterator[tuple[LabelSet, int]]:
        """The labels of each heading, in their order, and how many more lie beyond `frames`."""
        for heading in self.headings:
            found = LabelSet(heading.name, {}, {}, video=heading.video, notes=heading.notes)
            labels: dict[int, BallLabel] = {}
            extras: dict[int, Extra] = {}
            while isinstance(rows := self._receive(), list):
                for frame, xy, visibility, extra in rows:
                    labels[frame] = BallLabel(frame, xy and (xy[0], xy[1]), Visibility(visibility))
                    if extra is not None:
                        extras[frame] = _extra(extra)
            yield dataclasses.replace(found, labels=labels, extras=extras), int(rows)

    def _receive(self) -> Any:
        try:
            return json.loads(next(self._child))
        except InputError as error:  # where the file lay is no one's business
            raise type(error)(str(error).replace(str(self._path), self._path.name)) from None


def _extra(values: dict[str, Any]) -> Extra:
    blur = values.pop("blur")
    return Extra(**values, blur=blur and (blur[0], blur[1]))


def send_sets(order: dict[str, Any], pipe: Pipe) -> None:
    """The child's work: the headings, then for each clip its labels in batches, then the number of those left out."""
    fps = order["fps"] and Fraction(order["fps"])
    wh = order["wh"] and (order["wh"][0], order["wh"][1])
    options = ReadOptions(wh=wh, fps=fps, n_frames=order["n_frames"], origin=order["origin"])
    sets = read_sets(order["path"], order["format"], options)
    _send(pipe, [(each.name, each.video, [note[:500] for note in each.notes[:20]]) for each in sets])
    for each in sets:
        kept = [label for frame, label in each.labels.items() if frame < order["frames"]]
        for start in range(0, len(kept), BATCH):
            _send(pipe, [_row(each, label) for label in kept[start : start + BATCH]])
        _send(pipe, len(each.labels) - len(kept))


def _row(found: LabelSet, label: BallLabel) -> tuple[Any, ...]:
    extra = found.extras.get(label.frame)
    return label.frame, label.xy, int(label.visibility), extra and dataclasses.asdict(extra)


def _send(pipe: Pipe, what: Any) -> None:
    pipe.send(json.dumps(what).encode())
