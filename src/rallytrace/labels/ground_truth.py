"""Ground Truth video frame jobs: manifests (JSON Lines), sequence files, SeqLabel.json and the label category config.

frame-no counts from 0 or from 1 and is a number or a text; it is taken to count from 1 unless some frame has 0. A frame
whose entry has no ball is absent, a frame without an entry is unlabelled: the format itself cannot tell the two apart.
s3:// names are looked for in a local copy of the bucket, then fetched where the options say how; a path is read where
it is below the manifest's own folder (`Source.near`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from rallytrace.errors import LabelError
from rallytrace.labels import sets
from rallytrace.labels.source import BUCKETS, Source, objects, parse_json
from rallytrace.types import XY, Visibility

Json = dict[str, Any]
JOB = "rallytrace"
MAX_SEQUENCE = 2000  # frames; and
MAX_MANIFEST = 10  # sequences: what the service takes
SHAPES = ("keypoints", "annotations", "polygons", "polylines")
_MARKS = ('"source-ref"', '-annotations"', '"seq-no"')


def detect(source: Source) -> bool:
    """Whether there is a manifest, a SeqLabel.json or a sequence file."""
    return bool(_entry(source))


def _entry(source: Source) -> list[str]:
    """The files to begin with: output manifests, or SeqLabel files, or other manifests, or sequence files."""
    if source.is_file:
        return [name for name in source.names if any(mark in source.head(name) for mark in _MARKS)]
    last = {name: PurePosixPath(name).name.lower() for name in source.names}
    for ending in ("output.manifest", "seqlabel.json", ".manifest"):
        found = [name for name in last if last[name].endswith(ending)]
        if found:
            return found
    names = [name for name in source.names if name.endswith(".json")][:200]
    return [name for name in names if '"seq-no"' in source.head(name)]


@dataclass
class _Part:
    """One sequence: the frames that were to be labelled, and what was said of them."""

    clip: str
    where: str
    order: int
    frames: list[Json] = field(default_factory=list)
    entries: list[Json] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    prefix: str = ""
    base: int = 0
    places: dict[int, int] = field(default_factory=dict)

    def place(self, entry: Json) -> int:
        """Which frame of the clip an entry speaks of."""
        no = _frame_no(entry, self)
        return self.places.get(no, no - self.base)


def read(source: Source, options: sets.ReadOptions) -> list[sets.LabelSet]:
    """One set per prefix: sequences of one video come together again. Raises LabelError."""
    return [_read_clip(clip, parts, options) for clip, parts in _clips(source, options).items()]


def pictures(source: Source, options: sets.ReadOptions) -> dict[str, dict[int, str]]:
    """Of each clip the pictures of its frames as the sequence files name them, paths or URLs. Raises LabelError."""
    clips = _clips(source, options)
    return {
        clip: dict(each for part in parts for each in _pictures(source, part, options)) for clip, parts in clips.items()
    }


def _pictures(source: Source, part: _Part, options: sets.ReadOptions) -> Iterable[tuple[int, str]]:
    """By frame of the clip. Where one lies is where all of its sequence do."""
    names = [str(frame.get("frame")) for frame in part.frames]
    folder = _folder(source, f"{part.prefix}{names[0]}", options).removesuffix(names[0]) if names else ""
    for frame, name in zip(part.frames, names, strict=True):
        if ".." in PurePosixPath(name).parts or name.startswith("/"):
            raise LabelError(f"{part.where}: frame {name[:120]!r}, expected a picture's name without ..")
        yield part.place(frame), folder + name


def _folder(source: Source, uri: str, options: sets.ReadOptions) -> str:
    """The path of a picture where there is a local one; else its URL."""
    try:
        near, _ = source.near(uri, replace(options, fetch=None))
    except LabelError:
        if ".." in PurePosixPath(uri).parts or not uri.startswith(BUCKETS):
            raise
        return uri
    if near is source:
        raise LabelError(f"{source.path}: pictures inside a zip are not read: unpack it")
    return str(near.path)


def _clips(source: Source, options: sets.ReadOptions) -> dict[str, list[_Part]]:
    parts = [part for name in _entry(source) for part in _parts(source, name, options)]
    if not parts:
        raise LabelError(f"{source.path}: no manifest, SeqLabel.json or sequence file inside")
    prefixes: dict[tuple[str, ...], list[_Part]] = {}
    for part in parts:
        prefixes.setdefault(PurePosixPath(part.prefix).parts or (part.clip,), []).append(part)
    alike = Counter(mine[0].clip for mine in prefixes.values())
    shared = sets.shared_parts(list(prefixes))
    clips = {
        mine[0].clip if alike[mine[0].clip] == 1 else "_".join(folders[shared:]): mine
        for folders, mine in prefixes.items()
    }
    for mine in clips.values():
        mine.sort(key=lambda part: part.order)
        _number(mine, options)
    return clips


def _number(parts: list[_Part], options: sets.ReadOptions) -> None:
    """Sets how each part's frame-no becomes a frame of the clip."""
    numbers = [_frame_no(entry, part) for part in parts for entry in part.frames or part.entries]
    base = options.first_frame if options.first_frame is not None else 0 if 0 in numbers else 1
    restarts = len(set(numbers)) < len(numbers)  # each sequence counts anew: they follow each other
    start = 0
    for part in parts:
        part.base = base
        if restarts:
            part.places = {_frame_no(frame, part): start + n for n, frame in enumerate(part.frames)}
        start += len(part.frames)


