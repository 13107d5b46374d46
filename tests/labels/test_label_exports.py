"""Exports as the tools really leave them: several jobs, clips, classes, annotators, failures and odd columns.

Typed from the formats' documentation and from how published consumers read them; none was made by our own writers.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rallytrace.cli import app
from rallytrace.errors import LabelError
from rallytrace.labels import read_labels
from rallytrace.labels.formats import FORMATS, read_sets
from rallytrace.labels.sets import LabelSet, ReadOptions, clips_of
from rallytrace.types import Visibility
from rallytrace.video.frames import encode_jpeg, encode_png

SIZE = ReadOptions(wh=(1000, 500))
Places = dict[int, tuple[float, float] | None]


def write(folder: Path, files: dict[str, Any]) -> Path:
    """Files by name: texts, bytes, or values that become JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, str | bytes) else json.dumps(content)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def packed(folder: Path, files: dict[str, Any], name: str = "export.zip") -> Path:
    inside = write(folder / "inside", files)
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path in inside.rglob("*.*"):
            archive.write(path, path.relative_to(inside).as_posix())
    return folder / name


def told(labels: LabelSet) -> Places:
    return {
        frame: each.xy and (round(each.xy[0], 4), round(each.xy[1], 4)) for frame, each in sorted(labels.labels.items())
    }


def by_name(path: Path, options: ReadOptions | None = None, name: str | None = None) -> dict[str, Places]:
    return {each.name: told(each) for each in read_sets(path, name, options)}


def only(path: Path, options: ReadOptions | None = None) -> LabelSet:
    (found,) = read_sets(path, None, options)
    return found


def shape(kind: str, frame: int, place: str, outside: int = 0, keyframe: int = 1, inner: str = "") -> str:
    return (
        f'<{kind} frame="{frame}" outside="{outside}" occluded="0" keyframe="{keyframe}" {place} z_order="0">'
        f"{inner}</{kind}>"
    )


def point(frame: int, x: float, outside: int = 0, keyframe: int = 1, inner: str = "") -> str:
    return shape("points", frame, f'points="{x:.2f},20.00"', outside, keyframe, inner)


