"""Which ideas help: short trainings that differ from one base in one thing each, scored on val.

    python runs/experiments.py DATA OUT [NAME ...]

DATA is a folder of labelled clips with a train and a val split. Each result is one line of OUT/results.jsonl: val F1 at
4 px of 512x288 and of the source, CPU-ms per frame (onnxruntime, one thread), CPU minutes of training. What is there
already is not run again, so the script can be stopped at any time. The base is narrow and short on purpose: 1,200 steps
of 24 crops, 512x288, widths 16/32/64/96. Differences under a point need the second seed (`base_seed1`) for comparison.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from cost import cpu_ms
from torch import Tensor, nn

import rallytrace.train as training
from rallytrace import RallyOptions, load_clips, load_network, make_clip
from rallytrace.dataset import Augmentation
from rallytrace.models import MODELS, ModelSpec, get_spec
from rallytrace.models.rallynet import RallyNet
from rallytrace.runtime.export import export
from rallytrace.train import TrainOptions
from rallytrace.types import Clip

BASE = {"size_wh": (512, 288), "widths": (16, 32, 64, 96)}
OPTIONS = TrainOptions(steps=1200, val_every=1200, precision="bf16", ema=0.995)

AUGMENTATION = Augmentation(
    scale=(0.75, 1.33), gain=0.25, noise=4.0, blur=0.1, jpeg=0.1, shake=0.0, blend=0.0, erase=0.0
)


@dataclass(frozen=True)
class Variant:
    """What differs from the base."""

    spec: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    augmentation: dict[str, Any] = field(default_factory=dict)
    model: str = "rallynet"
    pretrain: bool = False  # 600 steps on synthetic rallies first
    hard: float = 0.0  # share of each batch's windows that counts: those with the largest loss


VARIANTS = {
    "base": Variant(),
    "base_seed1": Variant(options={"seed": 1}),
    "no_background": Variant({"background": False}),
    "frames_3": Variant({"frames": 3}),
    "frames_9": Variant({"frames": 9}),
    "mixup": Variant(options={"mixup": 0.5}),
    "mixup_seed1": Variant(options={"mixup": 0.5, "seed": 1}),
    "loss_wbce": Variant(options={"loss": "wbce"}),
    "stride_2": Variant({"stride": 2}),
    "wide": Variant({"widths": (24, 48, 96, 128)}),
    "narrow": Variant({"widths": (12, 24, 48, 64)}),
    "no_repeat": Variant(augmentation={"repeat": 0.0}),
    "hard_half": Variant(hard=0.5),
    "synthetic_first": Variant(pretrain=True),
    "joint_refinement": Variant(model="refined"),
    "strong_augmentation": Variant(
        augmentation={"scale": (0.5, 1.6), "gain": 0.45, "noise": 8.0, "blur": 0.25, "jpeg": 0.25}
    ),
    "rgb": Variant({"colour": "rgb"}),
    "shake": Variant(augmentation={"shake": 0.3}),
    "blend": Variant(augmentation={"blend": 0.15}),
    "erase": Variant(augmentation={"erase": 0.15}),
    # The field's network by the same loop on the same data: eight minutes of a core (the base: five), and more.
    "tracknet_v2": Variant(
        options={"steps": 100, "val_every": 100, "batch": 8, "warmup_steps": 20, "lr": 1e-3, "loss": "wbce"},
        model="tracknet_v2",
    ),
    "tracknet_v2_long": Variant(
        options={"steps": 400, "val_every": 400, "batch": 8, "warmup_steps": 40, "lr": 1e-3, "loss": "wbce"},
        model="tracknet_v2",
    ),
}


class Refined(RallyNet):
    """The T heatmaps of a window see each other once more before they are answered."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.refine = nn.Sequential(
            nn.Conv2d(spec.outputs, 32, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(32, spec.outputs, 3, 1, 1)
        )

    def forward(self, window: Tensor) -> tuple[Tensor, Tensor]:
        heat, offsets = super().forward(window)
        return heat + self.refine(heat.sigmoid()), offsets


MODELS["refined"] = replace(MODELS["rallynet"], name="refined", arch="experiments:Refined")


def hardest(share: float) -> Callable[[Tensor, training.Batch, str], Tensor]:
    """Online hard example mining (Shrivastava et al. 2016) over the windows of a batch."""
    plain = training.heatmap_loss

    def loss(logits: Tensor, batch: training.Batch, kind: str) -> Tensor:
        values = plain(logits, batch, kind)
        kept = values.detach() >= values.detach().topk(max(1, round(share * len(values)))).values.min()
        return values * kept

    return loss


def synthetic(folder: Path) -> list[Clip]:
    """Twelve rallies of 20 seconds, two of them to validate on, and half of them tennis."""
    for seed in range(12):
        path = folder / f"rally{seed:02d}.mp4"
        if not path.exists():
            sport = "tennis" if seed % 2 else "badminton"
            make_clip(path, RallyOptions(sport=sport, seconds=20, seed=seed, fps=Fraction(30), repeats=seed % 4 == 0))
    return [replace(clip, split="val" if i < 2 else "train") for i, clip in enumerate(load_clips(folder))]


def run(name: str, variant: Variant, clips: list[Clip], out: Path) -> dict[str, Any]:
    spec = get_spec(variant.model, **{**({} if variant.model == "tracknet_v2" else BASE), **variant.spec})
    options = replace(OPTIONS, augmentation=replace(AUGMENTATION, **variant.augmentation), **variant.options)
    init = None
    plain = training.heatmap_loss
    began = time.process_time()
    if variant.pretrain:
        (out / "synthetic").mkdir(exist_ok=True)
        first = replace(options, steps=600, val_every=600)
        init = training.train(synthetic(out / "synthetic"), spec, out / name / "first", first, cache=out / "cache")
    if variant.hard:
        training.heatmap_loss = hardest(variant.hard)
    trained: list[float] = []  # CPU seconds before the validation, whose cost is not the training's

    def on_step(_step: int, values: dict[str, float]) -> None:
        if "windows_per_s" in values:
            trained.append(time.process_time() - began)

    best = training.train(clips, spec, out / name, options, init=init, cache=out / "cache", on_step=on_step)
    training.heatmap_loss = plain
    timed = out / "timed.onnx"
    timed.unlink(missing_ok=True)
    export(best, timed)
    figures = json.loads((best / "model.json").read_text())["provenance"]["val"]
    return {
        "name": name,
        "f1_288": figures["val_f1_4at288"],
        "f1_source": figures["val_f1_4atsource"],
        "recall_288": figures["val_recall_4at288"],
        "cpu_ms": cpu_ms(load_network(str(timed), threads=1)),
        "train_cpu_min": trained[-1] / 60,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("names", nargs="*", default=list(VARIANTS))
    options = arguments.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    done = {json.loads(line)["name"] for line in results.read_text().splitlines()} if results.exists() else set()
    clips = load_clips(options.data)
    for name in options.names:
        if name not in done:
            result = run(name, VARIANTS[name], clips, options.out)
            with results.open("a") as file:
                file.write(
                    json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}) + "\n"
                )
            print(result, flush=True)


if __name__ == "__main__":
    main()
