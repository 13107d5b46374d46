"""The reference networks: TrackNet (Huang et al. 2019) and TrackNetV2 (Sun et al. 2020), as trainable baselines."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from rallytrace.models import ModelSpec


def _block(inputs: int, *widths: int) -> nn.Sequential:
    """3x3 convolutions, each followed by ReLU and batch normalisation, in the papers' order."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(inputs, width, 3, 1, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(width)]
        inputs = width
    return nn.Sequential(*layers)


class _Encoder(nn.Module):
    """The first ten convolutions of VGG-16, at full, half, quarter and eighth size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        shapes = ((channels, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512))
        self.blocks = nn.ModuleList([_block(*shape) for shape in shapes])

    def forward(self, window: Tensor) -> list[Tensor]:
        outputs = [window.float() / 255]
        for i, block in enumerate(self.blocks):
            outputs.append(block(F.max_pool2d(outputs[-1], 2) if i else outputs[-1]))
        return outputs[1:]


class TrackNetV1(nn.Module):
    """VGG-16 encoder, deconvolution decoder, 256 grey levels per pixel (10.7 M parameters).

    The paper reads the most probable of 256 levels as the heatmap; here it is the expected level, which is
    differentiable and trains with the same losses as the other networks.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.down = _Encoder(spec.channels)
        self.up = nn.ModuleList(
            [_block(512, 256, 256, 256), _block(256, 128, 128), _block(128, 64, 64), _block(64, 256 * spec.outputs)]
        )
        self.outputs = spec.outputs

    def forward(self, window: Tensor) -> tuple[Tensor, None]:
        x = self.down(window)[-1]
        for i, block in enumerate(self.up):
            x = block(F.interpolate(x, scale_factor=2.0) if i < 3 else x)
        levels = torch.linspace(0, 1, 256, device=x.device)[None, None, :, None, None]
        depth = (x.float().unflatten(1, (self.outputs, 256)).softmax(2) * levels).sum(2)
        return torch.logit(depth, eps=1e-6), None


class TrackNetV2(nn.Module):
    """VGG-16 encoder and a decoder with skips, a U-Net (11.3 M parameters); 3 pictures in, 1 or 3 heatmaps out."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.down = _Encoder(spec.channels)
        self.up = nn.ModuleList(
            [_block(512 + 256, 256, 256, 256), _block(256 + 128, 128, 128), _block(128 + 64, 64, 64)]
        )
        self.heat = nn.Conv2d(64, spec.outputs, 1)
        nn.init.constant_(self.heat.bias, -4.0)  # type: ignore[arg-type]  # most pixels are empty: start there

    def forward(self, window: Tensor) -> tuple[Tensor, None]:
        *skips, x = self.down(window)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), skip], dim=1))
        return self.heat(x).float(), None
