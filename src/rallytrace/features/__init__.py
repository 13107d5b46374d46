"""Feature sets: each frame of labelled clips once, as JPEG, with the labels: what `train` and `eval` need and no more.

    prepare(recordings("./badminton"), "./features", PrepareOptions(get_spec("rallynet")))
    train(load_features("./features"), ...)

Windows and Gaussian targets are rendered from it on the fly; `windows` does so without torch.
"""

from rallytrace.features.executors import Executor, on_ray, one_process, processes
from rallytrace.features.manifest import describe_data, is_features, load_data, load_features, read_manifest
from rallytrace.features.prepare import PrepareOptions, prepare, prepare_unit
from rallytrace.features.sources import Recording, read_label_sets, recordings, share_out
from rallytrace.features.windows import Sample, read_arrays, windows

__all__ = [
    "Executor", "PrepareOptions", "Recording", "Sample", "describe_data", "is_features", "load_data", "load_features",
    "on_ray", "one_process", "prepare", "prepare_unit", "processes", "read_arrays", "read_label_sets", "read_manifest",
    "recordings", "share_out", "windows",
]  # fmt: skip
