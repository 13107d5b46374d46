"""Writing: what comes out is checked by ffprobe and by ffmpeg's own decoder."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rallytrace.errors import OutputError
from rallytrace.types import Yuv
from rallytrace.video import VideoWriter, read, rgb_to_yuv

from .clips import clip, ffmpeg, flat_yuv, golden, lossless, onset_s, pictures, probe_json, run, sound_md5

WH = (160, 90)
FPS = Fraction(30)


def noise(seed: int, wh: tuple[int, int] = WH, full_range: bool = False) -> Yuv:
    rng = np.random.default_rng(seed)
    w, h = wh
    half = (h + 1) // 2, (w + 1) // 2
    planes = (rng.integers(16, 236, shape, np.uint8) for shape in ((h, w), half, half))
    return Yuv(*planes, full_range=full_range)


def copy_video(source: Path, out: Path, **options: Any) -> VideoWriter:
    with (
        read(source, wh=(32, 18), keep_picture=True) as reader,
        VideoWriter(out, reader.info.wh, reader.info.fps, audio_from=source, **options) as writer,
    ):
        for frame in reader:
            assert frame.picture is not None
            writer.write(frame.picture, frame.pts_s)
    return writer


def stream_of(path: Path, kind: str = "v") -> dict[str, Any]:
    found: list[dict[str, Any]] = probe_json(path, "-select_streams", f"{kind}:0", "-show_streams")["streams"]
    return found[0] if found else {}


@pytest.mark.parametrize(
    "name",
    [
        "h264-bframes.mp4",
        "h264.mkv",
        "h264-offset.ts",
        "h264-offset.mp4",
        "h264-variable.mp4",
        "h264-bframes-without-pts.avi",
        "mpeg4-odd.mp4",
        "aac-offset.ts",
        "vorbis-offset.mkv",
    ],
)
def test_times_are_kept(tmp_path: Path, name: str) -> None:
    copy_video(clip(name), tmp_path / "out.mp4")
    assert golden(tmp_path / "out.mp4").pts_s == pytest.approx(golden(clip(name)).pts_s, abs=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_pictures_are_kept_in_order_and_close(tmp_path: Path) -> None:
    copy_video(clip("h264-bframes.mp4"), tmp_path / "out.mp4", crf=12)
    before, after = (
        np.frombuffer(pictures(path, "yuv420p"), np.uint8).reshape(21, -1).astype(float)
        for path in (clip("h264-bframes.mp4"), tmp_path / "out.mp4")
    )
    errors = ((before[:, None] - after[None]) ** 2).mean(2)  # each with each
    assert errors.argmin(1).tolist() == list(range(21))
    assert 10 * np.log10(255**2 / errors.diagonal()).min() > 38


def test_players_get_what_they_need(tmp_path: Path) -> None:
    copy_video(clip("h264-bframes.mp4"), tmp_path / "out.mp4")
    stream = stream_of(tmp_path / "out.mp4")
    assert stream["codec_name"] == "h264"
    assert stream["pix_fmt"] == "yuv420p"
    assert (stream["width"], stream["height"]) == WH
    assert Fraction(stream["avg_frame_rate"]) == Fraction(30_000, 1001)
    assert (stream["color_range"], stream["color_space"]) == ("tv", "smpte170m")
    assert float(stream["duration"]) == pytest.approx(21 * 1001 / 30_000, abs=1e-3)  # the last picture lasts too
    data = (tmp_path / "out.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # starts to play before it is downloaded


def test_hd_is_flagged_bt709(tmp_path: Path) -> None:
    red = rgb_to_yuv(np.broadcast_to(np.array([255, 0, 0], np.uint8), (720, 1280, 3)))
    with VideoWriter(tmp_path / "red.mp4", (1280, 720), FPS) as writer:
        writer.write(red, 0.0)
    stream = stream_of(tmp_path / "red.mp4")
    assert [stream[key] for key in ("color_space", "color_primaries", "color_transfer")] == ["bt709"] * 3
    rgb = np.frombuffer(pictures(tmp_path / "red.mp4", "rgb24"), np.uint8).reshape(720, 1280, 3)
    np.testing.assert_allclose(rgb[300, 600], (255, 0, 0), atol=4)


@pytest.mark.parametrize("name", ["h264-full-range.mp4", "mjpeg.avi"])
def test_full_range_is_kept(tmp_path: Path, name: str) -> None:
    copy_video(clip(name), tmp_path / "out.mp4", crf=5)
    assert stream_of(tmp_path / "out.mp4")["color_range"] == "pc"
    assert abs(mean_grey(tmp_path / "out.mp4") - mean_grey(clip(name))) < 0.5


@pytest.mark.parametrize(("file_full", "picture_full"), [(False, True), (True, False)])
def test_another_range_is_converted(tmp_path: Path, file_full: bool, picture_full: bool) -> None:
    level = 200
    grey = Yuv(np.full((90, 160), level, np.uint8), *(np.full((45, 80), 128, np.uint8),) * 2, full_range=picture_full)
    with VideoWriter(tmp_path / "out.mp4", WH, FPS, full_range=file_full) as writer:
        writer.write(grey, 0.0)
    assert stream_of(tmp_path / "out.mp4")["color_range"] == ("pc" if file_full else "tv")
    expected = level if picture_full else (level - 16) * 255 / 219
    assert mean_grey(tmp_path / "out.mp4") == pytest.approx(expected, abs=1.5)


def mean_grey(path: Path) -> float:
    """Of the first picture, full range, by ffmpeg."""
    rgb = np.frombuffer(pictures(path, "rgb24"), np.uint8)
    return float(rgb[: stream_of(path)["width"] * stream_of(path)["height"] * 3].mean())


def test_odd_sizes_repeat_the_last_column_and_row(tmp_path: Path) -> None:
    y, x = np.mgrid[:187, :333]
    grey = np.full((94, 167), 128, np.uint8)
    with VideoWriter(tmp_path / "odd.mp4", (333, 187), FPS, crf=1) as writer:
        writer.write(Yuv((16 + (x + y) // 3).astype(np.uint8), grey, grey), 0.0)
    out = np.frombuffer(pictures(tmp_path / "odd.mp4", "gray"), np.uint8).reshape(188, 334).astype(int)
    stretched = (16 + (x + y) // 3 - 16) * 255 / 219
    assert np.abs(out[:187, :333] - stretched).max() <= 6
    assert np.abs(out[:187, 333] - stretched[:, 332]).max() <= 6
    assert np.abs(out[187, :333] - stretched[186]).max() <= 6


# Sound


@pytest.mark.parametrize(
    ("name", "bitstream"),
    [("aac.mp4", ()), ("mp3.avi", ()), ("opus.webm", ()), ("aac-offset.ts", ("-bsf:a", "aac_adtstoasc"))],
)
def test_sound_is_copied_to_the_bit(tmp_path: Path, name: str, bitstream: tuple[str, ...]) -> None:
    writer = copy_video(clip(name), tmp_path / "out.mp4")
    assert sound_md5(tmp_path / "out.mp4") == sound_md5(clip(name), *bitstream)
    assert writer.problems == []


@pytest.mark.parametrize("name", ["pcm.avi", "vorbis-offset.mkv"])
def test_sound_that_mp4_cannot_hold_becomes_aac(tmp_path: Path, name: str) -> None:
    copy_video(clip(name), tmp_path / "out.mp4")
    sound = stream_of(tmp_path / "out.mp4", "a")
    assert (sound["codec_name"], sound["sample_rate"], sound["channels"]) == ("aac", "44100", 1)


@pytest.mark.parametrize("name", ["aac.mp4", "aac-offset.ts", "mp3.avi", "opus.webm", "pcm.avi", "vorbis-offset.mkv"])
def test_sound_stays_in_step_with_the_picture(tmp_path: Path, name: str) -> None:
    """The tone begins 0.25 s after the sound does, on the same clock as the pictures, in the copy as in the source."""
    copy_video(clip(name), tmp_path / "out.mp4")
    assert onset_s(tmp_path / "out.mp4") == pytest.approx(onset_s(clip(name)), abs=0.004)
    assert golden(tmp_path / "out.mp4").pts_s[0] == pytest.approx(golden(clip(name)).pts_s[0], abs=1e-5)


def test_a_silent_source_gives_a_silent_video(tmp_path: Path) -> None:
    copy_video(clip("h264-bframes.mp4"), tmp_path / "out.mp4")
    assert stream_of(tmp_path / "out.mp4", "a") == {}


def test_unreadable_sound_is_told_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with VideoWriter(tmp_path / "out.mp4", WH, FPS, audio_from=tmp_path / "text.mp4") as writer:
        writer.write(noise(0), 0.0)
    assert writer.problems[0].startswith("no sound: ")
    assert stream_of(tmp_path / "out.mp4")["nb_frames"] == "1"


def test_a_folder_has_no_sound(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", WH, FPS, audio_from=tmp_path) as writer:
        writer.write(noise(0), 0.0)
    assert writer.problems == []


# What goes wrong


def test_an_existing_file_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_text("before")
    with VideoWriter(out, WH, FPS) as writer:
        writer.write(noise(0), 0.0)
        assert out.read_text() == "before"
    assert stream_of(out)["codec_name"] == "h264"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("n", [0, 1, 60])
def test_nothing_is_left_after_an_exception(tmp_path: Path, error: type[BaseException], n: int) -> None:
    def fail() -> None:
        with VideoWriter(tmp_path / "out.mp4", WH, FPS, audio_from=clip("aac.mp4")) as writer:
            for i in range(n):
                writer.write(noise(i), i / 30)
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_no_picture_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no picture"), VideoWriter(tmp_path / "out.mp4", WH, FPS):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["missing/out.mp4", "file.txt/out.mp4", "."])
def test_a_place_that_cannot_be_written_is_said_before_the_work(tmp_path: Path, where: str) -> None:
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(OutputError) as error:
        VideoWriter(tmp_path / where, WH, FPS).__enter__()
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory, for the time of a test."""
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("file systems can be mounted by root only")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_disk_is_said_before_the_work(tmp_path: Path) -> None:
    with mounted(tmp_path, "ro"), pytest.raises(OutputError, match="Read-only file system"):
        VideoWriter(tmp_path / "out.mp4", WH, FPS).__enter__()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_said_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        VideoWriter(tmp_path / "out.mp4", WH, FPS).__enter__()


