"""The labels of one clip with all that an exchange format may say of them, and how readers put them together.

Positions are source px, (0, 0) the centre of the top-left pixel. Numbers are exchanged as they stand: no half pixel is
added or taken, as real exports and the tables published beside them do (docs/formats.md).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

from rallytrace.errors import LabelError
from rallytrace.types import XY, BallLabel, PointSource, Visibility

MAX_FRAMES = 1_000_000  # 9 hours at 30 frames/s; a number beyond is an error in the file, not a longer video
MAX_STATEMENTS = 4_000_000  # of one clip: a thousand tracks that each span the longest video are no labels
MAX_PX = 1_000_000
EVENTS = ("", "hit", "bounce")
BALL_LIKE = ("ball", "shuttle", "birdie")
# Folders that say nothing of the clip.
LAYOUT = {
    *(
        "",
        "images",
        "labels",
        "frames",
        "data",
        "default",
        "train",
        "val",
        "valid",
        "validation",
        "test",
        "img1",
        "img",
    ),
    *("obj_train_data", "obj_valid_data", "obj_test_data", "train2017", "val2017", "test2017", "annotations"),
}
VISIBILITY_NAMES = {"clear": Visibility.CLEAR, "hard": Visibility.HARD, "occluded": Visibility.OCCLUDED}

Origin = Literal["labels", "proposals"]
Silence = Literal["absent", "unlabelled"]


@dataclass(frozen=True, slots=True)
class Extra:
    """What only some formats say of a labelled frame. `keyframe` False: a tool interpolated it, nobody saw it.

    blur: half the streak's length in px and its angle in radians. source: such as manual, accepted, model:accurate.
    """

    event: str = ""
    keyframe: bool = True
    score: float | None = None
    source: str = ""
    blur: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.event not in EVENTS:
            raise ValueError(f"event must be one of {EVENTS}, got {self.event!r}")


PLAIN = Extra()


@dataclass(frozen=True, slots=True, repr=False)
class LabelSet:
    """The labels of one clip by frame (0-based); a frame without an entry is unlabelled. `extras` has the few frames
    of which more is known. wh, fps and n_frames are None where the file does not tell; notes are for the user."""

    name: str
    labels: Mapping[int, BallLabel]
    extras: Mapping[int, Extra] = field(default_factory=dict)
    wh: tuple[int, int] | None = None
    fps: Fraction | None = None
    n_frames: int | None = None
    video: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        length = self.length
        for frame, label in self.labels.items():
            if frame != label.frame or not 0 <= frame < length:
                raise LabelError(f"{self.name}: label of frame {label.frame} under {frame}, the clip has {length}")

    @property
    def length(self) -> int:
        """Frames of the clip; up to the last label where the file does not tell."""
        return max(self.labels, default=-1) + 1 if self.n_frames is None else self.n_frames

    @property
    def unlabelled(self) -> list[int]:
        return [frame for frame in range(self.length) if frame not in self.labels]

    def extra(self, frame: int) -> Extra:
        return self.extras.get(frame, PLAIN)

    def located(self) -> list[BallLabel]:
        """Labels with a position, in the order of their frames."""
        return [label for _, label in sorted(self.labels.items()) if label.xy is not None]

    def __repr__(self) -> str:
        return f"LabelSet({self.name!r}, labels={len(self.labels)}, n_frames={self.n_frames}, wh={self.wh})"


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """label: which object is the ball, where a file has several. silence: what a frame means that the file says
    nothing of; None asks the format. first_frame: the number that the file gives its first frame. root: folder that
    stands for the bucket of s3:// names. origin: whether people have seen the positions; None goes by what the file
    tells of itself. folders: further ones whose files a manifest may name, such as that of the videos. fetch: gives the
    local copy of an s3:// name; None where nothing may be fetched."""

    label: str | None = None
    silence: Silence | None = None
    wh: tuple[int, int] | None = None
    fps: Fraction | None = None
    n_frames: int | None = None
    first_frame: int | None = None
    root: Path | None = None
    origin: Origin | None = None
    folders: tuple[Path, ...] = ()
    fetch: Callable[[str], Path] | None = None


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """unlabelled: what to do with unlabelled frames in formats that cannot say so. box_px: side of the box that
    stands for a point. prefix: where the bucket of a Ground Truth job will be."""

    unlabelled: Literal["refuse", "drop", "absent"] = "refuse"
    box_px: float = 20.0
    prefix: str = "s3://bucket/labels/"


