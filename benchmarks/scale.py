"""How far does it scale? A model of a thousand workers and a million hours of video, and two workers measured here.

python benchmarks/scale.py [--workers 1000] [--hours 1e6] [--price-per-core-hour 0.0425] [--measure]

The model is arithmetic on the constants below, which benchmarks/track.py measured at 720p;
docs/scale.md says what it leaves out. The price is yours to say: the default is $0.68 an hour for 16 vCPU, which
Amazon's page "Spot price per unit hour example" (EC2 Auto Scaling user guide) gives as an example of a price.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rallytrace import RallyOptions, make_clip
from rallytrace.scale.batch import SEGMENT_FRAMES, Tracked, TrackJob, track_many
from rallytrace.scale.cluster import PATIENCE

NETWORK_MS = {"accurate": 8.4, "fast": 3.6}  # CPU-ms a frame, with windows, background and decoding of heatmaps
DECODE_MS = 1.8
ENCODE_MS = 7.2  # drawing, x264 veryfast
SCOUT_MS = DECODE_MS + 0.3  # cuts and repeats are looked for at the network's size
OVERLAP_FRAMES = 310  # pictures that a segment decodes and tracks beyond its own, at most
MBIT_S = 4.0  # of a 720p broadcast
CSV_BYTES = 45  # a row
RESULT_BYTES = 1_500  # of one video in the driver: assumed, not measured
GETS_S, PUTS_S = 5_500, 3_500  # at least, per partitioned prefix of S3


@dataclass(frozen=True)
class Load:
    """A batch. workers: of one core each. hours: of video, in videos of `video_h`."""

    workers: int
    hours: float
    video_h: float = 1.0
    fps: float = 30.0
    model: str = "accurate"
    drawn: bool = False

    @property
    def frames(self) -> float:
        return self.hours * 3600 * self.fps

    @property
    def ms(self) -> float:
        """CPU-ms a frame: a video that is drawn on is decoded twice."""
        return DECODE_MS + NETWORK_MS[self.model] + (DECODE_MS + ENCODE_MS if self.drawn else 0)

    @property
    def core_hours(self) -> float:
        return self.frames * self.ms / 3.6e6

    @property
    def video_s(self) -> float:
        """One video on one worker: also how long the last one may keep all others waiting."""
        return self.video_h * 3600 * self.fps * self.ms / 1000

    @property
    def wall_h(self) -> float:
        return self.core_hours / self.workers + self.video_s / 3600

    @property
    def videos_per_s(self) -> float:
        return self.workers / self.video_s


def lone_video_s(load: Load, workers: int) -> float:
    """One video, scouted, in segments, joined: scout and drawing are done by one worker each."""
    frames = load.video_h * 3600 * load.fps
    tracked_ms = DECODE_MS + NETWORK_MS[load.model]
    segments = max(1, round(frames / SEGMENT_FRAMES))
    if segments == 1 or workers == 1:
        return frames * (tracked_ms + (DECODE_MS + ENCODE_MS) * load.drawn) / 1000
    rounds = -(-segments // min(workers, segments))
    each = (frames / segments + OVERLAP_FRAMES) * tracked_ms
    return (frames * SCOUT_MS + rounds * each + frames * (DECODE_MS + ENCODE_MS) * load.drawn) / 1000


def print_model(workers: int, hours: float, price: float, interrupted: float) -> None:
    print(f"{hours:,.0f} hours at 30 frames/s on {workers:,} workers of one core, ${price} a core-hour\n")
    print("network   drawn  CPU-ms  core-hours      days      cost $  lost to spot")
    for model in NETWORK_MS:
        for drawn in (False, True):
            load = Load(workers, hours, model=model, drawn=drawn)
            lost = interrupted * load.video_s / 2 / 3600  # half a unit for each interruption
            row = f"{model:9} {'yes' if drawn else 'no':5} {load.ms:7.1f} {load.core_hours:11,.0f}"
            print(f"{row} {load.wall_h / 24:9.1f} {load.core_hours * price:11,.0f} {lost:12.2%}")
    load = Load(workers, hours)
    clips = Load(workers, hours, video_h=10 / 3600)
    core_mbit_s = MBIT_S / load.ms * 1000 / load.fps
    print(
        f"\nbytes read           {hours * 3600 * MBIT_S / 8e3:,.0f} GB: {workers * core_mbit_s:,.0f} Mbit/s in all, ",
        end="",
    )
    print(f"{16 * core_mbit_s:,.0f} Mbit/s for a machine of 16 cores")
    print(f"bytes written        {load.frames * CSV_BYTES / 1e9:,.0f} GB of CSV")
    for name, each in (("videos of an hour", load), ("rallies of 10 s", clips)):
        reads, writes = 3 * each.videos_per_s, 1 * each.videos_per_s  # is it there, what is it, its bytes; the CSV
        print(
            f"{name:20} {each.videos_per_s:,.1f}/s, GET and HEAD {reads:,.0f}/s ({reads / GETS_S:.0%} of a prefix), "
            f"PUT {writes:,.0f}/s ({writes / PUTS_S:.0%}), driver {hours / each.video_h * RESULT_BYTES / 1e9:,.1f} GB"
        )
    print(
        "\none video of an hour  " + "  ".join(f"{n} workers {lone_video_s(load, n):,.0f} s" for n in (1, 2, 6, 1000))
    )
    drawn = Load(workers, hours, drawn=True)
    print("   and drawn          " + "  ".join(f"{n} workers {lone_video_s(drawn, n):,.0f} s" for n in (1, 2, 6, 1000)))


def measure(videos: int, seconds: float) -> None:
    """Rates from the first finished video to the last, so that starting Ray and loading networks does not count."""
    import ray

    os.environ.update(PATIENCE)
    with tempfile.TemporaryDirectory() as name:
        folder, rates = Path(name), []
        for n in range(videos):
            make_clip(folder / f"{n}.mp4", RallyOptions(wh=(640, 360), seconds=seconds, seed=n))
        for workers in (1, 2):
            ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            times: list[float] = []

            def tell(result: Tracked, times: list[float] = times) -> None:
                times.append(time.monotonic())

            job = TrackJob(str(folder / f"out{workers}"), draw_video=False, threads=1, segment_frames=0)
            track_many([str(folder / f"{n}.mp4") for n in range(videos)], job, on="ray", on_result=tell)
            rates.append((len(times) - workers) / (times[-1] - times[workers - 1]))
            ray.shutdown()
            print(f"{workers} workers: {rates[-1]:.2f} videos/s")
        print(f"ratio 2 to 1: {rates[1] / rates[0]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=1e6)
    parser.add_argument("--price-per-core-hour", type=float, default=0.68 / 16)
    parser.add_argument("--interruptions-per-hour", type=float, default=0.05, help="of one spot machine")
    parser.add_argument("--measure", action="store_true", help="one and two workers of Ray on this machine")
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    print_model(options.workers, options.hours, options.price_per_core_hour, options.interruptions_per_hour)
    if options.measure:
        measure(options.videos, options.seconds)


if __name__ == "__main__":
    main()