class TestCvat:
    def test_a_job_of_a_task_counts_from_its_own_start(self, tmp_path: Path) -> None:
        """A job's export has <job> for <task>, without a name."""
        text = f"""<annotations><version>1.1</version><meta><job><id>7</id><size>4</size><mode>interpolation</mode>
          <start_frame>100</start_frame><stop_frame>103</stop_frame><frame_filter></frame_filter>
          <segments><segment><id>7</id><start>100</start><stop>103</stop></segment></segments>
          <labels><label><name>ball</name></label></labels>
          <original_size><width>1280</width><height>720</height></original_size><source>rally.mp4</source></job></meta>
          <track id="0" label="ball">{point(101, 10)}{point(102, 12, keyframe=0)}{point(103, 12, outside=1)}</track>
          </annotations>"""
        labels = only(packed(tmp_path, {"some name.xml": text, "images/frame_000101.jpg": b"x"}))
        assert (labels.name, labels.wh) == ("rally", (1280, 720))
        assert told(labels) == {100: None, 101: (10, 20), 102: (12, 20), 103: None}
        assert not labels.extra(102).keyframe

    def test_jobs_of_one_video_that_were_exported_one_by_one(self, tmp_path: Path) -> None:
        def job(start: int, shapes: str) -> str:
            about = f"<job><start_frame>{start}</start_frame><stop_frame>{start + 2}</stop_frame>"
            track = f'<track id="0" label="ball">{shapes}</track>'
            return f"<annotations><meta>{about}<source>r.mp4</source></job></meta>{track}</annotations>"

        files = {
            "job_7/annotations.xml": job(0, point(0, 1) + point(1, 1, outside=1)),
            "job_8/annotations.xml": job(2, point(2, 5) + point(4, 7)),
            "other.xml": "<annotation><folder>of another tool</folder></annotation>",
        }
        assert by_name(packed(tmp_path, files)) == {"r": {0: (1, 20), 1: None, 2: (5, 20), 3: (6, 20), 4: (7, 20)}}

    def test_a_task_cut_into_overlapping_segments_with_several_balls(self, tmp_path: Path) -> None:
        """The same ball in two tracks, one of which ends where the other goes on; a spare ball lies around."""
        spare = '<attribute name="used_in_game">0</attribute>'
        text = f"""<annotations><meta><task><id>3</id><name>set 1.mp4</name><size>8</size><start_frame>0</start_frame>
          <stop_frame>7</stop_frame><segments><segment><start>0</start><stop>4</stop></segment><segment>
          <start>3</start><stop>7</stop></segment></segments><labels><label><name>player</name></label>
          <label><name>ball</name></label></labels></task></meta>
          <track id="0" label="ball">{point(0, 1)}{point(3, 4)}{point(4, 5, outside=1)}</track>
          <track id="1" label="ball">{point(4, 5)}{point(5, 6)}{point(6, 6, outside=1)}</track>
          <track id="2" label="ball">{point(0, 900, inner=spare)}{point(7, 900, inner=spare)}</track>
          <track id="3" label="ball"/></annotations>"""
        labels = only(write(tmp_path, {"annotations.xml": text}))
        assert told(labels) == {**{n: (n + 1.0, 20.0) for n in range(6)}, 6: None, 7: None}
        assert [n for n in range(6) if not labels.extra(n).keyframe] == [1, 2]

    @pytest.mark.parametrize("relative", [False, True])
    def test_every_fifth_frame_of_a_video(self, relative: bool, tmp_path: Path) -> None:
        """CVAT numbers the video's frames; scripts and older exports number the pictures that were shown."""
        numbers = (0, 1, 3) if relative else (10, 15, 25)
        shapes = "".join(point(n, x, outside) for n, x, outside in zip(numbers, (1, 2, 4), (0, 0, 1), strict=True))
        text = f"""<annotations><meta><task><name>t</name><size>4</size><start_frame>10</start_frame>
          <stop_frame>25</stop_frame><frame_filter>step=5</frame_filter></task></meta>
          <track id="0" label="ball">{shapes}</track></annotations>"""
        assert told(only(write(tmp_path, {"a.xml": text}))) == {10: (1, 20), 15: (2, 20), 20: (2, 20), 25: None}

    def test_pictures_of_a_project_belong_to_their_tasks(self, tmp_path: Path) -> None:
        ball = '<box label="ball" source="manual" occluded="0" xtl="1" ytl="2" xbr="3" ybr="6" z_order="0"></box>'
        text = f"""<annotations><version>1.1</version><meta><project><name>p</name><tasks>
          <task><id>1</id><name>one</name><size>2</size></task><task><id>2</id><name>two</name><size>1</size></task>
          </tasks><labels><label><name>ball</name></label></labels></project></meta>
          <image id="0" name="frame_000000" subset="default" task_id="1" width="64" height="36">{ball}</image>
          <image id="1" name="frame_000001" subset="default" task_id="1" width="64" height="36"><tag label="ball"/>
          </image>
          <image id="0" name="frame_000000" subset="default" task_id="2" width="64" height="36"/></annotations>"""
        found = by_name(write(tmp_path, {"annotations.xml": text}))
        assert found == {"one": {0: (2, 4), 1: None}, "two": {0: None}}

    def test_pictures_of_several_folders_are_told_apart_by_their_ids(self, tmp_path: Path) -> None:
        images = "".join(
            f'<image id="{n}" name="{name}/0001.jpg" width="64" height="36"><mask label="ball" rle="1, 2" left="{n}" '
            f'top="4" width="2" height="2"/></image>'
            for n, name in enumerate("ab")
        )
        text = f"<annotations><meta><task><name>t</name><size>2</size></task></meta>{images}</annotations>"
        assert told(only(write(tmp_path, {"a.xml": text}))) == {0: (1, 5), 1: (2, 5)}

    def test_a_skeletons_points_say_whether_they_are_seen(self, tmp_path: Path) -> None:
        def skeleton(frame: int, outside: int) -> str:
            inner = f'<points label="centre" outside="{outside}" occluded="1" points="5.5,6.5"/>'
            return f'<skeleton frame="{frame}" keyframe="1" z_order="0">{inner}</skeleton>'

        text = f"""<annotations><meta><task><name>t</name><size>2</size></task></meta><track id="0" label="ball">
          {skeleton(0, 0)}{skeleton(1, 1)}</track></annotations>"""
        assert told(only(write(tmp_path, {"a.xml": text}))) == {0: (5.5, 6.5), 1: None}


