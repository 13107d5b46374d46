"""Which files are videos, and what their results are called, whatever a file may be called."""

import os
import unicodedata
from pathlib import Path

import av
import pytest

from rallytrace import storage
from rallytrace.errors import InputError
from rallytrace.files import AtomicFile
from rallytrace.names import VIDEO_SUFFIXES, fits, is_video, passed_over, path_of_url, stem_of
from rallytrace.video.container import CONTAINERS

NO_PICTURES = {"m4a", "m4b", "isma", "mka", "mks", "wma", "ra", "mp3", "mp2", "mpa", "m2a", "wav", "flac", "aac"}
PICTURES = {"avif", "heic", "heif", "gif", "mpo"}
UNUSUAL = {"h26l", "ism", "psp", "dvd"}


def declared() -> set[str]:
    """Suffixes that FFmpeg itself knows for the containers that are read."""
    found: set[str] = set()
    for name in (*CONTAINERS.split(","), "vob", "svcd", "mpeg1video", "mpeg2video"):
        for mode in ("r", "w"):
            try:
                found |= av.ContainerFormat(name, mode).extensions
            except ValueError:
                continue
    return found


def test_all_that_ffmpeg_reads_is_known() -> None:
    known = {suffix[1:] for suffix in VIDEO_SUFFIXES}
    assert declared() - known <= NO_PICTURES | PICTURES | UNUSUAL
    assert {"mts", "m2ts", "vob", "wmv", "mpeg", "3gp", "flv", "ts"} <= known


@pytest.mark.parametrize("name", ["a.mp4", "A.MTS", "b.m2ts", "c.vob", "d.WMV", "x.y.mov", "tracked.mp4"])
def test_videos(name: str) -> None:
    assert is_video(name)


@pytest.mark.parametrize("name", ["._a.mp4", ".a.mov", "a.tracked.mp4", "A.Tracked.MP4", "a.csv", "mp4", "a.mp4.part"])
def test_what_is_none(name: str) -> None:
    assert not is_video(name)


def test_a_folder_says_what_it_leaves_out(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.MTS", "._a.mp4", "a.tracked.mp4", "a.csv", "notes.txt", ".DS_Store"):
        (tmp_path / name).touch()
    said: list[str] = []
    assert storage.expand(str(tmp_path), said.append) == [str(tmp_path / "a.mp4"), str(tmp_path / "b.MTS")]
    assert said == [
        f"{tmp_path}: left out 1 result of track (a.tracked.mp4), 1 hidden file (._a.mp4), "
        "2 files that are no videos by name (.csv, .txt)"
    ]
    said.clear()
    assert storage.expand(f"{tmp_path}/*.mp4", said.append) == [str(tmp_path / "a.mp4")]
    assert "a.tracked.mp4" in said[0]
    assert storage.expand(f"{tmp_path}/*.tracked.mp4") == [str(tmp_path / "a.tracked.mp4")]
    assert storage.expand(f"{tmp_path}/*.txt") == [str(tmp_path / "notes.txt")]
    assert storage.expand(f"{tmp_path}/a*") == [str(tmp_path / "a.mp4")]
    assert storage.expand(str(tmp_path / "._a.mp4")) == [str(tmp_path / "._a.mp4")], "who names it gets it"


def test_a_folder_without_videos_says_what_it_holds(tmp_path: Path) -> None:
    for name in ("a.xyz", "b.xyz", "._c.mov"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"holds no video but 1 hidden file .*2 files .*\.xyz.*expected \.mp4"):
        storage.expand(str(tmp_path))
    (tmp_path / "001.jpg").touch()
    assert storage.expand(str(tmp_path)) == [str(tmp_path)], "numbered pictures"
    assert passed_over(["a.mp4", ".DS_Store"]) == ""


def test_a_store_leaves_out_the_same() -> None:
    store = storage.open_store("memory://left-out")
    for name in ("a.mts", "._a.mp4", "a.tracked.mp4", "a.csv"):
        store.put(name, b"1")
    said: list[str] = []
    assert storage.expand("memory://left-out/", said.append) == ["memory://left-out/a.mts"]
    assert "1 hidden file" in said[0]
    assert storage.expand("memory://left-out/*.m*") == ["memory://left-out/a.mts"]
    assert storage.expand("memory://left-out/a.mts") == ["memory://left-out/a.mts"]


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("a/match 1.final.mp4", "match 1.final"),
        ("who won?.mp4", "who won?"),
        ("50% & more, #2 (a+b).mp4", "50% & more, #2 (a+b)"),
        ("दिल्ली.mp4", "दिल्ली"),
        ("🏸 final 👩‍👧.mp4", "🏸 final 👩‍👧"),
        (unicodedata.normalize("NFD", "café.mp4"), "café"),
        ("a.b\x07c\\d.mkv", "a.b_c_d"),
        ("frames/", "frames"),
        ("game.2024-05-01", "game.2024-05-01"),
        ("clip.264", "clip"),
        (".mp4", ".mp4"),
        ("-", "stdin"),
        ("camera:0", "camera_0"),
        ("/dev/video0", "video0"),
        ("s3://b/raw/who?.mp4", "who?"),
        ("https://h/My%20match.mp4?token=secret", "My match"),
        ("https://h/a%2Fb.mp4#t=1", "a_b"),
        ("rtsp://camera/stream?key=secret", "stream"),
        ("rtsp://user:secret@cam:554", "cam_554"),
        ("rtsp://cam/ch1.0", "ch1.0"),
        ("udp://127.0.0.1:5004", "127.0.0.1_5004"),
        ("udp://@239.0.0.1:1234", "239.0.0.1_1234"),
        ("udp://[::1]:5004", "1_5004"),
        ("udp://[::1", "stream"),
        ("https://h/", "h"),
        ("", "stream"),
    ],
)
def test_stems(source: str, stem: str) -> None:
    assert stem_of(source) == stem


def test_a_folder_keeps_its_whole_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rally.v2").mkdir()
    assert stem_of(tmp_path / "rally.v2") == "rally.v2"
    monkeypatch.chdir(tmp_path / "rally.v2")
    assert stem_of(".") == "rally.v2"


@pytest.mark.parametrize("stem", ["x" * 243, "é" * 121, "🏸" * 60])
def test_a_name_that_fits_can_be_written(stem: str, tmp_path: Path) -> None:
    path = tmp_path / f"{stem}.tracked.mp4"
    assert fits(path.name)
    assert not fits(f"{stem}{'x' * 20}.tracked.mp4")
    with AtomicFile(path) as file:
        file.write("1")
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///a%20b/c%3F.mp4", "/a b/c?.mp4"),
        ("FILE://localhost/a.mp4", "/a.mp4"),
        ("file:/a.mp4", "/a.mp4"),
        ("/a%20b.mp4", "/a%20b.mp4"),
        ("file.mp4", "file.mp4"),
        ("s3://b/a%20b", "s3://b/a%20b"),
    ],
)
def test_file_urls(url: str, path: str) -> None:
    assert path_of_url(url) == path


def test_a_file_url_of_another_machine(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of this machine"):
        storage.fetch("file://server/share/a.mp4")
    (tmp_path / "a b.mp4").touch()
    assert storage.expand(f"file://{tmp_path}/a%20b.mp4") == [str(tmp_path / "a b.mp4")]
    assert storage.expand(f"file://{tmp_path}/a*.mp4") == [str(tmp_path / "a b.mp4")]
