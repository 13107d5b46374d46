"""CVAT for video 1.1 and for images 1.1: an XML file, or the zip with annotations.xml that CVAT exports.

Frames from 0. A track's shape at keyframe="0" was interpolated by CVAT. outside="1" is no ball, until the track's next
shape. The ball's place is the point, the ellipse's centre, or the middle of box or polygon. Attributes visibility
(clear, hard, occluded; unlabelled where we had no label), event and interpolated are ours; other tools ignore them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import PurePosixPath
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from rallytrace.errors import LabelError
from rallytrace.labels import sets
from rallytrace.labels.source import Source
from rallytrace.types import XY, Visibility

SHAPES = ("points", "box", "ellipse", "polygon", "polyline", "skeleton", "mask")


def detect(source: Source) -> bool:
    """Whether there is an XML file with <annotations>."""
    return any("<annotations" in source.head(name) for name in source.find(".xml")[:5])


def read(source: Source, options: sets.ReadOptions) -> list[sets.LabelSet]:
    """The ball of each task of each XML file. Frames of the task without a ball are absent, as CVAT means it.

    Raises LabelError, MissingDependency without defusedxml.
    """
    names = [name for name in source.find(".xml") if source.is_file or "<annotations" in source.head(name)]
    if not names:
        raise LabelError(f"{source.path}: no XML file inside, expected CVAT's annotations.xml")
    parts = [part for name in names for part in _read_one(source, name, options)]
    return [found.done(looked_at, "absent") for found, looked_at in _together(parts)]


def _together(parts: Iterable[tuple[str, sets.Builder, range]]) -> list[tuple[sets.Builder, set[int]]]:
    """Jobs of one video, which CVAT exports one by one, as one."""
    found: dict[str, tuple[sets.Builder, set[int]]] = {}
    for key, part, looked_at in parts:
        builder, frames = found.setdefault(key, (part, set()))
        frames.update(looked_at)
        if builder is not part:
            builder.merge(part)
    return list(found.values())


def _read_one(source: Source, name: str, options: sets.ReadOptions) -> Iterator[tuple[str, sets.Builder, range]]:
    """Of each task, or of a job: what is one with others of the same key, and which frames were looked at."""
    root = source.xml(name)
    where = source.where(name)
    if root.tag != "annotations":
        raise LabelError(f"{where}: the root is <{root.tag[:40]}>, expected CVAT's <annotations>")
    tracks, images = root.findall("track"), root.findall("image")
    used = [t.get("label", "") for t in tracks] + [s.get("label", "") for i in images for s in i if s.tag in SHAPES]
    known = [label.findtext("name", "") for label in root.iter("label")]
    wanted = sets.choose_label(used + known, options.label, where) if used or known else ""
    tasks = [*root.findall("meta/task"), *root.findall("meta/project/tasks/task"), *root.findall("meta/job")]
    for n, task in enumerate(tasks or [Element("task")]):
        named = task.findtext("name") or PurePosixPath(task.findtext("source") or "").stem  # of a job: no name
        found = sets.Builder(named or source.stem(name), where, options)
        found.video = task.findtext("source") or ""
        found.size(task.findtext("original_size/width"), task.findtext("original_size/height"))
        mine = [t for t in tracks if t.get("task_id") in (None, task.findtext("id"))]
        balls = [track for track in mine if track.get("label") == wanted]
        pictures = [i for i in images if i.get("task_id") in (None, task.findtext("id"))]
        _number(found, [shape for track in balls for shape in track if shape.tag in SHAPES], task)
        for track in balls:
            _read_track(found, track, _step(task))
        _read_images(found, pictures, wanted)
        looked_at = _looked_at(found, task)
        # A file without a track of the ball says nothing about it: its frames stay unlabelled.
        key = f"job {found.name}" if task.tag == "job" else f"{name}, task {n}"
        yield key, found, looked_at if balls or pictures else range(0)


def _number(found: sets.Builder, shapes: Sequence[Element], task: Element) -> None:
    """With a step, shapes beside the pictures shown count these, not the video's frames: they get the latter."""
    start, step = found.frame(task.findtext("start_frame") or 0), _step(task)
    numbers = [found.frame(shape.get("frame")) for shape in shapes]
    if any((number - start) % step for number in numbers):
        found.notes.append(f"{found.name}: its frames count the task's pictures, every {step} from {start}")
        for shape, number in zip(shapes, numbers, strict=True):
            shape.set("frame", str(start + step * number))