def key(frame: int, x: float, enabled: bool = True) -> dict[str, Any]:
    return {"frame": frame, "enabled": enabled, "rotation": 0, "x": x, "y": 50, "width": 2, "height": 4, "time": 0.04}


def region(*keys: dict[str, Any], label: str = "ball", **more: Any) -> dict[str, Any]:
    value = {"framesCount": 4, "duration": 0.16, "sequence": list(keys), "labels": [label], **more}
    return {"id": "a", "type": "videorectangle", "from_name": "box", "to_name": "video", "value": value}


def task(*annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": 5,
        "data": {"video": "/data/upload/2/0f3d9c1b-rally one.mp4"},
        "annotations": list(annotations),
        **more,
    }


class TestLabelStudio:
    def test_uploads_are_called_as_they_were(self, tmp_path: Path) -> None:
        labels = only(write(tmp_path, {"a.json": [task({"result": [region(key(2, 10, enabled=False))]})]}), SIZE)
        assert (labels.name, labels.video) == ("rally one", "rally one.mp4")
        assert told(labels) == {0: None, 1: (110, 260), 2: None, 3: None}

    def test_the_ground_truth_of_several_annotations(self, tmp_path: Path) -> None:
        cancelled = {"result": [region(key(1, 90))], "was_cancelled": True}
        other, truth = ({"result": [region(key(1, x, False))], "ground_truth": x == 20} for x in (10, 20))
        labels = only(write(tmp_path, {"a.json": [task(cancelled, other, truth)]}), SIZE)
        assert told(labels)[0] == (210, 260)
        assert "2 annotations, one was kept" in labels.notes[0]

    def test_an_empty_annotation_is_not_answered_by_a_prediction(self, tmp_path: Path) -> None:
        guess = {"result": [region(key(1, 90))], "model_version": "v1"}
        files = {"a.json": [task({"result": []}, predictions=[guess])]}
        assert told(only(write(tmp_path, files), SIZE)) == {}  # nobody says how many frames it has
        assert told(only(tmp_path, ReadOptions(wh=(1000, 500), n_frames=2))) == {0: None, 1: None}
        write(tmp_path, {"a.json": [task(predictions=[guess])]})
        assert told(only(tmp_path, SIZE))[0] == (910, 260)

    def test_json_min_has_a_row_for_each_annotation(self, tmp_path: Path) -> None:
        rows = [
            {
                "video": "/data/local-files/?d=match 1.0/rally.mp4",
                "title": "a/b, first set",
                "id": 5,
                "box": [region(key(1, x, False))["value"], {**region(key(1, 0))["value"], "labels": ["player"]}],
                "annotator": n,
                "annotation_id": n,
            }
            for n, x in enumerate((10, 30))
        ]
        labels = only(write(tmp_path, {"a.json": rows}), SIZE)
        assert labels.name == "rally"
        assert told(labels) == {0: (110, 260), 1: None, 2: None, 3: None}

    def test_keyframes_without_a_place(self, tmp_path: Path) -> None:
        gone = {"frame": 2, "enabled": False}
        labels = only(write(tmp_path, {"a.json": [task({"result": [region(key(1, 10), gone, key(4, 20))]})]}), SIZE)
        assert told(labels) == {0: (110, 260), 1: None, 2: None, 3: (210, 260)}

    def test_another_count_of_frames_than_the_videos_is_said(self, tmp_path: Path) -> None:
        path = write(tmp_path, {"a.json": [task({"result": [region(key(1, 10, False))]})]})
        assert "counts 4 frames, the video has 5" in only(path, ReadOptions(wh=(9, 9), n_frames=5)).notes[0]
        assert not only(path, ReadOptions(wh=(9, 9), n_frames=4)).notes


def coco(names: list[str], places: dict[int, list[float]], **more: Any) -> dict[str, Any]:
    images = [{"id": n, "file_name": name, "width": 64, "height": 36} for n, name in enumerate(names)]
    found = [{"id": n, "image_id": n, "category_id": 1, "bbox": [*xy, 2, 2]} for n, xy in places.items()]
    return {"images": images, "annotations": found, "categories": [{"id": 1, "name": "ball"}], **more}


