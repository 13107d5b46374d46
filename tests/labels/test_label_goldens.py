"""Files as other tools write them, typed from the formats' documentation; none was made by our own writers."""

from __future__ import annotations

import csv
import json
import os
from fractions import Fraction
from pathlib import Path

import pytest

from rallytrace.errors import LabelError
from rallytrace.labels.formats import read_sets, write_sets
from rallytrace.labels.sets import LabelSet, ReadOptions, WriteOptions, frame_number
from rallytrace.types import BallLabel, Visibility

PICKLEBALL = Path(os.environ.get("RALLYTRACE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "pickleball"
SIZE = ReadOptions(wh=(1000, 500))


@pytest.fixture
def put(tmp_path: Path):
    """Writes a file and gives its path."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def only(path: Path, name: str | None = None, options: ReadOptions | None = None) -> LabelSet:
    (found,) = read_sets(path, name, options)
    return found


def told(labels: LabelSet) -> dict[int, tuple[float, float] | None]:
    return {frame: each.xy and (round(each.xy[0], 6), round(each.xy[1], 6)) for frame, each in labels.labels.items()}


@pytest.mark.skipif(not PICKLEBALL.is_dir(), reason=f"no folder {PICKLEBALL} with the real CVAT export")
def test_a_real_cvat_export_reads_as_the_table_beside_it(tmp_path: Path) -> None:
    labels = only(PICKLEBALL / "corner01_cvat_video_1.1.zip")
    with open(PICKLEBALL / "corner01_ball.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert labels.labels.keys() == {int(row["Frame"]) for row in rows}
    assert (labels.wh, labels.n_frames, labels.video) == ((1920, 1080), 600, "input_0000_0010.mp4")
    for row in rows:
        each = labels.labels[int(row["Frame"])]
        assert each.visibility == int(row["Visibility"])
        if each.xy:
            assert each.xy == pytest.approx((float(row["X"]), float(row["Y"])), abs=0.0501)  # the table has one digit
            assert labels.extra(each.frame).keyframe == (row["Keyframe"] == "1")
    (path,) = write_sets([labels], "tracknetv2", tmp_path)
    assert dict(only(path).labels) == dict(labels.labels)


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
 <meta><task><id>5</id><name>final set</name><size>40</size><mode>interpolation</mode>
  <labels><label><name>player</name></label><label><name>ball</name><attributes/></label></labels>
  <original_size><width>1280</width><height>720</height></original_size></task><dumped>2018</dumped></meta>
 <track id="0" label="ball" source="manual">
  <points frame="28" points="483.00,427.00" outside="0" occluded="1" keyframe="1">
   <attribute name="visibility">hard</attribute></points>
  <points frame="32" points="491.00,419.00" outside="0" occluded="1" keyframe="1"/>
  <points frame="33" points="491.00,419.00" outside="1" occluded="0" keyframe="1"/>
 </track>
 <track id="1" label="ball">
  <box frame="36" xtl="10.5" ytl="20" xbr="30.5" ybr="50" outside="0" occluded="0" keyframe="1"/></track>
 <track id="2" label="player">
  <box frame="30" xtl="0" ytl="0" xbr="99" ybr="99" outside="0" occluded="0" keyframe="1"/></track>
</annotations>"""


def test_cvat_video(put) -> None:
    labels = only(put("annotations.xml", CVAT))
    assert (labels.name, labels.wh, labels.n_frames) == ("final set", (1280, 720), 40)
    places = {frame: xy for frame, xy in told(labels).items() if xy}
    assert places == {28: (483, 427), 29: (485, 425), 30: (487, 423), 31: (489, 421), 32: (491, 419), 36: (20.5, 35)}
    assert labels.labels.keys() == set(range(40))  # CVAT: where no track is, there is no ball
    assert labels.labels[28].visibility is Visibility.HARD
    assert labels.labels[32].visibility is Visibility.OCCLUDED
    assert labels.labels[36].visibility is Visibility.CLEAR
    assert [frame for frame in labels.labels if not labels.extra(frame).keyframe] == [29, 30, 31]


def test_cvat_silence_can_mean_unlabelled(put) -> None:
    labels = only(put("annotations.xml", CVAT), None, ReadOptions(silence="unlabelled"))
    assert labels.labels.keys() == {28, 29, 30, 31, 32, 33, 36}
    assert labels.labels[33].xy is None


def test_cvat_without_a_ball_track_says_nothing(put) -> None:
    labels = only(
        put("annotations.xml", CVAT.replace('label="ball"', 'label="racket"')), None, ReadOptions(label="ball")
    )
    assert labels.labels == {}
    assert labels.length == 40


def test_cvat_other_shapes_steps_and_double_balls(put) -> None:
    shape = 'frame="{}" outside="0" occluded="0" keyframe="{}"'.format
    tracks = f"""<track id="0" label="tennis ball">
      <ellipse {shape(10, 1)} cx="5" cy="6" rx="2" ry="3"/><ellipse {shape(14, 1)} cx="9" cy="6" rx="2" ry="3"/></track>
     <track id="1" label="tennis ball"><polygon {shape(14, 0)} points="0,0;4,0;4,8"/></track>
     <track id="2" label="racket"><box {shape(12, 1)} xtl="0" ytl="0" xbr="2" ybr="2"/></track>"""
    meta = """<meta><task><name>t</name><start_frame>10</start_frame><stop_frame>19</stop_frame>
      <frame_filter>step=2</frame_filter></task></meta>"""
    labels = only(put("a.xml", f"<annotations>{meta}{tracks}</annotations>"))
    assert told(labels) == {10: (5, 6), 12: (7, 6), 14: (9, 6), 16: None, 18: None}  # a keyframe wins
    assert labels.notes == ("t: 1 frames with several balls, one was kept (--label)",)


def test_cvat_images(put) -> None:
    text = """<annotations><version>1.1</version>
     <image id="0" name="frame_000000.PNG" width="640" height="360">
      <points label="ball" occluded="0" points="12.5,30.25"/></image>
     <image id="1" name="frame_000001.PNG" width="640" height="360"></image>
     <image id="2" name="frame_000002.PNG" width="640" height="360">
      <box label="ball" occluded="1" xtl="1" ytl="2" xbr="3" ybr="6"/>
     </image></annotations>"""
    labels = only(put("images.xml", text))
    assert told(labels) == {0: (12.5, 30.25), 1: None, 2: (2, 4)}
    assert (labels.wh, labels.labels[2].visibility) == ((640, 360), Visibility.OCCLUDED)


def test_cvat_of_a_project_has_a_set_per_task(put) -> None:
    tasks = "".join(f"<task><id>{n}</id><name>t{n}</name><size>2</size></task>" for n in (7, 8))
    point = '<points frame="1" points="{0},{0}" outside="0" occluded="0" keyframe="1"/>'.format
    tracks = "".join(f'<track id="0" label="ball" task_id="{n}">{point(n)}</track>' for n in (7, 8))
    found = read_sets(
        put("p.xml", f"<annotations><meta><project><tasks>{tasks}</tasks></project></meta>{tracks}</annotations>")
    )
    assert {each.name: told(each) for each in found} == {"t7": {0: None, 1: (7, 7)}, "t8": {0: None, 1: (8, 8)}}


def test_which_label_is_the_ball(put) -> None:
    box = '<track label="{}"><box frame="0" xtl="0" ytl="0" xbr="{}" ybr="2"/></track>'.format
    path = put("a.xml", f"<annotations>{box('red', 2)}{box('blue', 8)}</annotations>")
    with pytest.raises(LabelError, match=r"which label is the ball\? The file has 'red', 'blue'; choose with --label"):
        read_sets(path)
    assert told(only(path, None, ReadOptions(label="Blue"))) == {0: (4, 1)}
    with pytest.raises(LabelError, match="no label 'green' The file has 'red', 'blue'"):
        read_sets(path, None, ReadOptions(label="green"))


SEQUENCE = """{"seq-no": 1, "prefix": "s3://mybucket/prefix/video1/", "number-of-frames": 3, "frames": [
  {"frame-no": 1, "unix-timestamp": 1566861644, "frame": "frame0001.jpg"},
  {"frame-no": 2, "unix-timestamp": 1566861644, "frame": "frame0002.jpg"},
  {"frame-no": 3, "unix-timestamp": 1566861644, "frame": "frame0003.jpg"}]}"""
SEQ_LABEL = """{"tracking-annotations": [{"keypoints": [{"x": 642, "y": 380, "class-id": "0",
  "label-category-attributes": {}, "object-id": "480dc450-c0ca-11ea-961f-a9b1c5c97972", "object-name": "ball:1"}],
  "frame-no": "1", "frame": "frame0001.jpg", "frame-attributes": {}},
 {"keypoints": [], "frame-no": "2", "frame": "frame0002.jpg", "frame-attributes": {"event": "bounce"}}]}"""
OUTPUT = """{"source-ref": "s3://mybucket/prefix/seq1.json", "balls-ref":
 "s3://mybucket/out/balls/annotations/consolidated-annotation/output/0/SeqLabel.json", "balls-ref-metadata":
 {"class-map": {"0": "ball"}, "job-name": "labeling-job/balls", "human-annotated": "yes",
 "creation-date": "2021-09-29T05:50:35.566000", "type": "groundtruth/video-object-tracking"}}\n"""


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "manifest"])
def test_ground_truth_from_a_copy_of_the_bucket(put, tmp_path: Path, whole: bool) -> None:
    put("prefix/seq1.json", SEQUENCE)
    put("out/balls/annotations/consolidated-annotation/output/0/SeqLabel.json", SEQ_LABEL)
    manifest = put("out/balls/manifests/output/output.manifest", OUTPUT.replace("\n ", " "))
    labels = only(tmp_path if whole else manifest)
    assert labels.name == "video1"
    assert told(labels) == {0: (642, 380), 1: None}
    assert labels.n_frames == 3
    assert labels.extra(1).event == "bounce"
    assert labels.notes == ("video1: 1 frames have no entry and stay unlabelled (--missing absent: no ball)",)
    assert told(only(manifest, None, ReadOptions(silence="absent"))) == {0: (642, 380), 1: None, 2: None}
    assert told(only(manifest, None, ReadOptions(root=tmp_path))) == {0: (642, 380), 1: None}


