"""Evaluation runs the tracker that tracks videos; the report shows what it found."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from rallytrace import video
from rallytrace.errors import InputError, OutputError
from rallytrace.evaluate import evaluate_clips, sample_sheet, write_report
from rallytrace.evaluate.report import contact_sheet, crops, worst
from rallytrace.runtime import load_network
from rallytrace.tracker import Tracker
from rallytrace.types import Clip, Frame

from .networks import Brightest


@pytest.mark.parametrize("path", [True, False])
def test_evaluation_is_the_tracker_and_the_metric(rally: Clip, path: bool) -> None:
    """The counts again, the long way round: track by hand, compare by hand."""
    network = load_network("fast", threads=1)
    report = evaluate_clips(network, [rally], threshold=0.3, path=path)
    info = video.probe(rally.video)
    tracker = Tracker(network, info.wh, threshold=0.3, path=path)
    with video.read(rally.video, wh=tracker.transform.content_wh) as reader:
        points = [p for frame in reader for p in tracker.push(frame)] + tracker.flush()
    tp = fp = fn = tn = 0
    for point in points:
        truth = rally.labels[point.frame].xy
        if truth and rally.labels[point.frame].visibility == 3:
            truth = None
        if point.xy is None:
            fn, tn = fn + (truth is not None), tn + (truth is None)
        elif truth and math.dist(truth, point.xy) <= 4 * info.wh[0] / 512:
            tp += 1
        else:
            fp += 1
    counts = next(iter(report.total.counts.values()))
    assert (counts.tp, counts.fp1 + counts.fp2, counts.fn, counts.tn) == (tp, fp, fn, tn)
    assert counts.total == len(rally.labels)
    assert tp > 0


def test_totals_are_sums_over_clips_and_matches(rallies_clips: list[Clip]) -> None:
    report = evaluate_clips(Brightest(), rallies_clips, threshold=0.3)
    rows = [row for row in report.rows() if row[1] == "4@288"]
    clips, matches, total = rows[:2], rows[2:4], rows[4]
    assert [row[0] for row in matches] == ["match first", "match second"]
    for column in range(2, 7):
        assert sum(row[column] for row in clips) == sum(row[column] for row in matches) == total[column]  # type: ignore[misc]


def test_filling_and_rejection_only_when_asked(rally: Clip) -> None:
    bare = evaluate_clips(Brightest(), [rally], threshold=0.3)
    filled = evaluate_clips(Brightest(), [rally], threshold=0.3, fill=5, reject=True)
    assert {p.source for p in bare.clips[0].points} <= {"model", "none"}
    assert filled.settings["fill"] == 5
    assert len(filled.clips[0].points) == len(bare.clips[0].points)


def test_report_files(rallies_clips: list[Clip], tmp_path: Path) -> None:
    report = evaluate_clips(Brightest(), rallies_clips, threshold=0.3)
    write_report(report, tmp_path / "report")
    figures = json.loads((tmp_path / "report" / "report.json").read_text())
    assert figures["total"]["tolerances"]["4@288"]["tp"] == next(iter(report.total.counts.values())).tp
    assert set(figures["clips"]) == {"a", "b"}
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == len(worst(report, 20))
    assert "http" not in page  # nothing is fetched from anywhere
    assert "<script" not in page
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == ["report.html", "report.json"]


def test_hostile_names_are_text(rallies_clips: list[Clip], tmp_path: Path) -> None:
    import dataclasses

    clip = dataclasses.replace(rallies_clips[0], name="<script>alert(1)</script>", match='"><img src=x>')
    write_report(evaluate_clips(Brightest(), [clip]), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page


def test_crops_show_the_label_where_it_is(rally: Clip) -> None:
    """The cross is the only thing drawn: its centroid, measured against the bare picture, is the label."""
    report = evaluate_clips(Brightest(), [rally], threshold=0.99).clips[0]
    frame, label = next(
        (f, label.xy)
        for f, label in rally.labels.items()
        if label.xy and 100 < label.xy[0] < 1180 and 70 < label.xy[1] < 650
    )
    drawn = crops([(report, frame)])[0].astype(float)
    with video.read(rally.video, colour="rgb") as reader:
        bare = next(f.image for f in reader if f.index == frame)
    x, y = round(label[0]) - 96, round(label[1]) - 64
    change = np.abs(drawn - bare[y : y + 128, x : x + 192]).sum(2) > 30
    rows, cols = np.nonzero(change)
    assert len(rows) > 10
    assert ((cols.min() + cols.max()) / 2 + x, (rows.min() + rows.max()) / 2 + y) == pytest.approx(label, abs=1.0)


def test_worst_frames_lead_with_the_farthest(rallies_clips: list[Clip]) -> None:
    report = evaluate_clips(Brightest(), rallies_clips, threshold=0.2)
    captions = [caption for _, _, caption in worst(report, 50)]
    far = [float(c.split(": ")[1].split(" px")[0]) for c in captions if "px off" in c]
    assert far == sorted(far, reverse=True)


def test_sample_sheet_is_a_picture(rally: Clip) -> None:
    sheet = sample_sheet(evaluate_clips(Brightest(), [rally]))
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3
    assert sheet.std() > 5


def test_contact_sheet_by_hand() -> None:
    tiles = [np.full((2, 3, 3), value, np.uint8) for value in (1, 2, 3)]
    sheet = contact_sheet(tiles, columns=2)
    assert sheet.shape == (8, 10, 3)
    assert (sheet[0, 0], sheet[0, 5], sheet[4, 0]) == pytest.approx((1, 2, 3)) or sheet[4, 0, 0] == 3
    assert sheet[4, 5, 0] == 0


def test_nothing_to_evaluate_and_nowhere_to_write(rally: Clip, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one labelled clip"):
        evaluate_clips(Brightest(), [])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_report(evaluate_clips(Brightest(), [rally]), tmp_path / "file")


def test_frames_are_typed() -> None:
    with pytest.raises(ValueError, match="uint8"):
        Frame(0, 0.0, np.zeros((4, 4), np.float32))  # type: ignore[arg-type]


def test_recall_is_told_by_speed_and_contrast(rally: Clip) -> None:
    report = evaluate_clips(Brightest(), [rally], threshold=0.3)
    visible = sum(label.xy is not None and label.visibility != 3 for label in rally.labels.values())
    buckets = next(iter(report.total.by_contrast.values()))
    assert sum(counts.total for counts in buckets) == visible
    assert [line.split(" within ")[0].split(" (")[0] for line in report.recall_lines()] == [
        "recall by speed",
        "recall by speed",
        "recall by contrast",
        "recall by contrast",
    ]
    assert report.to_dict()["total"]["recall_by_contrast"]["4@288"].keys() == {"low", "middle", "high"}
