"""Reading against what ffmpeg's command line finds in the same files."""

from __future__ import annotations

import gc
import random
import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from rallytrace import RallyOptions, load_network, make_clip, track_video
from rallytrace.errors import VideoError
from rallytrace.types import Image
from rallytrace.video import encode_jpeg, encode_png, probe, read

from .clips import CUT, NAMES, TURNED, clip, ffmpeg, flat_yuv, golden, lossless, pictures, probe_json, timed, yuv_md5
from .networks import Brightest

EXACT = [n for n in NAMES if not n.startswith(("hevc-10bit", "ffv1", "aac", "mp3", "pcm", "opus", "vorbis"))]
CONVERTED = [n for n in NAMES if n.startswith(("hevc-10bit", "ffv1"))]
WITHOUT_TIMES = "h264-raw.h264"


def tolerance_s(name: str) -> float:
    return 1e-5 if name == WITHOUT_TIMES else 1e-7  # there ffmpeg starts a tick late


@pytest.mark.parametrize("name", EXACT)
def test_every_picture_in_order_at_its_time_to_the_bit(name: str) -> None:
    wanted = golden(clip(name))
    with read(clip(name), wh=(32, 18), keep_picture=True) as reader:
        frames = list(reader)
        info = reader.info
    assert [frame.index for frame in frames] == list(range(len(wanted.pts_s)))
    assert [frame.pts_s for frame in frames] == pytest.approx(wanted.pts_s, abs=tolerance_s(name))
    assert [yuv_md5(frame.picture) for frame in frames if frame.picture] == wanted.md5
    assert reader.problems == []
    assert info.start_s == frames[0].pts_s
    assert info.n_frames in (None, len(frames))
    assert not info.is_live


@pytest.mark.parametrize("name", CONVERTED)
def test_other_pixel_formats_become_8_bit_420(name: str) -> None:
    """Against ffmpeg's own conversion, whose dither and chroma filter differ a little."""
    wanted = np.frombuffer(pictures(clip(name), "yuv420p"), np.uint8).astype(int)
    with read(clip(name), keep_picture=True) as reader:
        found = [frame.picture for frame in reader]
    planes = [plane.ravel() for p in found if p for plane in (p.y, p.u, p.v)]
    difference = np.abs(np.concatenate(planes) - wanted)
    assert len(found) == len(golden(clip(name)).pts_s)
    assert difference.mean() < 1
    assert np.quantile(difference, 0.99) <= 4


@pytest.mark.parametrize("name", ["h264-bframes.mp4", "hevc-10bit.mkv", "ffv1-422.mkv", "ffv1-rgb.mkv", *TURNED])
@pytest.mark.parametrize("colour", ["grey", "rgb"])
def test_images_show_the_upright_picture(name: str, colour: str) -> None:
    with read(clip(name), colour=colour) as reader:  # type: ignore[arg-type]
        images = np.stack([frame.image for frame in reader])
        w, h = reader.info.wh
    rgb = np.frombuffer(pictures(clip(name), "rgb24"), np.uint8).reshape(-1, h, w, 3).astype(int)
    if colour == "rgb":
        limit = 6 if "10bit" in name else 0.5  # of 10 bits, one interpolates the chroma and the other does not
        assert np.abs(images - rgb).mean() < limit
    else:
        luma = rgb @ (299, 587, 114) / 1000  # BT.601
        assert np.abs(images - luma).mean() < 2.5  # saturated colours clip
        assert np.quantile(np.abs(images - luma), 0.9) <= 6


def test_upright_size_and_turn_are_told() -> None:
    assert {name: (probe(clip(name)).wh, probe(clip(name)).rotation_deg) for name in TURNED} == {
        "h264-turned-90.mp4": ((90, 160), 90),
        "h264-turned-180.mp4": ((160, 90), 180),
        "h264-turned-270.mp4": ((90, 160), 270),
        "h264-mirrored.mp4": ((160, 90), 180),  # the matrix does not tell a mirror from a turn by its angle
        "h264-mirrored-turned-90.mp4": ((90, 160), 90),
    }


