"""What `track` makes of odd clocks and of files with several streams, made by ffmpeg's own command line."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from rallytrace import Tracker, Trajectory, VideoError, track_video, video
from rallytrace.errors import InputError
from rallytrace.track import TrackResult
from rallytrace.types import VideoInfo

from .clips import X264, clip, ffmpeg, golden, probe_json
from .networks import Brightest

PART = ("-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25:duration=1.2")
TONE = ("-f", "lavfi", "-i", "aevalsrc='if(between(t,0.4,0.6),sin(2764*t),0)':duration=1.2:sample_rate=44100")


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.2 s of transport stream with a tone from 0.4 to 0.6 s."""
    path = tmp_path_factory.mktemp("part") / "part.ts"
    ffmpeg(*PART, *TONE, *X264, "-bf", "2", "-c:a", "aac", path)
    return path


def moved(part: Path, out: Path, start_s: float, *options: str) -> Path:
    ffmpeg("-i", part, "-map", "0", "-c", "copy", *options, "-output_ts_offset", str(start_s), out)
    return out


def onsets_s(path: Path) -> list[float]:
    """When each tone begins, by the file's own clock."""
    options = ("-map", "0:a:0", "-ac", "1", "-ar", "8000", "-af", "aresample=async=1:first_pts=0", "-f", "f32le", "-")
    loud = np.abs(np.frombuffer(ffmpeg("-copyts", "-i", path, *options), np.float32)) > 0.05
    places = np.flatnonzero(loud)
    begins = places[np.diff(places, prepend=-10_000) > 800]
    return [float(each) / 8000 for each in begins]


def track(path: Path) -> tuple[TrackResult, list[float]]:
    """The result, and the times of the drawn pictures by ffmpeg's clock."""
    result = track_video(path, path.parent / "out", network=Brightest(), overwrite=True)
    assert result.video
    return result, golden(result.video).pts_s


@pytest.mark.parametrize(
    ("name", "start_s", "lost_s"),
    [("late.ts", 72_000.0, 0.0), ("late.mkv", 72_000.0, 0.0), ("negative.mp4", -0.2, 0.2), ("wraps.ts", 95_442.4, 0.0)],
)
def test_a_drawn_video_begins_at_zero(part: Path, tmp_path: Path, name: str, start_s: float, lost_s: float) -> None:
    """FFmpeg reads a transport stream that starts just before its clock wraps as one that starts below 0; an mp4 hides
    by an edit list what lies there."""
    source = moved(part, tmp_path / name, start_s, *(("-bsf:a", "aac_adtstoasc") if name.endswith("mp4") else ()))
    result, drawn = track(source)
    with video.read(source, wh=(32, 18)) as reader:
        told = [frame.pts_s for frame in reader]
    assert drawn == pytest.approx([each - told[0] for each in told], abs=1e-3)
    assert Trajectory.from_csv(result.csv).pts_s == pytest.approx(told, abs=1e-3)
    assert result.video
    assert float(probe_json(result.video, "-show_format")["format"]["duration"]) == pytest.approx(1.2 - lost_s, abs=0.1)
    assert onsets_s(result.video) == pytest.approx([0.4 - lost_s], abs=0.05)


@pytest.mark.parametrize(
    "starts_s", [(None, None), (None, None, None), (None, 3600.0), (3600.0, None), (50.0, 20.0, 5.0)]
)
def test_sound_and_picture_of_joined_recordings_are_mended_by_one_clock(
    part: Path, tmp_path: Path, starts_s: tuple[float | None, ...]
) -> None:
    parts = [part if s is None else moved(part, tmp_path / f"{n}.ts", s) for n, s in enumerate(starts_s)]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(each.read_bytes() for each in parts))
    result, drawn = track(joined)
    assert result.frames == len(drawn) == 30 * len(parts)
    assert drawn == pytest.approx([n / 25 for n in range(len(drawn))], abs=1e-3)
    times = Trajectory.from_csv(result.csv).pts_s
    assert all(a < b for a, b in pairwise(times))
    assert result.video
    assert onsets_s(result.video) == pytest.approx([0.4 + 1.2 * n for n in range(len(parts))], abs=0.03)
    assert any("jumps of the clock" in line for line in result.problems)


def test_joined_recordings_of_which_one_is_silent(part: Path, tmp_path: Path) -> None:
    ffmpeg("-i", part, "-an", "-c", "copy", tmp_path / "silent.ts")
    silent = (tmp_path / "silent.ts").read_bytes()
    (tmp_path / "joined.ts").write_bytes(part.read_bytes() + silent + part.read_bytes())
    result, _ = track(tmp_path / "joined.ts")
    assert result.video
    assert onsets_s(result.video) == pytest.approx([0.4, 2.8], abs=0.03)
    (tmp_path / "joined.ts").write_bytes(silent + part.read_bytes())
    result, _ = track(tmp_path / "joined.ts")
    assert result.frames == 60
    assert any("the sound of" in line and "is left out" in line for line in result.problems)


def test_sound_that_is_encoded_anew_is_mended_too(part: Path, tmp_path: Path) -> None:
    """MPEG program stream with PCM-like DVD sound: a codec that mp4 has no room for."""
    ffmpeg("-i", part, "-c:v", "copy", "-c:a", "pcm_s16be", "-ar", "48000", "-mpegts_flags", "0", tmp_path / "a.vob")
    data = (tmp_path / "a.vob").read_bytes()
    (tmp_path / "joined.vob").write_bytes(data + data)
    result, drawn = track(tmp_path / "joined.vob")
    assert result.video
    assert len(drawn) == 60
    assert onsets_s(result.video) == pytest.approx([0.4, 1.6], abs=0.05)


