"""What may become production: good enough, and no worse than what is there, on the same clips."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from rallytrace import registry
from rallytrace.cli import app
from rallytrace.errors import InputError
from rallytrace.evaluate import gate
from rallytrace.evaluate.gate import promote_if_better
from rallytrace.registry import ModelVersion
from rallytrace.runtime import Network, bundled, load_network
from rallytrace.types import Clip, Image
from tests.networks import Floats


class Blind:
    """A real network that overlooks the ball in all but the first `sees` tenths of the picture's height."""

    device = "cpu"

    def __init__(self, network: Network, sees: int) -> None:
        self.spec = network.spec
        self._network = network
        self._sees = sees

    def run(self, windows: Image) -> tuple[Floats, Floats | None]:
        heatmaps, offsets = self._network.run(windows)
        rows = np.arange(heatmaps.shape[-2]) / heatmaps.shape[-2]
        seen = rows < self._sees / 10
        return heatmaps * seen[:, None], offsets


SEES = {"good": 10, "poor": 4, "useless": 0}


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry of three networks of the same kind: good, poor, useless."""
    network = load_network(bundled()["fast"])
    folder = str(tmp_path / "models")
    for name in SEES:
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(name.encode())
        registry.register(folder, "club", path, metrics={}, lineage={})
    monkeypatch.setattr(gate, "load_network", lambda path: Blind(network, SEES[path.read_bytes().decode()]))
    return folder


def wanted(where: str, name: str) -> str:
    by_content = {registry.fetch(where, f"club@{v.version}").read_bytes(): v.version for v in registry.versions(where)}
    return f"club@{by_content[name.encode()]}"


@pytest.fixture
def clips(rallies_clips: list[Clip]) -> Callable[[], Sequence[Clip]]:
    return lambda: rallies_clips[1:]


def test_one_that_finds_nothing_is_not_promoted(where: str, clips: Callable[[], Sequence[Clip]]) -> None:
    with pytest.raises(InputError, match=r"does not become production.* F1 0\.000, expected 0\.5 or more \(--min-f1\)"):
        promote_if_better(where, wanted(where, "useless"), "production", clips)
    assert all(not version.stages for version in registry.versions(where))


def test_a_worse_one_does_not_replace_a_better_one(where: str, clips: Callable[[], Sequence[Clip]]) -> None:
    told: list[tuple[str, float]] = []

    def on_score(version: ModelVersion, f1: float) -> None:
        told.append((f"club@{version.version}", f1))

    promote_if_better(where, wanted(where, "poor"), "production", clips, 0.1)
    better = promote_if_better(where, wanted(where, "good"), "production", clips, 0.1, on_score)
    assert better.stages == ("production",)
    assert [name for name, _ in told] == [wanted(where, "good"), wanted(where, "poor")]
    assert told[0][1] > told[1][1]
    with pytest.raises(InputError, match=f"and {better.version}, which has it, {told[0][1]:.3f}"):
        promote_if_better(where, wanted(where, "poor"), "production", clips, 0.1)
    assert registry.find(where, "club@production").version == better.version


def test_what_has_the_stage_already_is_not_scored_again(where: str) -> None:
    """And nothing is where there is nothing to compare."""

    def no_clips() -> Sequence[Clip]:
        raise AssertionError

    for _ in range(2):
        version = promote_if_better(where, wanted(where, "poor"), "production", no_clips, 0.0)
        assert version.stages == ("production",)


def test_by_the_command_line(where: str, rallies: Path, tmp_path: Path) -> None:
    def models(*words: str | Path) -> Result:
        return CliRunner().invoke(app, ["models", *map(str, words), "--registry", where, "--json"])

    poor, useless = wanted(where, "poor"), wanted(where, "useless")
    refused = models("promote", useless, "production", "--data", rallies).exception
    assert str(refused).startswith(f"{useless} does not become production: on the same clips it has F1 0.000")
    for which in (poor, useless):  # who says so without data decides alone
        assert json.loads(models("promote", which, "production").stdout)["stages"] == ["production"]
    assert json.loads(models("rollback", "club", "production").stdout)["version"] == poor.partition("@")[2]
    assert "nothing to go back to" in str(models("rollback", "club", "production").exception)
    assert "--min-f1 0.9 needs --data" in str(models("promote", poor, "production", "--min-f1", "0.9").exception)