def test_wh_is_of_the_upright_picture() -> None:
    with (
        read(clip("h264-turned-90.mp4"), wh=(45, 80), keep_picture=True) as turned,
        read(clip("h264-bframes.mp4")) as plain,
    ):
        frame, stored = next(turned), next(plain)
    assert frame.image.shape == (80, 45)
    assert frame.picture is not None
    assert frame.picture.y.shape == (160, 90)
    upright = np.rot90(stored.image.astype(float))  # counterclockwise
    means = upright.reshape(80, 2, 45, 2).mean((1, 3))
    assert np.quantile(np.abs(frame.image - means), 0.99) <= 2  # the stretch to full range clips before or after


@pytest.mark.parametrize("name", NAMES)
def test_probe_agrees_with_ffprobe(name: str) -> None:
    info = probe(clip(name))
    found = probe_json(clip(name), "-show_streams", "-count_frames")["streams"]
    picture = next(stream for stream in found if stream["codec_type"] == "video")
    stored_wh = picture["width"], picture["height"]
    assert info.wh == (stored_wh[::-1] if info.rotation_deg % 180 else stored_wh)
    assert info.codec == picture["codec_name"]
    assert info.pixel_format == picture["pix_fmt"]
    assert info.has_audio == any(stream["codec_type"] == "audio" for stream in found)
    assert info.n_frames in (None, int(picture["nb_read_frames"]))
    if "variable" not in name:
        assert info.fps == (25 if "odd" in name else Fraction(30_000, 1001))
    if info.duration_s is not None:
        assert info.duration_s == pytest.approx(int(picture["nb_read_frames"]) / info.fps, abs=0.15)


def test_the_length_is_known_where_the_file_says_it() -> None:
    assert probe(clip("h264-bframes.mp4")).n_frames == 21
    assert probe(clip(CUT)).n_frames == 12  # of 21 stored: the rest is hidden by the edit list
    assert probe(clip("h264.mkv")).n_frames is None


def test_full_range_is_kept_and_limited_too() -> None:
    for name, full in (("h264-full-range.mp4", True), ("h264-bframes.mp4", False), ("mjpeg.avi", True)):
        with read(clip(name), keep_picture=True) as reader:
            picture = next(reader).picture
        assert picture is not None
        assert picture.full_range is full


def test_a_reader_closed_early_ends(tmp_path: Path) -> None:
    reader = read(clip("h264-bframes.mp4"))
    next(reader)
    reader.close()
    reader.close()
    assert list(reader) == []
    assert reader.info.fps == Fraction(30_000, 1001)  # plain values: nothing of FFmpeg's is touched


def test_one_and_two_pictures_and_tiny_ones(tmp_path: Path) -> None:
    for n in (1, 2):
        ffmpeg(
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=64x36:rate=30",
            "-frames:v",
            str(n),
            "-c:v",
            "libx264",
            tmp_path / "s.mp4",
        )
        with read(tmp_path / "s.mp4", wh=(32, 18), keep_picture=True) as reader:
            assert len(list(reader)) == n
        assert reader.problems == []


def test_frames_do_not_pile_up() -> None:
    """PyAV ties a frame and its side data into a cycle, which would keep decoded pictures until Python collects."""
    name = clip("h264-bframes.mp4")
    gc.collect()
    gc.disable()
    try:
        with read(name, keep_picture=True) as reader:
            for _ in reader:
                pass
        kinds = [type(thing).__name__ for thing in gc.get_objects()]
    finally:
        gc.enable()
    assert kinds.count("SideDataContainer") <= 1


# Times that are missing or wrong


def test_times_that_go_back_are_mended_and_told(tmp_path: Path) -> None:
    """Two recordings joined byte by byte: the second starts over."""
    data = clip("h264-offset.ts").read_bytes()
    (tmp_path / "joined.ts").write_bytes(data + data)
    with read(tmp_path / "joined.ts", wh=(32, 18)) as reader:
        times = [frame.pts_s for frame in reader]
    assert len(times) == 42
    assert times == pytest.approx([times[0] + i * 1001 / 30_000 for i in range(42)], abs=1e-4)
    assert any("time repeats or goes back: 21" in line for line in reader.problems)
    assert any("jumps of the clock back: 1, first at frame 21 (2.17 s)" in line for line in reader.problems)


