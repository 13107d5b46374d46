"""Options that arrive as texts (hyperparameters, words of a command) become the fields of our dataclasses."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from rallytrace.errors import InputError
from rallytrace.models import ModelSpec, get_spec

if typing.TYPE_CHECKING:
    from rallytrace.train import TrainOptions

SHORT = {"size": "size_wh", "sigma": "sigma_px"}  # as `rallytrace train` calls them
FIXED = ("name", "arch", "stride", "offsets")  # of a ModelSpec: they go with its code
SAVE_EVERY = 50  # steps, where not said: what an interruption may cost


@dataclasses.dataclass(frozen=True, slots=True)
class TrainJob:
    """What a training job's hyperparameters say. processes: per host; 0 is one per GPU, or one."""

    spec: ModelSpec
    options: TrainOptions
    threads: int = 0  # of each process; 0 shares the CPUs out
    processes: int = 0


def train_job(texts: Mapping[str, str]) -> TrainJob:
    """Names are those of TrainOptions, Augmentation and ModelSpec, `model`, `threads` and `processes`. Needs torch.

    Names that SageMaker's own tools add (sagemaker_*) are passed over. Raises InputError, ModelError.
    """
    from rallytrace.dataset import Augmentation
    from rallytrace.train import TrainOptions

    texts = {n: t for n, t in texts.items() if not n.startswith(("sagemaker_", "_"))}
    texts = {SHORT.get(n, n): t for n, t in ((_name(n), t) for n, t in texts.items())}
    known: dict[str, dict[str, Any]] = {
        "job": {"model": str, "threads": int, "processes": int},
        "spec": {n: h for n, h in typing.get_type_hints(ModelSpec).items() if n not in FIXED},
        "augmentation": typing.get_type_hints(Augmentation),
        "options": {n: h for n, h in typing.get_type_hints(TrainOptions).items() if n != "augmentation"},
    }
    check_names(texts, [name for group in known.values() for name in group])
    values = {
        group: {name: convert(name, texts[name], hint) for name, hint in hints.items() if name in texts}
        for group, hints in known.items()
    }
    spec = get_spec(values["job"].pop("model", "rallynet"), **values["spec"])
    options = {"save_every": values["options"].get("log_every", SAVE_EVERY), **values["options"]}
    augmentation = dataclasses.replace(Augmentation(), **values["augmentation"])
    return TrainJob(spec, TrainOptions(**options, augmentation=augmentation), **values["job"])


def check_names(texts: Mapping[str, str], known: list[str]) -> None:
    """Raises InputError for names that are not known."""
    if unknown := sorted(set(texts) - set(known)):
        raise InputError(f"unknown option {', '.join(unknown)}: expected some of {', '.join(sorted(known))}")


def convert(name: str, text: str, hint: Any) -> Any:
    """`text`, perhaps JSON-encoded as the SageMaker SDK does, as a value of the type `hint`. Raises InputError."""
    options = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    kind = options[0] if isinstance(hint, types.UnionType) else hint
    if text[:1] == text[-1:] == '"' and len(text) > 1:
        text = str(json.loads(text))
    if kind is not hint and text.lower() in ("none", "null"):
        return None
    inner = typing.get_args(kind)
    try:
        if typing.get_origin(kind) is typing.Literal:
            return {str(choice): choice for choice in inner}[text]
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if typing.get_origin(kind) is tuple:  # [512, 288], 512,288 or 512x288
            parts = [inner[0](part) for part in re.split(r"[\s,x]+", text.strip("[]() "))]
            if inner[-1] is not Ellipsis and len(parts) != len(inner):
                raise ValueError
            return tuple(parts)
        value = kind(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError
        return value
    except (KeyError, TypeError, ValueError):
        wanted = " or ".join(map(str, inner)) or getattr(kind, "__name__", str(kind))
        raise InputError(f"{name}={text[:80]!r}: expected {wanted}") from None


def _name(name: str) -> str:
    return name.strip().lstrip("-").replace("-", "_")
