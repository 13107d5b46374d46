"""What the endpoint costs: `track --endpoint` against `track`, bytes on the wire, and the latency that a server adds.

    python benchmarks/endpoint.py [CLIP.mp4] [--runs 3] [--seconds 20]
    python benchmarks/endpoint.py [CLIP.mp4] --soak 600 [--sessions 16]

Client and server share this machine, over TLS on loopback. Throughput is compared at equal total CPU: frames per
CPU-second of all processes together, beside the wall clock, where client and server overlap. Latency is of a live
session at 30 frames/s: from when a frame is due, as a camera has it, to having its point, less what the very same frame
took in this process. All in one run on one machine; quote the ratios, not the absolute figures.

The soak instead holds so many live sessions open, each sending as fast as it is let, and prints how evenly the server
shares itself out, how long its queue grows, and how its memory goes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rallytrace import AsyncClient, Frame, RallyOptions, Tracker, load_network, make_clip, video
from rallytrace.serve.client_session import FrameEncoder
from rallytrace.window import BACKGROUND_EVERY, BACKGROUND_REACH

BACKGROUND_FRAMES = 2 * BACKGROUND_EVERY * BACKGROUND_REACH * 6 // 5  # of a live session, a sixth of them repeats
REFERENCE_BYTES = 26_700_000  # a request of the AWS sample: one window of three frames as JSON


def cpu_s(pid: int) -> float:
    """User and system time of a running process, Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, int, str]]:
    """A server with a certificate of its own. Yields its URL, process id and fingerprint."""
    command = [sys.executable, "-m", "rallytrace", "serve", "--port", "0", "--tls", "self-signed", "--threads", "1"]
    environment = {**os.environ, "XDG_STATE_HOME": str(folder)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout
        assert process.stderr
        url = pin = ""
        while not url:
            words = process.stdout.readline().split()
            pin = next((word for word in words if len(word.replace(":", "")) == 64), pin)
            url = next((word for word in words if word.startswith("https://")), "")
        while "is ready" not in process.stderr.readline():
            pass
        drain = "import sys\nfor _ in sys.stdin: pass"
        with subprocess.Popen([sys.executable, "-c", drain], stdin=process.stderr):
            yield url, process.pid, pin
            process.terminate()
            process.wait()
    finally:
        process.kill()


def run_track(clip: Path, out: Path, *options: str) -> tuple[float, float]:
    """Wall seconds and CPU seconds of `track`, in a process of its own."""
    command = [sys.executable, "-m", "rallytrace", "track", str(clip), "--out", str(out), "--overwrite", *options]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def throughput(clip: Path, folder: Path, server: tuple[str, int, str], runs: int, draw: bool) -> None:
    url, pid, pin = server
    frames = sum(1 for _ in video.read(clip))
    common = () if draw else ("--no-video",)
    places = {
        "in this process": ("--threads", "1"),
        "endpoint, delta": ("--endpoint", url, "--fingerprint", pin),
        "endpoint, jpeg": ("--endpoint", url, "--fingerprint", pin, "--codec", "jpeg"),
        "endpoint, raw": ("--endpoint", url, "--fingerprint", pin, "--codec", "raw"),
    }
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in places}
    for _ in range(runs):  # in turn, so that a busy machine is busy for all
        for name, options in places.items():
            before = cpu_s(pid)
            wall, cpu = run_track(clip, folder / "out", *common, *options)
            measured[name].append((wall, cpu + cpu_s(pid) - before))
    print(f"{'with' if draw else 'without'} the annotated video:")
    base_wall, base_cpu = (statistics.median(column) for column in zip(*measured["in this process"], strict=True))
    for name, pairs in measured.items():
        wall, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"  {name:18s} {frames / wall:6.1f} frames/s of wall ({base_wall / wall:5.2f}x)"
            f"  {frames / cpu:6.1f} frames per CPU-second ({base_cpu / cpu:5.2f}x)"
        )


def bytes_per_frame(frames: list[Frame]) -> None:
    print(f"bytes per frame: raw {frames[0].image.size + 24:,}, the reference client's JSON {REFERENCE_BYTES:,}")
    for codec in ("delta", "jpeg"):
        encoder = FrameEncoder(codec)
        sizes = [len(encoder.encode(frame.image)) + 24 for frame in frames]
        mean = statistics.mean(sizes)
        print(f"  {codec} {mean:,.0f} on average, {max(sizes):,} at most: 1/{REFERENCE_BYTES / mean:.0f} of the JSON")


async def live(frames: list[Frame], source_wh: tuple[int, int], url: str, pin: str) -> list[float]:
    """Seconds from when a frame is due to its point, by frame, at 30 frames/s."""
    arrived: dict[int, float] = {}

    async def take() -> None:
        while points := await session.receive():
            now = time.perf_counter()
            arrived.update((point.frame, now) for point in points)

    client = AsyncClient(url, fingerprint=pin)
    async with client.session(source_wh, live=True) as session:
        taker = asyncio.create_task(take())
        begin = time.perf_counter()
        for frame in frames:
            await asyncio.sleep(max(0.0, begin + frame.index / 30 - time.perf_counter()))
            for point in await session.push(frame):
                arrived.setdefault(point.frame, time.perf_counter())
        for point in await session.flush():
            arrived.setdefault(point.frame, time.perf_counter())
        await taker
    return [arrived[i] - begin - i / 30 for i in range(len(frames))]


