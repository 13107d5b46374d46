"""Networks as .onnx files, run by onnxruntime. The file carries its ModelSpec, so it is all that has to travel."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from rallytrace.errors import MissingDependency, ModelError
from rallytrace.models import ModelSpec
from rallytrace.runtime import Device, Floats
from rallytrace.types import Image

ort.disable_telemetry_events()  # where another program imported it before rallytrace

SPEC_KEY, ORIGIN_KEY = "rallytrace.spec", "rallytrace.origin"  # both JSON


class OnnxNetwork:
    """See `runtime.Network`."""

    def __init__(self, path: Path, *, device: Device = "auto", threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or int(os.environ.get("OMP_NUM_THREADS", "0"))
        # Spinning workers would burn the core that the decoder needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=_providers(device))
        except MissingDependency:
            raise
        except Exception as error:  # onnxruntime raises a family of its own, with no common base
            raise ModelError(f"{path} is not an ONNX network that can be run: {str(error).splitlines()[0]}") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        if SPEC_KEY not in metadata:
            raise ModelError(f"{path} is not a rallytrace network (no {SPEC_KEY!r} in it): make one with export")
        self.spec = ModelSpec.from_json(metadata[SPEC_KEY])
        self.origin: dict[str, Any] = json.loads(metadata.get(ORIGIN_KEY, "{}"))  # what training kept
        self.device = "cuda" if "CUDAExecutionProvider" in self._session.get_providers() else "cpu"
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, windows: Image) -> tuple[Floats, Floats | None]:
        results = dict(zip(self._outputs, self._session.run(self._outputs, {"windows": windows}), strict=True))
        heatmaps = np.asarray(results["heatmaps"], np.float32)
        return heatmaps, np.asarray(results["offsets"], np.float32) if "offsets" in results else None


def _providers(device: Device) -> list[str]:
    has_cuda = "CUDAExecutionProvider" in ort.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise MissingDependency(
            f"device 'cuda' is asked for, but this onnxruntime offers {', '.join(ort.get_available_providers())} only: "
            "pip install onnxruntime-gpu on a machine with an NVIDIA GPU, or use --device cpu"
        )
    return (
        ["CUDAExecutionProvider", "CPUExecutionProvider"] if has_cuda and device != "cpu" else ["CPUExecutionProvider"]
    )
