"""The label formats by name: `FORMATS`. `read_sets` and `write_sets` are the one way in and out."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rallytrace.errors import InputError, LabelError, OutputError
from rallytrace.files import make_folder, write_text
from rallytrace.labels import coco, cvat, deeplabcut, ground_truth, label_studio, mot, tracknet_v1, tracknetv2, yolo
from rallytrace.labels.sets import LabelSet, ReadOptions, WriteOptions, as_proposals
from rallytrace.labels.source import Source
from rallytrace.types import BallLabel, Visibility


class Codec(Protocol):
    """What reads and writes a format: a module of this package, or an object with these three functions."""

    def detect(self, source: Source, /) -> bool:
        """Whether the content looks like this format. Raises LabelError for what cannot be read."""

    def read(self, source: Source, options: ReadOptions, /) -> list[LabelSet]:
        """One set per clip. Raises LabelError."""

    def render(self, sets: Sequence[LabelSet], options: WriteOptions, /) -> dict[str, str]:
        """The files to write, by relative name."""


@dataclass(frozen=True, slots=True)
class LabelFormat:
    """One exchange format. `carries` says what survives a round trip: visibility (all three seen classes), occluded
    (only that one), event, keyframe, score, unlabelled (other readers, too, tell it from "no ball"). needs_wh: it is
    measured in shares of the picture."""

    name: str
    title: str
    suffixes: tuple[str, ...]
    codec: Codec
    carries: frozenset[str] = frozenset()
    needs_wh: bool = False


_ALL = (
    ("tracknetv2", "TrackNetV2 and V3 ball CSV", ".csv", tracknetv2, "visibility event keyframe score unlabelled"),
    ("tracknet_v1", "TrackNet V1 Label.csv", ".csv", tracknet_v1, "visibility event unlabelled"),
    ("ground_truth", "Ground Truth video frame job", ".manifest .json", ground_truth, "visibility event"),
    ("cvat", "CVAT for video 1.1", ".xml .zip", cvat, "visibility event keyframe"),
    ("label_studio", "Label Studio video JSON", ".json", label_studio, "keyframe"),
    ("coco", "COCO keypoints", ".json", coco, "visibility event keyframe score unlabelled"),
    ("yolo", "YOLO boxes", ".txt", yolo.BOXES, ""),
    ("yolo-pose", "YOLO-pose keypoints", ".txt", yolo.POSES, "occluded"),
    ("mot", "MOTChallenge gt.txt and det.txt", ".txt", mot, "score"),
    ("deeplabcut", "DeepLabCut and Lightning Pose CSV", ".csv", deeplabcut, "unlabelled"),
)
_IN_SHARES = ("label_studio", "yolo", "yolo-pose")
FORMATS: dict[str, LabelFormat] = {
    name: LabelFormat(name, title, tuple(suffixes.split()), codec, frozenset(carries.split()), name in _IN_SHARES)
    for name, title, suffixes, codec, carries in _ALL
}


def get_format(name: str) -> LabelFormat:
    """Raises InputError, which lists the formats."""
    key = name.strip().lower()
    if key not in FORMATS:
        raise InputError(f"unknown label format {name!r}, expected one of {', '.join(FORMATS)}")
    return FORMATS[key]


def detect_format(source: Source) -> LabelFormat:
    """The format that the content is of. Raises LabelError, which lists the candidates, where it is none or several."""
    found = [each for each in FORMATS.values() if each.codec.detect(source)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(each.name for each in found)
        raise LabelError(f"{source.path}: could be {names}: choose with --from")
    raise LabelError(f"{source.path}: no label format that is known here; --from takes {', '.join(FORMATS)}")


def read_sets(path: Path | str, name: str | None = None, options: ReadOptions | None = None) -> list[LabelSet]:
    """The label sets of a file, folder or zip, in the format `name` or in the one that it looks like.

    Raises LabelError, InputError for an unknown format, MissingDependency.
    """
    source = Source(path)
    chosen = detect_format(source) if name is None else get_format(name)
    try:
        sets = chosen.codec.read(source, options or ReadOptions())
    except (RecursionError, OverflowError) as error:
        raise LabelError(f"{path}: not {chosen.title} ({type(error).__name__})") from error
    if options and options.origin == "proposals":
        sets = [as_proposals(labels) for labels in sets]
    clips = Counter(labels.name for labels in sets)
    double = next((name for name, count in clips.items() if count > 1), None)
    if double is not None:
        raise LabelError(f"{path}: two clips are called {double!r}, expected one file per clip: convert them apart")
    return sets


def losses(sets: Sequence[LabelSet], to: LabelFormat) -> list[str]:
    """What of `sets` the format cannot say, for people to read."""
    labels = [(each.extra(frame), label) for each in sets for frame, label in each.labels.items()]
    hard = sum(label.visibility is Visibility.HARD for _, label in labels)
    hidden = sum(label.visibility is Visibility.OCCLUDED for _, label in labels)
    lost = {
        "visibility hard": hard if "visibility" not in to.carries else 0,
        "visibility occluded": hidden if not {"visibility", "occluded"} & to.carries else 0,
        "an event": sum(bool(extra.event) for extra, _ in labels) if "event" not in to.carries else 0,
        "the mark 'interpolated'": sum(not extra.keyframe for extra, _ in labels)
        if "keyframe" not in to.carries
        else 0,
        "a score": sum(extra.score is not None for extra, _ in labels) if "score" not in to.carries else 0,
        "a blur streak": sum(extra.blur is not None for extra, _ in labels) if to.name != "tracknetv2" else 0,
    }
    return [f"{count} labels lose {what}" for what, count in lost.items() if count]


def render_sets(sets: Sequence[LabelSet], to: LabelFormat, options: WriteOptions | None = None) -> dict[str, str]:
    """The files of `sets` in a format, by relative name. Raises LabelError for unlabelled frames that it cannot carry
    (see WriteOptions.unlabelled) and without a size that it needs."""
    options = options or WriteOptions()
    ready = [_prepared(labels, to, options) for labels in sets]
    return to.codec.render(ready, options)


def _prepared(labels: LabelSet, to: LabelFormat, options: WriteOptions) -> LabelSet:
    if to.needs_wh and labels.wh is None:
        raise LabelError(f"{labels.name}: {to.title} needs the picture's size: give --size WxH or --video FILE")
    for label in labels.labels.values():
        if label.xy == (-1, -1):
            raise LabelError(f"{labels.name}, frame {label.frame}: xy is (-1, -1), which means no ball in files")
    missing = labels.unlabelled
    if missing and options.unlabelled == "absent":
        filled = {frame: BallLabel(frame, None, Visibility.ABSENT) for frame in missing}
        return dataclasses.replace(labels, labels={**labels.labels, **filled})
    if missing and options.unlabelled == "refuse" and "unlabelled" not in to.carries:
        raise LabelError(
            f"{labels.name}: {len(missing)} of {labels.length} frames are unlabelled (the first is {missing[0]}), and "
            f"{to.title} cannot tell that from 'no ball': --unlabelled drop leaves them out, --unlabelled absent calls "
            "them no ball"
        )
    return labels


def write_sets(
    sets: Sequence[LabelSet],
    name: str,
    out: Path | str,
    options: WriteOptions | None = None,
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Writes `sets` under the folder `out` in the format `name`. Nothing is written before all is ready.

    Raises LabelError as `render_sets`, InputError for an unknown format, OutputError for files that exist.
    """
    files = render_sets(sets, get_format(name), options)
    paths = {Path(out) / relative: text for relative, text in files.items()}
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        raise OutputError(f"{existing[0]} exists already: use --overwrite, or another --out folder")
    for folder in {path.parent for path in paths}:
        make_folder(folder)
    for path, text in paths.items():
        write_text(path, text, durable=False)  # there may be thousands
    return list(paths)