def live_here(frames: list[Frame], source_wh: tuple[int, int]) -> list[float]:
    """The same in this process, where a push that runs the network makes the next frame wait."""
    tracker = Tracker(load_network(threads=1), source_wh, live=True)
    arrived = {}
    begin = time.perf_counter()
    for frame in frames:
        time.sleep(max(0.0, begin + frame.index / 30 - time.perf_counter()))
        for point in tracker.push(frame):
            arrived[point.frame] = time.perf_counter()
    for point in tracker.flush():
        arrived[point.frame] = time.perf_counter()
    return [arrived[i] - begin - i / 30 for i in range(len(frames))]


def latency(frames: list[Frame], source_wh: tuple[int, int], server: tuple[str, int, str]) -> None:
    here = live_here(frames, source_wh)
    there = asyncio.run(live(frames, source_wh, server[0], server[2]))
    last = len(frames) - 10  # the last ones come with the end
    added = np.subtract(there, here)[10:last] * 1000
    for name, values in (("here", here[10:last]), ("endpoint", there[10:last])):
        p50, p99 = np.quantile(values, [0.5, 0.99]) * 1000
        print(f"  due to point, {name:9s}  p50 {p50:6.1f} ms  p99 {p99:6.1f} ms")
    print(f"  added, by frame          p50 {np.median(added):6.1f} ms  p99 {np.quantile(added, 0.99):6.1f} ms")


async def soaked(frames: list[Frame], source_wh: tuple[int, int], server: tuple[str, int, str], options: Any) -> None:
    url, pid, pin = server
    encoder = FrameEncoder("jpeg")  # each picture stands alone, so they may go round and round
    payloads = [encoder.encode(frame.image) for frame in frames]
    answered = [0] * options.sessions
    began = time.perf_counter()
    client = AsyncClient(url, fingerprint=pin)

    async def one(n: int) -> None:
        async with client.session(source_wh, live=True) as session:
            for i in itertools.count():
                frame = replace(frames[i % len(frames)], index=i, pts_s=i / 30)
                answered[n] += len(await session.put(frame, payloads[i % len(frames)]))

    sessions = [asyncio.create_task(one(n)) for n in range(options.sessions)]
    samples = []
    while time.perf_counter() - began < options.soak:
        await asyncio.sleep(2)
        for session in sessions:
            if session.done():
                session.result()  # raises what ended it
        queued = await asyncio.to_thread(gauge, url, "rallytrace_queue_windows")
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6
        threads = len(os.listdir(f"/proc/{pid}/task"))
        samples.append((time.perf_counter() - began, resident, queued, threads, *answered))
    for session in sessions:
        session.cancel()
    await asyncio.gather(*sessions, return_exceptions=True)
    report(np.array(samples), options.sessions)


def gauge(url: str, name: str) -> float:
    """A value of GET /metrics."""
    context = ssl._create_unverified_context()
    with urllib.request.urlopen(f"{url}/metrics", timeout=60, context=context) as answer:
        return next(float(line.split()[1]) for line in answer.read().decode().splitlines() if line.startswith(name))


def report(samples: NDArray[np.float64], sessions: int) -> None:
    """samples: rows of seconds, megabytes, windows that wait, threads, frames answered by session."""
    full = np.flatnonzero(samples[:, 4:].min(1) > BACKGROUND_FRAMES)  # from where on all hold as much as they ever will
    settled = samples[full[0] :] if len(full) > 9 else samples[-10:]
    took_s, done = samples[-1, 0] - settled[0, 0], samples[-1, 4:] - settled[0, 4:]
    fit, covariance = np.polyfit(settled[:, 0], settled[:, 1], 1, cov=True)
    print(f"{sessions} live sessions for {samples[-1, 0]:.0f} s: {done.sum() / took_s:.1f} frames/s in all")
    print(f"  frames of a session {done.min():.0f} to {done.max():.0f}, max/min {done.max() / done.min():.3f}")
    print(f"  windows that wait: {np.median(samples[:, 2]):.0f}, at most {samples[:, 2].max():.0f}")
    tenths = [f"{part[:, 1].mean():.0f}" for part in np.array_split(samples, 10)]
    print(f"  memory by tenths of the time: {' '.join(tenths)} MB")
    slope, error, highest = fit[0] * 60, np.sqrt(covariance[0, 0]) * 60, samples[:, 1].max()
    print(
        f"  slope of the last {took_s:.0f} s {slope:+.2f} MB/min (standard error {error:.2f}), highest {highest:.0f} MB"
    )
    print(f"  threads {settled[0, 3]:.0f} at first, {samples[-1, 3]:.0f} at last")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=20, help="of the live session")
    parser.add_argument("--soak", type=float, default=0, help="seconds of many live sessions, instead of all else")
    parser.add_argument("--sessions", type=int, default=16, help="of the soak")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as server:
        clip = options.clip or Path(name) / "clip.mp4"
        if not options.clip:
            make_clip(clip, RallyOptions(seconds=10, seed=1, repeats=True))
        with video.read(clip) as reader:
            tracker, wh = Tracker(load_network(threads=1), reader.info.wh), reader.info.wh
            reader.give_to(tracker)
            frames = [frame for frame, _ in zip(reader, range(options.seconds * 30), strict=False)]
        if options.soak:
            asyncio.run(soaked(frames, wh, server, options))
            return
        print(f"{clip.name}: {wh[0]}x{wh[1]}, one network thread; median of {options.runs} runs")
        for draw in (False, True):
            throughput(clip, Path(name), server, options.runs, draw)
        bytes_per_frame(frames)
        print(f"live session, {len(frames)} frames at 30 frames/s:")
        latency(frames, wh, server)


if __name__ == "__main__":
    main()