class TestCoco:
    def test_clips_of_the_same_name_in_several_folders(self, tmp_path: Path) -> None:
        names = [f"set/game{game}/Clip1/{n:04}.jpg" for game in (1, 2) for n in (3, 7)]
        found = by_name(write(tmp_path, {"a.json": coco(names, {0: [1, 1], 3: [5, 5]})}))
        assert found == {"game1_Clip1": {3: (2, 2), 7: None}, "game2_Clip1": {3: None, 7: (6, 6)}}

    def test_one_clip_split_for_training_and_tests(self, tmp_path: Path) -> None:
        """Roboflow: a file per split, the data set's name as a category of its own, and random parts of names."""
        extra = [{"id": 0, "name": "ball-finder", "supercategory": "none"}, {"id": 1, "name": "tennis ball"}]
        one = coco(["rally_mp4-0001_jpg.rf.0f8cd1.jpg"], {0: [1, 1]}, categories=extra)
        two = coco(["rally_mp4-0004_jpg.rf.77ab00.jpg", "rally_mp4-0006_jpg.rf.1b.jpg"], {0: [3, 3]}, categories=extra)
        files = {"train/_annotations.coco.json": one, "valid/_annotations.coco.json": two}
        assert by_name(packed(tmp_path, files)) == {"rally_mp4": {1: (2, 2), 4: (4, 4), 6: None}}

    def test_only_players_are_annotated(self, tmp_path: Path) -> None:
        value = coco(["a_0.jpg"], {0: [1, 1]}, categories=[{"id": 1, "name": "player"}, {"id": 2, "name": "ball"}])
        assert told(only(write(tmp_path, {"a.json": value}))) == {0: None}

    def test_tracks_of_cvat_say_what_was_interpolated(self, tmp_path: Path) -> None:
        value = coco(["frame_000000.png", "frame_000001.png"], {0: [1, 1], 1: [2, 1]})
        for n, annotation in enumerate(value["annotations"]):
            annotation["attributes"] = {"occluded": n == 1, "rotation": 0.0, "track_id": 0, "keyframe": n == 0}
        labels = only(write(tmp_path, {"instances_default.json": value}))
        assert [labels.extra(n).keyframe for n in (0, 1)] == [True, False]
        assert [labels.labels[n].visibility for n in (0, 1)] == [Visibility.CLEAR, Visibility.OCCLUDED]

    def test_pictures_uploaded_to_label_studio(self, tmp_path: Path) -> None:
        names = ["images\\0f3d9c1b-rally_0001.jpg", "images\\9a8b7c6d-rally_0002.jpg"]
        assert by_name(write(tmp_path, {"result.json": coco(names, {1: [1, 1]})})) == {"rally": {1: None, 2: (2, 2)}}


def png(w: int, h: int) -> bytes:
    return encode_png(np.zeros((h, w, 3), np.uint8))


def jpeg(w: int, h: int) -> bytes:
    return encode_jpeg(np.zeros((h, w, 3), np.uint8))