class Builder:
    """Collects what a file says of one clip. Of two positions for a frame, a keyframe's, then the higher score's,
    then the longer track's is kept. Frames and positions that no video has are LabelErrors."""

    def __init__(self, name: str, where: str, options: ReadOptions) -> None:
        self.name = name
        self.where = where
        self.options = options
        self.wh = options.wh
        self.fps = options.fps
        self.n_frames = options.n_frames
        self.video = ""
        self.notes: list[str] = []
        self._labels: dict[int, tuple[tuple[bool, bool, float, float], BallLabel, Extra]] = {}
        self._unknown: set[int] = set()
        self._doubles: set[int] = set()
        self._statements = 0

    def number(self, value: object, what: str) -> float:
        """A finite number of the file."""
        return number(value, f"{self.where}: {what}")

    def whole(self, value: object, what: str) -> int:
        """A whole number of the file."""
        return whole(value, f"{self.where}: {what}")

    def size(self, w: object, h: object) -> None:
        """The file's own size of the picture, where it tells one; what the user gave wins over it."""
        if w and h and self.wh is None:
            self.wh = (self.whole(w, "width"), self.whole(h, "height"))

    def frame(self, value: object) -> int:
        """A frame number of the file, checked."""
        frame = self.whole(value, "frame")
        if not 0 <= frame < MAX_FRAMES:
            expected = f"expected one from 0 to {MAX_FRAMES - 1} (--first-frame tells how the file counts)"
            raise LabelError(f"{self.where}: frame {frame}, {expected}")
        return frame

    def length(self, value: object) -> None:
        """The file's own count of frames; the video's wins over it, and nonsense is left unknown."""
        count = self.whole(value, "number of frames")
        if self.n_frames is None and 0 < count <= MAX_FRAMES:
            self.n_frames = count
        elif self.n_frames is not None and count != self.n_frames == self.options.n_frames:
            self.notes.append(
                f"{self.name}: the file counts {count} frames, the video has {self.n_frames}: labels may lie beside "
                "their pictures"
            )

    def put(self, frame: int, xy: XY, visibility: Visibility, extra: Extra = PLAIN, rank: float = 0) -> None:
        """The ball is at `xy`. `rank` decides between positions that are equal in all else."""
        if not all(abs(value) <= MAX_PX for value in xy):
            raise LabelError(f"{self.where}: frame {frame} has its ball at {xy}, expected pixels of the picture")
        self._put(frame, BallLabel(frame, xy, visibility), extra, (True, extra.keyframe, extra.score or 0.0, rank))

    def put_absent(self, frame: int, extra: Extra = PLAIN) -> None:
        """There is no ball, unless something else says that there is."""
        self._put(frame, BallLabel(frame, None, Visibility.ABSENT), extra, (False, extra.keyframe, 0.0, 0.0))

    def put_unlabelled(self, frame: int) -> None:
        """Nobody looked."""
        self._unknown.add(frame)

    def _put(self, frame: int, label: BallLabel, extra: Extra, rank: tuple[bool, bool, float, float]) -> None:
        self._statements += 1
        if self._statements > MAX_STATEMENTS:
            raise LabelError(f"{self.where}: more than {MAX_STATEMENTS} positions, expected those of one ball")
        known = self._labels.get(frame)
        if known and known[1].xy and label.xy and math.dist(known[1].xy, label.xy) > 1:
            self._doubles.add(frame)
        if known is None or rank > known[0]:
            self._labels[frame] = (rank, label, extra)

    def merge(self, other: Builder) -> None:
        """What `other` collected of the same clip."""
        self._unknown |= other._unknown
        self.notes += other.notes
        for frame, (rank, label, extra) in other._labels.items():
            self._put(frame, label, extra, rank)

    def has(self, frame: int) -> bool:
        """Whether the file said something of `frame`."""
        return frame in self._labels

    @property
    def last(self) -> int:
        return max(self._labels, default=-1)

    def done(self, looked_at: Iterable[int] = (), silence: Silence = "absent") -> LabelSet:
        """`looked_at`: frames where the file's silence means `silence`, unless the options say otherwise."""
        if (self.options.silence or silence) == "absent":
            for frame in looked_at:
                if frame not in self._labels and frame not in self._unknown:
                    self.put_absent(frame)
        if self._doubles:
            self.notes.append(f"{self.name}: {len(self._doubles)} frames with several balls, one was kept (--label)")
        if self.n_frames is not None and self.last >= self.n_frames and self.options.n_frames is None:
            self.notes.append(f"{self.name}: the file counts {self.n_frames} frames, but labels frame {self.last}")
            self.n_frames = self.last + 1
        if self.n_frames is not None and self.last >= self.n_frames:
            raise LabelError(
                f"{self.where}: a label is on frame {self.last}, but the clip has {self.n_frames} frames: expected "
                "labels and video of one clip (--first-frame tells how the file counts)"
            )
        labels = {frame: label for frame, (_, label, _) in sorted(self._labels.items())}
        extras = {frame: extra for frame, (_, _, extra) in self._labels.items() if extra != PLAIN}
        return LabelSet(
            self.name, labels, extras, self.wh, self.fps, self.n_frames, self.video, tuple(dict.fromkeys(self.notes))
        )


def as_proposals(labels: LabelSet) -> LabelSet:
    """The positions as what a tool says and nobody has seen; "no ball" is then no statement at all."""
    located = {label.frame: label for label in labels.located()}
    source = PointSource.MODEL.value  # who reads on takes it for a tracker's
    extras = {frame: replace(labels.extra(frame), keyframe=False, source=source) for frame in located}
    return replace(labels, labels=located, extras=extras, n_frames=labels.length)


