"""How a trained network runs. One Protocol; onnxruntime by default, openvino and torch where asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rallytrace.errors import InputError, ModelError
from rallytrace.models import ModelSpec
from rallytrace.storage import fetch
from rallytrace.types import Image

Floats = NDArray[np.float32]
Device = Literal["auto", "cpu", "cuda", "openvino"]

WEIGHTS = Path(__file__).parent.parent / "weights"
DEFAULT_MODEL = "accurate"


class Network(Protocol):
    """A network that is ready to run."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def device(self) -> str: ...

    def run(self, windows: Image) -> tuple[Floats, Floats | None]:
        """windows uint8 (B, C, H, W) -> heatmaps float32 (B, T_out, h, w) in [0, 1], offsets (B, T_out, 2, h, w)."""
        ...


def bundled() -> dict[str, Path]:
    """The networks that come with the package, by name."""
    return {path.stem: path for path in sorted(WEIGHTS.glob("*.onnx"))}


def load_network(model: str | Path | None = None, *, device: Device = "auto", threads: int | None = None) -> Network:
    """A bundled network by name, an exported .onnx file, or a training checkpoint (a folder; needs torch); also by URL.

    device: auto takes CUDA where onnxruntime offers it, else the CPU. threads: of the CPU; all cores when None.
    Raises ModelError for an unknown, foreign or corrupt network, MissingDependency for an absent device.
    """
    if device not in ("auto", "cpu", "cuda", "openvino"):
        raise InputError(f"unknown device {device!r}: expected auto, cpu, cuda or openvino")
    path = _find(model)
    if path.is_dir():
        from rallytrace.runtime.pytorch import TorchNetwork

        return TorchNetwork.load(path, device=device)
    if device == "openvino":
        from rallytrace.runtime.openvino import OpenvinoNetwork

        return OpenvinoNetwork(path, threads=threads)
    from rallytrace.runtime.onnx import OnnxNetwork

    return OnnxNetwork(path, device=device, threads=threads)


def network_digest(model: str | Path | None = None) -> str:
    """The SHA-256, in hex, of what `load_network` reads. Raises ModelError for an unknown network."""
    path = _find(model)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _find(model: str | Path | None) -> Path:
    name = DEFAULT_MODEL if model is None else model
    path = bundled().get(str(name)) or fetch(name)
    if not path.exists():
        raise ModelError(
            f"no network {str(name)!r}: expected one of {', '.join(bundled()) or '(none bundled)'}, "
            "the path of an .onnx file, or a checkpoint folder"
        )
    return path