class TestYolo:
    @pytest.mark.parametrize("picture", [png, jpeg])
    def test_the_pictures_tell_their_size(self, picture: Any, tmp_path: Path) -> None:
        files = {
            "data.yaml": "train: ../train/images\nnc: 2\nnames: {0: 'player', 1: ball}\n",
            "train/images/a_0001.jpg": picture(200, 100),
            "train/images/a_0003.jpg": picture(200, 100),
            "valid/images/a_0002.jpg": b"broken",
            "train/labels/a_0001.txt": "1 0.5 0.25 0.01 0.02\n0 0.2 0.2 0.1 0.1\n",
            "valid/labels/a_0002.txt": "",
        }
        assert by_name(packed(tmp_path, files)) == {"a": {1: (100, 25), 2: None, 3: None}}

    def test_clips_in_folders_of_their_own(self, tmp_path: Path) -> None:
        files = {f"labels/{clip}/{n:06}.txt": f"0 0.{n} 0.5 0.01 0.02\n" for clip in ("a", "b") for n in (1, 2)}
        found = by_name(write(tmp_path, files), SIZE)
        assert found == {clip: {0: None, 1: (100, 250), 2: (200, 250)} for clip in ("a", "b")}

    def test_what_cvat_packs(self, tmp_path: Path) -> None:
        files = {
            "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
            "obj.names": "ball\nplayer\n",
            "train.txt": "".join(f"data/obj_train_data/frame_{n:06}.PNG\n" for n in range(4)),
            "obj_train_data/frame_000001.txt": "0 0.5 0.5 0.01 0.02\n",
            "obj_train_data/frame_000002.txt": "1 0.5 0.5 0.01 0.02\n",
        }
        assert by_name(packed(tmp_path, files), SIZE) == {"export": {0: None, 1: (500, 250), 2: None, 3: None}}

    def test_label_studio_names_every_picture_anew(self, tmp_path: Path) -> None:
        names = ("0f3d9c1b-rally_0001.txt", "9a8b7c6d-rally_0002.txt")
        files = {f"labels/{name}": "0 0.5 0.5 0.1 0.1\n" for name in names} | {
            "classes.txt": "ball\n",
            "notes.json": "{}",
        }
        assert by_name(write(tmp_path, files), SIZE) == {"rally": {0: None, 1: (500, 250), 2: (500, 250)}}

    def test_segments_and_tracks_are_no_poses(self, tmp_path: Path) -> None:
        square = "0 0.49 0.48 0.51 0.48 0.51 0.52 0.49 0.52\n"
        track = "0 0.5 0.5 0.02 0.04 0.87 1\n"  # class, box, confidence, number of the track
        files = {"labels/a_0.txt": square, "labels/a_1.txt": square, "labels/b_0.txt": track}
        assert by_name(write(tmp_path, files), SIZE) == {"a": {0: (500, 250), 1: (500, 250)}, "b": {0: (500, 250)}}

    def test_poses_with_and_without_visibility(self, tmp_path: Path) -> None:
        two = "0 0.5 0.5 0.1 0.1 0.25 0.5 0.75 0.5 0.9 0.5\n"  # three keypoints of two numbers
        yaml = "kpt_shape: [3, 2]  # x, y\nnames:\n  - ball  # the only one\n"
        files = {"data.yaml": yaml, "labels/a_0.txt": two}
        assert by_name(write(tmp_path, files), SIZE, "yolo-pose") == {"a": {0: (250, 250)}}
        three = {"data.yaml": yaml.replace("[3, 2]", "[1, 3]")}
        three |= {f"labels/a_{v}.txt": f"0 0.5 0.5 0.1 0.1 0.25 0.5 {v}\n" for v in range(3)}
        labels = only(write(tmp_path, three), SIZE)
        assert told(labels) == {1: (250, 250), 2: (250, 250)}  # 0: nobody labelled it
        assert labels.labels[1].visibility is Visibility.OCCLUDED

    def test_a_data_set_in_which_no_ball_was_seen(self, tmp_path: Path) -> None:
        files = {"data.yaml": "names: [ball, player]\n", "labels/a_0.txt": "1 0.5 0.5 0.1 0.1\n"}
        assert by_name(write(tmp_path, files), SIZE) == {"a": {0: None}}


class TestMot:
    def test_soccernet_says_which_track_is_the_ball(self, tmp_path: Path) -> None:
        rows = [f"{n},{track},{x},101,10,20,1,-1,-1,-1" for n in (1, 2, 3) for track, x in ((1, 301), (18, 1 + n))]
        files = {
            "SNMOT-060/gt/gt.txt": "\n".join(rows[:-1]),
            "SNMOT-060/seqinfo.ini": "[Sequence]\nname=SNMOT-060\nimDir=img1\nframeRate=25\nseqLength=3\n",
            "SNMOT-060/gameinfo.ini": "[Sequence]\ntrackletID_1= player team left;10\ntrackletID_18= ball;1\n",
        }
        assert by_name(write(tmp_path, files)) == {"SNMOT-060": {0: (6, 110), 1: (7, 110), 2: None}}

    def test_classes_and_visibility(self, tmp_path: Path) -> None:
        rows = "1,4,11,21,10,20,1,1,0.9\r\n1,7,101,201,8,8,1,12,0\r\n"
        rows += "2,7,103,201,8,8,0,12,1\r\n4,7,105,201,8,8,1,12,0.25\r\n"
        with pytest.raises(LabelError, match="which label is the ball"):
            read_sets(write(tmp_path, {"gt/gt.txt": rows}))
        labels = only(tmp_path, ReadOptions(label="12"))
        assert told(labels) == {0: (104, 204), 2: None, 3: (108, 204)}  # conf 0: not to be considered
        assert [labels.labels[n].visibility for n in (0, 3)] == [Visibility.OCCLUDED, Visibility.CLEAR]