def _step(task: Element) -> int:
    step = re.search(r"step\s*=\s*(\d{1,6})", task.findtext("frame_filter") or "")
    return max(1, int(step[1])) if step else 1


def _looked_at(found: sets.Builder, task: Element) -> range:
    """The frames that CVAT showed: start_frame to stop_frame, or size many."""
    start = found.frame(task.findtext("start_frame") or 0)
    stop, size = task.findtext("stop_frame"), task.findtext("size")
    end = found.frame(stop) + 1 if stop else start + found.whole(size, "size") * _step(task) if size else found.last + 1
    if not start <= end <= sets.MAX_FRAMES:
        raise LabelError(f"{found.where}: frames {start} to {end}, expected at most {sets.MAX_FRAMES}")
    end = min(end, found.n_frames or end)
    if start == 0 and (stop or size) and task.tag != "job":
        found.length(max(end, found.last + 1))
    return range(start, end, _step(task))


class _Shape(NamedTuple):
    frame: int
    xy: XY
    outside: bool
    attributes: dict[str, str]
    element: Element


def _read_track(found: sets.Builder, track: Element, step: int) -> None:
    shapes = sorted((_shape(found, e) for e in track if e.tag in SHAPES), key=lambda shape: shape.frame)
    for shape in shapes:
        _put(found, shape, shape.element.get("keyframe", "1") != "0", len(shapes))
    for a, b in pairwise(shapes):
        for frame in range(a.frame + step, b.frame, step):
            share = (frame - a.frame) / (b.frame - a.frame)
            xy = (a.xy[0] + share * (b.xy[0] - a.xy[0]), a.xy[1] + share * (b.xy[1] - a.xy[1]))
            _put(found, a._replace(frame=frame, xy=a.xy if b.outside else xy), False, len(shapes))


def _shape(found: sets.Builder, element: Element) -> _Shape:
    frame = found.frame(element.get("frame"))
    attributes = {a.get("name", "").casefold(): (a.text or "").strip() for a in element.iter("attribute")}
    if element.tag == "skeleton":  # its points say for themselves whether they are seen
        points = element.findall("points")
        element = next((each for each in points if each.get("outside") != "1"), points[0] if points else element)
    gone = element.get("outside") == "1" or attributes.get("used_in_game") == "0"  # a ball beside the pitch (ISSIA)
    return _Shape(frame, _centre(element, found), gone, attributes, element)


def _centre(element: Element, found: sets.Builder) -> XY:
    def value(name: str) -> float:
        return found.number(element.get(name), f"{name} of a <{element.tag}>")

    if element.tag == "box":
        return (value("xtl") + value("xbr")) / 2, (value("ytl") + value("ybr")) / 2
    if element.tag == "ellipse":
        return value("cx"), value("cy")
    if element.tag == "mask":
        return value("left") + value("width") / 2, value("top") + value("height") / 2
    pairs = [pair.split(",") for pair in (element.get("points") or "").split(";")]
    if not all(len(pair) == 2 for pair in pairs):
        raise LabelError(f"{found.where}: points of a <{element.tag}> are not x,y;x,y")
    xs, ys = ([found.number(pair[axis].strip(), "a point") for pair in pairs] for axis in (0, 1))
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2


