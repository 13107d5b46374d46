"""One plain PyTorch loop: CPU or CUDA, one process or `torchrun`, resumable after a kill at any moment.

A run is a folder:
    options.json    what it was started with
    state.pt        everything that resuming needs, replaced atomically
    metrics.jsonl   one line per logged step and per validation (TensorBoard's event files say the same)
    samples/        pictures of predictions on validation frames
    last/, best/    checkpoints (averaged weights); best by validation F1
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from torch.utils.data import DataLoader

from rallytrace.checkpoint import load_checkpoint, load_torch, save_checkpoint, save_torch
from rallytrace.dataset import Augmentation, Windows, cache_clip
from rallytrace.errors import InputError, MissingDependency, ModelError
from rallytrace.evaluate import Report, evaluate_clips, sample_sheet
from rallytrace.files import make_folder, write_text
from rallytrace.labels import check_split
from rallytrace.models import ModelSpec, build
from rallytrace.runtime.pytorch import TorchNetwork
from rallytrace.types import Clip
from rallytrace.video import encode_png

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Everything that shapes a run but the data and the network."""

    steps: int = 12_000
    batch: int = 24  # windows per step, over all processes
    lr: float = 2e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 200
    ema: float = 0.999  # decay of the weight average; 0 turns it off
    loss: Literal["focal", "wbce"] = "focal"
    offset_weight: float = 1.0
    mixup: float = 0.0  # share of batches whose windows are blended with others'
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 on CUDA, fp32 on a CPU
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 1  # loader processes per training process
    seed: int = 0
    log_every: int = 50
    val_every: int = 1000
    save_every: int = 200
    patience: int = 0  # validations without a better F1 before stopping; 0 never stops early
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log_every", "val_every", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.save_every % self.log_every or self.val_every % self.log_every:
            raise InputError(  # or a resumed run would log other averages than an uninterrupted one
                f"save_every and val_every must be multiples of log_every {self.log_every}, "
                f"got {self.save_every} and {self.val_every}"
            )
        if self.loss not in ("focal", "wbce"):
            raise InputError(f"loss must be focal or wbce, got {self.loss!r}")
        if self.precision not in ("auto", "fp32", "bf16", "fp16"):
            raise InputError(f"precision must be auto, fp32, bf16 or fp16, got {self.precision!r}")


def heatmap_loss(logits: Tensor, batch: Batch, kind: str) -> Tensor:
    """Per window, summed over cells, over the number of balls in the batch; unlabelled pictures do not count.

    focal: binary cross entropy weighted by (y - p)^2, the quality focal loss (Li et al. 2020), which takes Gaussian
    targets as they are. wbce: TrackNetV2's weighted cross entropy (Sun et al. 2020). Returns (B,).
    """
    y = batch["heatmaps"]
    if kind == "focal":
        loss = (y - logits.sigmoid()) ** 2 * F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    else:
        p = logits.sigmoid()
        loss = -((1 - p) ** 2) * y * F.logsigmoid(logits) - p**2 * (1 - y) * F.logsigmoid(-logits)
    balls = (y.amax((2, 3)) > 0.5).sum().clamp(min=1)
    return (loss.sum((2, 3)) * batch["known"]).sum(1) / balls


def offset_loss(offsets: Tensor, batch: Batch) -> Tensor:
    """L1 in cells on the cells near a ball, weighted by the heatmap. Returns (B,)."""
    weight = batch["heatmaps"] * batch["near"]
    error = (offsets - batch["offsets"]).abs().sum(2) * weight
    return error.sum((1, 2, 3)) / weight.sum().clamp(min=1)


class _Average:
    """Exponential moving average of the weights, batch-norm statistics included."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self._decay, (1 + step) / (10 + step)) if self._decay else 0.0
        for name, value in module.state_dict().items():
            if value.dtype.is_floating_point:
                self.weights[name].lerp_(value.detach(), 1 - decay)
            else:
                self.weights[name].copy_(value)


@dataclass(frozen=True, slots=True)
class _World:
    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls, options: TrainOptions) -> _World:
        """From torchrun's environment; a world of one without it."""
        has_cuda = torch.cuda.is_available()
        if options.device == "cuda" and not has_cuda:
            raise MissingDependency("device 'cuda' is asked for, but torch finds no CUDA GPU: use --device cpu")
        cuda = has_cuda and options.device != "cpu"
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if options.batch % size:
            raise InputError(f"batch {options.batch} cannot be shared by {size} processes: make it a multiple")
        if size > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if cuda else "gloo")
        if cuda:
            torch.cuda.set_device(local)
        return cls(rank, size, torch.device("cuda", local) if cuda else torch.device("cpu"))


