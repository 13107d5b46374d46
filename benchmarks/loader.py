"""Does the loader keep up? Windows per second of the data loader against the training step's, on this machine.

python benchmarks/loader.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from rallytrace import RallyOptions, load_clips, make_clip
from rallytrace.dataset import Augmentation, Windows, cache_clip
from rallytrace.models import build, get_spec
from rallytrace.train import TrainOptions, heatmap_loss, offset_loss

BATCH = 24


def main() -> None:
    torch.set_num_threads(1)
    spec = get_spec("rallynet")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_clip(folder / "clip.mp4", RallyOptions(seconds=8, seed=1))
        cached = [cache_clip(clip, spec, folder / "cache") for clip in load_clips(folder)]
        dataset = Windows(cached, spec, seed=0, length=10_000, augmentation=Augmentation())
        dataset[0]
        began = time.process_time()
        samples = [dataset[number] for number in range(200)]
        loader = 200 / (time.process_time() - began)
        batch = {key: torch.stack([s[key] for s in samples[:BATCH]]) for key in samples[0]}
        module = build(spec).to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(module.parameters(), lr=TrainOptions().lr)

        def step() -> None:
            logits, offsets = module(batch["window"])
            loss = heatmap_loss(logits, batch, "focal").sum() + offset_loss(offsets, batch).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        step()
        began = time.process_time()
        for _ in range(5):
            step()
        training = 5 * BATCH / (time.process_time() - began)
    print("windows per CPU-second, one thread each:")
    print(f"  loader {loader:.0f}, training step {training:.0f}, ratio {loader / training:.1f}")


if __name__ == "__main__":
    main()
