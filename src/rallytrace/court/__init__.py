"""Where the court is in the picture, in metres: found, judged, followed, and the camera behind it."""

from rallytrace.court.camera import Camera, project, unproject
from rallytrace.court.find import Court, find_court
from rallytrace.court.follow import CourtFollower, CourtStretch
from rallytrace.court.model import CourtModel, court_model, sports

__all__ = [
    "Camera",
    "Court",
    "CourtFollower",
    "CourtModel",
    "CourtStretch",
    "court_model",
    "find_court",
    "project",
    "sports",
    "unproject",
]
