"""An evaluation as report.json and one self-contained report.html: tables, curves, and the worst frames as pictures."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from rallytrace import video
from rallytrace.annotate import contact_sheet, draw_rgb
from rallytrace.evaluate.metrics import TOLERANCES, Outcome, classify
from rallytrace.evaluate.run import ClipReport, Report
from rallytrace.files import make_folder, write_text
from rallytrace.types import XY, Image

LABEL_RGB, FOUND_RGB = (64, 255, 96), (255, 64, 32)
CROP_WH = (192, 128)
HEADS = ("clip", "tolerance", "TP", "FP1", "FP2", "TN", "FN", "precision", "recall", "F1", "accuracy", "median", "p95")
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
figure { display: inline-block; margin: .4rem; font-size: .8rem; } figure img { display: block; image-rendering: auto; }
svg { width: 100%; height: auto; } .key { margin-right: 1rem; } .label { color: #0a0; } .found { color: #e30; }
"""


def write_report(report: Report, folder: Path) -> None:
    """Write `folder`/report.json and report.html. Raises OutputError where that is not possible."""
    page = _page(report)
    make_folder(folder)
    write_text(folder / "report.html", page)
    write_text(folder / "report.json", json.dumps(report.to_dict(), indent=2) + "\n")


def _page(report: Report) -> str:
    parts = ["<!doctype html><meta charset=utf-8><title>Ball tracking report</title>", f"<style>{STYLE}</style>"]
    parts += ["<h1>Ball tracking report</h1>", _settings(report), "<h2>Scores</h2>", _table(report)]
    parts += [
        "<p>Errors are in pixels of the source; 4@288 is 4 px of a 512x288 picture, 4@source 4 px of the source.</p>"
    ]
    parts += ["<h2>Recall</h2><p>", "<br>".join(html.escape(line) for line in report.recall_lines()), "</p>"]
    parts += ["<h2>Error of found balls</h2>", _histogram(report.total.errors_px)]
    key = "<span class='key label'>labels</span><span class='key found'>found</span>"
    parts += [f"<h2>Position over time</h2><p>{key}</p>"]
    for clip in report.clips:
        parts += [f"<h3>{html.escape(clip.clip.name)} ({html.escape(clip.clip.match)})</h3>", _curves(clip)]
    parts += ["<h2>The worst frames</h2><p>Green cross: label. Red ring: found.</p>", _gallery(worst(report, 20))]
    return "\n".join(parts)


def _settings(report: Report) -> str:
    shown = {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in report.settings.items()}
    return "<p>" + " · ".join(f"{html.escape(k)} <b>{html.escape(str(v))}</b>" for k, v in shown.items()) + "</p>"


def _table(report: Report) -> str:
    def cell(value: str | int | float | None) -> str:
        return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else html.escape(str(value))

    rows = ("".join(f"<td>{cell(value)}</td>" for value in row) for row in report.rows())
    head = "".join(f"<th>{name}</th>" for name in HEADS)
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _histogram(errors_px: np.ndarray[tuple[int], np.dtype[np.float64]], bins: int = 40, top_px: float = 20.0) -> str:
    """Half-pixel bins up to 20 px; the last bar gathers what lies beyond."""
    if not len(errors_px):
        return "<p>No ball was found where one is.</p>"
    counts, _ = np.histogram(np.minimum(errors_px, top_px - 1e-6), bins, (0.0, top_px))
    bars = []
    for i, count in enumerate(counts):
        height = 150 * count / counts.max()
        title = f"{i * top_px / bins:g} px or more: {count}" if i == bins - 1 else f"{i * top_px / bins:g} px: {count}"
        bars.append(
            f"<rect x='{20 * i + 1}' y='{160 - height:.1f}' width='18' height='{height:.1f}' fill='#48c'>"
            f"<title>{title}</title></rect>"
        )
        if i % 2 == 0:
            bars.append(
                f"<text x='{20 * i}' y='175' font-size='10' fill='currentColor'>{i * top_px / bins:g} px</text>"
            )
    return f"<svg viewBox='0 0 {20 * bins} 180'>{''.join(bars)}</svg>"


def _curves(clip: ClipReport) -> str:
    """x above y, over the frame's number; a line breaks where there is no ball."""
    n = max([p.frame for p in clip.points] + list(clip.clip.labels), default=0) + 1
    labels = {frame: label.xy for frame, label in clip.clip.labels.items()}
    found = {point.frame: point.xy for point in clip.points}
    lines = []
    for axis, top in ((0, 0), (1, 130)):
        scale = 120 / clip.source_wh[axis]
        for values, colour, width in ((labels, "#0a0", 2.2), (found, "#e30", 1.0)):
            path = _path(values, axis, n, top, scale)
            lines.append(
                f"<path d='{path}' fill='none' stroke='{colour}' stroke-width='{width}' stroke-linecap='round'/>"
            )
        lines.append(f"<text x='2' y='{top + 12}' font-size='11' fill='currentColor'>{'xy'[axis]}</text>")
    return f"<svg viewBox='0 0 1000 255'>{''.join(lines)}</svg>"


