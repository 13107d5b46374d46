"""What spoils a network: val clips through damaged copies.

    python benchmarks/robustness.py DATA [--weights accurate --weights fast] [--split val] [--no-path]

DATA is a folder of labelled clips. The ffmpeg command line makes each damage, the labels move with the picture, and
the same `evaluate_clips` scores everything: whole clips, nothing filled. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rallytrace import evaluate_clips, load_clips, load_network, video
from rallytrace.types import XY, BallLabel, Clip

Move = Callable[[XY, tuple[int, int]], XY]


@dataclass(frozen=True)
class Damage:
    """ffmpeg's filter and options, and where they move a point of a picture of size `wh`."""

    vf: str = "null"
    options: tuple[str, ...] = ("-crf", "18")
    move: Move = lambda xy, wh: xy
    crop: tuple[float, float] | None = None  # shares of the cut on the left and at the top
    keep_every: int = 1
    overlay: bool = False


def _scaled(factor: float) -> Move:
    return lambda xy, wh: ((xy[0] + 0.5) * factor - 0.5, (xy[1] + 0.5) * factor - 0.5)


def _kept(side: int) -> int:
    """What is left of a side without 2 %; even, as H.264 wants it."""
    return round(0.98 * side / 2) * 2


def _cropped(left: float, top: float) -> Move:
    """The picture without 2 % of its sides, the share `left` and `top` of that cut there, enlarged again."""

    def move(xy: XY, wh: tuple[int, int]) -> XY:
        x, y = (
            (v + 0.5 - int(share * (side - _kept(side)))) for v, share, side in zip(xy, (left, top), wh, strict=True)
        )
        return x * wh[0] / _kept(wh[0]) - 0.5, y * wh[1] / _kept(wh[1]) - 0.5

    return move


def _crop_filter(left: float, top: float, wh: tuple[int, int]) -> str:
    w, h = wh
    x, y = int(left * (w - _kept(w))), int(top * (h - _kept(h)))
    return f"crop={_kept(w)}:{_kept(h)}:{x}:{y}:exact=1,scale={w}:{h}:flags=bilinear"


DAMAGES = {
    "as it is (copied at CRF 18)": Damage(),
    "CRF 35": Damage(options=("-crf", "35")),
    "360p": Damage(vf="scale=-2:360:flags=area", move=_scaled(0.5)),
    "half the frame rate": Damage(vf="select=not(mod(n\\,2))", options=("-crf", "18", "-vsync", "vfr"), keep_every=2),
    "darker (-40 levels)": Damage(vf="lutyuv=y=clip(val-40\\,16\\,235)"),
    "brighter (+40 levels)": Damage(vf="lutyuv=y=clip(val+40\\,16\\,235)"),
    "gamma 0.6": Damage(vf="eq=gamma=0.6"),
    "gamma 1.6": Damage(vf="eq=gamma=1.6"),
    "2 % cropped, top left": Damage(crop=(1, 1), move=_cropped(1, 1)),
    "2 % cropped, right": Damage(crop=(0, 0.5), move=_cropped(0, 0.5)),
    "a running scoreboard": Damage(overlay=True),
}


def damaged(clip: Clip, damage: Damage, folder: Path) -> Clip:
    """A damaged copy of `clip` in `folder`."""
    info = video.probe(clip.video)
    out = folder / f"{clip.name}.mp4"
    command = ["ffmpeg", "-loglevel", "error", "-y", "-i", str(clip.video)]
    if damage.overlay:
        command += ["-f", "lavfi", "-i", f"testsrc=size=320x80:rate={info.fps}"]
        command += ["-filter_complex", "[0:v][1:v]overlay=48:40:shortest=1"]
    else:
        command += ["-vf", damage.vf if damage.crop is None else _crop_filter(*damage.crop, info.wh)]
    command += ["-an", "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", *damage.options, str(out)]
    subprocess.run(command, check=True)
    labels = {}
    for frame, label in clip.labels.items():
        if frame % damage.keep_every == 0:
            xy = label.xy and damage.move(label.xy, info.wh)
            labels[frame // damage.keep_every] = BallLabel(frame // damage.keep_every, xy, label.visibility)
    return replace(clip, video=out, labels=labels)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--weights", action="append")
    arguments.add_argument("--split", default="val")
    arguments.add_argument("--no-path", action="store_true", help="by the highest peak of each picture alone")
    options = arguments.parse_args()
    networks = {name: load_network(name, threads=1) for name in options.weights or ("accurate", "fast")}
    clips = [clip for clip in load_clips(options.data) if clip.split == options.split]
    print(f"| {options.split} | " + " | ".join(f"{n}, 4@288 | {n}, 4@source" for n in networks) + " |")
    print("|---" * (1 + 2 * len(networks)) + "|")
    for name, damage in DAMAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            copies = [damaged(clip, damage, Path(folder)) for clip in clips]
            cells = [
                f"{counts.f1 or 0:.3f}"
                for network in networks.values()
                for counts in evaluate_clips(network, copies, path=not options.no_path).total.counts.values()
            ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
