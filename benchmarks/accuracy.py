"""Accuracy against cost: several networks, the same clips, the same code, one run.

    python benchmarks/accuracy.py DATA --network accurate --network fast --network tracknet_v2=run/best.onnx --out docs

Prints a Markdown table (and writes it with the plot into OUT: accuracy.md, accuracy.svg): F1 on the val clips at both
tolerances, recall, and CPU milliseconds per frame of the network alone (one thread, median of 15 runs).
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from runs.cost import cpu_ms

from rallytrace import evaluate_clips, load_clips, load_network
from rallytrace.types import Clip


@dataclass(frozen=True)
class Result:
    name: str
    size: str
    f1_288: float
    f1_source: float
    recall: float
    precision: float
    cpu_ms: float


def measure(name: str, weights: str, clips: list[Clip]) -> Result:
    network = load_network(weights, threads=1)
    at_288, at_source = evaluate_clips(network, clips).total.counts.values()
    w, h = network.spec.size_wh
    f1_288, f1_source, recall, precision = (
        v or 0.0 for v in (at_288.f1, at_source.f1, at_288.recall, at_288.precision)
    )
    return Result(name, f"{w}x{h}", f1_288, f1_source, recall, precision, cpu_ms(network))


def table(results: list[Result]) -> str:
    lines = ["| network | input | F1 4@288 | F1 4@source | recall | precision | CPU-ms a frame |", "|---" * 7 + "|"]
    for r in results:
        scores = " | ".join(f"{v:.3f}" for v in (r.f1_288, r.f1_source, r.recall, r.precision))
        lines.append(f"| {r.name} | {r.size} | {scores} | {r.cpu_ms:.1f} |")
    return "\n".join(lines) + "\n"


def plot(results: list[Result]) -> str:
    """F1 at 4@288 over CPU-ms a frame, which is drawn by its logarithm."""
    wide, high, edge = 640, 360, 56
    low, top = 0.5, 3.2  # 10^x CPU-ms

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
    for ms in (5, 10, 50, 100, 500, 1000):
        x = edge + (math.log10(ms) - low) / (top - low) * (wide - 2 * edge)
        parts.append(f'<text x="{x:.1f}" y="{high - edge + 18}" text-anchor="middle">{ms}</text>')
    for r in results:
        x, y = place(r)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#0a66c2"/>')
        parts.append(f'<text x="{x + 8:.1f}" y="{y + 16:.1f}">{r.name} {r.f1_288:.3f}</text>')
    parts.append(
        f'<text x="{wide / 2}" y="{high - 12}" text-anchor="middle">CPU-ms a frame, one thread (logarithmic)</text>'
    )
    parts.append(f'<text x="{edge}" y="24">F1 on val, 4 px of 512x288</text></svg>')
    return "\n".join(parts) + "\n"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--network", action="append", required=True, help="NAME, or NAME=weights")
    arguments.add_argument("--split", default="val")
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    clips = [clip for clip in load_clips(options.data) if clip.split == options.split]
    results = [
        measure(name, weights or name, clips) for name, _, weights in (n.partition("=") for n in options.network)
    ]
    print(table(results))
    if options.out:
        (options.out / "accuracy.md").write_text(table(results))
        (options.out / "accuracy.svg").write_text(plot(results))


if __name__ == "__main__":
    main()
