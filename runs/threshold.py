"""F1 over thresholds on one split, from one pass of the network: where the threshold of a network comes from.

python runs/threshold.py DATA WEIGHTS [--split train]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from rallytrace import evaluate_clips, load_clips, load_network
from rallytrace.evaluate import ClipReport, ClipScore, score_clip
from rallytrace.types import BallPoint, PointSource

THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)


def score(report: ClipReport, threshold: float) -> ClipScore:
    def strict(point: BallPoint) -> BallPoint:
        return point if point.score >= threshold else replace(point, xy=None, source=PointSource.NONE)

    return score_clip(report.clip.labels, map(strict, report.points), report.source_wh)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("weights")
    arguments.add_argument("--split", default="train")
    options = arguments.parse_args()
    clips = [clip for clip in load_clips(options.data) if clip.split == options.split]
    report = evaluate_clips(load_network(options.weights, threads=1), clips, threshold=min(THRESHOLDS), path=False)
    for threshold in THRESHOLDS:
        total, *rest = (score(clip, threshold) for clip in report.clips)
        for other in rest:
            total = total + other
        at_288, at_source = total.counts.values()
        print(
            f"{threshold:.2f}  F1 {at_288.f1:.4f} / {at_source.f1:.4f}  precision {at_288.precision:.3f}  "
            f"recall {at_288.recall:.3f}  false alarms without a ball {at_288.fp2} of {at_288.fp2 + at_288.tn}"
        )


if __name__ == "__main__":
    main()