def _parts(source: Source, name: str, options: sets.ReadOptions) -> list[_Part]:
    where = source.where(name)
    text = source.text(name)
    if '"source-ref"' in text[:65536]:
        lines = [line for line in text.splitlines() if line.strip()]
        values = [parse_json(line, f"{where}, line {n}") for n, line in enumerate(lines, 1)]
        return [_line(source, line, n, where, options) for n, line in enumerate(objects(values, where))]
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise LabelError(f"{where}: expected a JSON object")
    if "seq-no" in value:
        return [_sequence(value, where, PurePosixPath(name).stem)]
    folders = (source.path.resolve() / name).parts
    job = folders[folders.index("annotations") - 1] if "annotations" in folders[1:] else source.stem(name)
    return [_Part(job if source.is_file else str(PurePosixPath(name).parent), where, 0, entries=_entries(value, where))]


def _line(source: Source, line: Json, order: int, where: str, options: sets.ReadOptions) -> _Part:
    """A manifest's line: its sequence file, if it was copied, and its labels, if it has some."""
    uri = str(line.get("source-ref"))
    refs = [key for key in line if key.endswith("-ref") and key != "source-ref"]
    try:
        near, name = source.near(uri, options)
        value = near.json(name)
        part = _sequence(value if isinstance(value, dict) else {}, near.where(name), PurePosixPath(uri).stem)
    except LabelError as error:
        if not refs:
            raise
        part = _Part(PurePosixPath(uri).stem, where, order, notes=[f"the sequence file was not read: {error}"])
    about = [(key, value) for key, value in line.items() if key.endswith("-metadata") and isinstance(value, dict)]
    about.sort(key=lambda pair: str(pair[1].get("creation-date")))  # an adjustment job adds its own, later one
    part.notes += [f"{key}: {value['failure-reason']}" for key, value in about if value.get("failure-reason")]
    about = [(key, value) for key, value in about if line.get(key.removesuffix("-metadata"))]
    wanted = about[-1][0].removesuffix("-metadata") if about else refs[-1] if refs else None
    if wanted is None or not line.get(wanted):
        return part
    if about and isinstance(about[-1][1].get("class-map"), dict):
        part.classes = {str(key): str(name) for key, name in about[-1][1]["class-map"].items()}
    near, name = source.near(str(line.get(wanted)), options)
    part.where = near.where(name)
    part.entries = _entries(near.json(name), part.where)
    return part


