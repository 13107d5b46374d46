"""eval, train and export: networks and their figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from rallytrace import __version__, storage
from rallytrace.cli.common import (
    Device,
    DeviceName,
    Json,
    On,
    Overwrite,
    Threads,
    Threshold,
    app,
    parse_wh,
    print_json,
    progress_bar,
)
from rallytrace.errors import InputError, OutputError
from rallytrace.evaluate import Report, evaluate_clips, write_report
from rallytrace.features import describe_data, load_data
from rallytrace.runtime import DEFAULT_MODEL, load_network


@app.command("eval")
def eval_command(
    data: Annotated[list[str], typer.Option("--data", help="Folder or URL: labelled clips or a feature set.")],
    weights: Annotated[str, typer.Option("--weights", help="A bundled network, .onnx or checkpoint.")] = DEFAULT_MODEL,
    split: Annotated[str, typer.Option(help="Which split of the data; 'all' for every clip.")] = "val",
    out: Annotated[Optional[str], typer.Option("--out", help="Folder or URL for report.json and report.html.")] = None,  # noqa: UP045
    device: Device = DeviceName.auto,
    threads: Threads = None,
    threshold: Threshold = None,
    overlap: Annotated[int, typer.Option(min=1)] = 1,
    path: Annotated[bool, typer.Option(help="Take the peak that the motion speaks for, not the highest.")] = True,
    fill: Annotated[int, typer.Option(min=0, help="Score with gap filling of up to this many frames.")] = 0,
    reject: Annotated[bool, typer.Option("--reject", help="Score with outlier rejection.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Score a network on labelled clips with the field's metrics."""
    if out and not overwrite and storage.open_store(out).head("report.json"):
        raise OutputError(f"{out}/report.json exists already: use --overwrite, or another --out folder")
    clips = load_data(data)
    chosen = [clip for clip in clips if split in (clip.split, "all")]
    if not chosen:
        raise InputError(f"no clip of split {split!r} in {data}: it has {sorted({clip.split for clip in clips})}")
    network = load_network(weights, device=device.value, threads=threads)
    with progress_bar("evaluate", quiet=as_json) as bar:
        report = evaluate_clips(
            network,
            chosen,
            threshold=threshold,
            overlap=overlap,
            path=path,
            fill=fill,
            reject=reject,
            on_clip=lambda done: bar(done, len(chosen), ""),
        )
    if out:
        with storage.publishing(out, ["report.json"]) as folder:
            write_report(report, folder)
    if as_json:
        print_json(report.to_dict())
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(_score_table(report))
        print("\n".join(f"  {line}" for line in report.recall_lines()))
        if report.total.n_unlabelled:
            print(f"  {report.total.n_unlabelled} frames have no label and were not scored")
        if out:
            print(f"  {out}/report.html\n  {out}/report.json")


def _score_table(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = ("", "within px", "TP", "FP1", "FP2", "TN", "FN", "prec.", "recall", "F1", "acc.", "median", "p95 px")
    for name in columns:
        table.add_column(name, justify="left" if name in ("", "within px") else "right", no_wrap=True)
    for clip, *row in report.rows():
        ratios = [f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value) for value in row]
        table.add_row(str(clip), *ratios)
    return table