class TestDeepLabCut:
    def test_the_ball_is_an_individual(self, tmp_path: Path) -> None:
        text = """scorer,,,me,me,me,me,me,me
individuals,,,player1,player1,player1,player1,ball,ball
bodyparts,,,nose,nose,centre,centre,centre,centre
coords,,,x,y,x,y,x,y
labeled-data,rally,img0003.png,1,2,3,4,5.5,6.5
labeled-data,rally,img0007.png,1,2,3,4,,
"""
        assert by_name(write(tmp_path, {"CollectedData_me.csv": text})) == {"rally": {3: (5.5, 6.5), 7: None}}

    def test_an_animal_that_changed_its_name(self, tmp_path: Path) -> None:
        """Tracklets of one ball, stitched badly: what one does not see, the other does."""
        heads = ("scorer", *["DLC_dlcrnet"] * 6), ("individuals", *["ind1"] * 3, *["ind2"] * 3)
        heads += ("bodyparts", *["ball"] * 6), ("coords", *["x", "y", "likelihood"] * 2)
        rows = (0, 1, 2, 0.9, "", "", ""), (1, "", "", "", 5, 6, 0.8), (2, "nan", "nan", "", "", "", "")
        text = "\r\n".join(",".join(map(str, row)) for row in (*heads, *rows))
        labels = only(write(tmp_path, {"rallyDLC_dlcrnet_shuffle1_100.csv": text}))
        assert (labels.name, told(labels)) == ("rally", {0: (1, 2), 1: (5, 6), 2: None})
        assert labels.extra(1).score == 0.8


class TestTrackNet:
    def test_label_csv_with_spaces_and_empty_places(self, tmp_path: Path) -> None:
        text = (
            "file name, visibility, x-coordinate, y-coordinate, status \r\n0000.jpg, 1, 599.0, 423.0, 0.0\r\n"
            "0001.jpg, 0, , ,\r\n0002.jpg, 3, , , \r\n0003.jpg,1,-1,-1,0\r\n0004.jpg,2.0,12,0,2.0\r\n"
        )
        labels = only(packed(tmp_path, {"Dataset/game1/Clip3/Label.csv": text, "Dataset/game1/Clip3/0000.jpg": b""}))
        assert labels.name == "game1_Clip3"
        assert told(labels) == {0: (599, 423), 1: None, 2: None, 3: None, 4: (12, 0)}
        assert labels.extra(4).event == "bounce"
        assert len(labels.notes) == 2
        write(tmp_path, {"Label.csv": "file name,visibility,x-coordinate,y-coordinate\n0000.jpg,1,5,\n"})
        with pytest.raises(LabelError, match="y-coordinate is '', expected a finite number"):
            read_sets(tmp_path / "Label.csv")

    def test_a_ball_csv_from_a_spreadsheet(self, tmp_path: Path) -> None:
        text = "\ufeffindex,frame,Visibility,X,Y,Note\r\n0,1.0,1.0,483.25,427.0,\r\n1,2,0,nan,NaN,gone\r\n2,4,0,,,\r\n"
        path = write(tmp_path, {"m/match3/csv/1_02_ball.csv": text})
        assert by_name(path) == {"match3_1_02": {1: (483.25, 427), 2: None, 4: None}}
        assert by_name(path, ReadOptions(first_frame=1)) == {"match3_1_02": {0: (483.25, 427), 1: None, 3: None}}
        with pytest.raises(LabelError, match=r"frame -1, expected one from 0 .*--first-frame"):
            read_sets(path, None, ReadOptions(first_frame=2))
        assert by_name(packed(tmp_path / "zip", {"match3/csv/1_02_ball.csv": text})).keys() == {"match3_1_02"}


