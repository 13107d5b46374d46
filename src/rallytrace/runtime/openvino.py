"""Exported networks run by OpenVINO (`pip install 'rallytrace[openvino]'`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rallytrace.errors import MissingDependency, ModelError
from rallytrace.runtime import Floats
from rallytrace.runtime.onnx import OnnxNetwork
from rallytrace.types import Image


class OpenvinoNetwork:
    """See `runtime.Network`."""

    device = "openvino"

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingDependency("device 'openvino' needs a package: pip install 'rallytrace[openvino]'") from error
        self.spec = OnnxNetwork(path, device="cpu", threads=1).spec  # reads and checks the file
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            self._compiled = openvino.Core().compile_model(str(path), "CPU", config)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot run {path}: {str(error).splitlines()[0]}") from error

    def run(self, windows: Image) -> tuple[Floats, Floats | None]:
        results = self._compiled({"windows": windows})
        heatmaps = np.asarray(results["heatmaps"], np.float32)
        return heatmaps, np.asarray(results["offsets"], np.float32) if self.spec.offsets else None
