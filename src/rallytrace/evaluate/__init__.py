"""How good a trajectory is, by the field's metrics."""

from rallytrace.evaluate.metrics import (
    SPEED_EDGES_PX,
    TOLERANCES,
    ClipScore,
    Counts,
    Outcome,
    Tolerance,
    classify,
    is_visible,
    score_clip,
)
from rallytrace.evaluate.report import contact_sheet, sample_sheet, write_report
from rallytrace.evaluate.run import ClipReport, Report, evaluate_clips

__all__ = [
    "SPEED_EDGES_PX",
    "TOLERANCES",
    "ClipReport",
    "ClipScore",
    "Counts",
    "Outcome",
    "Report",
    "Tolerance",
    "classify",
    "contact_sheet",
    "evaluate_clips",
    "is_visible",
    "sample_sheet",
    "score_clip",
    "write_report",
]