def ground_truth(job: str, *clips: tuple[str, list[Any], list[Any] | None], **metadata: Any) -> dict[str, Any]:
    """A bucket: of each clip its prefix, the frame-no of its frames, and the entries of its SeqLabel.json."""
    files: dict[str, Any] = {}
    lines = []
    for n, (prefix, numbers, entries) in enumerate(clips):
        frames = [{"frame-no": no, "frame": f"frame_{int(no):04}.jpeg"} for no in numbers]
        about = {"seq-no": n + 1, "prefix": f"s3://bucket/{prefix}/", "number-of-frames": len(frames), "frames": frames}
        files[f"{prefix}/seq{n}.json"] = about
        line: dict[str, Any] = {"source-ref": f"s3://bucket/{prefix}/seq{n}.json"}
        kind = {
            "job-name": f"labeling-job/{job}",
            "type": "groundtruth/video-object-tracking",
            "human-annotated": "yes",
        }
        if entries is None:
            line |= {f"{job}-ref-metadata": {**kind, "failure-reason": "ClientError: annotations could not be merged"}}
        else:
            said = f"out/{job}/annotations/consolidated-annotation/output/{n}/SeqLabel.json"
            files[said] = {"tracking-annotations": entries}
            kind |= {"class-map": {"0": "ball", "1": "player"}, "creation-date": "2021-09-29T05:50:35.566000"}
            line |= {f"{job}-ref": f"s3://bucket/{said}", f"{job}-ref-metadata": {**kind, **metadata}}
        lines.append(json.dumps(line))
    files[f"out/{job}/manifests/output/output.manifest"] = "\n".join(lines) + "\n"
    return files


def entry(no: Any, *things: dict[str, Any], tool: str = "keypoints") -> dict[str, Any]:
    return {tool: list(things), "frame-no": no, "frame": f"frame_{int(no):04}.jpeg", "frame-attributes": {}}


def ball(x: float, name: str = "ball:1", kind: str = "0", **more: Any) -> dict[str, Any]:
    return {"x": x, "y": 20, "class-id": kind, "object-name": name, "object-id": "480dc450", **more}


class TestGroundTruth:
    @pytest.mark.parametrize("first", [0, 1])
    def test_frames_that_are_missing_texts_or_of_others(self, first: int, tmp_path: Path) -> None:
        said = [entry(str(first), ball(5)), entry(first + 1), entry(f"{first + 3}", ball(9, "player:2", "1"))]
        files = ground_truth("my-ball-job-2", ("video-1", list(range(first, first + 5)), said))
        manifest = "out/my-ball-job-2/manifests/output/output.manifest"
        found = by_name(write(tmp_path, files))
        assert found == {"video-1": {0: (5, 20), 1: None, 3: None}}
        assert by_name(tmp_path / manifest) == found
        assert by_name(packed(tmp_path / "zip", files)) == found

    def test_a_sequence_that_failed_stays_unlabelled(self, tmp_path: Path) -> None:
        files = ground_truth("a-b", ("one", [0, 1], [entry("0", ball(5))]), ("two", [0, 1], None))
        found = {each.name: each for each in read_sets(write(tmp_path, files))}
        assert {name: told(each) for name, each in found.items()} == {"one": {0: (5, 20)}, "two": {}}
        assert found["two"].n_frames == 2
        assert "could not be merged" in " ".join(found["two"].notes)

    def test_an_adjustment_that_failed_leaves_the_first_labels(self, tmp_path: Path) -> None:
        files = ground_truth("first", ("one", [0], [entry("0", ball(5))]))
        name = "out/first/manifests/output/output.manifest"
        failed = {"failure-reason": "InternalError", "job-name": "labeling-job/second", "creation-date": "2022"}
        files[name] = json.dumps({**json.loads(files[name]), "second-ref-metadata": failed})
        assert by_name(write(tmp_path, files)) == {"one": {0: (5, 20)}}

    def test_prefixes_that_end_alike_are_clips_of_their_own(self, tmp_path: Path) -> None:
        files = ground_truth(
            "j", ("game1/frames", [1, 2], [entry("1", ball(5))]), ("game2/frames", [1, 2], [entry("2", ball(7))])
        )
        assert by_name(write(tmp_path, files)) == {"game1_frames": {0: (5, 20)}, "game2_frames": {1: (7, 20)}}

    def test_sequences_of_one_video_and_boxes(self, tmp_path: Path) -> None:
        def box(left: int) -> dict[str, Any]:
            return {"left": left, "top": 10, "width": 10, "height": 20, "class-id": "0", "object-name": "ball:1"}

        files = ground_truth("j", ("v", [0, 1], [entry(0, box(5), tool="annotations")]), ("w", [0], []))
        second = {**files["w/seq1.json"], "prefix": "s3://bucket/v/", "seq-no": 2}
        files["w/seq1.json"] = second
        files["out/j/annotations/consolidated-annotation/output/1/SeqLabel.json"] = {
            "tracking-annotations": [entry("0", box(25), tool="annotations")]
        }
        assert by_name(write(tmp_path, files)) == {"v": {0: (10, 20), 2: (30, 20)}}