def test_ground_truth_says_what_was_not_copied(put, tmp_path: Path) -> None:
    manifest = put("output.manifest", OUTPUT.replace("\n ", " "))
    with pytest.raises(LabelError, match=r"no local copy of s3://mybucket/out/balls/.*; it is not fetched here"):
        read_sets(manifest)
    inputs = put("in/input.manifest", '{"source-ref": "s3://mybucket/prefix/seq1.json"}\n')
    put("in/seq1.json", SEQUENCE)
    assert (only(inputs).n_frames, told(only(inputs))) == (3, {})


def test_ground_truth_boxes_count_from_zero(put) -> None:
    text = """{"tracking-annotations": [
      {"annotations": [{"height": 36, "width": 46, "top": 178, "left": 315, "class-id": "0",
        "label-category-attributes": {"occluded": "no"}, "object-name": "car:1"},
        {"height": 10, "width": 8, "top": 20, "left": 30, "class-id": "1", "object-name": "ball:1",
         "label-category-attributes": {"visibility": "occluded"}}],
       "frame-no": 0, "frame": "frame_0001.jpeg", "frame-attributes": {}},
      {"annotations": [], "frame-no": 1, "frame": "frame_0002.jpeg", "frame-attributes": {}}]}"""
    labels = only(put("SeqLabel.json", text))
    assert told(labels) == {0: (34, 25), 1: None}
    assert labels.labels[0].visibility is Visibility.OCCLUDED
    detected = put("d/SeqLabel.json", text.replace("tracking-", "detection-").replace('"object-name"', '"other"'))
    assert told(only(detected, None, ReadOptions(label="1"))) == {0: (34, 25), 1: None}