class _Run:
    """The state of a training run, what is saved and resumed."""

    def __init__(self, spec: ModelSpec, out: Path, options: TrainOptions, world: _World, init: Path | None) -> None:
        torch.manual_seed(options.seed)
        self.spec, self.out, self.options, self.world = spec, out, options, world
        self.module = build(spec).to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.AdamW(self.module.parameters(), lr=options.lr, weight_decay=options.weight_decay)
        self.precision = options.precision
        if self.precision == "auto":
            self.precision = "bf16" if world.device.type == "cuda" else "fp32"
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.precision == "fp16")
        self.step, self.best, self.stale = 0, -1.0, 0
        self.on_save: Callable[[], None] = lambda: None
        if init is not None:
            self._begin_from(init)
        self.average = _Average(self.module, options.ema)
        self.network = self.module
        if (out / "state.pt").exists():
            self._load()
        if world.size > 1:
            ids = [world.device.index] if world.device.type == "cuda" else None
            self.network = nn.parallel.DistributedDataParallel(self.module, device_ids=ids)

    def _begin_from(self, init: Path) -> None:
        weights = load_checkpoint(init)[0].state_dict()
        try:
            self.module.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ModelError(f"the weights of {init} do not fit the network to train: {reason}") from error

    def save(self) -> None:
        state = {
            "step": self.step,
            "best": self.best,
            "stale": self.stale,
            "module": self.module.state_dict(),
            "average": self.average.weights,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        save_torch(self.out / "state.pt", state)
        self.on_save()

    def _load(self) -> None:
        state = load_torch(self.out / "state.pt")
        self.step, self.best, self.stale = state["step"], state["best"], state["stale"]
        self.module.load_state_dict(state["module"])
        for name, value in state["average"].items():
            self.average.weights[name].copy_(value)
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])

    def advance(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the optimiser; the losses, on the device."""
        options = self.options
        for group in self.optimiser.param_groups:
            group["lr"] = _lr(self.step, options)
        losses = self._losses(self._mix(batch))
        total = losses["heatmap"] + options.offset_weight * losses["offset"]
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimiser)
        losses["grad_norm"] = nn.utils.clip_grad_norm_(self.module.parameters(), 10.0)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.average.update(self.module, self.step)
        self.step += 1
        return losses

    def _mix(self, batch: Batch) -> tuple[Batch, Tensor | None, float]:
        """Clip mixup (TrackNetV3): windows blended in pairs, drawn from the step's number so that resuming repeats."""
        rng = np.random.default_rng((self.options.seed, self.step, self.world.rank))
        if rng.random() >= self.options.mixup:
            return batch, None, 1.0
        share = float(rng.beta(0.5, 0.5))
        other = torch.from_numpy(rng.permutation(len(batch["window"]))).to(self.world.device)
        window = batch["window"].float()
        return {**batch, "window": share * window + (1 - share) * window[other]}, other, share

    def _losses(self, mixed: tuple[Batch, Tensor | None, float]) -> dict[str, Tensor]:
        batch, other, share = mixed
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        window = batch["window"].contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            self.world.device.type, kinds.get(self.precision, torch.bfloat16), enabled=self.precision in kinds
        ):
            logits, offsets = self.network(window)
        losses = {"heatmap": torch.zeros(()), "offset": torch.zeros((), device=self.world.device)}
        for weight, order in ((share, None), (1 - share, other)):
            if weight > 0:
                target = batch if order is None else {name: value[order] for name, value in batch.items()}
                losses["heatmap"] = (
                    losses["heatmap"].to(logits) + weight * heatmap_loss(logits, target, self.options.loss).sum()
                )
                if offsets is not None:
                    losses["offset"] = losses["offset"] + weight * offset_loss(offsets, target).sum()
        return losses

    def averaged(self) -> nn.Module:
        module = build(self.spec)
        module.load_state_dict(self.average.weights)
        return module.eval()


def _lr(step: int, options: TrainOptions) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < options.warmup_steps:
        return options.lr * (step + 1) / options.warmup_steps
    done = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    return options.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _batches(dataset: Windows, run: _Run) -> Iterator[Batch]:
    """This process's share of each step's samples, from the step at which the run stands."""
    options, world = run.options, run.world
    share = options.batch // world.size

    def numbers() -> Iterator[list[int]]:
        for step in range(run.step, options.steps):
            first = step * options.batch + world.rank * share
            yield list(range(first, first + share))

    loader = DataLoader(
        dataset,
        batch_sampler=list(numbers()),
        num_workers=options.workers,
        prefetch_factor=4 if options.workers else None,
        pin_memory=world.device.type == "cuda",
        worker_init_fn=_one_thread,
    )
    for batch in loader:
        yield {name: value.to(world.device, non_blocking=True) for name, value in batch.items()}


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)


class _Log:
    """metrics.jsonl and TensorBoard. Lines of steps that a kill undid are dropped when the run resumes."""

    def __init__(self, out: Path, resumed_at: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = out / "metrics.jsonl"
        kept = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    kept += [line] if json.loads(line)["step"] <= resumed_at else []
                except ValueError:
                    continue  # the kill cut this line
        write_text(self._path, "".join(line + "\n" for line in kept))
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=resumed_at + 1)

    def write(self, step: int, **values: float) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in values.items()}}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()


