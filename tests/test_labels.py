"""The ball CSV and folders of clips: every variant that is unambiguous, and one clear line for what is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rallytrace.errors import LabelError, OutputError
from rallytrace.labels import load_clips, read_labels, write_labels
from rallytrace.labels.formats import read_sets
from rallytrace.types import BallLabel, Visibility

CLEAR, ABSENT = Visibility.CLEAR, Visibility.ABSENT
CSV = "Frame,Visibility,X,Y\n0,1,10,20\n1,0,0,0\n"


def written(folder: Path, content: str | bytes, name: str = "clip_ball.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


TWO = {0: BallLabel(0, (10.0, 20.0)), 1: BallLabel(1, None, ABSENT)}


@pytest.mark.parametrize(
    "content",
    [
        CSV,
        CSV.replace("\n", "\r\n"),
        "\ufeff" + CSV,
        "\ufeff" + CSV.replace("\n", "\r\n").rstrip(),
        "Frame,X,Y,Visibility\n0,10,20,1\n1,0,0,0\n",
        "frame,visibility,x,y\n0,1,10,20\n1,0,0,0\n",
        " Frame , Visibility , X , Y\n 0 , 1 , 10 , 20\n1,0,0,0\n",
        "Frame,Visibility,X,Y\n0.0,1.0,10.0,2e1\n1.0,0.0,,\n",
        "Frame,Visibility,X,Y\n1,0,-1,-1\n\n0,1,10,20\n",
        "Frame,Visibility,X,Y,Score,Source\n0,1,10.00,20.00,0.9,accepted\n1,0,0,0,,manual\n",
        'Frame,Visibility,X,Y,Z,Event,Timestamp\n0,1,10,20,3.5,"hit, left",nan\n1,0,0,0,,,\n',
        CSV.replace(",", ";"),
        "Frame;Visibility;X;Y\r\n0;1;10,0;20,00\r\n1;0;0;0\r\n",
        CSV.replace(",", "\t"),
        "sep=;\r\n" + CSV.replace(",", ";"),
        "\ufeffsep=,\n" + CSV,
        '"sep=|"\n' + CSV.replace(",", "|"),
        "sep=\t\n" + CSV.replace(",", "\t"),
        CSV.encode("utf-16"),
        CSV.encode("utf-16-le"),
        CSV.encode("utf-16-be"),
        CSV.replace(",", "\t").encode("utf-16"),
        CSV.encode("utf-32"),
    ],
    ids=[
        *("plain", "crlf", "bom", "bom-crlf", "racketvision", "lower", "spaces", "floats", "order", "label", "extra"),
        *("semicolons", "commas in numbers", "tabs", "sep", "bom-sep", "sep-quoted", "sep-tab"),
        *("utf-16", "utf-16-le", "utf-16-be", "utf-16-tabs", "utf-32"),
    ],
)
def test_variants_of_the_same_labels(tmp_path: Path, content: str | bytes) -> None:
    path = written(tmp_path, content)
    assert read_labels(path) == TWO
    (labels,) = read_sets(path)
    assert labels.labels == TWO


def test_visibility_decides_not_the_position(tmp_path: Path) -> None:
    path = written(tmp_path, "Frame,Visibility,X,Y\n0,1,0,0\n1,2,804,0\n2,3,5.5,6\n3,0,7,8\n4,-1,,\n5,-1,1,2\n")
    assert read_labels(path) == {
        0: BallLabel(0, (0.0, 0.0), CLEAR),
        1: BallLabel(1, (804.0, 0.0), Visibility.HARD),
        2: BallLabel(2, (5.5, 6.0), Visibility.OCCLUDED),
        3: BallLabel(3, None, ABSENT),
    }


def test_only_keyframes_count_unless_asked(tmp_path: Path) -> None:
    path = written(tmp_path, "Frame,Visibility,X,Y,Keyframe\n0,1,1,1,1\n1,1,2,2,0\n2,0,0,0,0\n3,0,0,0,1\n")
    assert list(read_labels(path)) == [0, 3]
    assert list(read_labels(path, keyframes_only=False)) == [0, 1, 2, 3]


def test_header_alone_is_a_clip_without_labels(tmp_path: Path) -> None:
    assert read_labels(written(tmp_path, "Frame,Visibility,X,Y\n")) == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", ["empty", "Frame,Visibility,X,Y"]),
        (b"\x00\x01\xff\xfe binary", ["UTF-8"]),
        ("# Wörter\n".encode("cp1252") + CSV.encode(), ["UTF-8 or UTF-16", "0xf6 in line 1", "save it as CSV UTF-8"]),
        ("Frame Visibility X Y\n0 1 10 20\n", ["'frame visibility x y'", ", ; tab or |"]),
        ("sep=;\n" + CSV, ["line 2", "Frame", "missing"]),
        ("sep=;\nFrame;Visibility;X;Y\n0;1;ten;20\n", ["line 3", "'ten'"]),
        ("Frame,Visibility,X,Y,Time\n0,1,10,20,00:00:00.000\n", ["a tracker wrote it", "--as labels"]),
        ("Frame,Visibility,X,Y,Source\n0,0,0,0,none\n", ["a tracker wrote it", "--as labels"]),
        ("Frame,Ball,x,y\n0,1,0.5,0.5\n", ["line 1", "Visibility", "missing"]),
        ("Frame,Visibility,X,Y,X\n0,1,10,20,30\n", ["line 1", "X", "twice"]),
        ("Frame,Visibility,X,Y\n0,1,nan,20\n", ["line 2", "X", "'nan'", "finite number"]),
        ("Frame,Visibility,X,Y\n0,0,nan,0\n", ["line 2", "X", "'nan'"]),
        ("Frame,Visibility,X,Y\n0,1,10,inf\n", ["line 2", "Y", "'inf'"]),
        ("Frame,Visibility,X,Y\n0,1,10,1e999\n", ["line 2", "Y", "'1e999'"]),
        ("Frame,Visibility,X,Y\n0,1,1_0,20\n", ["line 2", "X", "'1_0'"]),
        ("Frame,Visibility,X,Y\n0,1,,\n", ["line 2", "X", "''"]),
        ("Frame,Visibility,X,Y\n0,1,-1,-1\n", ["line 2", "X", "'-1'", "no ball"]),
        ("Frame,Visibility,X,Y\n0,0,0,0\n-3,1,10,20\n", ["line 3", "Frame", "'-3'", "from 0"]),
        ("Frame,Visibility,X,Y\n1.5,1,10,20\n", ["line 2", "Frame", "'1.5'", "whole"]),
        ("Frame,Visibility,X,Y\n0,4,10,20\n", ["line 2", "Visibility", "'4'", "-1 to 3"]),
        ("Frame,Visibility,X,Y\n0,yes,10,20\n", ["line 2", "Visibility", "'yes'"]),
        ("Frame,Visibility,X,Y\n7,1,1,1\n7,1,2,2\n", ["line 3", "Frame", "'7'", "line 2"]),
        ("Frame,Visibility,X,Y\n0,1,10\n", ["line 2", "3 values", "4"]),
        ("Frame,Visibility,X,Y,Keyframe\n0,1,1,1,maybe\n", ["line 2", "Keyframe", "'maybe'"]),
        ('Frame,Visibility,X,Y\n0,1,"' + "9" * 200_000, ["line 2", "CSV"]),
    ],
)
def test_malformed_labels_are_one_clear_line(tmp_path: Path, content: str | bytes, says: list[str]) -> None:
    path = written(tmp_path, content)
    with pytest.raises(LabelError) as caught:
        read_labels(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in [str(path), *says]:
        assert word in message


def test_missing_file_and_folder_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"nowhere\.csv"):
        read_labels(tmp_path / "nowhere.csv")
    with pytest.raises(LabelError, match="directory"):
        read_labels(tmp_path)


def test_written_text_is_tracknets(tmp_path: Path) -> None:
    labels = {5: BallLabel(5, (483.0, 427.25), Visibility.HARD), 2: BallLabel(2, None, ABSENT)}
    write_labels(tmp_path / "a.csv", labels)
    assert (tmp_path / "a.csv").read_bytes() == b"Frame,Visibility,X,Y\n2,0,0,0\n5,2,483,427.25\n"
    write_labels(tmp_path / "a.csv", labels, n_frames=6)
    text = "Frame,Visibility,X,Y\n0,-1,,\n1,-1,,\n2,0,0,0\n3,-1,,\n4,-1,,\n5,2,483,427.25\n"
    assert (tmp_path / "a.csv").read_text() == text
    assert read_labels(tmp_path / "a.csv") == labels
    assert os.listdir(tmp_path) == ["a.csv"]


@pytest.mark.parametrize(
    ("labels", "n_frames"),
    [
        ({3: BallLabel(4, (1, 1))}, None),
        ({-1: BallLabel(-1, (1, 1))}, None),
        ({6: BallLabel(6, (1, 1))}, 6),
        ({0: BallLabel(0, (-1, -1))}, None),
    ],
)
def test_labels_that_no_file_can_hold(tmp_path: Path, labels: dict[int, BallLabel], n_frames: int | None) -> None:
    with pytest.raises(LabelError):
        write_labels(tmp_path / "a.csv", labels, n_frames)
    assert os.listdir(tmp_path) == []


def test_unwritable_place(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere.a\.csv"):
        write_labels(tmp_path / "nowhere" / "a.csv", TWO)


def index_folder(tmp_path: Path, index: str, clips: tuple[str, ...] = ("one.mp4", "two.MKV")) -> Path:
    folder = tmp_path / "padel"
    written(folder, index, "index.csv")
    for clip in clips:
        written(folder, b"", clip)
        written(folder, CSV, f"{Path(clip).stem}_ball.csv")
    return folder


@pytest.mark.parametrize("column", ["match", "venue", "park"])
def test_indexed_folder(tmp_path: Path, column: str) -> None:
    folder = index_folder(tmp_path, f"clip,{column},split,frames\ntwo,Rome,val,2\none,Paris,,2\n")
    two, one = load_clips(folder)
    assert (two.name, two.match, two.sport, two.split, two.labels) == ("two", "Rome", "padel", "val", TWO)
    assert (one.name, one.match, one.split, one.video) == ("one", "Paris", "train", folder / "one.mp4")
    assert two.video == folder / "two.MKV"


def test_index_without_split_means_train(tmp_path: Path) -> None:
    clips = load_clips(index_folder(tmp_path, "clip,park\none,A\ntwo,A\n"))
    assert [clip.split for clip in clips] == ["train", "train"]


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("clip,split\none,train\n", "no column match or venue or park"),
        ("match,split\nA,train\n", "column clip is missing"),
        ("clip,match\none,A\none,B\n", "line 3: clip is 'one'"),
        ("clip,match\n,A\n", "line 2: clip is ''"),
        ("clip,match\none,\n", "line 2: match is ''"),
        ("clip,match\nthree,A\n", r"line 2: no video of clip 'three'.*\.mp4"),
        ("clip,match\n../padel/one,A\n", "no video of clip"),
        ("clip,match,split\none,A,trian\n", "line 2: split is 'trian', expected train, val, test"),
        ("clip,match\n", "no clips found"),
    ],
)
def test_malformed_index(tmp_path: Path, index: str, says: str) -> None:
    with pytest.raises(LabelError, match=says):
        load_clips(index_folder(tmp_path, index))


def test_indexed_clip_without_its_files(tmp_path: Path) -> None:
    folder = index_folder(tmp_path, "clip,match\none,A\n", clips=())
    written(folder, b"", "one.mp4")
    with pytest.raises(LabelError, match=r"one_ball\.csv"):
        load_clips(folder)
    written(folder, CSV, "one_ball.csv")
    written(folder, b"", "one.avi")
    with pytest.raises(LabelError, match="two videos"):
        load_clips(folder)


def test_folder_without_index(tmp_path: Path) -> None:
    for name in ("b.webm", "a.mov", "unlabelled.mp4", "a.tracked.mp4"):
        written(tmp_path, b"", name)
    for name in ("a", "b", "no_video"):
        written(tmp_path, CSV, f"{name}_ball.csv")
    clips = load_clips(tmp_path)
    assert [(c.name, c.match, c.split, c.sport) for c in clips] == [
        (name, name, "train", tmp_path.name) for name in ("a", "b")
    ]


def test_tracknetv2_folders(tmp_path: Path) -> None:
    for match in (1, 2, 10):
        written(tmp_path / f"match{match}" / "video", b"", "1_05_02.mp4")
        written(tmp_path / f"match{match}" / "csv", CSV, "1_05_02_ball.csv")
    written(tmp_path / "match2" / "video", b"", "1_06_00.mp4")
    written(tmp_path / "match2" / "csv", CSV, "1_06_00.csv")
    clips = load_clips(tmp_path)
    assert [(c.name, c.match) for c in clips] == [
        ("match1_1_05_02", "match1"),
        ("match2_1_05_02", "match2"),
        ("match2_1_06_00", "match2"),
        ("match10_1_05_02", "match10"),
    ]
    assert clips[0].video == tmp_path / "match1" / "video" / "1_05_02.mp4"
    assert clips[0].labels == TWO
    written(tmp_path / "match2" / "csv", CSV, "1_07_00_ball.csv")
    with pytest.raises(LabelError, match="1_07_00"):
        load_clips(tmp_path)


def test_tracknetv2_clip_labelled_twice(tmp_path: Path) -> None:
    written(tmp_path / "match1" / "video", b"", "r.mp4")
    for name in ("r.csv", "r_ball.csv"):
        written(tmp_path / "match1" / "csv", CSV, name)
    with pytest.raises(LabelError, match="second CSV of clip r"):
        load_clips(tmp_path)


def test_no_clips(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no clips found"):
        load_clips(tmp_path)
    with pytest.raises(LabelError, match="no such folder"):
        load_clips(tmp_path / "nowhere")
