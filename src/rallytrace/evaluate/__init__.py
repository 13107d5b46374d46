"""How good a trajectory is, by the field's metrics."""

from rallytrace.annotate import contact_sheet
from rallytrace.evaluate.metrics import (
    CONTRAST_EDGES,
    SPEED_EDGES_PX,
    TOLERANCES,
    ClipScore,
    Counts,
    Outcome,
    Tolerance,
    ball_contrast,
    classify,
    is_visible,
    score_clip,
)
from rallytrace.evaluate.report import sample_sheet, write_report
from rallytrace.evaluate.run import ClipReport, Report, evaluate_clips

__all__ = [
    "CONTRAST_EDGES",
    "SPEED_EDGES_PX",
    "TOLERANCES",
    "ClipReport",
    "ClipScore",
    "Counts",
    "Outcome",
    "Report",
    "Tolerance",
    "ball_contrast",
    "classify",
    "contact_sheet",
    "evaluate_clips",
    "is_visible",
    "sample_sheet",
    "score_clip",
    "write_report",
]
