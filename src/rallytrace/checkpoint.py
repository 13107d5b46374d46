"""A trained network on disk: a folder with weights.pt, and model.json, which rebuilds it and says where it is from."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch

from rallytrace.errors import ModelError
from rallytrace.files import AtomicFile, make_folder, output_errors, write_text
from rallytrace.models import ModelSpec, build

WEIGHTS, MODEL = "weights.pt", "model.json"


def save_torch(path: Path, state: Any) -> None:
    """`torch.save` that readers never see half of, kept through a power cut. Raises OutputError."""
    with AtomicFile(path, "wb") as file, output_errors(path):
        torch.save(state, file)


def load_torch(path: Path) -> Any:
    """Tensors and plain values only: a stranger's checkpoint cannot run code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ModelError(f"{path} is not a rallytrace checkpoint: {str(error).splitlines()[0]}") from error


def save_checkpoint(folder: Path, spec: ModelSpec, weights: dict[str, Any], provenance: dict[str, Any]) -> None:
    """weights: the network's state_dict. provenance: plain values on data, command, date and figures."""
    make_folder(folder)
    save_torch(folder / WEIGHTS, weights)
    text = json.dumps({"spec": json.loads(spec.to_json()), "provenance": provenance}, indent=2)
    write_text(folder / MODEL, text + "\n")


def load_checkpoint(folder: Path) -> tuple[torch.nn.Module, ModelSpec, dict[str, Any]]:
    """The network in evaluation mode, its spec and its provenance. Raises ModelError."""
    try:
        described = json.loads((folder / MODEL).read_text())
        spec = ModelSpec.from_json(json.dumps(described["spec"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} is not a rallytrace checkpoint (needs {MODEL} and {WEIGHTS}): {error}") from error
    network = build(spec)
    try:
        network.load_state_dict(load_torch(folder / WEIGHTS))
    except RuntimeError as error:
        raise ModelError(f"{folder / WEIGHTS} does not fit its {MODEL}: {str(error).splitlines()[0]}") from error
    return network.eval(), spec, described.get("provenance", {})
