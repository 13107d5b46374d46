"""Checkpoint -> .onnx file that carries its ModelSpec and origin, checked against torch before it gets its name."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import math
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from rallytrace.checkpoint import load_checkpoint
from rallytrace.errors import ModelError
from rallytrace.files import AtomicFile, make_folder, output_errors
from rallytrace.models import ModelSpec
from rallytrace.runtime.onnx import ORIGIN_KEY, SPEC_KEY, OnnxNetwork

OPSET = 20
PARITY = 1e-4  # largest difference from torch in any heatmap cell or offset


class _Exported(nn.Module):
    """Heatmaps instead of logits. The threshold is folded in, so that 0.5 is right for whoever runs the file."""

    def __init__(self, module: nn.Module, threshold: float) -> None:
        super().__init__()
        self.module, self.shift = module, math.log(threshold / (1 - threshold))

    def forward(self, windows: Tensor) -> tuple[Tensor, ...]:
        logits, offsets = self.module(windows)
        heatmaps = torch.sigmoid(logits - self.shift)
        return (heatmaps,) if offsets is None else (heatmaps, offsets)


def export(checkpoint: Path, out: Path) -> Path:
    """Write `checkpoint` as ONNX: uint8 "windows" (B, C, H, W) -> "heatmaps" (B, T, h, w)[, "offsets" (B, T, 2, h, w)].

    Batch, height and width are free (multiples of `spec.multiple`). Raises ModelError for a folder that is no
    checkpoint or a network that onnxruntime computes differently, OutputError where `out` cannot be written.
    """
    module, spec, origin = load_checkpoint(checkpoint)
    exported = _Exported(module, spec.threshold).eval()
    spec = dataclasses.replace(spec, threshold=0.5)
    make_folder(out.parent)
    with (atomic := AtomicFile(out, "wb")) as file, output_errors(out):
        model = _to_onnx(exported, spec)
        for key, value in ((SPEC_KEY, spec.to_json()), (ORIGIN_KEY, json.dumps(origin, sort_keys=True))):
            model.metadata_props.add(key=key, value=value)
        file.write(model.SerializeToString())
        file.flush()
        _check_parity(exported, atomic.partial, spec)
    return out


def _to_onnx(module: nn.Module, spec: ModelSpec) -> onnx.ModelProto:
    w, h = spec.size_wh
    example = torch.zeros(2, spec.channels, h, w, dtype=torch.uint8)
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    names = ["heatmaps", "offsets"] if spec.offsets else ["heatmaps"]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["windows"],
            output_names=names,
            dynamic_shapes={"windows": free},
            verbose=False,
        )
    if program is None:
        raise ModelError(f"torch could not export {spec.name} to ONNX")
    proto: onnx.ModelProto = program.model_proto
    for node in proto.graph.node:  # the exporter's stack traces name the files of the machine it ran on
        del node.metadata_props[:]
        node.doc_string = ""
    return proto


def _check_parity(module: nn.Module, path: Path, spec: ModelSpec) -> None:
    """At another batch and size than the example's, so that the free dimensions are proven free."""
    side = spec.multiple * 4
    windows = np.random.default_rng(0).integers(0, 256, (3, spec.channels, side, side * 2), dtype=np.uint8)
    heatmaps, offsets = OnnxNetwork(path, device="cpu").run(windows)
    with torch.inference_mode():
        expected = [tensor.numpy() for tensor in module(torch.from_numpy(windows))]
    got = [heatmaps] if offsets is None else [heatmaps, offsets]
    worst = max(float(np.abs(a - b).max()) for a, b in zip(got, expected, strict=True))
    if not worst < PARITY:
        raise ModelError(f"{spec.name} differs from torch by {worst:.2g} after export, at most {PARITY:g} is allowed")