def test_clips_are_told_by_names_then_by_folders() -> None:
    names = ["train/images/a_1.jpg", "val/images/a_2.jpg", "g1/c1/0.jpg", "g2/c1/0.jpg", "g2/c2/0.jpg", "7.png"]
    assert list(clips_of(names).values()) == ["a", "a", "g1_c1", "g2_c1", "c2", ""]


REAL: dict[str, dict[str, Any]] = {
    "cvat": {
        "annotations.xml": f"""<annotations><meta><task><name>c</name><size>3</size></task></meta>
        <track id="0" label="ball">{point(0, 5)}{point(1, 5, 1)}</track></annotations>"""
    },
    "label_studio": {"export.json": [task({"result": [region(key(1, 0.4, False))]})]},
    "coco": {"a.json": coco(["c/0.jpg", "c/1.jpg", "c/2.jpg"], {0: [4, 19]})},
    "yolo": {"labels/c_0.txt": "0 0.005 0.04 0.1 0.1\n", "labels/c_1.txt": "", "labels/c_2.txt": ""},
    "mot": {"c/gt/gt.txt": "1,1,1,11,10,20,1,-1,-1,-1\n", "c/seqinfo.ini": "[Sequence]\nname=c\nseqLength=3\n"},
    "deeplabcut": {
        "CollectedData_a.csv": "scorer,a,a\nbodyparts,ball,ball\ncoords,x,y\n"
        + "".join(f"labeled-data/c/img{n}.png,{xy}\n" for n, xy in enumerate(("5,20", ",", ",")))
    },
    "tracknet_v1": {
        "Clip1/Label.csv": "file name,visibility,x-coordinate,y-coordinate,status\n"
        + "0000.jpg,1,5,20,0\n0001.jpg,0,,,\n0002.jpg,0,,,\n"
    },
    "tracknetv2": {"c_ball.csv": "Frame,Visibility,X,Y\n0,1,5,20\n1,0,0,0\n2,0,0,0\n"},
    "ground_truth": ground_truth("j-1", ("c", [0, 1, 2], [entry("0", ball(5)), entry("1"), entry("2")])),
}


@pytest.mark.parametrize("name", REAL)
def test_convert_from_the_shell(name: str, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in", REAL[name]), tmp_path / "out"
    size = ["--size", "1000x500"] if FORMATS[name].needs_wh else []
    result = CliRunner().invoke(app, ["labels", "convert", str(source), "--to", "tracknetv2", "--out", str(out), *size])
    assert result.exit_code == 0, result.output
    (table,) = out.glob("*_ball.csv")
    labels = read_labels(table)
    xy = labels[0].xy
    assert xy
    assert xy == pytest.approx((14, 260) if name == "label_studio" else (5, 20), abs=1.01 if name == "mot" else 1e-6)
    assert all(labels[n].xy is None for n in (1, 2))


def test_a_file_that_labels_more_frames_than_it_counts(tmp_path: Path) -> None:
    """Label Studio counts by a rate of its own; a video that is known still has the last word."""
    path = write(tmp_path, {"a.json": [task({"result": [region(key(6, 10, False))]})]})
    labels = only(path, SIZE)
    assert (labels.n_frames, told(labels)[5]) == (6, (110, 260))
    assert labels.notes == ("rally one: the file counts 4 frames, but labels frame 5",)
    with pytest.raises(LabelError, match="a label is on frame 5, but the clip has 4 frames"):
        read_sets(path, None, ReadOptions(wh=(9, 9), n_frames=4))


def test_numbers_of_frames_from_one(tmp_path: Path) -> None:
    value = coco(["x.jpg", "y.jpg"], {1: [1, 1]})
    for n, image in enumerate(value["images"]):
        image |= {"video_id": 3, "frame_id": n + 1}
    path = write(tmp_path, {"a.json": {**value, "videos": [{"id": 3, "name": "rally"}]}})
    assert by_name(path) == {"rally": {1: None, 2: (2, 2)}}
    assert by_name(path, ReadOptions(first_frame=1)) == {"rally": {0: None, 1: (2, 2)}}
