"""Proposals of ball labels, and pictures by which a person checks every one of them.

    python runs/propose.py VIDEO --out FOLDER [--labels CSV]

FOLDER gets `<clip>_ball.csv` (what the bundled network proposes, TrackNetV2 form), `sheet_*.png` (every frame: a crop
with a ring around the proposal, captioned with frame, score and place; dots where the frames before and after have
theirs) and `doubt_*.png` (frames without a proposal, or with one that no ball could fly to or that keeps coming back:
a larger crop around the place to expect, captioned with its corner, beside what is new in the whole picture). With
--labels, the pictures show those labels in place of proposals, for a second look, and no CSV is written.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rallytrace import video
from rallytrace.files import make_folder
from rallytrace.labels import read_labels, write_labels
from rallytrace.runtime import load_network
from rallytrace.tracker import Tracker
from rallytrace.types import XY, BallLabel, Image, Visibility

THRESHOLD = 0.2  # low: a wrong proposal costs a look, a missing one a search
CROP_WH, DOUBT_WH, ZOOM = (140, 105), (300, 200), 2  # source pixels; picture pixels per source pixel
COLUMNS, ROWS, DOUBTS = 5, 4, 2  # on a picture
JUMP = 0.08  # of the picture's width: further than a ball flies in a frame
HAUNTS = 0.04  # of the frames: a place with more proposals than that is scenery, or a ball at rest
RING_PX, DOT_PX, NEAR_PX = 12, 1, 5  # source pixels: two radii; no dot nearer to the ball, and one and the same place
REPEAT = 0.2  # grey levels: pictures that differ by less, on average, are the same
DIGITS = "0123456789.-"  # each five rows of three bits, the rows as octal digits:
BITS = ["727757777700", "561154415500", "527777717707", "524111515100", "777717717720"]
YELLOW, RED, GREEN = (255, 255, 0), (255, 64, 64), (64, 255, 64)
Places = dict[int, XY]  # by frame


def propose(path: Path) -> tuple[Places, dict[int, float]]:
    """Places, where there are any, and scores."""
    network = load_network()
    with video.read(path) as reader:
        tracker = Tracker(network, reader.info.wh, threshold=THRESHOLD, overlap=network.spec.frames)
        reader.give_to(tracker)
        points = [*itertools.chain.from_iterable(map(tracker.push, reader)), *tracker.flush()]
    return {p.frame: p.xy for p in points if p.xy}, {p.frame: p.score for p in points}


def doubtful(places: Places, n_frames: int, width: int) -> Places:
    """The frames to search by eye, each with the place to expect: interpolated from those that are in no doubt."""
    every = np.array(list(places.values())).reshape(-1, 2)
    haunted = {f for f, xy in places.items() if (np.hypot(*(every - xy).T) < NEAR_PX).sum() > max(5, HAUNTS * n_frames)}
    jumps = {f for f in places if f - 1 in places and np.hypot(*np.subtract(places[f], places[f - 1])) > JUMP * width}
    bad = {f for f in range(n_frames) if f not in places or f in haunted or f in jumps or f + 1 in jumps}
    good = [f for f in range(n_frames) if f not in bad] or [0]
    sure = np.array([places.get(f, (0.0, 0.0)) for f in good])
    return {f: (float(np.interp(f, good, sure[:, 0])), float(np.interp(f, good, sure[:, 1]))) for f in sorted(bad)}


def pictures(path: Path) -> Iterator[tuple[Image, Image]]:
    """Each frame in RGB, with what is new in it against the last different frame, enlarged in contrast."""
    with video.read(path, colour="rgb") as reader:
        last = change = np.zeros((*reader.info.wh[::-1], 3), np.int16)
        for frame in reader:
            image = frame.image.astype(np.int16)
            if np.abs(image - last)[::4, ::4].mean() > REPEAT:
                last, change = image, np.abs(image - last)
            yield frame.image, np.clip(change * 4, 0, 255).astype(np.uint8)


def crop(image: Image, xy: XY, wh: tuple[int, int]) -> tuple[Image, NDArray[np.int64]]:
    """A piece of `wh` around `xy`, moved inside and `ZOOM` times enlarged, and the source pixel of its corner."""
    (w, h), size = wh, np.array(image.shape[1::-1])
    corner = np.clip(np.rint(xy).astype(int) - np.array(wh) // 2, 0, size - wh)
    return image[corner[1] :, corner[0] :][:h, :w].repeat(ZOOM, 0).repeat(ZOOM, 1), corner


def mark(image: Image, corner: NDArray[np.int64], xy: XY, radius_px: float, colour: tuple[int, int, int]) -> None:
    """An open ring around `xy`, which does not hide the ball."""
    angles = [a for a in np.linspace(0, 2 * np.pi, 160) if a % (np.pi / 2) > 0.5]
    circle = radius_px * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for x, y in np.rint((xy - corner + circle + 0.5) * ZOOM - 0.5).astype(int):
        if 0 <= x < image.shape[1] and 0 <= y < image.shape[0]:
            image[y, x] = colour


def captioned(image: Image, *values: str) -> Image:
    strip = np.zeros((14, image.shape[1], 3), np.uint8)
    for i, sign in enumerate(" ".join(values)):
        for row, bits in enumerate(BITS if sign in DIGITS else ()):
            cells = np.array([bit == "1" for bit in f"{int(bits[DIGITS.index(sign)]):03b}"]).repeat(2)
            strip[2 + 2 * row : 4 + 2 * row, 4 + 8 * i : 10 + 8 * i][:, cells] = 255
    return np.concatenate([strip, image])


def sheet_crop(image: Image, frame: int, places: Places, expected: Places, score: float) -> Image:
    xy = places.get(frame)
    piece, corner = crop(image, xy or expected[frame], CROP_WH)
    for neighbour, colour in ((frame - 1, RED), (frame + 1, GREEN)):
        if xy and neighbour in places and np.hypot(*np.subtract(xy, places[neighbour])) > NEAR_PX:
            mark(piece, corner, places[neighbour], DOT_PX, colour)
    if xy:
        mark(piece, corner, xy, RING_PX, YELLOW)
    return captioned(piece, str(frame), f"{score:.2f}", *(f"{v:.1f}" for v in xy or ()))


def doubt_view(image: Image, change: Image, frame: int, expected: XY) -> Image:
    piece, corner = crop(image, expected, DOUBT_WH)
    n = -(-change.shape[1] // 800)
    cells = change[: change.shape[0] // n * n, : change.shape[1] // n * n]
    small = cells.reshape(len(cells) // n, n, -1, n, 3).max((1, 3))  # not the mean, in which a ball would be lost
    sides = [np.pad(s, ((0, max(len(piece), len(small)) - len(s)), (0, 0), (0, 0))) for s in (piece, small)]
    return captioned(np.concatenate(sides, axis=1), str(frame), *map(str, corner))


def save(out: Path, name: str, parts: list[Image], columns: int, rows: int) -> None:
    for i in range(0, len(parts), columns * rows):
        some = parts[i : i + columns * rows]
        some += [np.zeros_like(parts[0])] * (-len(some) % columns)
        grid = np.concatenate([np.concatenate(some[k::columns]) for k in range(columns)], axis=1)
        (out / f"{name}_{i // (columns * rows):03d}.png").write_bytes(video.encode_png(grid))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labels", type=Path)
    args = parser.parse_args()
    make_folder(args.out)
    places, scores = propose(args.video)
    if args.labels:
        places = {f: label.xy for f, label in read_labels(args.labels).items() if label.xy}
    else:
        labels = {f: BallLabel(f, places.get(f), Visibility(f in places)) for f in scores}
        write_labels(args.out / f"{args.video.stem}_ball.csv", labels)
    expected = doubtful(places, len(scores), video.probe(args.video).wh[0])
    crops, doubts = [], []
    for frame, (image, change) in enumerate(pictures(args.video)):
        crops.append(sheet_crop(image, frame, places, expected, scores[frame]))
        if frame in expected:
            doubts.append(doubt_view(image, change, frame, expected[frame]))
    save(args.out, "sheet", crops, COLUMNS, ROWS)
    save(args.out, "doubt", doubts, 1, DOUBTS)


if __name__ == "__main__":
    main()