def _sequence(value: Json, where: str, stem: str) -> _Part:
    frames = objects(value.get("frames"), f"{where}: frames")
    said = value.get("number-of-frames", len(frames))
    if sets.whole(said, f"{where}: number-of-frames") != len(frames):
        raise LabelError(f"{where}: number-of-frames is {said}, but frames has {len(frames)}")
    frames = sorted(frames, key=lambda frame: str(frame.get("frame")).encode())
    clip = PurePosixPath(str(value.get("prefix") or "")).name or stem
    order = sets.whole(value.get("seq-no", 0), f"{where}: seq-no")
    return _Part(clip, where, order, frames, prefix=str(value.get("prefix") or ""))


def _entries(value: Any, where: str) -> list[Json]:
    for key in ("tracking-annotations", "detection-annotations"):
        if isinstance(value, dict) and key in value:
            return objects(value[key], f"{where}: {key}")
    raise LabelError(f"{where}: neither tracking-annotations nor detection-annotations inside")


def _read_clip(clip: str, parts: list[_Part], options: sets.ReadOptions) -> sets.LabelSet:
    found = sets.Builder(clip, parts[0].where, options)
    names = [name for part in parts for entry in part.entries for name, _ in _things(entry, part)]
    ball = sets.choose_label(names, options.label, found.where) if names else ""
    known: list[int] = []
    for part in parts:
        found.where = part.where
        found.notes += part.notes
        known += [found.frame(part.place(frame)) for frame in part.frames]
        for entry in part.entries:
            _put(found, found.frame(part.place(entry)), entry, part, ball)
    if known:
        found.length(max(known) + 1)
    missing = len(set(known)) - len({frame for frame in known if found.has(frame)})
    if missing and options.silence is None and any(part.entries for part in parts):
        found.notes.append(f"{clip}: {missing} frames have no entry and stay unlabelled (--missing absent: no ball)")
    return found.done(known, "unlabelled")


def _frame_no(entry: Json, part: _Part) -> int:
    return sets.whole(entry.get("frame-no"), f"{part.where}: frame-no")


def _things(entry: Json, part: _Part) -> Iterable[tuple[str, Json]]:
    """The objects of a frame with their label: of the class map, or of the object's name, which is ball:1."""
    for shape in SHAPES:
        for thing in objects(entry.get(shape) or [], f"{part.where}: {shape}"):
            called = str(thing.get("object-name") or "").partition(":")[0]
            yield part.classes.get(str(thing.get("class-id"))) or called or str(thing.get("class-id", "ball")), thing


def _put(found: sets.Builder, frame: int, entry: Json, part: _Part, ball: str) -> None:
    attributes = entry.get("frame-attributes")
    event = sets.event_of(attributes.get("event", "")) if isinstance(attributes, dict) else ""
    found.put_absent(frame, sets.Extra(event))
    for name, thing in _things(entry, part):
        if name == ball:
            told = thing.get("label-category-attributes")
            visibility = sets.visibility_of(told.get("visibility", "")) if isinstance(told, dict) else Visibility.CLEAR
            found.put(frame, _centre(thing, found), visibility, sets.Extra(event))


def _centre(thing: Json, found: sets.Builder) -> XY:
    if "width" in thing:
        left, top, width, height = (found.number(thing.get(k), k) for k in ("left", "top", "width", "height"))
        return left + width / 2, top + height / 2
    corners = objects(thing.get("vertices") or [thing], f"{found.where}: vertices")
    xs, ys = ([found.number(corner.get(axis), axis) for corner in corners] for axis in "xy")
    return sum(xs) / len(xs), sum(ys) / len(ys)