@pytest.mark.parametrize("doubled", [{7: 6}, {3: 2, 9: 8, 10: 8}, {n: n - 1 for n in range(1, 20, 2)}])
def test_a_time_that_repeats_moves_no_other(tmp_path: Path, doubled: dict[int, int]) -> None:
    true = [frame / 25 for frame in range(30)]
    path = timed(tmp_path / "doubled.mkv", [true[doubled.get(n, n)] for n in range(30)])
    with read(path, wh=(32, 18)) as reader:
        times = [frame.pts_s for frame in reader]
    assert times == pytest.approx(true, abs=1e-9)  # the pictures of one time share out the stretch until the next
    assert all(a < b for a, b in pairwise(times))
    assert any(f"repeats or goes back: {len(doubled)};" in line for line in reader.problems)
    track_video(path, tmp_path, network=load_network("fast", threads=1))
    assert probe_json(tmp_path / "doubled.tracked.mp4", "-show_streams")["streams"][0]["nb_frames"] == "30"


@pytest.mark.parametrize("next_s", [0.44, 2.84])
def test_a_time_that_repeats_very_often_ends_nothing(tmp_path: Path, next_s: float) -> None:
    """As a camera whose clock stands still, which then goes on as if nothing had been, or from where it stood."""
    said = [n * 0.04 for n in range(10)] + [0.4] * 61 + [next_s + n * 0.04 for n in range(10)]
    path = timed(tmp_path / "stands.mkv", said)
    result = track_video(path, tmp_path, network=Brightest())
    with read(path, wh=(32, 18)) as reader:
        times = [frame.pts_s for frame in reader]
    assert all(a < b for a, b in pairwise(times))
    assert times[71:] == pytest.approx(said[71:])
    assert result.frames == 81
    assert probe_json(tmp_path / "stands.tracked.mp4", "-show_streams")["streams"][0]["nb_frames"] == "81"


def test_a_change_of_size_is_resized_and_told(tmp_path: Path) -> None:
    small = (
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=80x46:rate=30000/1001:duration=0.3",
        "-c:v",
        "libx264",
        "-pix_fmt",
        "yuv420p",
    )
    ffmpeg(*small, "-output_ts_offset", "10", tmp_path / "small.ts")
    (tmp_path / "joined.ts").write_bytes(clip("h264-offset.ts").read_bytes() + (tmp_path / "small.ts").read_bytes())
    with read(tmp_path / "joined.ts", keep_picture=True) as reader:
        frames = list(reader)
    assert {frame.image.shape for frame in frames} == {(90, 160)}
    assert {frame.picture.y.shape for frame in frames if frame.picture} == {(90, 160)}
    assert [line for line in reader.problems if "size changes at frame 21" in line]


# Folders of pictures


def numbered(folder: Path, names: list[str], wh: tuple[int, int] = (40, 20)) -> Path:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        image: Image = np.full((wh[1], wh[0], 3), 10 * i, np.uint8)
        (folder / name).write_bytes(encode_jpeg(image, 95) if name.endswith("jpg") else encode_png(image))
    return folder


@pytest.mark.parametrize(
    "names",
    [[f"frame{i}.png" for i in range(12)], [f"{i:06d}.jpg" for i in range(5)], ["a2.png", "a10.png", "b1.png"]],
)
def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path, names: list[str]) -> None:
    folder = numbered(tmp_path / "pictures", names)
    (folder / "notes.txt").write_text("not a picture")
    (folder / "._frame3.png").write_bytes(b"what macOS leaves on foreign disks")
    with read(folder) as reader:
        frames = list(reader)
    assert [round(float(frame.image.mean()) / 10) for frame in frames] == list(range(len(names)))
    assert [frame.pts_s for frame in frames] == pytest.approx([i / 30 for i in range(len(names))])
    assert (reader.info.n_frames, reader.info.fps, reader.info.wh) == (len(names), 30, (40, 20))
    assert probe(folder) == reader.info


@pytest.mark.parametrize("suffix", ["bmp", "webp", "tif", "png", "jpg"])
def test_other_makers_pictures(tmp_path: Path, suffix: str) -> None:
    codec = ("-c:v", "libwebp") if suffix == "webp" else ()  # its default would make one animation
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "color=0xc86432:size=64x36",
        "-frames:v",
        "3",
        "-q:v",
        "1",
        *codec,
        tmp_path / f"%d.{suffix}",
    )
    with read(tmp_path, colour="rgb", keep_picture=True, fps=Fraction(60)) as reader:
        frames = list(reader)
    assert [frame.pts_s for frame in frames] == pytest.approx([0, 1 / 60, 2 / 60])
    for frame in frames:
        np.testing.assert_allclose(frame.image[10, 20], (200, 100, 50), atol=4)
        assert frame.picture is not None


