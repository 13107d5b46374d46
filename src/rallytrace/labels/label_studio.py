"""Label Studio video: JSON or JSON-MIN export with VideoRectangle regions.

Frames from 1, boxes in percent of the picture (x, y: their top left). A keyframe with enabled=false is the last one
where the object is seen, until the next keyframe; frames between keyframes are interpolated. There is no point type: a
point travels as a small box. The picture's size is not in the file: it has to be given.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from rallytrace.errors import LabelError, UnknownSize
from rallytrace.labels import sets
from rallytrace.labels.source import Source, objects
from rallytrace.types import XY, Visibility

Json = dict[str, Any]
_VIDEO = re.compile(r"\.(mp4|mov|mkv|avi|webm|m4v|mpe?g|ts)\b", re.IGNORECASE)


def detect(source: Source) -> bool:
    """Whether there is a "sequence" of keyframes in a JSON file."""
    return any(_looks_so(source.head(name)) for name in _files(source)[:5])


def _looks_so(head: str) -> bool:
    return ('"sequence"' in head and '"enabled"' in head) or '"videorectangle"' in head


def _files(source: Source) -> list[str]:
    return [name for name in source.names if source.is_file or name.lower().endswith(".json")]


def read(source: Source, options: sets.ReadOptions) -> list[sets.LabelSet]:
    """One set per task: its first annotation that was not cancelled, or else its first prediction. Frames outside the
    lifespans of the ball are absent. Raises LabelError."""
    found = [pair for name in source.find(".json") for pair in _tasks(source, name)]
    if not found:
        raise LabelError(f"{source.path}: no Label Studio task inside")
    return [_read_task(source, name, task, options) for name, task in found]


def _tasks(source: Source, name: str) -> Iterator[tuple[str, Json]]:
    value = source.json(name)
    if isinstance(value, dict) and isinstance(value.get("tasks"), list):
        value = value["tasks"]
    known: set[str] = set()
    for task in objects(value if isinstance(value, list) else [value], f"{source.where(name)}: tasks"):
        # JSON-MIN has a row for each annotation of a task: the first is taken, as in the full export.
        twin = str(task["id"]) if "annotation_id" in task and "id" in task else ""
        if twin and twin in known:
            continue
        known.add(twin)
        yield name, task


def _read_task(source: Source, name: str, task: Json, options: sets.ReadOptions) -> sets.LabelSet:
    where = source.where(name)
    data = task.get("data") if isinstance(task.get("data"), dict) else task
    texts = [text for text in data.values() if isinstance(text, str)] if data else []
    video = next((text for text in texts if _VIDEO.search(text)), "") or next((t for t in texts if "/" in t), "")
    clean = video.partition("?")[0] if "?d=" not in video else video.partition("?d=")[2]
    plain = sets.uploaded(PurePosixPath(clean.replace("\\", "/")).name)
    found = sets.Builder(PurePosixPath(plain).stem or source.stem(name), where, options)
    found.video = plain
    said = _regions(task, where, found)
    regions = [_values(region) for region in said or ()]
    labelled = [value for value in regions if isinstance(value.get("sequence"), list)]
    names = [label for value in labelled for label in _names(value)]
    wanted = sets.choose_label(names, options.label, where) if names else None
    balls = [value for value in labelled if wanted is None or wanted in _names(value)]
    for value in balls:
        _read_region(found, value)
    meta = task["meta"] if isinstance(task.get("meta"), dict) else {}
    for run in objects(meta.get("unlabelled") or [], f"{where}: unlabelled"):
        for frame in range(found.frame(run.get("first")) - 1, found.frame(run.get("last"))):
            found.put_unlabelled(frame)
    looked_at = balls or said == []
    return found.done(range(found.n_frames or found.last + 1) if looked_at else (), "absent")


def _regions(task: Json, where: str, found: sets.Builder) -> list[Json] | None:
    """The regions of a task of the full export, of an annotation alone, or of JSON-MIN, where a key holds them. None
    where nobody has annotated."""
    for key in ("annotations", "completions", "predictions"):
        results = objects(task.get(key) or [], f"{where}: {key}")
        kept = [each for each in results if not each.get("was_cancelled") and isinstance(each.get("result"), list)]
        kept.sort(key=lambda each: (not each.get("ground_truth"), not each["result"]))
        if len(kept) > 1:
            found.notes.append(
                f"{found.name}: {len(kept)} {key}, one was kept: that marked as ground truth or the first"
            )
        if kept:  # also an empty one: a person looked, and what a network predicts is no answer to that
            return objects(kept[0]["result"], f"{where}: result")
    if "result" in task:
        return objects(task["result"], f"{where}: result")
    lists = [value for value in task.values() if isinstance(value, list)]
    return [item for value in lists for item in value if isinstance(item, dict) and "sequence" in _values(item)] or None


def _values(region: Json) -> Json:
    """The region's value with its size beside it; in JSON-MIN the region is the value."""
    value = region["value"] if isinstance(region.get("value"), dict) else region
    size = {key: region[key] for key in ("original_width", "original_height", "score") if key in region}
    return {**size, **value}


