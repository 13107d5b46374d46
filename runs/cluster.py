"""The whole road on many machines' engines, on this one: an S3-compatible server, two Ray nodes, real clips.

    python runs/cluster.py DATA OUT [--on ray|local] [--train-clips 2] [--steps 40]

DATA is a folder of labelled clips with a train and a val split. Starts OpenStack Swift with its S3 interface (Debian's
packages, real signatures) and a Ray cluster of two one-core nodes, then runs one pipeline.toml: add, labels, prepare,
train, register, and the application through an endpoint, with everything in s3://. Prints a table of seconds, bytes and
figures; OUT keeps the trajectories, and with --on local they are the same, byte for byte: training has one process on
both roads, as two would add their gradients up in another order.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.storage.servers import swift, why_no_swift

from rallytrace import Clip, Trajectory, load_clips, registry, video
from rallytrace.evaluate import score_clip
from rallytrace.storage import open_store

BUCKET = "rallytrace"


@contextmanager
def ray_nodes() -> Iterator[str]:
    """Two nodes with a core each. Yields the cluster's address."""
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield cluster.address
    finally:
        cluster.shutdown()


def choose(data: Path, folder: Path, train_clips: int) -> list[Clip]:
    """A folder with the val clips and the first train clips of DATA; labels and videos are links."""
    clips = load_clips(data)
    chosen = [clip for clip in clips if clip.split == "val"] + [c for c in clips if c.split == "train"][:train_clips]
    folder.mkdir(parents=True)
    with (folder / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("clip", "match", "split"))
        for clip in chosen:
            rows.writerow((clip.name, clip.match, clip.split))
            for source in (clip.video, clip.video.with_name(f"{clip.name}_ball.csv")):
                (folder / source.name).symlink_to(source.resolve())
    return chosen


def pipeline(out: Path, work: str, on: str, steps: int, threshold: float, tracked: Clip) -> Path:
    path = out / "pipeline.toml"
    path.write_text(f"""
name = "demo"
work = "{work}"
on = "{on}"
[add]
videos = ["clips/*.mp4"]
[label]
source = "clips"
[prepare]
size = "512x288"
[train]
size = "512x288"
steps = {steps}
batch = 8
val-every = {steps}
save-every = {steps}
log-every = {steps}
processes = 1
[register]
stage = "production"
[deploy]
[track]
videos = ["{work}/videos/{tracked.video.name}"]
codec = "raw"
threshold = {threshold}
no-video = true
""")
    return path


def report(out: Path, work: str, clip: Clip) -> None:
    store = open_store(work)
    sizes: dict[str, int] = {}
    for entry in store.list():
        top = entry.key.partition("/")[0]
        sizes[top] = sizes.get(top, 0) + entry.size
    made = {"add": "videos", "prepare": "features", "register": "models", "track": "tracked"}
    print("| step | seconds | bytes in the store |\n|---|---|---|")
    for step in ("add", "label", "prepare", "train", "register", "track"):
        note = json.loads(store.get(f"pipeline/{step}.json"))
        print(f"| {step} | {note['seconds']:.1f} | {sizes.get(made.get(step, ''), 0):,} |")
    version = registry.find(f"{work}/models", "demo@production")
    path = store.fetch(f"tracked/{clip.name}.csv")
    shutil.copy(path, out / path.name)
    score = score_clip(clip.labels, list(Trajectory.from_csv(path)), video.probe(clip.video).wh)
    figures = ", ".join(f"F1 within {tolerance} {counts.f1 or 0:.3f}" for tolerance, counts in score.counts.items())
    print(f"\n{version.name} {version.version}: val F1 {version.metrics.get('val_f1_4at288', 0):.3f}")
    print(f"{clip.name}: {figures}")
    print(f"data {version.lineage['data'][0]['sha256'][:12]}, {version.lineage['code']}; {out / path.name}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--on", choices=("ray", "local"), default="ray")
    arguments.add_argument("--train-clips", type=int, default=2)
    arguments.add_argument("--steps", type=int, default=40)
    arguments.add_argument("--threshold", type=float, default=0.4, help="so short a training is not sure of much")
    options = arguments.parse_args()
    reason = why_no_swift()
    if reason:
        sys.exit(f"no S3-compatible server: {reason}")
    out: Path = options.out.resolve()
    clips = choose(options.data, out / "clips", options.train_clips)
    (out / "swift").mkdir()
    with swift(out / "swift") as server:
        os.environ.update(server.env)
        server.client().create_bucket(Bucket=BUCKET)
        work = f"s3://{BUCKET}/demo"
        config = pipeline(out, work, options.on, options.steps, options.threshold, clips[0])
        command = [sys.executable, "-m", "rallytrace", "run", str(config)]
        if options.on == "ray":
            with ray_nodes() as address:
                os.environ["RAY_ADDRESS"] = address
                subprocess.run(command, check=True)
        else:
            subprocess.run(command, check=True)
        report(out, work, clips[0])


if __name__ == "__main__":
    main()
