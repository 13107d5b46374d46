"""A picture of what a network will be taught: places around the ball, as stored and with the target drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rallytrace import heatmap, storage, video
from rallytrace.annotate import contact_sheet
from rallytrace.features.index import read_index
from rallytrace.features.manifest import Json
from rallytrace.geometry import FrameTransform
from rallytrace.models import ModelSpec
from rallytrace.types import XY, Box, Image

TILES = 24
COLUMNS = 3
CROP_WH = (128, 96)
TARGET_RGB = (255, 64, 32)


def contact_sheet_of(store: storage.Store, clips: Sequence[Json], spec: ModelSpec) -> Image:
    """RGB: some located frames of some clips, each twice, cut around the ball and enlarged. Reads single pictures by
    their places in the shards. Raises InputError, VideoError, LabelError."""
    some = clips[:: -(-len(clips) // TILES)]
    per_clip = -(-TILES // len(some))
    tiles: list[Image] = []
    for about in some:
        shard, index = about["files"]["shard"], about["files"]["index"]
        places, labels = read_index(store.fetch(index["path"]), about["frames"], shard["bytes"])
        picture = Box(*about["picture"]) if "picture" in about else None
        transform = FrameTransform.fit_picture(tuple(about["source_wh"]), picture, spec.size_wh, spec.multiple)
        balls = [(n, label.xy) for n, label in labels.items() if label.xy]
        for n, xy in balls[:: -(-len(balls) // per_clip) or 1]:
            offset, size = places[n]
            block = store.get_range(shard["path"], offset - 512, 512 + size)
            image = video.decode_jpeg(video.jpeg_of(block, places.index(places[n]), shard["path"]), "rgb")
            tiles.append(_tile(image, transform.to_model(xy), spec.sigma_px))
    return contact_sheet(tiles[:TILES], COLUMNS)


def _tile(image: Image, xy: XY, sigma_px: float) -> Image:
    h, w = image.shape[:2]
    cw, ch = min(CROP_WH[0], w), min(CROP_WH[1], h)
    x = min(max(round(xy[0]) - cw // 2, 0), w - cw)
    y = min(max(round(xy[1]) - ch // 2, 0), h - ch)
    crop = image[y : y + ch, x : x + cw]
    target = heatmap.render([(xy[0] - x, xy[1] - y)], (ch, cw), sigma_px=sigma_px)[0, ..., None]
    drawn = np.rint(crop + 0.6 * target * (np.array(TARGET_RGB) - crop)).astype(np.uint8)
    return np.concatenate([crop, drawn], axis=1).repeat(2, 0).repeat(2, 1)