def _put(found: sets.Builder, shape: _Shape, keyframe: bool, rank: int) -> None:
    told = shape.attributes
    if told.get("visibility") == "unlabelled":
        found.put_unlabelled(shape.frame)
        return
    extra = sets.Extra(sets.event_of(told.get("event", "")), keyframe and told.get("interpolated") != "true")
    if shape.outside:
        found.put_absent(shape.frame, extra)
        return
    hidden = shape.element.get("occluded") == "1"
    visibility = sets.visibility_of(told.get("visibility", ""), Visibility.OCCLUDED if hidden else Visibility.CLEAR)
    found.put(shape.frame, shape.xy, visibility, extra, rank)


def _read_images(found: sets.Builder, images: Sequence[Element], wanted: str) -> None:
    """CVAT for images: a picture of the task may have the ball; one without has none."""
    numbers = [sets.frame_number(image.get("name", ""), found.options.first_frame) for image in images]
    clear = len(set(numbers) - {None}) == len(numbers)  # not so for pictures of several folders
    for image, named in zip(images, numbers, strict=True):
        frame = found.frame(named if clear else image.get("id"))
        found.size(image.get("width"), image.get("height"))
        shapes = [element for element in image if element.tag in SHAPES and element.get("label") == wanted]
        for element in shapes:
            element.set("frame", str(frame))
            _put(found, _shape(found, element), True, 1)
        if not shapes and found.options.silence != "unlabelled":
            found.put_absent(frame)


def render(clips: Sequence[sets.LabelSet], options: sets.WriteOptions) -> dict[str, str]:
    """`<clip>.xml`: one track of points, each a keyframe, so that CVAT interpolates nothing."""
    return {f"{sets.safe_name(labels.name)}.xml": _document(labels) for labels in clips}


def _document(labels: sets.LabelSet) -> str:
    root = Element("annotations")
    _text(root, version="1.1")
    task = SubElement(SubElement(root, "meta"), "task")
    stop = max(0, labels.length - 1)
    _text(task, name=labels.name, size=labels.length, mode="interpolation", overlap=0, start_frame=0, stop_frame=stop)
    label = SubElement(SubElement(task, "labels"), "label")
    _text(label, name="ball", type="points")
    attributes = SubElement(label, "attributes")
    _attribute(attributes, "visibility", "select", [*sets.VISIBILITY_NAMES, "absent", "unlabelled"])
    _attribute(attributes, "event", "select", ["flying", *sets.EVENTS[1:]])
    _attribute(attributes, "interpolated", "checkbox", ["false"])
    if labels.wh:
        _text(SubElement(task, "original_size"), width=labels.wh[0], height=labels.wh[1])
    _text(task, source=labels.video or labels.name)
    if labels.labels:
        _track(root, labels)
    indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _text(parent: Element, **texts: object) -> None:
    for name, text in texts.items():
        # XML has no way to write a control character.
        SubElement(parent, name).text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "", str(text))


def _attribute(parent: Element, name: str, kind: str, values: list[str]) -> None:
    attribute = SubElement(parent, "attribute")
    _text(attribute, name=name, mutable="True", input_type=kind, default_value=values[0], values="\n".join(values))


def _track(root: Element, labels: sets.LabelSet) -> None:
    track = SubElement(root, "track", id="0", label="ball", source="manual")
    xy: XY = next((label.xy for label in labels.located() if label.xy), (0.0, 0.0))
    for frame in range(labels.length):
        label = labels.labels.get(frame)
        extra = labels.extra(frame)
        xy = label.xy if label and label.xy else xy
        gone = label is None or label.xy is None
        hidden = label is not None and label.visibility is Visibility.OCCLUDED
        shape = SubElement(track, "points", frame=str(frame), keyframe="1", outside=str(int(gone)))
        shape.set("occluded", str(int(hidden)))
        shape.set("points", f"{xy[0]:z.2f},{xy[1]:z.2f}")
        told = "unlabelled" if label is None else label.visibility.name.lower()
        SubElement(shape, "attribute", name="visibility").text = told
        SubElement(shape, "attribute", name="event").text = extra.event or "flying"
        SubElement(shape, "attribute", name="interpolated").text = str(not extra.keyframe).lower()
