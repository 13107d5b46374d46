"""Export and the engines: equal to torch, and clear about what cannot be run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from rallytrace.checkpoint import save_checkpoint
from rallytrace.errors import InputError, MissingDependency, ModelError, OutputError
from rallytrace.models import build, get_spec
from rallytrace.runtime import bundled, load_network
from rallytrace.runtime.export import OPSET, PARITY, export
from rallytrace.runtime.onnx import ORIGIN_KEY, SPEC_KEY

SMALL = get_spec("rallynet", widths=(4, 8, 8, 8), threshold=0.4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, with batch statistics that are not the identity, so that a parity test means something."""
    torch.manual_seed(1)
    module = build(SMALL)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
            nn.init.normal_(layer.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, SMALL, module.state_dict(), {"date": "today"})
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(checkpoint, tmp_path_factory.mktemp("onnx") / "ball.onnx")


def random_windows(batch: int = 2, h: int = 96, w: int = 160) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (batch, SMALL.channels, h, w), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 288, 512), (3, 96, 160), (2, 512, 288)])
def test_onnx_equals_torch(checkpoint: Path, exported: Path, shape: tuple[int, int, int]) -> None:
    windows = random_windows(*shape)
    heat, offsets = load_network(exported, device="cpu", threads=1).run(windows)
    torch_heat, torch_offsets = load_network(checkpoint, device="cpu").run(windows)
    # The exported file folds the threshold in: a score of 0.4 there reads 0.5 here.
    logit = np.log(torch_heat.astype(float) / (1 - torch_heat.astype(float)))
    shifted = 1 / (1 + np.exp(-(logit - np.log(0.4 / 0.6))))
    assert np.abs(heat - shifted).max() < PARITY
    assert offsets is not None
    assert torch_offsets is not None
    assert np.abs(offsets - torch_offsets).max() < PARITY
    assert heat.std() > 0.01  # not a constant that would agree with anything


def test_openvino_equals_onnxruntime(exported: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is an optional extra")
    windows = random_windows()
    a, b = load_network(exported, device="cpu").run(windows), load_network(exported, device="openvino").run(windows)
    assert np.abs(a[0] - b[0]).max() < PARITY
    assert a[1] is not None
    assert b[1] is not None
    assert np.abs(a[1] - b[1]).max() < 1e-3


def test_the_file_says_what_it_is(exported: Path) -> None:
    model = onnx.load(str(exported))
    assert model.opset_import[0].version == OPSET
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata[SPEC_KEY])["name"] == "rallynet"
    assert json.loads(metadata[ORIGIN_KEY]) == {"date": "today"}
    assert load_network(exported).spec.threshold == 0.5
    assert str(Path.cwd()).encode() not in exported.read_bytes()  # no trace of the machine that made it


def test_reference_networks_export(tmp_path: Path) -> None:
    """Skips and deconvolution too; `export` checks parity itself before it writes."""
    spec = get_spec("tracknet_v2")
    save_checkpoint(tmp_path / "v2", spec, build(spec).state_dict(), {})
    network = load_network(export(tmp_path / "v2", tmp_path / "v2.onnx"), threads=1)
    heat, offsets = network.run(np.zeros((1, 9, 32, 32), np.uint8))
    assert heat.shape == (1, 3, 32, 32)
    assert offsets is None


def test_a_bad_export_is_never_written(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        export(checkpoint, tmp_path / "file" / "ball.onnx")
    with pytest.raises(ModelError, match="not a rallytrace checkpoint"):
        export(tmp_path / "nowhere", tmp_path / "ball.onnx")
    assert not (tmp_path / "ball.onnx").exists()


def test_unknown_corrupt_and_foreign_networks(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no network 'nowhere'"):
        load_network("nowhere")
    corrupt = tmp_path / "corrupt.onnx"
    corrupt.write_bytes(b"\x08\x07garbage" * 100)
    with pytest.raises(ModelError, match="not an ONNX network"):
        load_network(corrupt)
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    with pytest.raises(ModelError):
        load_network(empty)
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "other", value[:1], value[1:])
    foreign = tmp_path / "foreign.onnx"
    opset = onnx.helper.make_opsetid("", OPSET)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), str(foreign))
    with pytest.raises(ModelError, match="not a rallytrace network"):
        load_network(foreign)


def test_absent_devices_are_said(exported: Path, checkpoint: Path) -> None:
    with pytest.raises(InputError, match="unknown device"):
        load_network(exported, device="tpu")  # type: ignore[arg-type]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(MissingDependency, match="onnxruntime-gpu"):
            load_network(exported, device="cuda")
        with pytest.raises(MissingDependency, match="cannot run"):
            load_network(checkpoint, device="cuda")


def test_bundled_weights_are_small_and_have_cards() -> None:
    networks = bundled()
    assert networks
    assert sum(path.stat().st_size for path in networks.values()) <= 8 * 2**20
    for path in networks.values():
        card = path.with_suffix(".md").read_text()
        for word in ("Data", "Split", "Date", "Command", "F1"):
            assert word in card
        network = load_network(path, threads=1)
        heat, _ = network.run(np.zeros((1, network.spec.channels, 288, 512), np.uint8))
        assert heat.max() < 0.5  # nothing is found on an empty picture


def test_running_needs_no_torch(exported: Path) -> None:
    """As in an environment without the extra: importing torch is made to fail."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np, rallytrace, rallytrace.cli\n"
        f"network = rallytrace.load_network({str(exported)!r})\n"
        f"print(network.run(np.zeros((1, {SMALL.channels}, 32, 32), np.uint8))[0].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 5, 8, 8)"
