"""How far does it scale? A model of a thousand workers and a million hours of video, and two workers measured here.

python benchmarks/scale.py [--workers 1000] [--hours 1e6] [--price-per-core-hour 0.0425] [--measure] [--driver]

The model is arithmetic on the constants below, which benchmarks/track.py measured at 720p;
docs/scale.md says what it leaves out. The price is yours to say: the default is $0.68 an hour for 16 vCPU, which
Amazon's page "Spot price per unit hour example" (EC2 Auto Scaling user guide) gives as an example of a price.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rallytrace import RallyOptions, make_clip
from rallytrace.scale.batch import SEGMENT_FRAMES, TrackJob, track_many
from rallytrace.scale.cluster import MAX_BLOCKS, PATIENCE

NETWORK_MS = {"accurate": 8.4, "fast": 3.6}  # CPU-ms a frame, with windows, background and decoding of heatmaps
DECODE_MS = 1.8
ENCODE_MS = 7.2  # drawing, x264 veryfast
SCOUT_MS = DECODE_MS + 0.3  # cuts and repeats are looked for at the network's size
OVERLAP_FRAMES = 524  # pictures that a segment decodes and tracks beyond its own, at most: 280 before, 244 after
MBIT_S = 4.0  # of a 720p broadcast
CSV_BYTES = 45  # a row
RESULT_BYTES = 1_306  # of one video in the driver: by --driver, names of 53 letters, 2026-11-29
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


def workers_cpu_s() -> float:
    """CPU seconds so far of the processes that track: Ray writes what they do in their title."""
    spent = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if "(Worker)" in (folder / "cmdline").read_text():
                spent += sum(map(int, (folder / "stat").read_text().rpartition(")")[2].split()[11:13]))
    return spent / os.sysconf("SC_CLK_TCK")


@contextmanager
def ray_here(cpus: int) -> Iterator[None]:
    import ray

    os.environ.update(PATIENCE)
    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


def measure(videos: int, seconds: float, pairs: int) -> None:
    """From the first finished videos to the last, so that starting Ray and loading networks does not count.

    Runs come in pairs, as a machine that others use too changes all the time; CPU seconds a video tell what two workers
    would do alone on it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, ratios = Path(name), []
        sources = [str(folder / f"{n}.mp4") for n in range(videos)]
        for n, source in enumerate(sources):
            make_clip(Path(source), RallyOptions(wh=(640, 360), seconds=seconds, seed=n))
        for pair in range(pairs):
            rates, costs = {}, {}
            for workers in (1, 2) if pair % 2 else (2, 1):
                out, samples, ended = folder / f"{pair}-{workers}", [], threading.Event()

                def watch(samples: list[tuple[float, float]] = samples, ended: threading.Event = ended) -> None:
                    while not ended.wait(0.2):
                        samples.append((time.time(), workers_cpu_s()))

                watching = threading.Thread(target=watch, daemon=True)
                watching.start()
                with ray_here(workers):
                    job = TrackJob(str(out), draw_video=False, threads=1, segment_frames=0)
                    assert not any(each.error for each in track_many(sources, job, on="ray"))
                    ended.set()
                    watching.join()
                at = sorted(path.stat().st_mtime for path in out.glob("*.csv"))[workers - 1 :]
                # The last sample before, for processes that have ended have spent nothing.
                spent = [max(cpu for when, cpu in samples if when <= moment) for moment in (at[0], at[-1])]
                rates[workers] = (len(at) - 1) / (at[-1] - at[0])
                costs[workers] = (spent[1] - spent[0]) / (len(at) - 1)
                print(
                    f"{workers} workers: {rates[workers]:.3f} videos/s, {costs[workers]:.2f} CPU-s a video", flush=True
                )
            ratios.append((rates[2] / rates[1], 2 * costs[1] / costs[2]))
        walls, alone = (sorted(each) for each in zip(*ratios, strict=True))
        print(f"ratio 2 to 1 of videos/s: {' '.join(f'{each:.2f}' for each in walls)}")
        print(f"by CPU seconds, were each worker alone on its core: {' '.join(f'{each:.2f}' for each in alone)}")


def driver(counts: tuple[int, ...] = (MAX_BLOCKS, 4 * MAX_BLOCKS)) -> None:
    """Bytes that a video costs the driver: batches of videos that do not exist, so that nothing else takes time."""
    peaks = []
    for count in counts:
        code = (
            "import resource, sys; sys.path.insert(0, 'benchmarks'); import scale\n"
            f"sources = [f's3://bucket/raw/2026/tournament/court-3/match-{{n:08}}.mp4' for n in range({count})]\n"
            "with scale.ray_here(2):\n"
            "    job = scale.TrackJob('/tmp/none', draw_video=False, segment_frames=0)\n"
            "    assert all(each.error for each in scale.track_many([s[5:] for s in sources], job, on='ray'))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
        print(f"{count:,} videos: driver at most {peaks[-1] / 1e6:,.0f} MB", flush=True)
    print(f"{(peaks[-1] - peaks[0]) / (counts[-1] - counts[0]):,.0f} bytes a video")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=1e6)
    parser.add_argument("--price-per-core-hour", type=float, default=0.68 / 16)
    parser.add_argument("--interruptions-per-hour", type=float, default=0.05, help="of one spot machine")
    parser.add_argument("--measure", action="store_true", help="one and two workers of Ray on this machine")
    parser.add_argument("--driver", action="store_true", help="what a video costs the driver of Ray in memory")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    print_model(options.workers, options.hours, options.price_per_core_hour, options.interruptions_per_hour)
    if options.measure:
        measure(options.videos, options.seconds, options.pairs)
    if options.driver:
        driver()


if __name__ == "__main__":
    main()