def render(clips: Sequence[sets.LabelSet], options: sets.WriteOptions) -> dict[str, str]:
    """The bucket's folder: per 2,000 frames a sequence file and a SeqLabel.json; input and output manifests; the label
    category config. frame-no counts from 1 and is a text in SeqLabel.json, as the service itself writes it."""
    prefix = options.prefix.rstrip("/") + "/"
    files: dict[str, str] = {"label-category-config.json": json.dumps(_config(), indent=1)}
    inputs: list[str] = []
    outputs: list[str] = []
    for labels in clips:
        name = sets.safe_name(labels.name)
        for start in range(0, max(labels.length, 1), MAX_SEQUENCE):
            frames = range(start, min(start + MAX_SEQUENCE, labels.length))
            order = len(inputs)
            sequence = f"sequences/{name}_{start:06}.json"
            said = f"{JOB}/annotations/consolidated-annotation/output/{order}/SeqLabel.json"
            files[sequence] = json.dumps(_sequence_of(f"{prefix}frames/{name}/", order + 1, frames), ensure_ascii=False)
            files[said] = json.dumps({"tracking-annotations": _said(labels, frames)}, ensure_ascii=False)
            inputs.append(json.dumps({"source-ref": prefix + sequence}, ensure_ascii=False) + "\n")
            outputs.append(json.dumps(_output(prefix, sequence, said), ensure_ascii=False) + "\n")
    for n in range(0, len(inputs), MAX_MANIFEST):
        files[f"input{n // MAX_MANIFEST or ''}.manifest"] = "".join(inputs[n : n + MAX_MANIFEST])
    files[f"{JOB}/manifests/output/output.manifest"] = "".join(outputs)
    return files


def _sequence_of(prefix: str, order: int, frames: range) -> Json:
    listed = [{"frame-no": frame + 1, "frame": f"frame{frame + 1:06}.jpg"} for frame in frames]
    return {"seq-no": order, "prefix": prefix, "number-of-frames": len(frames), "frames": listed}


def _output(prefix: str, sequence: str, said: str) -> Json:
    metadata = {
        "class-map": {"0": "ball"},
        "job-name": f"labeling-job/{JOB}",
        "human-annotated": "yes",
        "creation-date": "2026-01-01T00:00:00.000000",  # fixed, so that equal labels are equal files
        "type": "groundtruth/video-object-tracking",
    }
    return {"source-ref": prefix + sequence, f"{JOB}-ref": prefix + said, f"{JOB}-ref-metadata": metadata}


def _said(labels: sets.LabelSet, frames: range) -> list[Json]:
    entries: list[Json] = []
    for frame in frames:
        label = labels.labels.get(frame)
        if label is None:
            continue
        event = labels.extra(frame).event
        keypoints: list[Json] = []
        if label.xy is not None:
            x, y = (int(value) if value == int(value) else round(value, 2) for value in label.xy)
            told = {"visibility": label.visibility.name.lower()}
            identity = {"object-id": "00000000-0000-0000-0000-000000000001", "object-name": "ball:1"}
            keypoints = [{"x": x, "y": y, "class-id": "0", "label-category-attributes": told, **identity}]
        attributes = {"event": event} if event else {}
        entries.append(
            {
                "keypoints": keypoints,
                "frame-no": str(frame + 1),
                "frame": f"frame{frame + 1:06}.jpg",
                "frame-attributes": attributes,
            }
        )
    return entries


def _config() -> Json:
    events = {"name": "event", "description": "What happens to the ball in this frame", "type": "string"}
    visibility = {"name": "visibility", "type": "string", "enum": list(sets.VISIBILITY_NAMES)}
    return {
        "documentVersion": "2020-03-01",
        "frameAttributes": [{**events, "enum": ["flying", *sets.EVENTS[1:]]}],
        "categoryGlobalAttributes": [],
        "labels": [{"label": "ball", "categoryAttributes": [visibility]}],
        "annotationType": "Keypoint",
        "instructions": {
            "shortInstruction": "Click the centre of the ball",
            "fullInstruction": "<p>Click the centre of the ball, of its streak where it is blurred.</p>",
        },
    }