def test_a_long_still_with_sound_is_no_jump(tmp_path: Path) -> None:
    """A screen recording: no new picture for 14 s, while someone speaks."""
    late = ("-vf", "setpts='(N*0.04+14*gt(N,5))/TB'", "-fps_mode", "vfr", "-t", "15")
    sound = ("-f", "lavfi", "-i", "sine=frequency=440:duration=15")
    ffmpeg(*PART, *sound, *late, *X264, "-c:a", "aac", tmp_path / "still.mkv")
    _, drawn = track(tmp_path / "still.mkv")
    assert drawn[6] - drawn[5] == pytest.approx(14.04, abs=0.01)
    ffmpeg("-i", tmp_path / "still.mkv", "-an", "-c", "copy", tmp_path / "silent.mkv")
    _, drawn = track(tmp_path / "silent.mkv")
    assert drawn[6] - drawn[5] == pytest.approx(0.04, abs=0.01)


# Several streams


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small preview, a large picture that is the default; a first sound, and a second that is the default."""
    path = tmp_path_factory.mktemp("several") / "several.mkv"
    small = ("-f", "lavfi", "-i", "testsrc=size=64x36:rate=25:duration=0.4")
    tones = [each for hz in (300, 3000) for each in ("-f", "lavfi", "-i", f"sine=frequency={hz}:duration=0.4")]
    maps = ("-map", "0", "-map", "1", "-map", "2", "-map", "3", "-c:v:0", "mjpeg", "-c:v:1", "libx264", "-c:a", "aac")
    default = ("-disposition:v:0", "0", "-disposition:v:1", "default")
    sounds = ("-disposition:a:0", "0", "-disposition:a:1", "default", "-metadata:s:a:1", "language=fin")
    ffmpeg(*small, *PART, *tones, *maps, *default, *sounds, "-pix_fmt:v:1", "yuv420p", "-t", "0.4", path)
    return path


def pitch_hz(path: Path) -> float:
    """Of the sound, by its zero crossings."""
    log = subprocess.run(
        ["ffmpeg", "-hide_banner", "-i", str(path), "-map", "0:a:0", "-af", "astats", "-f", "null", "-"],
        capture_output=True,
        check=True,
    ).stderr.decode()
    rate = re.search(r"Zero crossings rate: ([\d.]+)", log)
    assert rate
    return float(rate[1]) * 44_100 / 2


def test_the_default_streams_are_taken_and_named(several: Path, tmp_path: Path) -> None:
    result = track_video(several, tmp_path, network=Brightest())
    assert video.probe(several).wh == (160, 90)
    assert result.video
    assert video.probe(result.video).wh == (160, 90)
    assert pitch_hz(result.video) == pytest.approx(3000, rel=0.1)
    (note,) = result.notes
    assert "the picture is stream 1 (h264 160x90 default)" in note
    assert "the sound is stream 3 (aac 1 ch fin default)" in note
    assert "--stream" in note


def test_without_a_default_the_largest_picture_is_taken(several: Path, tmp_path: Path) -> None:
    ffmpeg("-i", several, "-map", "0:v", "-c", "copy", "-disposition:v", "0", tmp_path / "plain.mkv")
    with video.read(tmp_path / "plain.mkv") as reader:
        assert reader.info.wh == (160, 90)
        assert "stream 1 (h264 160x90)" in reader.notes[0]


@pytest.mark.parametrize("streams", [("0", "2"), ("v:0", "a:0")])
def test_streams_can_be_chosen(several: Path, tmp_path: Path, streams: tuple[str, ...]) -> None:
    result = track_video(several, tmp_path, network=Brightest(), streams=streams)
    assert result.video
    assert video.probe(result.video).wh == (64, 36)
    assert pitch_hz(result.video) == pytest.approx(300, rel=0.1)
    assert result.notes == ()


@pytest.mark.parametrize(
    ("streams", "words"),
    [
        (("7",), "--stream 7: .* expected 0 "),
        (("v:2",), "--stream v:2"),
        (("left",), "--stream 'left': expected the number"),
        (("-1",), "--stream '-1'"),
        (("0", "1"), "names 2 pictures"),
    ],
)
def test_streams_that_are_not_there(several: Path, tmp_path: Path, streams: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        track_video(several, tmp_path / "out", network=Brightest(), streams=streams)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_file_without_a_choice_says_nothing(tmp_path: Path) -> None:
    with video.read(clip("aac.mp4")) as reader:
        assert reader.notes == []
    (tmp_path / "frames").mkdir()
    ffmpeg(*PART, "-frames:v", "2", tmp_path / "frames" / "%d.png")
    with pytest.raises(InputError, match="--stream is for video files"):
        video.read(tmp_path / "frames", streams=("0",))


def test_a_file_that_shrinks_before_it_is_drawn_is_one_line(tmp_path: Path) -> None:
    source = tmp_path / "shrinks.ts"
    data = clip("h264-offset.ts").read_bytes()
    source.write_bytes(data)

    @contextmanager
    def cut(info: VideoInfo) -> Iterator[Tracker]:
        source.write_bytes(data[: len(data) // 2])
        yield Tracker(Brightest(), info.wh)

    with pytest.raises(VideoError, match=r"read again to be drawn on.*--no-video") as error:
        track_video(source, tmp_path / "out", open_tracker=cut)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []
