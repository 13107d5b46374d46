"""Networks run by torch: for validation during training, and for checkpoints that are not exported yet."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch

from rallytrace.checkpoint import load_checkpoint
from rallytrace.errors import MissingDependency
from rallytrace.models import ModelSpec
from rallytrace.runtime import Device, Floats
from rallytrace.types import Image


class TorchNetwork:
    """See `runtime.Network`. Wraps a module in evaluation mode; does not copy it."""

    def __init__(self, module: torch.nn.Module, spec: ModelSpec, *, device: str = "cpu") -> None:
        self._module, self.spec, self.device = module.to(device).eval(), spec, device

    @classmethod
    def load(cls, folder: Path, *, device: Device = "auto") -> Self:
        has_cuda = torch.cuda.is_available()
        if device == "openvino" or (device == "cuda" and not has_cuda):
            raise MissingDependency(f"device {device!r} cannot run {folder} here: export it first, or use --device cpu")
        module, spec, _ = load_checkpoint(folder)
        return cls(module, spec, device="cuda" if has_cuda and device != "cpu" else "cpu")

    def run(self, windows: Image) -> tuple[Floats, Floats | None]:
        with torch.inference_mode():
            logits, offsets = self._module(torch.from_numpy(windows).to(self.device))
            heatmaps: Floats = logits.float().sigmoid().cpu().numpy()
            return heatmaps, None if offsets is None else offsets.float().cpu().numpy()
