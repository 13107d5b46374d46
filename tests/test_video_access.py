"""Pictures by index against reading from the start, on clips made by ffmpeg's own command line."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rallytrace.errors import VideoError
from rallytrace.types import Image
from rallytrace.video import (
    FrameTable,
    IndexedReader,
    decode_jpeg,
    encode_jpeg,
    frame_table,
    read,
    read_at,
    shrink_jpeg,
)

from .clips import CUT, X264, clip, ffmpeg, golden

LONG = ("-f", "lavfi", "-i", "testsrc2=size=160x90:rate=30000/1001:duration=4")
FILM = ("-f", "lavfi", "-i", "testsrc2=size=160x90:rate=24000/1001:duration=4")
VARIABLE = ("-vf", "settb=1/90000,setpts='PTS+0.011*mod(N,3)/TB+0.05*floor(N/7)/TB'", "-fps_mode", "vfr")
EXTRA = {
    "film.mp4": (*FILM, *X264, "-g", "12"),
    "long-gop.mp4": (*LONG, *X264, "-g", "250", "-bf", "3"),
    "open-gop.mp4": (*LONG, *X264, "-g", "15", "-bf", "3", "-x264-params", "open-gop=1:scenecut=0"),
    "intra-refresh.mp4": (*LONG, *X264, "-x264-params", "intra-refresh=1:keyint=20:bframes=0"),
    "open-gop.ts": (*LONG, *X264, "-g", "15", "-bf", "3", "-x264-params", "open-gop=1:scenecut=0"),
    "offset.ts": (*LONG, *X264, "-g", "20", "-output_ts_offset", "7.25"),
    "variable.mp4": (*LONG, *VARIABLE, "-enc_time_base", "1:90000", *X264, "-g", "20"),
    "keys.mkv": (*LONG, *X264, "-g", "10"),
    "mpeg2-open.mpg": (*LONG, "-c:v", "mpeg2video", "-bf", "2", "-g", "12", "-q:v", "4"),
    "hevc.mp4": (*LONG, "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "keyint=16:log-level=error"),
    "mpeg4.avi": (*LONG, "-c:v", "mpeg4", "-bf", "2", "-g", "12", "-q:v", "4"),
    "vp9.webm": (*LONG, "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "20"),
}
SHARED = ["h264-raw.h264", "h264-offset.mp4", "h264-fragmented.mp4", "h264-turned-90.mp4", "h264-mirrored.mp4", CUT]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access")


@cache
def made(folder: Path, name: str) -> Path:
    if name not in EXTRA:
        return clip(name)
    ffmpeg(*EXTRA[name], folder / name)
    return folder / name


@cache
def pictures(path: Path) -> list[Image]:
    with read(path, colour="rgb") as reader:
        return [frame.image for frame in reader]


@pytest.mark.parametrize("name", [*EXTRA, *SHARED])
def test_every_index_is_the_picture_that_reading_gives(folder: Path, name: str) -> None:
    path = made(folder, name)
    wanted = pictures(path)
    table = frame_table(path)
    assert len(table) == len(wanted)
    assert table.pts_s.tolist() == pytest.approx(golden(path).pts_s, abs=1e-5)
    order = list(range(len(wanted)))
    random.Random(name).shuffle(order)
    with IndexedReader(path, table) as reader:
        for index in order[:30]:
            frame = next(reader.run(index, index + 1))
            assert np.array_equal(frame.image, wanted[index]), f"{name}: frame {index}"
            assert frame.index == index
            assert frame.pts_s == table.pts_s[index]


def test_files_that_have_times_are_jumped_in(folder: Path) -> None:
    """Else every test above would pass by reading from the start each time."""
    for name in ("film.mp4", "open-gop.mp4", "variable.mp4", "keys.mkv", "offset.ts", "hevc.mp4", "vp9.webm"):
        path = made(folder, name)
        table = frame_table(path)
        with IndexedReader(path, table) as reader:
            assert reader.distance(80) <= 20 + 8, name
            reader.decode(80)
            assert reader._source.n_packets < 80, f"{name} was read from its start"


def test_a_run_gives_the_asked_picture_first_and_decodes_once(folder: Path) -> None:
    path = made(folder, "film.mp4")
    table = frame_table(path)
    with IndexedReader(path, table) as reader:
        frames = list(reader.run(10, 40, first=25))
        order = [n for pair in zip(range(27, 40), range(23, 10, -1), strict=True) for n in pair]
        assert [frame.index for frame in frames] == [25, 26, 24, *order, 10]
        assert all(np.array_equal(frame.image, pictures(path)[frame.index]) for frame in frames)
        assert reader._source.n_packets <= 50
        assert reader.distance(40) == 0


def test_a_table_survives_packing(folder: Path) -> None:
    table = frame_table(made(folder, "variable.mp4"))
    again = FrameTable.unpack(table.pack())
    assert (again.pts_s == table.pts_s).all()
    assert (again.ticks == table.ticks).all()
    assert (again.keys == table.keys).all()
    assert (again.wh, again.rate, again.problems) == (table.wh, table.rate, table.problems)
    for damaged in (b"", b"PK\3\4junk", table.pack()[:-100]):
        with pytest.raises(VideoError, match="import again"):
            FrameTable.unpack(damaged)


def test_another_file_under_the_name_is_noticed(folder: Path, tmp_path: Path) -> None:
    table = frame_table(made(folder, "film.mp4"))
    for other in ("variable.mp4", "h264-offset.mp4"):
        with IndexedReader(made(folder, other), table) as reader, pytest.raises(VideoError, match="not the file"):
            list(reader.run(60, 62))


def test_beyond_the_last_frame(folder: Path) -> None:
    path = made(folder, "film.mp4")
    table = frame_table(path)
    for index in (-1, len(table)):
        with pytest.raises(IndexError, match="has frames 0 to 95"):
            read_at(path, table, index)
    assert np.array_equal(read_at(path, table, 95).image, pictures(path)[95])


def test_progress_is_told_and_can_stop_the_work(folder: Path) -> None:
    told: list[tuple[int, int | None]] = []
    frame_table(made(folder, "film.mp4"), lambda done, total: told.append((done, total)))
    assert told[0] == (1, 96)
    assert told[-1] == (96, 96)

    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        frame_table(made(folder, "film.mp4"), stop)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"junk" * 100)
    with pytest.raises(VideoError, match="cannot be opened"):
        frame_table(tmp_path / "a.mp4")


def test_a_smaller_jpeg_keeps_its_shape() -> None:
    image = np.zeros((90, 161, 3), np.uint8)
    image[:, 80:] = (200, 40, 40)
    small = decode_jpeg(shrink_jpeg(encode_jpeg(image), 80))
    assert small.shape == (45, 80, 3)
    assert np.abs(small[:, 60].astype(int) - (200, 40, 40)).max() < 12
    assert shrink_jpeg(encode_jpeg(image), 161) == encode_jpeg(image)
    with pytest.raises(VideoError):
        shrink_jpeg(b"\xff\xd8junk", 80)