def number(value: object, what: str) -> float:
    """A finite number, also written as text. Raises LabelError."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            found = float(value)
        except (ValueError, OverflowError):
            found = math.nan
        if math.isfinite(found):
            return found
    raise LabelError(f"{what} is {str(value)[:40]!r}, expected a finite number")


def whole(value: object, what: str) -> int:
    """A whole number, also written as text or as 3.0. Raises LabelError."""
    found = number(value, what)
    if found != int(found):
        raise LabelError(f"{what} is {value!r}, expected a whole number")
    return int(found)


def score_of(value: object) -> float | None:
    """A score in [0, 1], or None for anything else: tools write -1 for unknown."""
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def visibility_of(text: object, default: Visibility = Visibility.CLEAR) -> Visibility:
    """'hard', '2' and 2 are HARD; what is none of these is `default`."""
    found = str(text).strip().lower()
    return Visibility(int(found)) if found in {"1", "2", "3"} else VISIBILITY_NAMES.get(found, default)


def event_of(text: object) -> str:
    """'hit' and 'bounce', anything else is no event."""
    found = str(text).strip().lower()
    return found if found in EVENTS else ""


def choose_label(names: Iterable[str], wanted: str | None, where: str) -> str:
    """Which of a file's labels is the ball: the wanted one, the only one, or the one that sounds like a ball.

    Raises LabelError, which lists the labels.
    """
    known = list(dict.fromkeys(names))
    if wanted is not None:
        found = [name for name in known if name.casefold() == wanted.casefold()]
    else:
        ball_like = [name for name in known if any(word in name.casefold() for word in BALL_LIKE)]
        found = known if len(known) == 1 else [name for name in known if name.casefold() == "ball"] or ball_like
    if len(found) == 1:
        return found[0]
    listed = ", ".join(repr(name[:40]) for name in known[:12]) or "none"
    asked = f"no label {wanted!r}" if wanted is not None else "which label is the ball?"
    raise LabelError(f"{where}: {asked} The file has {listed}; choose with --label")


def frame_number(name: str, first: int | None) -> int | None:
    """The last number in a picture's name is its frame: 0007.jpg, clip_000007.txt, img7_png.rf.8c1b.jpg; or None."""
    stem = re.sub(r"\.rf\.\w+.*$", "", Path(name.replace("\\", "/")).name)
    stem = re.sub(r"([._](jpe?g|png|bmp|webp|txt))+$", "", stem, flags=re.IGNORECASE)
    found = re.search(r"(\d{1,12})\D*$", stem, re.ASCII)
    return int(found[1]) - (first or 0) if found else None


def clip_of(name: str) -> str:
    """What stands before the frame in a picture's name, "" for nothing but a number."""
    stem = re.sub(r"\.rf\.\w+.*$", "", Path(name.replace("\\", "/")).name)
    return re.sub(r"[-_. ]*(frame|img)?[-_. ]*\d+\D*$", "", uploaded(stem), flags=re.IGNORECASE)


def uploaded(name: str) -> str:
    """A file's name without the eight digits that Label Studio puts before that of each upload."""
    return re.sub(r"^[0-9a-f]{8}-(?=.)", "", name)


def folders_of(name: str) -> tuple[str, ...]:
    """The folders of a picture that may tell its clip, without those of a data set's layout."""
    return tuple(part for part in Path(name.replace("\\", "/")).parts[:-1] if part.strip("./").lower() not in LAYOUT)


def clips_of(names: Iterable[str]) -> dict[str, str]:
    """The clip of each picture: what stands before its number, or its folder; where that is not clear, both, and as
    many folders as there are. Frames of one clip may lie in several folders of a layout, such as train and val."""
    keys = {name: (folders_of(name), clip_of(name)) for name in names}
    alike: dict[str, set[tuple[tuple[str, ...], str]]] = {}
    for folders, stem in keys.values():
        alike.setdefault(stem or "".join(folders[-1:]), set()).add((folders, stem))
    long = {key: name for name, found in alike.items() for key in found if len(found) == 1}
    for found in alike.values():
        shared = shared_parts([folders for folders, _ in found])
        long |= {
            key: "_".join(filter(None, (*key[0][shared:], key[1]))) or key[0][-1] for key in found if len(found) > 1
        }
    return {name: long[key] for name, key in keys.items()}


def shared_parts(paths: Sequence[tuple[str, ...]]) -> int:
    """How many folders all of them begin with."""
    return sum(1 for _ in itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)))


def safe_name(name: str) -> str:
    """A clip's name as one folder or file name on any system."""
    cleaned = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*\u202a-\u202e\u2066-\u2069]', "_", name).strip(" .")
    while len(cleaned.encode("utf-8", "replace")) > 120:
        cleaned = cleaned[:-1]
    return cleaned.encode("utf-8", "replace").decode() or "clip"


def short(value: float, digits: int = 2) -> str:
    """483 for 483.0, and no more than `digits` places."""
    return f"{value:z.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"
