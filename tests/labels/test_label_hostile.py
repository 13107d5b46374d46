"""Files that want to do harm, or are broken: each is one clear error, quickly, and nothing is written."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallytrace.errors import LabelError, RallytraceError
from rallytrace.labels import sets
from rallytrace.labels import source as sources
from rallytrace.labels.formats import FORMATS, read_sets, write_sets
from rallytrace.labels.sets import MAX_FRAMES, LabelSet, ReadOptions
from rallytrace.labels.source import Source
from rallytrace.types import BallLabel, Visibility

from ..often import examples

SIZE = ReadOptions(wh=(1280, 720))


def refused(path: Path, pattern: str, name: str | None = None) -> None:
    with pytest.raises(LabelError, match=pattern) as caught:
        read_sets(path, name, SIZE)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            out.writestr(name, content)
    return path


CVAT = '<annotations><track label="ball"><points frame="{}" points="{}"/></track></annotations>'


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = CVAT.format(0, "1,2").encode() + b" " * (40 << 20)
    refused(zipped(tmp_path / "b.zip", {"annotations.xml": bomb}), "packed into .*zip bomb")


def test_a_zip_that_lies_about_its_size_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_XML_BYTES", 4096)
    text = CVAT.format(0, "1,2") + "<!--" + "".join(f"{n} " for n in range(4000)) + "-->"
    path = zipped(tmp_path / "b.zip", {"a.xml": text.encode()})
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")  # the size in the central directory
    struct.pack_into("<I", data, at + 24, 100)
    path.write_bytes(data)
    with pytest.raises(LabelError):
        read_sets(path, "cvat")


def test_a_zip_in_a_zip_stays_closed(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as out:
        out.writestr("annotations.xml", CVAT.format(0, "1,2"))
    refused(zipped(tmp_path / "b.zip", {"inner.zip": inner.getvalue()}), "no label format that is known")


@pytest.mark.parametrize("name", ["../a.xml", "/etc/a.xml", "x/../../a.xml", "..\\a.xml", "C:\\a.xml"])
def test_zip_names_that_lead_out(name: str, tmp_path: Path) -> None:
    refused(zipped(tmp_path / "b.zip", {name: CVAT.format(0, "1,2").encode()}), "leads out of it", "cvat")


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_ENTRIES", 5)
    refused(zipped(tmp_path / "b.zip", {f"{n}.xml": b"" for n in range(6)}), "6 files in the zip, expected at most 5")
    (tmp_path / "many").mkdir()
    for n in range(6):
        (tmp_path / "many" / f"{n}.txt").touch()
    refused(tmp_path / "many", "more than 5 files in the folder")


def test_broken_and_locked_zips(tmp_path: Path) -> None:
    path = zipped(tmp_path / "b.zip", {"annotations.xml": CVAT.format(0, "1,2").encode() * 50})
    whole = path.read_bytes()
    for n in (10, len(whole) // 2, len(whole) - 5):
        (tmp_path / "cut.zip").write_bytes(whole[:n])
        with pytest.raises(LabelError):
            read_sets(tmp_path / "cut.zip")
    flags = whole.index(b"PK\x01\x02") + 8
    locked = bytearray(whole)
    locked[flags] |= 1
    locked[6] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    refused(tmp_path / "locked.zip", "cannot read .*encrypted")


@pytest.mark.parametrize(
    "declared",
    [
        '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>',
        '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1/a.dtd">',
    ],
)
def test_xml_with_a_dtd_is_refused(declared: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(declared + CVAT.format(0, "1,2").replace("ball", "&b;" if "ENTITY b" in declared else "ball"))
    refused(path, "has a DTD or entities")


@pytest.mark.parametrize("frame", ["-1", str(MAX_FRAMES), "1e9", "nan", "1.5", "", "9" * 5000, "١x"])
def test_absurd_frame_numbers(frame: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(CVAT.format(frame, "1,2"))
    refused(tmp_path / "a.xml", "frame")
    number = json.dumps(frame)
    key = f'{{"frame": {number}, "enabled": true, "x": 1, "y": 1, "width": 1, "height": 1}}'
    (tmp_path / "l.json").write_text(f'[{{"result": [{{"value": {{"sequence": [{key}], "labels": ["ball"]}}}}]}}]')
    if frame != str(MAX_FRAMES):  # counts from 1
        refused(tmp_path / "l.json", "frame")
    if frame not in ("-1", str(MAX_FRAMES)):
        (tmp_path / "SeqLabel.json").write_text(
            f'{{"tracking-annotations": [{{"frame-no": {number}, "keypoints": []}}]}}'
        )
        refused(tmp_path / "SeqLabel.json", "frame")


@pytest.mark.parametrize("place", ["nan,1", "inf,1", "1e400,1", "1", "1,2,3", "a,b", "1e9,1", ""])
def test_absurd_places(place: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(CVAT.format(0, place))
    refused(tmp_path / "a.xml", "a.xml: ")


def test_a_count_of_frames_that_no_video_has(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(
        CVAT.format(0, "1,2").replace("<track", "<meta><task><size>2000000000</size></task></meta><track", 1)
    )
    refused(tmp_path / "a.xml", "frames 0 to 2000000000, expected at most")
    key = {"frame": 1, "enabled": True, "x": 1, "y": 1, "width": 1, "height": 1}
    value = {"framesCount": 10**12, "labels": ["ball"], "sequence": [key]}
    (tmp_path / "l.json").write_text(json.dumps([{"result": [{"value": value}]}]))
    (labels,) = read_sets(tmp_path / "l.json", None, SIZE)
    assert labels.length == 1


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ('{"images": [], "annotations": [], "categories": [NaN]}', "NaN is no JSON number"),
        ('{"images": [{"width": Infinity}], "annotations": [], "categories": []}', "Infinity is no JSON number"),
        ('{"images": "categories annotations', "no label format"),
        ('{"images": [], "annotations": [], "categories": []', "not JSON"),
        ('{"images": ' + "[" * 200_000 + ', "annotations", "categories"', "not JSON"),
        ('{"images": [' + "9" * 5000 + '], "annotations": [], "categories": []}', "not JSON"),
        ('{"images": [1], "annotations": [], "categories": []}', "images: expected a list of objects"),
        ('{"images": [{"id": 1, "frame_id": "x"}], "annotations": [], "categories": []}', "frame_id is 'x'"),
        (
            '{"images": [], "annotations": [{"image_id": 3, "category_id": 1}], "categories": []}',
            "annotation of image 3, which is not in images",
        ),
    ],
)
def test_hostile_json(text: str, pattern: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    refused(tmp_path / "a.json", pattern)


def test_huge_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_XML_BYTES", 1000)
    (tmp_path / "a.xml").write_text(CVAT.format(0, "1,2") + " " * 1000)
    refused(tmp_path / "a.xml", "expected a label file")


def test_a_thousand_tracks_over_the_longest_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "MAX_STATEMENTS", 5000)
    ends = '<points frame="{}" points="1,2"/>'.format
    track = f'<track label="ball">{ends(0)}{ends(900)}</track>'
    (tmp_path / "a.xml").write_text(f"<annotations>{track * 10}</annotations>")
    refused(tmp_path / "a.xml", "more than 5000 positions")


def test_a_manifest_alone_does_not_reach_above_its_folder(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "SeqLabel.json").write_text('{"tracking-annotations": []}')
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "upload.manifest"
    path.write_text('{"source-ref": "s3://b/etc/x.json", "j-ref": "s3://b/etc/SeqLabel.json"}')
    refused(path, "no local copy of s3://b/etc/SeqLabel.json")


def test_manifests_do_not_lead_out(tmp_path: Path) -> None:
    inside = tmp_path / "job"
    inside.mkdir()
    (tmp_path / "secret.json").write_text('{"tracking-annotations": []}')
    for uri in ("s3://b/../../secret.json", "../secret.json", "s3://", "file:///../../../etc/passwd"):
        (inside / "output.manifest").write_text(json.dumps({"source-ref": uri, "j-ref": uri}))
        refused(inside, "without \\.\\.|no local copy", "ground_truth")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "content", [b"", b"\0\0\0", b"\xff\xfe", b"\xff" * 64, b"PK\x03\x04", b"\xed\xa0\x80", b"{}", b"[]", b"<a/>"]
)
def test_wrong_content_in_every_format(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip_0.txt"
    path.write_bytes(content)
    with pytest.raises(LabelError):
        read_sets(path)
    with suppress(LabelError):  # an empty list is no labels
        assert not any(label.xy for labels in read_sets(path, name, SIZE) for label in labels.labels.values())


LABELS = LabelSet(
    "rally",
    {
        0: BallLabel(0, (10.0, 20.5)),
        1: BallLabel(1, None, Visibility.ABSENT),
        2: BallLabel(2, (14.0, 22.0), Visibility.HARD),
    },
    wh=(1280, 720),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return {name: write_sets([LABELS], name, tmp_path_factory.mktemp(name)) for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
@examples(20)
@given(data=st.data())
def test_damaged_files_raise_label_errors_only(name: str, written: dict[str, list[Path]], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(written[name]))
    good = path.read_bytes()
    at = data.draw(st.integers(0, len(good)))
    until = data.draw(st.integers(at, min(len(good), at + 12)))
    junk = st.sampled_from([b"", b"-1", b"null", b"1e999", b"[]", b"{}", b'"', b"<", b",", b"\xff", b"nan", b"true"])
    folder = next(parent for parent in path.parents if parent.parent.name.startswith("pytest-"))
    try:
        path.write_bytes(good[:at] + data.draw(junk | st.binary(max_size=6)) + good[until:])
        for target in (folder, path):
            with suppress(RallytraceError):
                for labels in read_sets(target, name, SIZE):
                    assert all(frame == label.frame >= 0 for frame, label in labels.labels.items())
    finally:
        path.write_bytes(good)


def test_a_source_names_what_is_inside(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.txt").write_text("ü")
    assert Source(tmp_path).names == ("b/x.txt",)
    assert Source(tmp_path).text("b/x.txt") == "ü"
    (tmp_path / "b" / "x.txt").write_bytes("ü".encode("utf-16"))
    assert Source(tmp_path).text("b/x.txt") == "ü"
    (tmp_path / "b" / "x.txt").write_bytes("ü".encode("latin-1"))
    with pytest.raises(LabelError, match="not a text file in UTF-8"):
        Source(tmp_path).text("b/x.txt")
