"""The registry: published sizes and costs, and what may come out of a stranger's file."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from torch import nn

from rallytrace.errors import ModelError
from rallytrace.models import MODELS, ModelSpec, build, get_spec


def count_macs(module: nn.Module, window: torch.Tensor) -> int:
    """Multiply-adds of the convolutions, from shapes alone."""
    macs = 0

    def hook(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal macs
        assert isinstance(layer, nn.Conv2d)
        taps = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
        macs += output.shape[1] * output.shape[2] * output.shape[3] * taps

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(hook)
    with torch.inference_mode():
        module.eval()(window)
    return macs


@pytest.mark.parametrize(
    ("name", "millions"),
    [("tracknet_v1", 10.7), ("tracknet_v2", 11.3)],  # Huang et al. 2019; Sun et al. 2020 (11.3 M as WASB counts it)
)
def test_published_parameter_counts(name: str, millions: float) -> None:
    module = build(get_spec(name))
    assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("name", "gmacs"),
    # per frame: V2 answers three frames with 112.2 GMAC (37.4 each); V1 one frame with 184 at 640x360
    [("tracknet_v1", 184), ("tracknet_v2", 37.4)],
)
def test_published_multiply_adds(name: str, gmacs: float) -> None:
    spec = get_spec(name)
    # Convolutions scale with the area: a ninth or a sixteenth of the picture is enough to count on.
    part_wh = (spec.size_wh[0] // 8, spec.size_wh[1] // 9) if name == "tracknet_v2" else (80, 72)
    share = part_wh[0] * part_wh[1] / (spec.size_wh[0] * spec.size_wh[1])
    macs = count_macs(build(spec), torch.zeros(1, spec.channels, part_wh[1], part_wh[0], dtype=torch.uint8))
    assert macs / share / spec.outputs / 1e9 == pytest.approx(gmacs, rel=0.03)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_shapes(name: str) -> None:
    spec = get_spec(name)
    logits, offsets = build(spec).eval()(torch.randint(0, 256, (2, spec.channels, 48, 80), dtype=torch.uint8))
    assert logits.shape == (2, spec.outputs, 48 // spec.stride, 80 // spec.stride)
    assert logits.dtype == torch.float32
    if spec.offsets:
        assert offsets.shape == (2, spec.outputs, 2, 48 // spec.stride, 80 // spec.stride)
    else:
        assert offsets is None


@pytest.mark.parametrize(
    ("name", "changes", "channels"),
    [
        ("rallynet", {"frames": 3}, 4),
        ("rallynet", {"frames": 9, "background": False}, 9),
        ("rallynet", {"colour": "rgb"}, 18),
        ("rallynet", {"stride": 2}, 6),
        ("tracknet_v2", {"outputs": 1}, 9),
        ("tracknet_v2", {"frames": 5, "colour": "grey"}, 5),
    ],
)
def test_parameters(name: str, changes: dict[str, object], channels: int) -> None:
    spec = get_spec(name, **changes)
    assert spec.channels == channels
    logits, _ = build(spec).eval()(torch.zeros(1, channels, 32, 32))
    assert logits.shape == (1, spec.outputs, 32 // spec.stride, 32 // spec.stride)


def test_spec_json_round_trip() -> None:
    for spec in MODELS.values():
        assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"name": 1}', "not json", '{"size_wh": 3, "widths": []}'])
def test_foreign_spec(text: str) -> None:
    with pytest.raises(ModelError, match="not the description"):
        ModelSpec.from_json(text)


def test_a_spec_cannot_choose_what_gets_imported() -> None:
    hostile = dataclasses.replace(get_spec("rallynet"), arch="subprocess:Popen")
    with pytest.raises(ModelError, match="not a registered network"):
        build(hostile)


@pytest.mark.parametrize("changes", [{"outputs": 2}, {"size_wh": (500, 288)}, {"colour": "bgr"}, {"nonsense": 1}])
def test_impossible_parameters(changes: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        get_spec("rallynet", **changes)


def test_unknown_network() -> None:
    with pytest.raises(ModelError, match="unknown network 'tracknet_v9': expected one of"):
        get_spec("tracknet_v9")


def test_looking_up_loads_no_torch() -> None:
    code = "import sys, rallytrace.cli; assert 'torch' not in sys.modules; assert 'onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
