"""The registry of networks. Looking a network up loads no torch; building one does.

A network is a `torch.nn.Module` that maps windows, uint8 or float (B, C, H, W) with values 0..255, to
`(logits, offsets)`: logits float32 (B, T_out, h, w) whose sigmoid is the heatmap, and offsets float32
(B, T_out, 2, h, w) in cells, or None where the network has no offset head.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from rallytrace.errors import ModelError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """All that is needed to rebuild a network and to feed it. Travels as JSON beside (or inside) the weights."""

    name: str  # the key in MODELS that it derives from
    arch: str  # "module:Class", called with the spec
    frames: int  # T, the pictures in a window
    outputs: int  # T_out: T, or 1 for the last picture only
    colour: Literal["grey", "rgb"]
    background: bool  # whether the median background follows the pictures
    size_wh: tuple[int, int]  # the size it is made for; at inference a video keeps its own aspect
    stride: int  # model pixels per heatmap cell
    offsets: bool
    sigma_px: float  # of the Gaussian target, in model pixels
    widths: tuple[int, ...] = ()
    threshold: float = 0.5  # peaks below are "no ball"

    def __post_init__(self) -> None:
        if self.frames < 1 or self.outputs not in (1, self.frames):
            raise ModelError(f"a network predicts 1 or all of its frames, got frames={self.frames}, {self.outputs=}")
        if self.colour not in ("grey", "rgb"):
            raise ModelError(f"colour must be 'grey' or 'rgb', got {self.colour!r}")
        if any(side % self.multiple for side in self.size_wh):
            raise ModelError(f"size_wh must be multiples of {self.multiple} for {self.name}, got {self.size_wh}")
        if self.stride < 1 or self.sigma_px <= 0:
            raise ModelError(f"stride and sigma_px must be positive, got {self.stride} and {self.sigma_px}")

    @property
    def channels(self) -> int:
        """C of a window."""
        return (self.frames + self.background) * (1 if self.colour == "grey" else 3)

    @property
    def multiple(self) -> int:
        """Both sides of the input must be multiples of this: what the network's poolings divide by."""
        return 8 if self.arch.startswith("rallytrace.models.tracknet:") else 16

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ModelError for text that is not a spec."""
        try:
            fields: dict[str, Any] = json.loads(text)
            fields["size_wh"], fields["widths"] = tuple(fields["size_wh"]), tuple(fields["widths"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"not the description of a rallytrace network: {text[:80]!r} ({error})") from error


_RALLYNET = ModelSpec(
    name="rallynet",
    arch="rallytrace.models.rallynet:RallyNet",
    frames=5,
    outputs=5,
    colour="grey",
    background=True,
    size_wh=(768, 432),
    stride=4,
    offsets=True,
    sigma_px=4.0,
    widths=(24, 48, 96, 128),
)
_WINDOW = dataclasses.replace(  # for windows that come alone: no background, no past
    _RALLYNET,
    name="rallynet_window",
    frames=3,
    outputs=3,
    background=False,
    size_wh=(512, 288),
    widths=(16, 32, 64, 96),
)
_TRACKNET = ModelSpec(
    name="tracknet_v1",
    arch="rallytrace.models.tracknet:TrackNetV1",
    frames=3,
    outputs=1,
    colour="rgb",
    background=False,
    size_wh=(640, 360),
    stride=1,
    offsets=False,
    sigma_px=3.2,  # variance 10 in Huang et al. 2019
)
_TRACKNET_V2 = dataclasses.replace(  # sigma_px: radius of the disc in Sun et al. 2020
    _TRACKNET,
    name="tracknet_v2",
    arch="rallytrace.models.tracknet:TrackNetV2",
    outputs=3,
    size_wh=(512, 288),
    sigma_px=2.5,
)
MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in (_RALLYNET, _WINDOW, _TRACKNET, _TRACKNET_V2)}


def get_spec(name: str, **changes: Any) -> ModelSpec:
    """The registered spec, with fields changed (`frames=3`, `size_wh=(640, 352)`, ...). Raises ModelError."""
    if name not in MODELS:
        raise ModelError(f"unknown network {name!r}: expected one of {', '.join(sorted(MODELS))}")
    spec = MODELS[name]
    if "frames" in changes and "outputs" not in changes and spec.outputs == spec.frames:
        changes["outputs"] = changes["frames"]
    try:
        return dataclasses.replace(spec, **changes)
    except TypeError as error:
        raise ModelError(f"a network has no such parameter: {error}") from error


def build(spec: ModelSpec) -> torch.nn.Module:
    """A freshly initialised network. Needs torch (`pip install 'rallytrace[train]'`)."""
    module, _, name = spec.arch.partition(":")
    if not module.startswith("rallytrace.models.") and spec.arch not in {s.arch for s in MODELS.values()}:
        # A spec may come out of a stranger's checkpoint: it must not choose what gets imported.
        raise ModelError(f"{spec.arch!r} is not a registered network: import the package that adds it to MODELS first")
    network: torch.nn.Module = getattr(importlib.import_module(module), name)(spec)
    return network
