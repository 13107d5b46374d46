"""How often a network sees a ball where none is in play, per minute of video.

    python benchmarks/false_alarms.py DATA [DATA ...] [--weights accurate --weights fast] [--split val]

DATA are folders of labelled clips. Four kinds of frames without a ball are made of them at the network's size:
frames that are labelled "no ball"; whole rallies whose ball is painted over with the rolling median, so that players,
crowd and camera stay as they were; close-ups, which are enlarged ninths of the picture with the most motion and never
the ball; and a cut sequence that jumps between close-ups and painted rallies every two seconds. Prints a table in
Markdown: the tracker, and what `track` would write (gaps filled).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rallytrace import BallPoint, Clip, Frame, Tracker, load_clips, load_network, video
from rallytrace.geometry import FrameTransform
from rallytrace.runtime import Network
from rallytrace.trajectory import link
from rallytrace.types import XY, Image
from rallytrace.window import backgrounds

PIECE_S = 2.0
AROUND_PX = 10  # of the model's picture, painted over around the ball's path in a frame's time
ZOOM = 3


@dataclass(frozen=True)
class Sequence:
    """Pictures without a ball at model size; `counted` are those whose points are false alarms."""

    images: Image  # (n, h, w[, 3])
    counted: np.ndarray
    source_wh: tuple[int, int]
    fps: float


def read(clip: Clip, network: Network, zoom: int = 1) -> tuple[Image, FrameTransform, float]:
    """All pictures at `zoom` times the model's size."""
    spec = network.spec
    with video.read(clip.video) as reader:
        transform = FrameTransform.fit_area(reader.info.wh, spec.size_wh, spec.multiple)
        w, h = transform.content_wh
        reader.give(wh=(w * zoom, h * zoom), colour=spec.colour)
        return np.stack([frame.image for frame in reader]), transform, float(reader.info.fps)


def labelled_absent(clip: Clip, network: Network) -> Sequence:
    images, transform, fps = read(clip, network)
    absent = [i in clip.labels and clip.labels[i].xy is None for i in range(len(images))]
    return Sequence(images, np.array(absent), transform.source_wh, fps)


def path_of(clip: Clip, frame: int) -> list[XY]:
    """Where the ball may be smeared in `frame`: half-way from the place before and to the place after."""
    here = clip.labels[frame].xy if frame in clip.labels else None
    if here is None:
        return []
    around = [clip.labels[k].xy for k in (frame - 1, frame + 1) if k in clip.labels]
    ends = [((here[0] + xy[0]) / 2, (here[1] + xy[1]) / 2) for xy in around if xy is not None]
    return [
        (here[0] + s * (end[0] - here[0]), here[1] + s * (end[1] - here[1]))
        for end in [here, *ends]
        for s in np.linspace(0, 1, 8)
    ]


def painted(clip: Clip, network: Network) -> Sequence:
    images, transform, fps = read(clip, network)
    medians, which = backgrounds(images)
    y, x = np.mgrid[: images.shape[1], : images.shape[2]]
    for i, image in enumerate(images):
        hidden = np.zeros(image.shape[:2], bool)
        for u, v in map(transform.to_model, path_of(clip, i)):
            hidden |= (x - u) ** 2 + (y - v) ** 2 <= AROUND_PX**2
        image[hidden] = medians[which[i]][hidden]
    known = np.array([i in clip.labels for i in range(len(images))])  # an unlabelled ball cannot be painted over
    return Sequence(images, known, transform.source_wh, fps)


def close_ups(clip: Clip, network: Network) -> Iterator[Sequence]:
    """A piece of PIECE_S each; none where every ninth holds the ball."""
    images, transform, fps = read(clip, network, ZOOM)
    w, h = transform.content_wh
    n = round(PIECE_S * fps)
    for start in range(0, len(images) - n + 1, n):
        frames = range(start, start + n)
        if not all(i in clip.labels for i in frames):
            continue
        points = [transform.to_model(xy) for i in frames if (xy := clip.labels[i].xy)]
        best: tuple[float, Image] | None = None
        for top in range(0, (ZOOM - 1) * h + 1, h // 2):
            for left in range(0, (ZOOM - 1) * w + 1, w // 2):
                inside = (-30 < u * ZOOM - left < w + 30 and -30 < v * ZOOM - top < h + 30 for u, v in points)
                if any(inside):
                    continue
                cut = images[start : start + n, top : top + h, left : left + w]
                motion = float(np.abs(np.diff(cut[::5, ::4, ::4].astype(np.int16), axis=0)).mean())
                if best is None or motion > best[0]:
                    best = motion, cut
        if best is not None:
            yield Sequence(best[1].copy(), np.ones(n, bool), transform.source_wh, fps)


def joined(pieces: list[Sequence]) -> Sequence:
    first = pieces[0]
    pieces = [piece for piece in pieces if piece.images.shape[1:] == first.images.shape[1:]]
    images, counted = (np.concatenate([getattr(p, name) for p in pieces]) for name in ("images", "counted"))
    return Sequence(images, counted, first.source_wh, first.fps)


def alarms(network: Network, sequence: Sequence) -> tuple[int, int, float]:
    """Points of the tracker, points as `track` writes them, minutes that count."""
    tracker = Tracker(network, sequence.source_wh)
    frames = (Frame(i, i / sequence.fps, image) for i, image in enumerate(sequence.images))
    points = [point for frame in frames for point in tracker.push(frame)] + tracker.flush()

    def count(points: list[BallPoint]) -> int:
        return sum(point.xy is not None and bool(sequence.counted[point.frame]) for point in points)

    filled = list(link(points, sequence.source_wh))
    return count(points), count(filled), int(sequence.counted.sum()) / sequence.fps / 60


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path, nargs="+")
    arguments.add_argument("--weights", action="append")
    arguments.add_argument("--split", default="val")
    options = arguments.parse_args()
    print("| data | frames | network | minutes | tracker, per minute | as `track` writes, per minute |")
    print("|---" * 6 + "|")
    for folder in options.data:
        clips = [clip for clip in load_clips(folder) if clip.split == options.split]
        for name in options.weights or ("accurate", "fast"):
            network = load_network(name, threads=1)
            rallies = [painted(clip, network) for clip in clips]
            near = [list(close_ups(clip, network)) for clip in clips]
            pieces = [
                piece
                for rally, found in zip(rallies, near, strict=True)
                for k, close in enumerate(found)
                if (n := len(close.counted))
                for piece in (
                    close,
                    Sequence(
                        rally.images[k * n : (k + 1) * n],
                        rally.counted[k * n : (k + 1) * n],
                        rally.source_wh,
                        rally.fps,
                    ),
                )
            ]
            kinds = {
                "labelled without a ball": [labelled_absent(clip, network) for clip in clips],
                "rallies, ball painted over": rallies,
                "close-ups": [joined(found) for found in near if found],
                "a cut every two seconds": [joined(pieces)] if pieces else [],
            }
            for kind, sequences in kinds.items():
                bare, filled, minutes = (
                    sum(column) for column in zip(*(alarms(network, s) for s in sequences), strict=True)
                )
                rates = (f"{bare / minutes:.0f} | {filled / minutes:.0f}") if minutes else "- | -"
                print(f"| {folder.name} | {kind} | {name} | {minutes:.2f} | {rates} |", flush=True)


if __name__ == "__main__":
    main()