def test_what_is_written_for_ground_truth_pleases_its_readers(tmp_path: Path) -> None:
    """The key that a consumer in the wild looks for, and frame-no as a text, as it compares it."""
    labels = LabelSet("rally", {0: BallLabel(0, (642.0, 380.5)), 1: BallLabel(1, None, Visibility.ABSENT)})
    write_sets([labels], "ground_truth", tmp_path, WriteOptions(prefix="s3://mine/balls"))
    line = json.loads((tmp_path / "rallytrace/manifests/output/output.manifest").read_text())
    metadata = next(value for key, value in line.items() if key.endswith("-metadata"))
    uri = line[f"{metadata['job-name'].split('/')[1]}-ref"]
    assert uri.startswith("s3://mine/balls/rallytrace/annotations/consolidated-annotation/output/")
    said = json.loads((tmp_path / uri.removeprefix("s3://mine/balls/")).read_text())["tracking-annotations"]
    sequence = json.loads((tmp_path / line["source-ref"].removeprefix("s3://mine/balls/")).read_text())
    assert sequence["prefix"].endswith("/")
    assert sequence["number-of-frames"] == len(sequence["frames"]) == 2
    by_frame = {each["frame-no"]: each for each in said}
    point = by_frame[str(sequence["frames"][0]["frame-no"])]["keypoints"][0]
    assert (point["x"], point["y"], point["object-name"]) == (642, 380.5, "ball:1")
    assert by_frame["2"]["keypoints"] == []


