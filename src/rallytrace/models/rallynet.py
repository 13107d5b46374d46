"""The default network: a dense residual U-Net for CPUs.

Dense 3x3 convolutions run near a CPU's peak, full-resolution depthwise ones at a fifth of it, so multiply-adds are a
bad guide to time. The picture is folded to half size before the first convolution (space to depth), and answered at a
quarter with a heatmap and a sub-pixel offset: the full-resolution layers that dominate TrackNet's cost are gone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from rallytrace.models import ModelSpec


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(self.first(x)))


class RallyNet(nn.Module):
    """widths: channels at 1/2, 1/4, 1/8 and 1/16 of the input. Answers at 1/4 (`spec.stride` 4) or 1/2 (2)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        w2, w4, w8, w16 = spec.widths
        self.stem = _conv(spec.channels * 4, w2)
        self.down4 = nn.Sequential(_conv(w2, w4, 2), _Residual(w4))
        self.down8 = nn.Sequential(_conv(w4, w8, 2), _Residual(w8))
        self.down16 = nn.Sequential(_conv(w8, w16, 2), _Residual(w16))
        self.up8, self.merge8 = nn.Conv2d(w16, w8, 1), _Residual(w8)
        self.up4, self.merge4 = nn.Conv2d(w8, w4, 1), _Residual(w4)
        if spec.stride == 2:
            self.up2, self.merge2 = nn.Conv2d(w4, w2, 1), _Residual(w2)
        width = w4 if spec.stride == 4 else w2
        self.heat = nn.Conv2d(width, spec.outputs, 1)
        self.offset = nn.Conv2d(width, spec.outputs * 2, 1)
        nn.init.constant_(self.heat.bias, -4.0)  # type: ignore[arg-type]  # most cells are empty: start there

    def forward(self, window: Tensor) -> tuple[Tensor, Tensor]:
        at2 = self.stem(F.pixel_unshuffle(self._normalise(window), 2))
        at4 = self.down4(at2)
        at8 = self.down8(at4)
        at16 = self.down16(at8)
        out = self.merge8(at8 + F.interpolate(self.up8(at16), scale_factor=2.0))
        out = self.merge4(at4 + F.interpolate(self.up4(out), scale_factor=2.0))
        if self.spec.stride == 2:
            out = self.merge2(at2 + F.interpolate(self.up2(out), scale_factor=2.0))
        return self.heat(out).float(), self.offset(out).float().unflatten(1, (self.spec.outputs, 2))

    def _normalise(self, window: Tensor) -> Tensor:
        """About zero mean and unit spread; the pictures as differences from the background, where there is one."""
        x = window.float() * (1 / 64)
        if not self.spec.background:
            return x - 2
        per_picture = 1 if self.spec.colour == "grey" else 3
        pictures, background = x[:, :-per_picture], x[:, -per_picture:]
        return torch.cat([pictures - background.repeat(1, self.spec.frames, 1, 1), background - 2], dim=1)
