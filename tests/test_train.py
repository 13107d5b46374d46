"""The loop learns, and a killed run ends where an uninterrupted one does."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rallytrace.checkpoint import load_checkpoint, load_torch, save_checkpoint
from rallytrace.dataset import Augmentation
from rallytrace.errors import InputError, ModelError
from rallytrace.models import ModelSpec, build, get_spec
from rallytrace.train import TrainOptions, heatmap_loss, offset_loss, train
from rallytrace.types import Clip

SMALL = get_spec("rallynet", widths=(4, 8, 8, 8))
QUICK = TrainOptions(steps=6, batch=4, log_every=1, save_every=1, val_every=6, workers=0, warmup_steps=2)


def same(a: Path, b: Path) -> bool:
    x, y = load_torch(a / "last" / "weights.pt"), load_torch(b / "last" / "weights.pt")
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


def losses(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["heatmap"]) for line in lines if "heatmap" in line]


def test_losses_by_hand() -> None:
    y = torch.zeros(1, 1, 2, 2)
    y[0, 0, 0, 0] = 1.0
    batch = {"heatmaps": y, "known": torch.ones(1, 1, dtype=torch.bool)}
    logits = torch.zeros(1, 1, 2, 2)  # p = 1/2 everywhere: four cells of (1/2)^2 * ln 2
    assert heatmap_loss(logits, batch, "focal").item() == pytest.approx(4 * 0.25 * 0.693147, rel=1e-5)
    assert heatmap_loss(logits, batch, "wbce").item() == pytest.approx(4 * 0.25 * 0.693147, rel=1e-5)
    sure = torch.tensor([[[[20.0, -20.0], [-20.0, -20.0]]]])
    assert heatmap_loss(sure, batch, "focal").item() == pytest.approx(0, abs=1e-6)
    assert heatmap_loss(-sure, batch, "wbce").item() == pytest.approx(4 * 20, rel=1e-3)
    unknown = {**batch, "known": torch.zeros(1, 1, dtype=torch.bool)}
    assert heatmap_loss(-sure, unknown, "focal").item() == 0  # an unlabelled picture teaches nothing
    near = {**batch, "near": y > 0, "offsets": torch.full((1, 1, 2, 2, 2), 0.25)}
    assert offset_loss(torch.zeros(1, 1, 2, 2, 2), near).item() == pytest.approx(0.5)  # 0.25 in x and in y, one cell


def test_resume_after_a_kill_gives_the_uninterrupted_result(rallies: Path, tmp_path: Path) -> None:
    """kill -9 at two moments, through the real command line; weights and the log must come out equal, bit for bit."""
    command = [sys.executable, "-m", "rallytrace", "train", "--data", str(rallies), "--cache", str(tmp_path / "cache")]
    command += ["--steps", "8", "--batch", "2", "--log-every", "1", "--save-every", "2", "--val-every", "8"]
    command += ["--workers", "1", "--mixup", "0.5", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "--out", str(whole)], check=True, env=environment, capture_output=True)
    for wanted in (3, 5):
        process = subprocess.Popen(
            [*command, "--out", str(killed)], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdout
        for line in process.stdout:
            if json.loads(line).get("step", 0) >= wanted:
                break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (killed / "last").exists()
    subprocess.run([*command, "--out", str(killed)], check=True, env=environment, capture_output=True)
    assert same(whole, killed)
    assert losses(whole) == losses(killed)
    assert [step for step, _ in losses(whole)] == list(range(1, 9))


def test_it_learns_a_synthetic_rally(rallies_clips: list[Clip], tmp_path: Path) -> None:
    options = dataclasses.replace(QUICK, steps=100, val_every=100, lr=4e-3, augmentation=Augmentation(crop_wh=(96, 96)))
    train(rallies_clips, SMALL, tmp_path, options)
    course = [loss for _, loss in losses(tmp_path)]
    assert sum(course[-10:]) < 0.5 * sum(course[:10])
    assert list((tmp_path / "samples").glob("*.png"))
    assert list((tmp_path / "tensorboard").iterdir())
    _, spec, origin = load_checkpoint(tmp_path / "best")
    assert spec == SMALL
    assert origin["step"] == 100
    assert "val_f1_4at288" in origin["val"]


def test_worker_processes_do_not_change_the_result(rallies_clips: list[Clip], tmp_path: Path) -> None:
    for name, workers in (("none", 0), ("two", 2)):
        train(
            rallies_clips, SMALL, tmp_path / name, dataclasses.replace(QUICK, workers=workers), cache=tmp_path / "cache"
        )
    assert same(tmp_path / "none", tmp_path / "two")


def test_two_processes_under_torchrun(rallies: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "rallytrace", "train", "--data", str(rallies), "--out", str(tmp_path / "run"), "--steps", "2"]
    command += ["--batch", "4", "--log-every", "1", "--save-every", "1", "--val-every", "2", "--workers", "0"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    assert [step for step, _ in losses(tmp_path / "run")] == [1, 2]
    assert load_checkpoint(tmp_path / "run" / "best")[2]["step"] == 2


def test_early_stop(rallies_clips: list[Clip], tmp_path: Path) -> None:
    """A network whose learning rate is nothing cannot get better: two stale validations end the run."""
    options = dataclasses.replace(QUICK, steps=50, lr=1e-12, val_every=1, patience=2)
    train(rallies_clips, SMALL, tmp_path, options)
    assert losses(tmp_path)[-1][0] == 3


@pytest.mark.parametrize("loss", ["focal", "wbce"])
@pytest.mark.parametrize("name", ["tracknet_v1", "tracknet_v2"])
def test_the_reference_networks_train(name: str, loss: str, tmp_path: Path) -> None:
    """One step of the optimiser on one window, with finite losses that depend on every weight."""
    spec = get_spec(name)
    module = build(spec)
    logits, _ = module(torch.randint(0, 256, (1, 9, 16, 16), dtype=torch.uint8))
    y = torch.zeros_like(logits)
    y[..., 8, 8] = 1
    batch = {"heatmaps": y, "known": torch.ones(1, spec.outputs, dtype=torch.bool)}
    heatmap_loss(logits, batch, loss).sum().backward()
    gradients = [p.grad for p in module.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


def test_a_run_keeps_its_options(rallies_clips: list[Clip], tmp_path: Path) -> None:
    train(rallies_clips, SMALL, tmp_path, dataclasses.replace(QUICK, steps=1, val_every=1))
    with pytest.raises(InputError, match="was started with steps=1, now 2"):
        train(rallies_clips, SMALL, tmp_path, dataclasses.replace(QUICK, steps=2, val_every=1))


def test_leaking_or_missing_splits_are_refused(rallies_clips: list[Clip], tmp_path: Path) -> None:
    leaking = [dataclasses.replace(clip, match="same") for clip in rallies_clips]
    with pytest.raises(InputError, match="in two splits"):
        train(leaking, SMALL, tmp_path, QUICK)
    with pytest.raises(InputError, match="training needs clips of split"):
        train(rallies_clips[:1], SMALL, tmp_path, QUICK)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"loss": "mse"}, {"precision": "int8"}, {"save_every": 7, "log_every": 2}, {"batch": 0}]
)
def test_impossible_options(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        TrainOptions(**wrong)  # type: ignore[arg-type]


def test_checkpoints_of_strangers(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ModelError, match="not a rallytrace checkpoint"):
        load_checkpoint(folder)
    save_checkpoint(folder, SMALL, build(SMALL).state_dict(), {})
    (folder / "weights.pt").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"weights\.pt is not a rallytrace checkpoint"):
        load_checkpoint(folder)
    save_checkpoint(folder, ModelSpec.from_json(get_spec("rallynet").to_json()), build(SMALL).state_dict(), {})
    with pytest.raises(ModelError, match="does not fit"):
        load_checkpoint(folder)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch pwned",))


def test_a_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "run", SMALL, {}, {})
    torch.save({"weights": Bomb()}, tmp_path / "run" / "weights.pt")
    with pytest.raises(ModelError):
        load_checkpoint(tmp_path / "run")
    time.sleep(0.1)
    assert not (tmp_path / "pwned").exists()