def _names(value: Json) -> list[str]:
    kinds = [value.get(key) for key in ("labels", "videorectanglelabels", "rectanglelabels")]
    return [str(name) for names in kinds if isinstance(names, list) for name in names]


def _read_region(found: sets.Builder, value: Json) -> None:
    found.size(value.get("original_width"), value.get("original_height"))
    count = value.get("framesCount") or value.get("frameCount") or value.get("frames_count")
    if count:
        found.length(count)
    if found.wh is None:
        raise UnknownSize(f"{found.where}: positions are in percent: give the picture's size with --size or --video")
    first = 1 if found.options.first_frame is None else found.options.first_frame
    keys = sorted(
        objects(value["sequence"], f"{found.where}: sequence"), key=lambda k: found.number(k.get("frame"), "frame")
    )
    frames = [found.frame(found.whole(key.get("frame"), "frame") - first) for key in keys]
    for n, (frame, key) in enumerate(zip(frames, keys, strict=True)):
        off = key.get("enabled", True) is False
        if off and "x" not in key:  # written by scripts: there is nothing here
            found.put_absent(frame)
            continue
        xy = _centre(key, found, found.wh)
        extra = sets.Extra(keyframe=key.get("auto") is not True, score=sets.score_of(key.get("score")))
        found.put(frame, xy, Visibility.CLEAR, extra, len(keys))
        if off:
            continue
        at_end = n + 1 == len(keys)
        end = found.n_frames or frame + 1 if at_end else frames[n + 1]
        to = xy if at_end or "x" not in keys[n + 1] else _centre(keys[n + 1], found, found.wh)
        for between in range(frame + 1, end):
            share = (between - frame) / (end - frame)
            place = (xy[0] + share * (to[0] - xy[0]), xy[1] + share * (to[1] - xy[1]))
            found.put(between, place, Visibility.CLEAR, sets.Extra(keyframe=False), len(keys))


def _centre(key: Json, found: sets.Builder, wh: tuple[int, int]) -> XY:
    """Of the box in source px; a turned box is turned around its top left."""
    x, y, width, height = (found.number(key.get(name), name) / 100 for name in ("x", "y", "width", "height"))
    turn = math.radians(found.number(key.get("rotation") or 0, "rotation"))
    half_w, half_h = width * wh[0] / 2, height * wh[1] / 2
    across = half_w * math.cos(turn) - half_h * math.sin(turn)
    down = half_w * math.sin(turn) + half_h * math.cos(turn)
    return x * wh[0] + across, y * wh[1] + down


def render(clips: Sequence[sets.LabelSet], options: sets.WriteOptions) -> dict[str, str]:
    """`<clip>.json`: a list of one task, whose one region has a keyframe on every frame with a ball."""
    tasks = ((labels, _task(n, labels, options)) for n, labels in enumerate(clips, 1))
    return {
        f"{sets.safe_name(each.name)}.json": json.dumps([task], ensure_ascii=False, indent=1) for each, task in tasks
    }


def _task(number_of: int, labels: sets.LabelSet, options: sets.WriteOptions) -> Json:
    assert labels.wh
    w, h = labels.wh
    fps = float(labels.fps or 30)
    located = labels.located()
    seen = {label.frame for label in located}
    sequence = [
        {
            "frame": label.frame + 1,
            "enabled": label.frame + 1 in seen,
            "rotation": 0,
            "x": round((label.xy[0] - options.box_px / 2) / w * 100, 7),
            "y": round((label.xy[1] - options.box_px / 2) / h * 100, 7),
            "width": round(options.box_px / w * 100, 7),
            "height": round(options.box_px / h * 100, 7),
            "time": round(label.frame / fps, 6),
            **({} if labels.extra(label.frame).keyframe else {"auto": True}),
        }
        for label in located
        if label.xy
    ]
    value = {"framesCount": labels.length, "duration": round(labels.length / fps, 6), "labels": ["ball"]}
    region = {"id": "ball-1", "type": "videorectangle", "from_name": "box", "to_name": "video", "origin": "manual"}
    size = {"original_width": w, "original_height": h}
    result = [{**region, **size, "value": {**value, "sequence": sequence}}] if labels.labels else []
    task = {"id": number_of, "data": {"video": labels.video or f"{labels.name}.mp4"}}
    return {**task, "annotations": [{"result": result}], "meta": {"unlabelled": _runs(labels.unlabelled)}}


def _runs(frames: list[int]) -> list[dict[str, int]]:
    """Frames from 0 as runs from 1."""
    runs: list[dict[str, int]] = []
    for frame in frames:
        if runs and runs[-1]["last"] == frame:
            runs[-1]["last"] = frame + 1
        else:
            runs.append({"first": frame + 1, "last": frame + 1})
    return runs
