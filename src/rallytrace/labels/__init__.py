"""Labels in files: the ball CSV of the TrackNetV2 family and folders of labelled clips."""

from rallytrace.labels.clips import VIDEO_SUFFIXES, check_length, load_clips
from rallytrace.labels.tracknetv2 import read_labels, write_labels

__all__ = ["VIDEO_SUFFIXES", "check_length", "load_clips", "read_labels", "write_labels"]
