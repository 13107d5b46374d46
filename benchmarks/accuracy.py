"""Accuracy against cost: several networks, the same clips, the same code, one run.

    python benchmarks/accuracy.py DATA --network accurate --network fast --experiments OUT/results.jsonl --out docs

Prints a Markdown table (and writes it with the plot into OUT: benchmarks.md, benchmarks.svg): F1 on the val clips at
both tolerances, recall, CPU milliseconds per frame of the network alone (one thread, median of 15 runs), and minutes of
training. --experiments adds what runs/experiments.py has measured in the same way, and how long it trained.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from runs.cost import cpu_ms

from rallytrace import evaluate_clips, load_clips, load_network
from rallytrace.types import Clip

ABOUT = """Badminton val (Osaka, 2 clips, 1,170 frames, labels of TrackNetV3), unseen in training: whole clips, nothing
trimmed, filled or rejected, scored by the same code. `4@288` is 4 px of a 512x288 picture, `4@source` 4 px of the 720p
source. Each picture's highest peak alone, without the path that `track` takes. CPU-ms are of the network alone on one
thread of an AVX-512 machine, on one day: compare them. All but the bundled networks were trained
by the same loop on the same 33 clips on one core (`runs/experiments.py`): what they reach in minutes is not what they
can reach, but what the same time gives. Made by `python benchmarks/accuracy.py`; see there.
"""


@dataclass(frozen=True)
class Result:
    name: str
    f1_288: float
    f1_source: float
    recall: float
    cpu_ms: float
    train_cpu_min: float | None = None  # None: hours


def measure(name: str, weights: str, clips: list[Clip]) -> Result:
    network = load_network(weights, threads=1)
    at_288, at_source = evaluate_clips(network, clips, path=False).total.counts.values()
    return Result(name, at_288.f1 or 0, at_source.f1 or 0, at_288.recall or 0, cpu_ms(network))


def measured(experiments: Path, names: list[str]) -> list[Result]:
    """Lines of results.jsonl, in the order of `names`."""
    lines = {line["name"]: line for line in map(json.loads, experiments.read_text().splitlines())}
    keys = ("f1_288", "f1_source", "recall_288", "cpu_ms", "train_cpu_min")
    return [Result(name, *(lines[name][key] for key in keys)) for name in names or lines]


def table(results: list[Result]) -> str:
    lines = ["| network | F1 4@288 | F1 4@source | recall | CPU-ms a frame | CPU-minutes of training |"]
    lines.append("|---" * 6 + "|")
    for r in results:
        scores = " | ".join(f"{v:.3f}" for v in (r.f1_288, r.f1_source, r.recall))
        trained = "hours" if r.train_cpu_min is None else f"{r.train_cpu_min:.1f}"
        lines.append(f"| {r.name} | {scores} | {r.cpu_ms:.1f} | {trained} |")
    return "\n".join(lines) + "\n"


def plot(results: list[Result]) -> str:
    """F1 at 4@288 over CPU-ms a frame, which is drawn by its logarithm."""
    wide, high, edge = 640, 360, 56
    low, top = 0.2, 3.2  # 10^x CPU-ms

    def place(r: Result) -> tuple[float, float]:
        x = (math.log10(r.cpu_ms) - low) / (top - low)
        return edge + x * (wide - 2 * edge), high - edge - r.f1_288 * (high - 2 * edge)

    style = "font:12px system-ui,sans-serif"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" style="{style}">']
    parts.append(f'<rect width="{wide}" height="{high}" fill="#fff"/>')
    for f1 in (0, 0.25, 0.5, 0.75, 1):
        y = high - edge - f1 * (high - 2 * edge)
        parts.append(
            f'<path d="M{edge} {y:.1f}H{wide - edge}" stroke="#ddd"/><text x="20" y="{y + 4:.1f}">{f1:.2f}</text>'
        )
    for ms in (2, 5, 10, 50, 100, 500, 1000):
        x = edge + (math.log10(ms) - low) / (top - low) * (wide - 2 * edge)
        parts.append(f'<text x="{x:.1f}" y="{high - edge + 18}" text-anchor="middle">{ms}</text>')
    lowest = 0.0  # names stand below each other, and a line leads to each
    for x, y, r in sorted(((*place(r), r) for r in results), key=lambda each: -each[0]):
        if x > wide * 0.7:
            at, below, anchor = x - 14, y - 12, "end"
        else:
            at, below, anchor = x + 14, max(y + 24, lowest + 18), "start"
            lowest = below
        parts.append(f'<path d="M{x:.1f} {y:.1f}L{at:.1f} {below - 4:.1f}" stroke="#0a66c2"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#0a66c2"/>')
        parts.append(f'<text x="{at:.1f}" y="{below:.1f}" text-anchor="{anchor}">{r.name} {r.f1_288:.3f}</text>')
    parts.append(
        f'<text x="{wide / 2}" y="{high - 12}" text-anchor="middle">CPU-ms a frame, one thread (logarithmic)</text>'
    )
    parts.append(f'<text x="{edge}" y="24">F1 on val, 4 px of 512x288</text></svg>')
    return "\n".join(parts) + "\n"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--network", action="append", default=[], help="NAME, or NAME=weights")
    arguments.add_argument("--experiments", type=Path, help="results.jsonl of runs/experiments.py")
    arguments.add_argument("--only", action="append", default=[], help="of the experiments; all of them otherwise")
    arguments.add_argument("--split", default="val")
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    clips = [clip for clip in load_clips(options.data) if clip.split == options.split]
    results = [
        measure(name, weights or name, clips) for name, _, weights in (n.partition("=") for n in options.network)
    ]
    if options.experiments:
        results += measured(options.experiments, options.only)
    print(table(results))
    if options.out:
        (options.out / "benchmarks.svg").write_text(plot(results))
        page = f"# Accuracy against cost\n\n{ABOUT}\n{table(results)}\n![F1 over CPU time](benchmarks.svg)\n"
        (options.out / "benchmarks.md").write_text(page)


if __name__ == "__main__":
    main()