def test_pictures_of_two_sizes_are_refused(tmp_path: Path) -> None:
    folder = numbered(tmp_path / "mixed", ["1.png", "2.png"])
    numbered(folder, ["3.png"], (20, 40))
    with read(folder) as reader, pytest.raises(VideoError, match=r"3\.png is \(20, 40\), expected \(40, 20\)"):
        list(reader)


def test_a_broken_picture_in_a_folder_is_named(tmp_path: Path) -> None:
    folder = numbered(tmp_path / "broken", ["1.png", "2.png"])
    (folder / "2.png").write_bytes((folder / "1.png").read_bytes()[:60])
    with read(folder) as reader, pytest.raises(VideoError, match=r"2\.png"):
        list(reader)


def test_fps_is_for_folders() -> None:
    with pytest.raises(ValueError, match="states its own"):
        read(clip("h264-bframes.mp4"), fps=Fraction(25))


# What cannot be read


def one_line(error: pytest.ExceptionInfo[VideoError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert 20 < len(text) < 400
    return text


def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("Dear diary,\n" * 100)
    (tmp_path / "noise.mp4").write_bytes(random.Random(0).randbytes(5000))
    (tmp_path / "folder").mkdir()
    for suffix in ("m4a", "mp3", "wav"):
        ffmpeg("-f", "lavfi", "-i", "sine=duration=0.5", tmp_path / f"sound.{suffix}")
    cover = ("-f", "lavfi", "-i", "color=red:size=64x64:duration=0.04", "-map", "0", "-map", "1", "-c:v", "mjpeg")
    ffmpeg(
        "-i", tmp_path / "sound.mp3", *cover, "-c:a", "copy", "-disposition:v", "attached_pic", tmp_path / "cover.mp3"
    )
    head = clip("h264-bframes.mp4").read_bytes()
    (tmp_path / "no-index.mp4").write_bytes(head[: len(head) // 2])  # the index of this one is at the end
    expected = {
        "missing.mp4": "does not exist",
        "empty.mp4": "is empty",
        "text.mp4": "cannot be opened as a video",
        "noise.mp4": "cannot be opened as a video",
        "folder": "holds no pictures",
        "sound.m4a": "holds only sound",
        "sound.mp3": "holds only sound",
        "sound.wav": "holds only sound",
        "cover.mp3": "holds only sound",
        "no-index.mp4": "cannot be opened as a video",
    }
    for name, what in expected.items():
        for use in (probe, read):
            with pytest.raises(VideoError, match=what) as error:
                use(tmp_path / name)
            assert str(tmp_path / name) in one_line(error)


def test_no_decodable_picture(tmp_path: Path) -> None:
    data = bytearray(clip("h264-bframes.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    data[start : start + size] = bytes(size)
    (tmp_path / "black-hole.mp4").write_bytes(data)
    with pytest.raises(VideoError, match="no picture that can be decoded") as error:
        read(tmp_path / "black-hole.mp4")
    one_line(error)


def test_a_giant_is_refused(tmp_path: Path) -> None:
    wh = 16_400, 16
    with pytest.raises(VideoError, match="16400x16, expected at most 16384 px") as error:
        probe(lossless(tmp_path / "giant.mkv", [flat_yuv(wh, 16, 128, 128)], wh, "yuv420p"))
    one_line(error)


def test_a_hostile_playlist_opens_nothing(tmp_path: Path) -> None:
    """Playlists name other files; one that pretends to be a video must not make FFmpeg read them."""
    victim = clip("h264-offset.ts")
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:1,\n{victim}\n#EXT-X-ENDLIST\n"
    lists = {
        "hls.mp4": hls,
        "hls.m3u8": hls,
        "concat.mp4": f"ffconcat version 1.0\nfile '{victim}'\n",
        "image%03d.mp4": "",
        "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "dash.mpd": f'<?xml version="1.0"?><MPD type="static" mediaPresentationDuration="PT1S"><Period><AdaptationSet '
        f'mimeType="video/mp4"><Representation id="1"><BaseURL>{victim}</BaseURL></Representation></AdaptationSet>'
        "</Period></MPD>",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError):
            probe(tmp_path / name)


def test_paths_are_paths_whatever_they_look_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("match:1.mp4", "100%d.mp4", "-i.mp4", "spiel größe.mp4"):
        Path(name).write_bytes(clip("h264-bframes.mp4").read_bytes())
        assert probe(name).n_frames == 21
    with pytest.raises(VideoError, match="does not exist"):
        probe("concat:match:1.mp4|match:1.mp4")


def test_unknown_schemes_and_missing_cameras() -> None:
    with pytest.raises(VideoError, match="unknown scheme ftp"):
        probe("ftp://example.org/x.mp4")
    with pytest.raises(VideoError, match="camera:97") as error:
        probe("camera:97")
    one_line(error)


# What can be read in part


def damaged(path: Path, source: str, seed: int = 0) -> Path:
    """Noise over two places in the middle half of the file."""
    data, rng = bytearray(clip(source).read_bytes()), random.Random(seed)
    for _ in range(2):
        at = int(len(data) * rng.uniform(0.4, 0.6))
        data[at : at + 150] = rng.randbytes(150)
    path.write_bytes(data)
    return path


def test_a_truncated_mp4_gives_what_there_is_and_says_so(tmp_path: Path) -> None:
    long = ("-f", "lavfi", "-i", "testsrc2=size=160x90:rate=30:duration=4", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    ffmpeg(*long, "-movflags", "+faststart", tmp_path / "whole.mp4")
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with read(tmp_path / "cut.mp4", wh=(32, 18)) as reader:
        times = [frame.pts_s for frame in reader]
    assert 30 < len(times) < 90
    assert times == pytest.approx(golden(tmp_path / "cut.mp4").pts_s)
    assert reader.problems[0].startswith(f"decoding stopped at frame {len(times)} ({times[-1]:.2f} s) of about 120")
    with read(tmp_path / "whole.mp4", wh=(32, 18)) as reader:
        assert len(list(reader)) == 120
    assert reader.problems == []


@pytest.mark.parametrize("suffix", ["mkv", "avi"])
def test_other_truncated_files_say_so_too(tmp_path: Path, suffix: str) -> None:
    long = ("-f", "lavfi", "-i", "testsrc2=size=160x90:rate=30:duration=5", "-c:v", "mpeg4", "-g", "15")
    ffmpeg(*long, tmp_path / f"whole.{suffix}")
    data = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
    with read(tmp_path / f"cut.{suffix}", wh=(32, 18)) as reader:
        assert 40 < len(list(reader)) < 110
    assert "truncated" in reader.problems[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["h264-bframes.mp4", "h264.mkv", "h264-offset.ts", "hevc.mp4", "mpeg4-bframes.avi"])
def test_damage_in_the_middle_costs_no_more_than_it_must(tmp_path: Path, name: str, seed: int) -> None:
    path = damaged(tmp_path / name, name, seed)
    with read(path, wh=(32, 18)) as reader:
        times = [frame.pts_s for frame in reader]
    assert len(times) == len(golden(path).pts_s)
    assert times == sorted(set(times))


@pytest.mark.parametrize(
    ("name", "what"), [("mpeg4-bframes.avi", "damaged ones: [1-9]"), ("h264-bframes.mp4", "decoded: 1")]
)
def test_damage_is_counted(tmp_path: Path, name: str, what: str) -> None:
    with read(damaged(tmp_path / name, name, seed=1), wh=(32, 18)) as reader:
        list(reader)
    assert re.search(what + r".*near frame \d+ \(\d+\.\d\d s\)", "\n".join(reader.problems))


def test_give_changes_what_the_next_frames_are(tmp_path: Path) -> None:
    """For callers whose size depends on what the video turns out to be: no second opening."""
    make_clip(tmp_path / "rally.mp4", RallyOptions(wh=(320, 180), seconds=0.2, seed=1))
    with read(tmp_path / "rally.mp4") as reader:
        reader.give(wh=(64, 36), colour="rgb", keep_picture=True)
        first = next(reader)
        reader.give(wh=(32, 18), colour="grey")
        second = next(reader)
    assert (first.index, first.image.shape) == (0, (36, 64, 3))
    assert first.picture is not None
    assert first.picture.y.shape == (180, 320)
    assert (second.index, second.image.shape, second.picture) == (1, (18, 32), None)