V1 = """file name,visibility,x-coordinate,y-coordinate,status
0000.jpg,1,599.0,423.0,0.0
0001.jpg,0,,,0.0
0002.jpg,2,601,423,1
0003.jpg,3,610.5,400,2
0004.jpg,0,-1,-1,
"""


def test_tracknet_v1(put, tmp_path: Path) -> None:
    put("game1/Clip2/Label.csv", V1)
    put("game2/Clip1/Label.csv", V1)
    found = {each.name: each for each in read_sets(tmp_path)}
    assert found.keys() == {"game1_Clip2", "game2_Clip1"}
    labels = found["game1_Clip2"]
    assert told(labels) == {0: (599, 423), 1: None, 2: (601, 423), 3: (610.5, 400), 4: None}
    assert [int(each.visibility) for each in labels.labels.values()] == [1, 0, 2, 3, 0]
    assert [labels.extra(frame).event for frame in range(5)] == ["", "", "hit", "bounce", ""]
    write_sets([labels], "tracknet_v1", tmp_path / "out")
    assert (tmp_path / "out/game1_Clip2/Label.csv").read_text().splitlines()[1:4] == [
        "0000.jpg,1,599,423,0",
        "0001.jpg,0,,,0",
        "0002.jpg,2,601,423,1",
    ]


