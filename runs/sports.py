"""Clips of other sports as training data: labelled frames as they are, the rest labelled by a network and filtered.

    python runs/sports.py DATA OUT [--weights accurate]

DATA holds tennis/clips (unlabelled videos), tennis/stills (labelled pictures, index.csv), pickleball and baseball
(<clip>_ball.csv beside videos). OUT gets a folder per sport that `rallytrace train --data` takes. All of it is split
"train": nothing here may be used to measure. Venues that measure (tennis: Vienna, Cincinnati) are left out by name.

A proposal becomes a label where the network is sure (SURE) and the linker accepts it in a run of RUN frames or more; a
frame becomes "absent" where the network sees nothing (NOTHING) in it and its neighbours. All other frames stay
unlabelled, which costs no loss either way: wrong labels teach, missing ones do not.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import tempfile
from fractions import Fraction
from itertools import groupby, pairwise
from pathlib import Path

from rallytrace import BallLabel, BallPoint, Visibility, load_network, video
from rallytrace.labels import read_labels, write_labels
from rallytrace.names import VIDEO_SUFFIXES
from rallytrace.runtime import Network
from rallytrace.tracker import Tracker
from rallytrace.trajectory import Linker

VALIDATION = ("vienna", "cincinnati")
SURE, NOTHING, RUN, QUIET = 0.6, 0.08, 5, 5
AGREE = 0.006  # of the diagonal, about 9 px at 720p: a proposal this near an interpolated label refines it


def propose(path: Path, network: Network, threshold: float = 0.3) -> list[BallPoint]:
    """One point per frame, all T windows averaged, outliers rejected."""
    with video.read(path) as reader:
        tracker = Tracker(network, reader.info.wh, threshold=threshold, overlap=network.spec.frames)
        linker = Linker(reader.info.wh, fill=0)
        reader.give_to(tracker)
        points = [done for frame in reader for point in tracker.push(frame) for done in linker.push(point)]
        points += [done for point in tracker.flush() for done in linker.push(point)]
        return points + linker.flush()


def trusted(points: list[BallPoint]) -> dict[int, BallLabel]:
    """The proposals that may teach."""
    labels: dict[int, BallLabel] = {}
    for sure, group in groupby(points, key=lambda p: p.xy is not None and p.score >= SURE):
        run = list(group)
        if sure and len(run) >= RUN:
            labels |= {p.frame: BallLabel(p.frame, p.xy) for p in run}
    for i, point in enumerate(points):
        around = points[max(0, i - QUIET) : i + QUIET + 1]
        if all(p.score < NOTHING for p in around):
            labels[point.frame] = BallLabel(point.frame, None, Visibility.ABSENT)
    return labels


def refined(path: Path, points: list[BallPoint], diagonal_px: float) -> dict[int, BallLabel]:
    """Keyframes as they are; interpolated labels only where the network sees the ball nearby, and there."""
    labels = read_labels(path)
    rough = read_labels(path, keyframes_only=False)
    for point in points:
        near = rough.get(point.frame)
        if point.frame in labels or near is None or near.xy is None or point.xy is None:
            continue
        dx, dy = point.xy[0] - near.xy[0], point.xy[1] - near.xy[1]
        if dx * dx + dy * dy <= (AGREE * diagonal_px) ** 2:
            labels[point.frame] = BallLabel(point.frame, point.xy)
    return labels


def stills(folder: Path, out: Path) -> list[tuple[str, str]]:
    """Runs of labelled pictures that were neighbours in their video, as clips."""
    with (folder / "index.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "synframe"]
    rows.sort(key=lambda row: int(row["frame"]))
    runs = [[rows[0]]]
    for before, row in pairwise(rows):
        near = int(row["frame"]) - int(before["frame"]) <= 2
        runs[-1].append(row) if near else runs.append([row])
    made = []
    for run in (run for run in runs if len(run) >= 12):
        name = f"stills_{run[0]['frame']}"
        _join([folder / row["file"] for row in run], out / f"{name}.mp4")
        labels = {
            i: BallLabel(i, (float(row["x_px"]), float(row["y_px"])))
            for i, row in enumerate(run)
            if row["visibility"] == "1"
        }
        write_labels(out / f"{name}_ball.csv", labels, len(run))
        made.append((name, "us_open_2021"))
    return made


def _join(pictures: list[Path], out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for i, path in enumerate(pictures):
            (Path(folder) / f"{i:06d}{path.suffix}").symlink_to(path.resolve())
        wh = video.probe(folder).wh
        with (
            video.read(folder, keep_picture=True) as reader,
            video.VideoWriter(out, wh, Fraction(25), crf=12) as writer,
        ):
            for frame in reader:
                assert frame.picture is not None
                writer.write(frame.picture, frame.index / 25)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--weights", default="accurate")
    options = arguments.parse_args()
    network = load_network(options.weights, threads=1)
    for sport in ("tennis", "pickleball", "baseball"):
        out = options.out / sport
        folder = options.data / ("tennis/clips" if sport == "tennis" else sport)
        if not folder.is_dir():
            continue
        out.mkdir(parents=True, exist_ok=True)
        pictures = options.data / sport / "stills"
        made = stills(pictures, out) if pictures.is_dir() else []
        for path in sorted(p for p in folder.iterdir() if p.suffix in VIDEO_SUFFIXES):
            if path.stem.startswith(VALIDATION):
                continue
            labelled = folder / f"{path.stem}_ball.csv"
            info = video.probe(path)
            points = propose(path, network) if sport != "baseball" else []
            diagonal_px = (info.wh[0] ** 2 + info.wh[1] ** 2) ** 0.5
            labels = refined(labelled, points, diagonal_px) if labelled.exists() else trusted(points)
            shutil.copy(path, out / path.name)
            write_labels(out / f"{path.stem}_ball.csv", labels)
            made.append((path.stem, path.stem.rstrip("0123456789")))
            absent = sum(label.xy is None for label in labels.values())
            print(f"{sport}/{path.stem}: {len(labels)} labels, {absent} of them absent", flush=True)
        with (out / "index.csv").open("w") as file:
            file.write("clip,venue,split\n" + "".join(f"{name},{sport}_{venue},train\n" for name, venue in made))


if __name__ == "__main__":
    main()