@app.command("train")
def train_command(
    data: Annotated[list[str], typer.Option("--data", help="Clips or a feature set with splits train and val.")],
    out: Annotated[str, typer.Option("--out", help="The run's folder (with --on ray also a URL); resumed if there.")],
    on: On = None,
    model: Annotated[str, typer.Option("--model", help="A network of the registry.")] = "rallynet",
    init: Annotated[Optional[str], typer.Option(help="A checkpoint to start from, for fine-tuning.")] = None,  # noqa: UP045
    steps: Annotated[int, typer.Option(min=1)] = 12_000,
    batch: Annotated[int, typer.Option(min=1, help="Windows per step.")] = 24,
    lr: Annotated[float, typer.Option(min=1e-7, max=1.0)] = 2e-3,
    loss: Annotated[str, typer.Option(help="focal or wbce.")] = "focal",
    mixup: Annotated[float, typer.Option(min=0, max=1, help="Share of batches that are blended.")] = 0.0,
    frames: Annotated[Optional[int], typer.Option(min=1, help="Pictures in a window.")] = None,  # noqa: UP045
    size: Annotated[Optional[str], typer.Option(help="Input width x height.")] = None,  # noqa: UP045
    sigma: Annotated[Optional[float], typer.Option(min=0.1, help="Of the Gaussian target, in model px.")] = None,  # noqa: UP045
    colour: Annotated[Optional[str], typer.Option(help="grey or rgb.")] = None,  # noqa: UP045
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Device = DeviceName.auto,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the training step.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes.")] = 1,
    processes: Annotated[Optional[int], typer.Option(min=1, help="With --on ray; default all CPUs or GPUs.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(min=0)] = 0,
    val_every: Annotated[int, typer.Option(min=1)] = 1000,
    save_every: Annotated[int, typer.Option(min=1)] = 200,
    log_every: Annotated[int, typer.Option(min=1)] = 50,
    patience: Annotated[int, typer.Option(min=0, help="Validations without progress before stopping.")] = 0,
    cache: Annotated[Optional[Path], typer.Option(help="Folder for decoded frames.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Train a network; run the same command again to resume after an interruption."""
    import torch

    from rallytrace.models import get_spec
    from rallytrace.train import TrainOptions, train

    torch.set_num_threads(threads)
    asked = {"frames": frames, "size_wh": size and parse_wh(size), "sigma_px": sigma, "colour": colour}
    spec = get_spec(model, **{name: value for name, value in asked.items() if value is not None})
    options = TrainOptions(
        steps=steps,
        batch=batch,
        lr=lr,
        loss=loss,  # type: ignore[arg-type]  # checked by TrainOptions
        mixup=mixup,
        precision=precision,  # type: ignore[arg-type]
        device=device.value,  # type: ignore[arg-type]
        workers=workers,
        seed=seed,
        val_every=val_every,
        save_every=save_every,
        log_every=log_every,
        patience=patience,
    )

    def say(step: int, values: dict[str, float]) -> None:
        if as_json:
            print_json({"step": step, **values})
        else:
            print(f"step {step}/{steps}  " + "  ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True)

    # Weights travel: the command is kept without the folders of the machine that it ran on.
    command = " ".join(["rallytrace", *(Path(word).name if "/" in word else word for word in sys.argv[1:])])
    provenance = {
        "command": command,
        "code": f"rallytrace {__version__}",
        "data": [describe_data(each) for each in data],
    }
    if on not in (None, "local"):
        from rallytrace.scale.training import TrainJob, train_on_ray

        frames_in = str(cache) if cache else None
        places = {"init": init, "cache": frames_in}
        job = TrainJob(tuple(data), spec, out, options, **places, provenance=provenance, workers=processes)
        best = train_on_ray(job, on, say)
    else:
        if (processes or 1) > 1:
            raise InputError(f"--processes {processes}: here start so many by torchrun, or train with --on ray")
        if storage.is_url(out):
            raise InputError(f"--out {out}: training in this process needs a folder; a URL can be used with --on ray")
        start = storage.fetch(init) if init else None
        clips = load_data(data)
        best = str(train(clips, spec, Path(out), options, init=start, cache=cache, provenance=provenance, on_step=say))
    print(json.dumps({"best": str(best)}) if as_json else f"best checkpoint: {best}")


@app.command("export")
def export_command(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint folder or its URL, such as run/best.")],
    out: Annotated[str, typer.Option("--out", help="The .onnx file or URL to write.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint as an .onnx file, which runs without torch."""
    where, _, name = out.rpartition("/")
    where = where or ("/" if out.startswith("/") else ".")
    if storage.open_store(where).head(name) and not overwrite:
        raise OutputError(f"{out} exists already: use --overwrite, or another name")
    from rallytrace.runtime.export import export

    with storage.publishing(where) as folder:
        export(storage.fetch(checkpoint), folder / name)
        size = (folder / name).stat().st_size / 2**20
    print(json.dumps({"onnx": out, "mib": size}) if as_json else f"{out} ({size:.1f} MiB)")
