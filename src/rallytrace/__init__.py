"""Sports broadcast video to ball trajectories, end to end.

>>> from rallytrace import track_video
>>> result = track_video("rally.mp4", out="results")   # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

import rallytrace.telemetry  # noqa: F401 - before all that may import onnxruntime
from rallytrace.annotate import Style
from rallytrace.errors import (
    EndpointError,
    InputError,
    LabelError,
    MissingDependency,
    ModelError,
    OutputError,
    RallytraceError,
    VideoError,
)
from rallytrace.evaluate import Report, evaluate_clips
from rallytrace.geometry import FrameTransform
from rallytrace.labels import load_clips, read_labels, write_labels
from rallytrace.models import MODELS, ModelSpec
from rallytrace.runtime import Network, load_network
from rallytrace.synth import RallyOptions, make_clip
from rallytrace.track import TrackResult, track_video
from rallytrace.tracker import Tracker
from rallytrace.trajectory import Linker, Trajectory
from rallytrace.types import BallLabel, BallPoint, Clip, Frame, VideoInfo, Visibility

if TYPE_CHECKING:
    from rallytrace.serve import AsyncClient, Client

__version__ = "0.1.0"

__all__ = [
    "MODELS",
    "AsyncClient",
    "BallLabel",
    "BallPoint",
    "Client",
    "Clip",
    "EndpointError",
    "Frame",
    "FrameTransform",
    "InputError",
    "LabelError",
    "Linker",
    "MissingDependency",
    "ModelError",
    "ModelSpec",
    "Network",
    "OutputError",
    "RallyOptions",
    "RallytraceError",
    "Report",
    "Style",
    "TrackResult",
    "Tracker",
    "Trajectory",
    "VideoError",
    "VideoInfo",
    "Visibility",
    "evaluate_clips",
    "load_clips",
    "load_network",
    "make_clip",
    "read_labels",
    "track_video",
    "write_labels",
]


def __getattr__(name: str) -> Any:
    """The client, which needs packages of its own."""
    if name not in ("AsyncClient", "Client"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rallytrace import serve

    return getattr(serve, name)