def write_noise(path: Path) -> int:
    """The size of the file."""
    with VideoWriter(path, WH, FPS) as writer:
        for i in range(30):
            writer.write(noise(i), i / 30)
    return path.stat().st_size


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Writes beyond `size` fail, as on a full disk (Python ignores the signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0, 0.5, 0.9, 0.999])
def test_a_full_disk_leaves_nothing(tmp_path: Path, share: float) -> None:
    """Also where the room ends while the header is moved to the front."""
    size = write_noise(tmp_path / "whole.mp4")
    with files_up_to(int(size * share)), pytest.raises(OutputError, match=r"out\.mp4 cannot be written") as error:
        write_noise(tmp_path / "out.mp4")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.mp4"]


def test_a_really_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with mounted(tmp_path, "size=100k"):
        with pytest.raises(OutputError, match="No space left on device"):
            write_noise(tmp_path / "out.mp4")
        assert list(tmp_path.iterdir()) == []


def test_times_finer_than_a_tick_keep_their_order(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", WH, FPS) as writer:
        for n, pts_s in enumerate((1.0, 1.000_001, 1.000_002, 2.0)):
            writer.write(noise(n), pts_s)
    with read(tmp_path / "out.mp4") as reader:
        times = [frame.pts_s for frame in reader]
    assert times == pytest.approx([1.0, 1.0 + 1 / 90_000, 1.0 + 2 / 90_000, 2.0], abs=1e-6)


def test_misuse_is_an_error_at_once(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", WH, FPS) as writer:
        writer.write(noise(0), 1.0)
        with pytest.raises(ValueError, match="must grow"):
            writer.write(noise(1), 1.0)
        with pytest.raises(ValueError, match=r"\(160, 90\)"):
            writer.write(noise(1, (64, 36)), 2.0)
    assert stream_of(tmp_path / "out.mp4")["nb_frames"] == "1"


def test_memory_stays_flat(tmp_path: Path) -> None:
    """Ten times the pictures, read and written, take no more memory: in a process of its own, whose peak is known."""
    long = lossless(
        tmp_path / "long.mkv", [flat_yuv((640, 360), 16 + i % 200, 128, 128) for i in range(30)], (640, 360), "yuv420p"
    )
    ffmpeg("-stream_loop", "9", "-i", long, "-c", "copy", tmp_path / "longer.mkv")
    code = """
import resource, sys
from rallytrace.video import VideoWriter, read
with read(sys.argv[1], keep_picture=True) as r, VideoWriter(sys.argv[2], r.info.wh, r.info.fps) as w:
    for f in r: w.write(f.picture, f.pts_s)
print(f.index + 1, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = {}
    for source in (long, tmp_path / "longer.mkv"):
        n, peak = run(sys.executable, "-c", code, source, tmp_path / "out.mp4").split()
        peaks[int(n)] = int(peak)
    assert list(peaks) == [30, 300]
    assert peaks[300] < 1.1 * peaks[30]
