"""Windows and targets of a prepared clip: rendered on the fly, or written as the arrays of the published solution."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from rallytrace import heatmap
from rallytrace.features.manifest import read_manifest
from rallytrace.files import AtomicFile, output_errors
from rallytrace.geometry import FrameTransform
from rallytrace.models import ModelSpec
from rallytrace.types import Clip, Image
from rallytrace.video import read_clip
from rallytrace.window import Background, Window, WindowMaker, moments

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Sample:
    """frames: of the video, T of them. window: uint8 (C, h, w), the background last. heatmaps: float32
    (T_out, h/stride, w/stride). known: bool (T_out,), False where a frame is unlabelled, which is not "no ball"."""

    frames: tuple[int, ...]
    window: Image
    heatmaps: Floats
    known: NDArray[np.bool_]

    def __repr__(self) -> str:
        return f"Sample(frames={self.frames}, window={self.window.shape}, heatmaps={self.heatmaps.shape})"


def windows(clip: Clip, spec: ModelSpec) -> Iterator[Sample]:
    """All windows of T new moments of one scene of which one is labelled: what training draws from, not augmented.

    Memory stays flat. Raises VideoError.
    """
    with read_clip(clip) as reader:
        reader.find_picture()
        info = reader.info
        transform = FrameTransform.fit_picture(info.wh, info.picture, spec.size_wh, spec.multiple)
        reader.give(wh=transform.content_wh, colour=spec.colour, box=transform.box)
        for _, scene in itertools.groupby(moments(reader, transform.pad), key=lambda moment: moment[1]):
            background = Background() if spec.background else None
            maker = WindowMaker(spec.frames, step=1, outputs=spec.outputs, background=background)
            frames: list[int] = []
            for frame, _, image in scene:
                frames.append(frame)
                yield from _samples(maker.push(image), frames, clip, spec, transform)
            yield from _samples(maker.flush(), frames, clip, spec, transform)


def _samples(
    made: list[Window], frames: list[int], clip: Clip, spec: ModelSpec, transform: FrameTransform
) -> Iterator[Sample]:
    for window in made:
        of = tuple(frames[position] for position in window.positions)
        labels = [clip.labels.get(frame) for frame in of]
        if len(set(of)) < len(of) or not any(labels):
            continue  # a scene's end repeats pictures
        places = [label.xy if label else None for label in labels[-spec.outputs :]]
        points = [xy and transform.to_model(xy) for xy in places]
        hw = (window.stack.shape[1] // spec.stride, window.stack.shape[2] // spec.stride)
        heatmaps = heatmap.render(points, hw, sigma_px=spec.sigma_px, stride=spec.stride)
        yield Sample(of, window.stack, heatmaps, np.array([label is not None for label in labels[-spec.outputs :]]))


def write_arrays(clip: Clip, spec: ModelSpec, x_path: Path, y_path: Path) -> int:
    """x (N, C, h, w) in [0, 1] and y (N, h/stride, w/stride), the target of the last frame, float32: the windows whose
    last frame is labelled. Returns N."""
    n, shapes = 0, [(0,), (0,)]
    with AtomicFile(x_path, "wb") as xs, AtomicFile(y_path, "wb") as ys, output_errors(x_path):
        for sample in windows(clip, spec):
            if sample.known[-1]:
                x, y = sample.window.astype(np.float32) / 255, sample.heatmaps[-1]
                shapes = [(n + 1, *x.shape), (n + 1, *y.shape)]
                for file, shape, array in zip((xs, ys), shapes, (x, y), strict=True):
                    if n == 0:
                        _header(file, shape)
                    file.write(array.tobytes())
                n += 1
        for file, shape in zip((xs, ys), shapes, strict=True):
            file.seek(0)
            _header(file, shape)  # numpy leaves room in it for the count to grow
    return n


def _header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def read_arrays(folder: Path) -> Iterator[tuple[str, Floats, Floats]]:
    """(clip, x, y) of a materialised set, memory-mapped; see `write_arrays`. Raises InputError."""
    for about in read_manifest(folder)["clips"]:
        x, y = (np.load(folder / about["files"][kind]["path"], mmap_mode="r", allow_pickle=False) for kind in "xy")
        yield about["name"], x, y