def test_tracknetv2_and_its_relatives(put, tmp_path: Path) -> None:
    put("match1/csv/1_05_02_ball.csv", "Frame,Visibility,X,Y\r\n28,1,483,427\r\n29,0,0,0\r\n91,1,804,0\r\n")
    put("match1/csv/readme.csv", "a,b\n1,2\n")
    labels = only(tmp_path)
    assert labels.name == "match1_1_05_02"
    assert told(labels) == {28: (483, 427), 29: None, 91: (804, 0)}
    tracked = (
        "Frame,Visibility,X,Y,Time,Score,Source\n0,1,5,6,00:00:00.000,0.9,model\n1,1,6,6,00:00:00.033,0.2,filled\n"
    )
    trajectory = only(put("track/rally.csv", tracked))
    assert [trajectory.extra(frame).keyframe for frame in (0, 1)] == [False, False]
    assert trajectory.extra(0).score == 0.9
    order = put("order/Labels.csv", "Frame,X,Y,Visibility,Z\n0,5,6,1,9\n1,0,0,0,9\n")
    assert told(only(order)) == {0: (5, 6), 1: None}
    shares = put("shares/1.csv", "Frame,Ball,x,y\n0,1,0.5,0.25\n1,0,-1,-1\n")
    assert told(only(shares, None, SIZE)) == {0: (500, 125), 1: None}
    with pytest.raises(LabelError, match="shares of the picture: give its size"):
        read_sets(shares)


def studio(value: dict, **about: object) -> dict:
    region = {"id": "tJhYZLMC9G", "type": "videorectangle", "from_name": "box", "to_name": "video", "value": value}
    return {"id": 1, "data": {"video": "/data/upload/3/clip.mp4"}, "annotations": [{"result": [region], **about}]}


def key(frame: int, x: float, enabled: bool = True, **more: object) -> dict:
    return {"frame": frame, "enabled": enabled, "rotation": 0, "x": x, "y": 50, "width": 2, "height": 4, **more}


def test_label_studio(put) -> None:
    value = {"framesCount": 9, "duration": 0.3, "labels": ["ball"]}
    value["sequence"] = [key(1, 10), key(3, 20, False), key(6, 40, time=0.2), key(7, 50)]
    path = put("export.json", json.dumps([studio(value)]))
    labels = only(path, None, SIZE)
    # Seen from 1 to 3, where it is switched off; from 6 to 7 and then to the end, for it stays enabled.
    expected = {0: 110, 1: 160, 2: 210, 5: 410, 6: 510, 7: 510, 8: 510}
    assert labels.name == "clip"
    assert told(labels) == {frame: (expected[frame], 260.0) if frame in expected else None for frame in range(9)}
    assert [frame for frame in labels.labels if not labels.extra(frame).keyframe] == [1, 7, 8]
    with pytest.raises(LabelError, match="positions are in percent: give the picture's size with --size"):
        read_sets(path)


@pytest.mark.parametrize("kind", ["one task", "prediction", "json-min", "cancelled first", "annotation alone"])
def test_label_studio_variations(put, kind: str) -> None:
    value = {"framesCount": 2, "labels": ["ball"], "sequence": [key(2, 10, False)]}
    task = studio(value)
    result = task["annotations"][0]["result"]
    cancelled = {"was_cancelled": True, "result": [result[0] | {"value": {}}]}
    content: object = {
        "one task": task,
        "prediction": [{**task, "annotations": [], "predictions": [{"result": result, "score": 0.5}]}],
        "json-min": [{"id": 1, "video": "/data/clip.mp4", "box": [value], "annotator": 1}],
        "cancelled first": [{**task, "annotations": [cancelled, {"result": result}]}],
        "annotation alone": {"id": 7, "result": result},
    }[kind]
    assert told(only(put("x.json", json.dumps(content)), None, SIZE)) == {0: None, 1: (110, 260)}


def test_label_studio_turned_boxes_and_other_labels(put) -> None:
    ball = {"framesCount": 1, "labels": ["ball"], "sequence": [{**key(1, 10), "rotation": 90, "y": 10}]}
    player = {"framesCount": 1, "labels": ["player"], "sequence": [key(1, 80)]}
    task = studio(ball)
    task["annotations"][0]["result"].append({"type": "videorectangle", "value": player})
    task["annotations"][0]["result"].append({"type": "choices", "value": {"choices": ["rally"]}})
    # 20 x 20 px with its top left at (100, 50); turned by 90 degrees around it, the middle is 10 px left of it.
    assert told(only(put("x.json", json.dumps([task])), None, SIZE)) == {0: (90, 60)}