def _path(values: dict[int, XY | None], axis: int, n: int, top: float, scale: float) -> str:
    steps, pen_down = [], False
    for frame in range(n):
        xy = values.get(frame)
        if xy is not None:
            x, y = 1000 * frame / n, top + scale * xy[axis]
            steps.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}" + ("" if pen_down else "h.1"))
        pen_down = xy is not None
    return "".join(steps)


def worst(report: Report, count: int) -> list[tuple[ClipReport, int, str]]:
    """Frames to look at: by turns the farthest off, the surest false alarm, the faintest miss; with a caption each."""
    groups: dict[Outcome, list[tuple[float, ClipReport, int, str]]] = {
        kind: [] for kind in (Outcome.FP1, Outcome.FP2, Outcome.FN)
    }
    for clip in report.clips:
        tolerance = TOLERANCES[0].in_source_px(clip.source_wh)
        for point in clip.points:
            label = clip.clip.labels.get(point.frame)
            kind = label and classify(label, point.xy, tolerance)
            if label is None or kind not in groups:
                continue
            badness, what = point.score, f"false alarm, score {point.score:.2f}"
            if kind is Outcome.FP1 and label.xy and point.xy:
                badness = math.dist(label.xy, point.xy)
                what = f"{badness:.1f} px off, score {point.score:.2f}"
            elif kind is Outcome.FN:
                badness, what = 1 - point.score, f"missed, score {point.score:.2f}"
            groups[kind].append((badness, clip, point.frame, f"{clip.clip.name} frame {point.frame}: {what}"))
    ranked = [sorted(group, key=lambda item: -item[0]) for group in groups.values()]
    by_turns = chain.from_iterable(zip_longest(*ranked))
    return [item[1:] for item in by_turns if item is not None][:count]


def _gallery(items: Sequence[tuple[ClipReport, int, str]]) -> str:
    figures = []
    for (_, _, caption), image in zip(items, crops([(clip, frame) for clip, frame, _ in items]), strict=True):
        data = base64.b64encode(video.encode_jpeg(image, 85)).decode()
        figures.append(
            f"<figure><img src='data:image/jpeg;base64,{data}' width='{image.shape[1] * 3 // 2}' alt=''>"
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    return "".join(figures) or "<p>None: every frame is right.</p>"


def crops(items: Sequence[tuple[ClipReport, int]]) -> list[Image]:
    """RGB crops of CROP_WH around the label (or what was found), both drawn; in the order of `items`."""
    cut: dict[tuple[str, int], Image] = {}
    for report in {id(report): report for report, _ in items}.values():
        wanted = {frame for other, frame in items if other is report}
        with video.read(report.clip.video, colour="rgb") as reader:
            for frame in reader:
                if frame.index in wanted:
                    cut[report.clip.name, frame.index] = _crop(frame.image, report, frame.index)
                if frame.index >= max(wanted):
                    break
    return [cut[report.clip.name, frame] for report, frame in items]


def _crop(image: Image, report: ClipReport, frame: int) -> Image:
    label = report.clip.labels.get(frame)
    found = next((point.xy for point in report.points if point.frame == frame), None)
    at = (label.xy if label else None) or found or (image.shape[1] / 2, image.shape[0] / 2)
    w, h = (min(a, b) for a, b in zip(CROP_WH, image.shape[1::-1], strict=True))
    x = min(max(round(at[0]) - w // 2, 0), image.shape[1] - w)
    y = min(max(round(at[1]) - h // 2, 0), image.shape[0] - h)
    part = np.ascontiguousarray(image[y : y + h, x : x + w])
    if label and label.xy:
        part = draw_rgb(part, (label.xy[0] - x, label.xy[1] - y), "cross", colour=LABEL_RGB, radius_px=5)
    if found:
        part = draw_rgb(part, (found[0] - x, found[1] - y), "ring", colour=FOUND_RGB, radius_px=9)
    return part


def sample_sheet(report: Report, columns: int = 4, rows: int = 3) -> Image:
    """One RGB picture of predictions on frames spread over the start of the first clip, for a training log."""
    clip = report.clips[0]
    seen = [p.frame for p in clip.points[:200] if (label := clip.clip.labels.get(p.frame)) and label.xy]
    picks = seen[:: max(1, len(seen) // (columns * rows))][: columns * rows]
    return contact_sheet(crops([(clip, frame) for frame in picks]), columns)