def train(
    clips: Sequence[Clip],
    spec: ModelSpec,
    out: Path,
    options: TrainOptions | None = None,
    *,
    init: Path | None = None,
    cache: Path | None = None,
    provenance: dict[str, Any] | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    on_save: Callable[[], None] | None = None,
) -> Path:
    """Train on the clips of split "train", validate on those of split "val"; resume if `out` holds a run already.

    init: a checkpoint of the same network whose weights to begin with. cache: where decoded frames are kept (default:
    `out`/cache). on_step: told of each logged step and validation. on_save: told that `out` holds a new state.
    Returns the best checkpoint's folder. Raises InputError where a match is in two splits, or a split is missing.
    """
    options = options or TrainOptions()
    check_split(clips)
    by_split = {name: [clip for clip in clips if clip.split == name] for name in ("train", "val")}
    if not by_split["train"] or not by_split["val"]:
        raise InputError(f"training needs clips of split 'train' and 'val', got {sorted({c.split for c in clips})}")
    world = _World.join(options)
    make_folder(out)
    _check_options(out, spec, options, write=world.rank == 0)
    run = _Run(spec, out, options, world, init)
    run.on_save = on_save or run.on_save
    cached = [cache_clip(clip, spec, cache or out / "cache") for clip in by_split["train"]]
    length = options.steps * options.batch
    dataset = Windows(cached, spec, seed=options.seed, length=length, augmentation=options.augmentation)
    log = _Log(out, run.step) if world.rank == 0 else None
    _loop(run, dataset, by_split["val"], log, provenance or {}, on_step or (lambda step, values: None))
    return out / "best"


def _check_options(out: Path, spec: ModelSpec, options: TrainOptions, *, write: bool) -> None:
    """A run is resumed with what it was started with, or its figures would belong to no options at all."""
    text = json.dumps({"spec": json.loads(spec.to_json()), "options": dataclasses.asdict(options)}, indent=2)
    path = out / "options.json"
    if path.exists():
        before, now = json.loads(path.read_text()), json.loads(text)
        free = ("device", "workers", "log_every", "save_every")
        for name, value in {**now["spec"], **now["options"]}.items():
            old = {**before["spec"], **before["options"]}.get(name)
            if old != value and name not in free:
                raise InputError(
                    f"{out} was started with {name}={old}, now {value}: use another folder, or the same value"
                )
    elif write:
        write_text(path, text + "\n")


def _loop(
    run: _Run,
    dataset: Windows,
    val: Sequence[Clip],
    log: _Log | None,
    provenance: dict[str, Any],
    on_step: Callable[[int, dict[str, float]], None],
) -> None:
    options, since, first = run.options, time.monotonic(), run.step
    run.network.train()
    sums, count = dict[str, Tensor](), 0
    for batch in _batches(dataset, run):
        for name, value in run.advance(batch).items():
            sums[name] = sums.get(name, torch.zeros((), device=run.world.device)) + value.detach()
        count += 1
        last = run.step == options.steps
        if log and (run.step % options.log_every == 0 or last):
            values = {name: float(value) / count for name, value in sums.items()}
            rate = (run.step - first) * options.batch / (time.monotonic() - since)
            log.write(run.step, lr=_lr(run.step - 1, options), **values)
            on_step(run.step, {**values, "windows_per_s": rate})
            sums, count = {}, 0
        if run.step % options.val_every == 0 or last:
            if log:
                _validate(run, val, log, provenance, on_step)
            if _should_stop(run):
                break
        if run.world.rank == 0 and (run.step % options.save_every == 0 or last):
            run.save()
    if run.world.size > 1:
        torch.distributed.barrier()


def _should_stop(run: _Run) -> bool:
    """Rank 0 validates; all ranks must leave the loop at the same step."""
    stop = torch.tensor(float(run.options.patience and run.stale >= run.options.patience), device=run.world.device)
    if run.world.size > 1:
        torch.distributed.broadcast(stop, 0)
    return bool(stop)


def _validate(
    run: _Run,
    val: Sequence[Clip],
    log: _Log,
    provenance: dict[str, Any],
    on_step: Callable[[int, dict[str, float]], None],
) -> None:
    network = TorchNetwork(run.averaged(), run.spec, device=str(run.world.device))
    report = evaluate_clips(network, val, path=False)  # what the network says by itself
    figures = _figures(report)
    log.write(run.step, **figures)
    on_step(run.step, figures)
    samples = run.out / "samples"
    samples.mkdir(exist_ok=True)
    (samples / f"{run.step:07d}.png").write_bytes(encode_png(sample_sheet(report)))
    origin = {**provenance, "step": run.step, "val": figures, "date": time.strftime("%Y-%m-%d")}
    f1 = figures["val_f1_4at288"]
    run.stale += 1
    if f1 > run.best:
        run.best, run.stale = f1, 0
        save_checkpoint(run.out / "best", run.spec, run.average.weights, origin)
    save_checkpoint(run.out / "last", run.spec, run.average.weights, origin)
    run.save()


def _figures(report: Report) -> dict[str, float]:
    """F1 counts as 0 where it is undefined: a network that never finds a ball must not look like no network."""
    return {
        f"val_{name}_{str(tolerance).replace('@', 'at')}": float(getattr(counts, name) or 0.0)
        for tolerance, counts in report.total.counts.items()
        for name in ("f1", "precision", "recall")
    }
