"""How fast is `track`, against decoding alone and against TrackNetV2 through the same pipeline, and where time goes.

    python benchmarks/track.py [CLIP.mp4] [--runs 3]

Everything is measured in one run on one machine; quote the ratios, not the absolute figures.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rallytrace import RallyOptions, load_network, make_clip, track_video, video
from rallytrace.annotate import Style, Trail, draw
from rallytrace.checkpoint import save_checkpoint
from rallytrace.models import build, get_spec
from rallytrace.runtime import Network
from rallytrace.runtime.export import export
from rallytrace.tracker import Tracker
from rallytrace.trajectory import Linker
from rallytrace.trajectory.path import PathFinder
from rallytrace.window import Background, RepeatFilter, WindowMaker

FRAMES = 200  # of the clip, for the hops


def wall(run: Callable[[], object], times: int) -> float:
    """Median wall seconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def baseline(folder: Path) -> Network:
    """TrackNetV2 as it would be bundled; untrained, which costs the same."""
    spec = get_spec("tracknet_v2")
    save_checkpoint(folder / "v2", spec, build(spec).state_dict(), {})
    return load_network(export(folder / "v2", folder / "v2.onnx"))


def decode_only(clip: Path) -> None:
    with video.read(clip, wh=(768, 432)) as reader:
        for _ in reader:
            pass


def hops(clip: Path, network: Network, folder: Path) -> dict[str, float]:
    """CPU-ms per frame of each hop, one after the other in one thread."""
    spent: dict[str, float] = {}
    info = video.probe(clip)
    tracker = Tracker(network, info.wh)
    began = time.process_time()

    def lap(name: str) -> None:
        nonlocal began
        now = time.process_time()
        spent[name] = now - began
        began = time.process_time()

    for label, keep in (("decode and resize, for the network", False), ("decode again, to be drawn on", True)):
        began = time.process_time()
        with video.read(clip, wh=tracker.transform.content_wh, colour=tracker.colour, keep_picture=keep) as reader:
            n = sum(1 for _ in reader)
        lap(label)
        spent[label] *= FRAMES / n
    with video.read(clip, wh=tracker.transform.content_wh, colour=tracker.colour, keep_picture=True) as reader:
        frames = list(itertools.islice(reader, FRAMES))
    began = time.process_time()
    repeats = RepeatFilter()
    images = [frame.image for frame in frames if repeats.is_new(frame.image)]
    lap("find repeats")
    spec = network.spec
    maker = WindowMaker(spec.frames, step=spec.frames, outputs=spec.outputs, background=Background())
    windows = [w for image in images for w in maker.push(image)] + maker.flush()
    lap("background and windows")
    maps = [network.run(window.stack[None]) for window in windows]
    lap("network")
    finder = PathFinder(math.hypot(*info.wh), tracker.threshold)
    for heat, offsets in maps:
        for t in range(heat.shape[1]):
            finder.push(tracker._peaks(heat[0, t], None if offsets is None else offsets[0, t]))
    finder.flush()
    lap("peaks and path")
    points = [p for frame in frames for p in tracker.push(frame)] + tracker.flush()
    began = time.process_time()
    linker = Linker(info.wh, fill=5)
    for point in points:
        linker.push(point)
    linker.flush()
    lap("link")
    trail, style = Trail(0.5), Style()
    for frame, point in zip(frames, points, strict=True):
        if frame.picture:
            draw(frame.picture, point, trail.push(point), style)
    lap("draw")
    with video.VideoWriter(folder / "hops.mp4", info.wh, info.fps) as writer:
        for frame in frames:
            if frame.picture:
                writer.write(frame.picture, frame.pts_s)
    lap("encode")
    return {name: 1000 * seconds / len(frames) for name, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = options.clip or folder / "clip.mp4"
        short = folder / "short.mp4"
        if not options.clip:
            make_clip(clip, RallyOptions(seconds=10, seed=1))
        make_clip(short, RallyOptions(seconds=1, seed=1))
        network, v2 = load_network(), baseline(folder)
        info = video.probe(clip)
        frames = info.n_frames or sum(1 for _ in video.read(clip))
        print(f"{clip.name}: {info.wh[0]}x{info.wh[1]}, {frames} frames, {info.codec}; median of {options.runs} runs")

        def track(source: Path, net: Network, *, draw_video: bool) -> None:
            track_video(source, folder / "out", network=net, draw_video=draw_video, overwrite=True)

        w, h = network.spec.size_wh
        alone = np.zeros((1, network.spec.channels, h, w), np.uint8)
        rates = {
            "decode and resize only": frames / wall(lambda: decode_only(clip), options.runs),
            "network alone": network.spec.outputs / wall(lambda: network.run(alone), 20),
            "track, CSV only": frames / wall(lambda: track(clip, network, draw_video=False), options.runs),
            "track with video": frames / wall(lambda: track(clip, network, draw_video=True), options.runs),
            "tracknet_v2, CSV only": 30 / wall(lambda: track(short, v2, draw_video=False), 1),
        }
        for label, rate in rates.items():
            print(f"  {label:26s} {rate:8.1f} frames/s")
        csv_only = rates["track, CSV only"]
        print(f"  share of decode-only throughput: {csv_only / rates['decode and resize only']:.2f}")
        print(f"  times tracknet_v2 through the same pipeline: {csv_only / rates['tracknet_v2, CSV only']:.1f}")
        print("CPU-ms per frame of each hop, one thread after the other:")
        for hop, ms in hops(clip, network, folder).items():
            print(f"  {hop:34s} {ms:6.2f}")


if __name__ == "__main__":
    main()
