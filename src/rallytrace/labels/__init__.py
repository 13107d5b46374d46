"""Labels in files: the ball CSV of the TrackNetV2 family and folders of labelled clips."""

from rallytrace.labels.clips import check_length, check_split, load_clips, read_index
from rallytrace.labels.tracknetv2 import read_labels, write_labels

__all__ = ["check_length", "check_split", "load_clips", "read_index", "read_labels", "write_labels"]
