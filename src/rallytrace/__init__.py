"""Sports broadcast video to ball trajectories, end to end.

>>> from rallytrace import track_video
>>> result = track_video("rally.mp4", out="results")   # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import rallytrace.telemetry  # noqa: F401 - before all that may import onnxruntime

if TYPE_CHECKING:
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
    from rallytrace.serve import AsyncClient, Client
    from rallytrace.synth import RallyOptions, make_clip
    from rallytrace.track import TrackResult, track_video
    from rallytrace.tracker import Tracker
    from rallytrace.trajectory import Linker, Trajectory
    from rallytrace.types import BallLabel, BallPoint, Clip, Frame, VideoInfo, Visibility

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


_HOMES = {  # module -> the public names that it holds
    "annotate": "Style",
    "errors": "EndpointError InputError LabelError MissingDependency ModelError OutputError RallytraceError VideoError",
    "evaluate": "Report evaluate_clips",
    "geometry": "FrameTransform",
    "labels": "load_clips read_labels write_labels",
    "models": "MODELS ModelSpec",
    "runtime": "Network load_network",
    "serve": "AsyncClient Client",
    "synth": "RallyOptions make_clip",
    "track": "TrackResult track_video",
    "tracker": "Tracker",
    "trajectory": "Linker Trajectory",
    "types": "BallLabel BallPoint Clip Frame VideoInfo Visibility",
}


def __getattr__(name: str) -> Any:
    """A public name, or a module of them, imported at its first use: `rallytrace --help` needs neither video nor
    networks."""
    if name in _HOMES:
        return import_module(f"{__name__}.{name}")
    for module, names in _HOMES.items():
        if name in names.split():
            found = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