COCO = """{"images": [
  {"id": 11, "width": 640, "height": 360, "file_name": "rally/frame_000000.jpg"},
  {"id": 12, "width": 640, "height": 360, "file_name": "rally/frame_000001.jpg"},
  {"id": 13, "width": 640, "height": 360, "file_name": "rally/frame_000002.jpg"},
  {"id": 14, "width": 640, "height": 360, "file_name": "rally/frame_000005.jpg"}],
 "annotations": [
  {"id": 1, "image_id": 11, "category_id": 2, "keypoints": [100.5, 50, 2], "bbox": [90, 40, 20, 20]},
  {"id": 2, "image_id": 12, "category_id": 2, "keypoints": [104, 52, 1], "num_keypoints": 1},
  {"id": 3, "image_id": 13, "category_id": 2, "keypoints": [0, 0, 0], "num_keypoints": 0, "bbox": [0, 0, 5, 5]},
  {"id": 4, "image_id": 14, "category_id": 1, "bbox": [0, 0, 5, 5]}],
 "categories": [{"id": 1, "name": "person"},
  {"id": 2, "name": "sports ball", "keypoints": ["ball"], "skeleton": []}]}"""


def test_coco(put) -> None:
    labels = only(put("annotations.json", COCO))
    assert (labels.name, labels.wh) == ("rally", (640, 360))
    assert told(labels) == {0: (100.5, 50), 1: (104, 52), 5: None}  # v = 0 is not labelled
    assert labels.labels[1].visibility is Visibility.OCCLUDED


def test_coco_boxes_and_clips(put) -> None:
    names = ("a_00012_jpg.rf.0f8cd1.jpg", "b_00003_jpg.rf.99aa00.jpg", "b_00007_jpg.rf.123456.jpg")
    images = [{"id": n, "file_name": name, "width": 8, "height": 8} for n, name in enumerate(names)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 4, 2]} for n in (0, 1)]
    value = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "tennis-ball"}]}
    found = {each.name: told(each) for each in read_sets(put("coco.json", json.dumps(value)))}
    assert found == {"a": {12: (3, 3)}, "b": {3: (3, 3), 7: None}}


def test_yolo(put, tmp_path: Path) -> None:
    put("data.yaml", "path: .\nnames:\n  0: player\n  1: ball\n")
    put("labels/clip_000001.txt", "1 0.5 0.25 0.01 0.02\n0 0.1 0.1 0.2 0.2\n")
    put("labels/clip_000003.txt", "")
    put("labels/clip_000004.txt", "0 0.1 0.1 0.2 0.2\n")
    put("labels/clip_000006.txt", "1 0.1 0.2 0.01 0.02 0.75\n")
    labels = only(tmp_path, None, SIZE)
    assert labels.name == "clip"
    empty = dict.fromkeys((0, 2, 3, 4, 5))  # no file or an empty one: no ball
    assert told(labels) == {**empty, 1: (500, 125), 6: (100, 100)}
    assert labels.extra(6).score == 0.75
    put("images/clip_000001.jpg", "")
    put("images/clip_000002.jpg", "")
    assert told(only(tmp_path, None, SIZE)).keys() == {1, 2, 3, 4, 6}  # the others are pictures of no data set
    with pytest.raises(LabelError, match="shares of the picture: give its size"):
        read_sets(tmp_path)


def test_yolo_pose(put, tmp_path: Path) -> None:
    put("clip_0.txt", "0 0.5 0.5 0.1 0.1 0.25 0.75 2\n")
    put("clip_1.txt", "0 0.5 0.5 0.1 0.1 0.3 0.75 1.000\n")
    put("clip_2.txt", "0 0.5 0.5 0.1 0.1 0 0 0\n")
    labels = only(tmp_path, None, SIZE)
    assert told(labels) == {0: (250, 375), 1: (300, 375)}
    assert labels.labels[1].visibility is Visibility.OCCLUDED


