"""int8 copies of a network: calibrated on real train windows, scored on val beside the original.

    python runs/quantise.py DATA WEIGHTS OUT.onnx [--also FOLDER ...] [--windows 48]

Static quantisation by onnxruntime (QDQ, int8 weights per channel, uint8 activations), calibrated with windows of the
train clips: random input would move the peaks. Weights keep to 7 bits, because pairs of 8-bit products overflow on CPUs
without VNNI; the first four convolutions and the heads stay in float32, which costs little and keeps the accuracy on
venues whose pictures did not calibrate. Prints F1 at both tolerances and CPU-ms per frame of both.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from cost import cpu_ms
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from rallytrace import evaluate_clips, load_clips, load_network, video
from rallytrace.runtime import Network, bundled
from rallytrace.tracker import Tracker
from rallytrace.types import Clip


class Recorder:
    """A network that keeps the first and then every `step`-th window that it is asked about."""

    def __init__(self, network: Network, step: int) -> None:
        self._network, self._step, self._asked = network, step, 0
        self.spec, self.device = network.spec, network.device
        self.windows: list[NDArray[np.uint8]] = []

    def run(self, windows: NDArray[np.uint8]) -> object:
        self._asked += 1
        if self._asked % self._step == 1:
            self.windows.append(windows.copy())
        return self._network.run(windows)


class Windows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, windows: list[NDArray[np.uint8]]) -> None:
        self._rest: Iterator[dict[str, NDArray[np.uint8]]] = iter([{name: window} for window in windows])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._rest, None)


def real_windows(network: Network, clips: list[Clip], count: int) -> list[NDArray[np.uint8]]:
    """A few windows of each of several clips."""
    windows: list[NDArray[np.uint8]] = []
    for clip in clips[:: max(1, len(clips) // 12)]:
        recorder = Recorder(network, step=8)
        with video.read(clip.video) as reader:
            tracker = Tracker(recorder, reader.info.wh, path=False)  # type: ignore[arg-type]
            reader.give_to(tracker)
            for frame in reader:
                tracker.push(frame)
                if len(recorder.windows) * 12 >= count:
                    break
            if not recorder.windows:  # a clip shorter than the background reaches
                tracker.flush()
        windows += recorder.windows
    return windows[:count]


def score(weights: Path, clips: list[Clip]) -> str:
    network = load_network(str(weights), threads=1)
    at_288, at_source = evaluate_clips(network, clips, path=False).total.counts.values()
    size = weights.stat().st_size / 2**20
    return f"F1 {at_288.f1:.3f} / {at_source.f1:.3f}, {cpu_ms(network):.1f} CPU-ms a frame, {size:.2f} MiB"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("weights")
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--also", type=Path, action="append", default=[], help="clips that calibrate as well")
    arguments.add_argument("--windows", type=int, default=48, help="of each folder")
    options = arguments.parse_args()
    clips = load_clips(options.data)
    train, val = ([clip for clip in clips if clip.split == split] for split in ("train", "val"))
    source = bundled().get(options.weights, Path(options.weights))
    network = load_network(str(source), threads=1)
    windows = real_windows(network, train, options.windows)
    for folder in options.also:
        windows += real_windows(network, load_clips(folder), options.windows)
    ready = options.out.with_suffix(".pre.onnx")
    quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
    graph = onnx.load(str(ready)).graph
    name = graph.input[0].name
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    quantize_static(
        str(ready),
        str(options.out),
        Windows(name, windows),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        op_types_to_quantize=["Conv"],
        nodes_to_exclude=[*convolutions[:4], *convolutions[-2:]],
        reduce_range=True,
    )
    ready.unlink()
    print(f"as it is: {score(source, val)}\nint8:     {score(options.out, val)}")


if __name__ == "__main__":
    main()
