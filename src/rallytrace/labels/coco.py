"""COCO keypoints, and COCO boxes, whose middle is the ball.

keypoints [x, y, v]: v = 0 not labelled, 1 labelled but hidden (our OCCLUDED), 2 visible. A picture in `images` without
an annotation of the ball has no ball; a frame that is not in `images` is unlabelled. `attributes` of an annotation
(CVAT writes such) carry visibility, event and interpolated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rallytrace.errors import LabelError
from rallytrace.labels import sets
from rallytrace.labels.source import Source, objects
from rallytrace.types import XY, Visibility

Json = dict[str, Any]


def detect(source: Source) -> bool:
    """Whether a JSON file has images, annotations and categories."""
    return any(_looks_so(source, name) for name in source.find(".json")[:5])


def _looks_so(source: Source, name: str) -> bool:
    if not source.head(name).lstrip().startswith("{"):
        return False
    data = source.data(name)
    return all(key in data for key in (b'"images"', b'"annotations"', b'"categories"'))


def read(source: Source, options: sets.ReadOptions) -> list[sets.LabelSet]:
    """One set per video: by video_id, by the folder of the pictures, or by their names up to the number.

    Raises LabelError.
    """
    builders: dict[str, sets.Builder] = {}
    shown: dict[str, list[int]] = {}
    values = {name: source.json(name) for name in source.find(".json")}
    files = [name for name, value in values.items() if isinstance(value, dict) and "images" in value]
    if not files:
        raise LabelError(f"{source.path}: no images, expected COCO's images, annotations and categories")
    for name in files:  # such as one for training and one for tests, with frames of the same clips
        _read_one(source, name, values[name], options, builders, shown)
    return [found.done(shown.get(clip, ()), "absent") for clip, found in builders.items()]


def _read_one(
    source: Source,
    name: str,
    value: Json,
    options: sets.ReadOptions,
    builders: dict[str, sets.Builder],
    shown: dict[str, list[int]],
) -> None:
    where = source.where(name)
    images, annotations, categories, videos = (
        objects(value.get(key) or [], f"{where}: {key}") for key in ("images", "annotations", "categories", "videos")
    )
    names = {str(category.get("id")): str(category.get("name")) for category in categories}
    ball = _ball(names, {str(annotation.get("category_id")) for annotation in annotations}, options, where)
    video_names = {str(video.get("id")): str(video.get("name") or video.get("file_name")) for video in videos}
    clips = sets.clips_of(str(image.get("file_name")) for image in images)
    mine: set[str] = set()
    places: dict[str, tuple[sets.Builder, int]] = {}
    for rank, image in enumerate(sorted(images, key=lambda image: str(image.get("file_name")).encode())):
        clip = video_names.get(str(image.get("video_id"))) or clips[str(image.get("file_name"))]
        clip = clip if clip not in ("", "None") else source.stem(name)
        found = builders.setdefault(clip, sets.Builder(clip, where, options))
        found.where = where
        mine.add(clip)
        places[str(image.get("id"))] = (found, _frame_of(image, rank, found))
        found.size(image.get("width"), image.get("height"))
    for annotation in annotations:
        if names.get(str(annotation.get("category_id")), str(annotation.get("category_id"))) == ball:
            if str(annotation.get("image_id")) not in places:
                raise LabelError(f"{where}: annotation of image {annotation.get('image_id')!r}, which is not in images")
            _put(*places[str(annotation.get("image_id"))], annotation)
    info = value["info"] if isinstance(value.get("info"), dict) else {}
    if len(mine) == 1 and info.get("number_of_frames"):
        builders[mine.pop()].length(info["number_of_frames"])
    for found, frame in places.values():
        shown.setdefault(found.name, []).append(frame)


def _ball(names: dict[str, str], used: set[str], options: sets.ReadOptions, where: str) -> str | None:
    """Which category is the ball. Of several that sound like one, it is among those with annotations (Roboflow adds
    one of the data set's name); where no ball is annotated, it may still be among the others."""
    annotated = sorted({names.get(each, each) for each in used})
    if options.label is None and any(word in name.casefold() for name in annotated for word in sets.BALL_LIKE):
        return sets.choose_label(annotated, None, where)
    known = [*annotated, *names.values()]
    return sets.choose_label(known, options.label, where) if known else None


def _frame_of(image: Json, rank: int, found: sets.Builder) -> int:
    """Its frame number if it tells one, then the number in its name, then its place in the order of the names."""
    for key in ("frame_id", "frame_index", "frame_number"):
        if key in image:
            return found.frame(found.whole(image[key], key) - (found.options.first_frame or 0))
    named = sets.frame_number(str(image.get("file_name")), found.options.first_frame)
    if named is None:
        found.notes.append(f"{found.name}: pictures without numbers were counted in the order of their names")
    return found.frame(rank if named is None else named)


def _put(found: sets.Builder, frame: int, annotation: Json) -> None:
    told = annotation["attributes"] if isinstance(annotation.get("attributes"), dict) else {}
    score = sets.score_of(annotation.get("score"))
    seen = told.get("interpolated") is not True and told.get("keyframe") is not False  # the latter is CVAT's word
    extra = sets.Extra(sets.event_of(told.get("event", "")), seen, score)
    place = _keypoint(annotation, found)
    if place is None and annotation.get("bbox"):
        box = annotation["bbox"]
        if not isinstance(box, list) or len(box) != 4:
            raise LabelError(f"{found.where}: bbox {str(box)[:60]}, expected [x, y, width, height]")
        x, y, w, h = (found.number(value, "bbox") for value in box)
        # A keypoint of v = 0 is "not labelled" even where its annotation has a box.
        place = None if annotation.get("keypoints") else ((x + w / 2, y + h / 2), Visibility.CLEAR)
    if place is None:
        found.put_unlabelled(frame)
        return
    default = Visibility.OCCLUDED if told.get("occluded") is True else place[1]
    found.put(frame, place[0], sets.visibility_of(told.get("visibility", ""), default), extra)


def _keypoint(annotation: Json, found: sets.Builder) -> tuple[XY, Visibility] | None:
    """The first keypoint that is labelled."""
    values = annotation.get("keypoints") or []
    if not isinstance(values, list) or len(values) % 3:
        raise LabelError(f"{found.where}: keypoints {str(values)[:60]}, expected x, y, v for each")
    for n in range(0, len(values), 3):
        x, y, v = (found.number(value, "keypoints") for value in values[n : n + 3])
        if v > 0:
            return (x, y), Visibility.OCCLUDED if v == 1 else Visibility.CLEAR
    return None


def render(clips: Sequence[sets.LabelSet], options: sets.WriteOptions) -> dict[str, str]:
    """`<clip>.json` with one category ball of one keypoint and a box of box_px."""
    return {f"{sets.safe_name(labels.name)}.json": _document(labels, options.box_px) for labels in clips}


def _document(labels: sets.LabelSet, box_px: float) -> str:
    size = {"width": labels.wh[0], "height": labels.wh[1]} if labels.wh else {}
    name = sets.safe_name(labels.name)
    images = [
        {"id": frame + 1, "file_name": f"{name}/{name}_{frame:06}.jpg", "frame_id": frame, **size}
        for frame in sorted(labels.labels)
    ]
    annotations: list[Json] = []
    for label in labels.located():
        assert label.xy
        x, y = (round(value, 3) for value in label.xy)
        extra = labels.extra(label.frame)
        told = {"visibility": label.visibility.name.lower(), "event": extra.event, "interpolated": not extra.keyframe}
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": label.frame + 1,
                "category_id": 1,
                "keypoints": [x, y, 1 if label.visibility is Visibility.OCCLUDED else 2],
                "num_keypoints": 1,
                "bbox": [round(x - box_px / 2, 3), round(y - box_px / 2, 3), box_px, box_px],
                "area": box_px**2,
                "iscrowd": 0,
                "attributes": told,
                **({} if extra.score is None else {"score": extra.score}),
            }
        )
    category = {"id": 1, "name": "ball", "supercategory": "ball", "keypoints": ["ball"], "skeleton": []}
    info = {"description": labels.name, "number_of_frames": labels.length}
    whole_file = {"info": info, "images": images, "annotations": annotations, "categories": [category]}
    return json.dumps(whole_file, ensure_ascii=False, indent=1)