def test_mot(put) -> None:
    path = put(
        "rally3/gt/gt.txt",
        "3, 1, 100, 200, 21, 11, 1, -1, -1, -1\n1,1,94,190,20,10,1,-1,-1,-1\n4,1,9,9,2,2,0,-1,-1,-1\n",
    )
    labels = only(path)
    assert labels.name == "rally3"
    assert told(labels) == {0: (103, 194), 1: None, 2: (109.5, 204.5)}  # boxes from 1; conf 0 is not considered
    put("rally3/seqinfo.ini", "[Sequence]\nname=R3\nframeRate=25\nseqLength=6\nimWidth=640\nimHeight=360\n")
    labels = only(path)
    assert (labels.name, labels.wh, labels.fps, labels.n_frames) == ("R3", (640, 360), Fraction(25), 6)
    assert told(labels).keys() == {0, 1, 2, 4, 5}


def test_mot_of_cvat_counts_boxes_from_zero(put, tmp_path: Path) -> None:
    put("gt/labels.txt", "player\nball\n")
    put("gt/gt.txt", "1,1,1363,569,103,241,1,1,0.86014\n1,2,10,20,4,6,1,2,1.0\n2,2,12,20,4,6,1,2,0.0\n")
    labels = only(tmp_path)
    assert told(labels) == {0: (12, 23), 1: (14, 23)}
    assert labels.labels[1].visibility is Visibility.OCCLUDED


def test_mot_detections_keep_the_surest(put) -> None:
    path = put("det/det.txt", "1,-1,0,0,2,2,0.3,-1,-1,-1\n1,-1,9,9,2,2,0.9,-1,-1,-1\n")
    labels = only(path)
    assert told(labels) == {0: (9, 9)}
    assert labels.extra(0).score == 0.9
    assert "1 frames with several balls" in labels.notes[0]


DLC = """scorer,ann,ann,ann,ann
bodyparts,ball,ball,racket,racket
coords,x,y,x,y
labeled-data/rally/img0003.png,196.25,147.5,1,1
labeled-data/rally/img0010.png,,,2,2
"""


def test_deeplabcut(put) -> None:
    labels = only(put("CollectedData_ann.csv", DLC))
    assert labels.name == "rally"
    assert told(labels) == {3: (196.25, 147.5), 10: None}
    windows = put("w.csv", DLC.replace("labeled-data/rally/", "labeled-data\\rally\\"))
    assert told(only(windows)) == told(labels)


def test_deeplabcut_newer_headers(put) -> None:
    text = """scorer,,,ann,ann,ann
individuals,,,one,one,one
bodyparts,,,ball,ball,ball
coords,,,x,y,visible
labeled-data,rally,img0003.png,196.25,147.5,1
labeled-data,rally,img0004.png,1,2,0
"""
    labels = only(put("CollectedData_ann.csv", text))
    assert (labels.name, told(labels)) == ("rally", {3: (196.25, 147.5), 4: None})
    assert labels.labels[3].visibility is Visibility.OCCLUDED


def test_deeplabcut_predictions(put) -> None:
    heads = "scorer,net,net,net\nbodyparts,ball,ball,ball\ncoords,x,y,likelihood\n"
    labels = only(put("rallyDLC_resnet50.csv", f"{heads}0,5.5,6.5,0.99\n1,5,6,0.02\n2,nan,nan,nan\n"))
    assert labels.name == "rally"
    assert told(labels) == {0: (5.5, 6.5), 1: (5, 6), 2: None}
    assert labels.extra(0).score == 0.99


@pytest.mark.parametrize(
    ("name", "number"),
    [("0007.jpg", 7), ("clip_000012.txt", 12), ("a_00012_jpg.rf.0f8c.jpg", 12), ("b\\img5.png", 5), ("x.png", None)],
)
def test_numbers_of_pictures(name: str, number: int | None) -> None:
    assert frame_number(name, None) == number
