"""Labelled clips -> training samples: (window, target) crops, augmented, each a pure function of (seed, number).

Frames are decoded and resized once, into memory-mapped arrays; a sample reads only its crop of them. Since sample
number k depends on nothing but the seed and k, training resumes anywhere and any number of loader processes give the
same data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from torch.utils.data import Dataset

from rallytrace import heatmap, video
from rallytrace.errors import InputError
from rallytrace.files import AtomicFile, make_folder, output_errors, write_text
from rallytrace.geometry import FrameTransform, flip_x
from rallytrace.labels import check_length
from rallytrace.models import ModelSpec
from rallytrace.types import XY, BallLabel, Clip, Image
from rallytrace.window import backgrounds, moments, stack_channels

CACHE_VERSION = 3


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class CachedClip:
    """A clip's pictures at model size without repeats, as the tracker would see them, and the labels on them."""

    clip: Clip
    pictures: Image  # memory-mapped uint8 (n, h, w[, 3])
    medians: Image  # memory-mapped uint8 (m, h, w[, 3]); the distinct backgrounds
    median_of: NDArray[np.int64]  # (n,): each picture's background
    scene_of: NDArray[np.int64]  # (n,): windows must not cross scenes
    labels: list[BallLabel | None]  # per picture, in source pixels; None = unlabelled
    transform: FrameTransform

    def __len__(self) -> int:
        return len(self.pictures)

    def __repr__(self) -> str:
        return f"CachedClip({self.clip.name!r}, pictures={self.pictures.shape})"


def cache_clip(clip: Clip, spec: ModelSpec, folder: Path) -> CachedClip:
    """Decode `clip` at the network's size into `folder`, once: later calls map the arrays that are there."""
    with video.read(clip.video) as reader:
        reader.find_picture()
        info = reader.info
    transform = FrameTransform.fit_picture(info.wh, info.picture, spec.size_wh, spec.multiple)
    stat = clip.video.stat()
    content = clip.sha256 or [str(clip.video.resolve()), stat.st_size, stat.st_mtime_ns]
    key = json.dumps([CACHE_VERSION, content, str(transform), spec.colour])
    base = folder / f"{clip.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if not _file(base, ".json").exists():
        _fill_cache(clip, spec, transform, base)
    index = json.loads(_file(base, ".json").read_text())
    check_length(clip, index["n_frames"])
    return CachedClip(
        clip,
        np.load(_file(base, ".pictures.npy"), mmap_mode="r"),
        np.load(_file(base, ".medians.npy"), mmap_mode="r"),
        np.array(index["median_of"], np.int64),
        np.array(index["scene_of"], np.int64),
        [clip.labels.get(frame) for frame in index["frames"]],
        transform,
    )


def _file(base: Path, suffix: str) -> Path:
    return base.with_name(base.name + suffix)  # not with_suffix: clips may have dots in their names


def _fill_cache(clip: Clip, spec: ModelSpec, transform: FrameTransform, base: Path) -> None:
    with video.read_clip(clip) as reader:
        reader.give(wh=transform.content_wh, colour=spec.colour, box=transform.box)
        frames, scene_of, pictures = zip(*moments(reader, transform.pad), strict=True)
        n_frames = reader.count
    stack, scenes = np.stack(pictures), np.array(scene_of)
    medians: list[Image] = []
    median_of: list[int] = []
    for number in range(scene_of[-1] + 1):
        found, which = backgrounds(stack[scenes == number])
        median_of += (which + sum(map(len, medians))).tolist()
        medians.append(found)
    make_folder(base.parent)
    for name, array in ((".pictures.npy", stack), (".medians.npy", np.concatenate(medians))):
        with AtomicFile(_file(base, name), "wb") as file, output_errors(_file(base, name)):
            np.save(file, array)
    index = {"n_frames": n_frames, "frames": frames, "scene_of": scene_of, "median_of": median_of}
    write_text(_file(base, ".json"), json.dumps(index))  # last: without it the arrays do not count


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Probabilities and ranges; image and points always move together."""

    crop_wh: tuple[int, int] | None = (256, 160)  # None: whole pictures
    on_ball: float = 0.7  # share of crops that hold a ball
    scale: tuple[float, float] = (0.6, 1.5)
    flip: float = 0.5
    reverse: float = 0.5  # play the window backwards
    repeat: float = 0.1  # a picture repeats the one before, as in 25 -> 30 fps broadcasts that slip through
    blend: float = 0.15  # pictures are mixed with the one before, as rate conversions do: the ball is there twice
    erase: float = 0.15  # the ball is painted over, so that what looks like one must do without it
    shake: float = 0.3  # the camera pans and trembles, so that what stands still moves against the background
    gain: float = 0.35  # contrast, brightness and gamma, relative
    noise: float = 6.0  # grey levels, standard deviation at most
    blur: float = 0.15
    jpeg: float = 0.15


NO_AUGMENTATION = Augmentation(None, 0, (1, 1), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Sample number k of an endless, seeded stream; epochs are permutations of all windows.

    A sample is a dict of tensors: window uint8 (C, h, w); heatmaps float32 (T_out, h/s, w/s); offsets float32
    (T_out, 2, h/s, w/s); near bool (T_out, h/s, w/s); known bool (T_out,), False where a picture is unlabelled.
    """

    def __init__(
        self, clips: Sequence[CachedClip], spec: ModelSpec, *, seed: int, length: int, augmentation: Augmentation
    ) -> None:
        self._clips, self._spec, self._seed, self._length, self._augmentation = clips, spec, seed, length, augmentation
        last = spec.frames - 1
        self._starts = [
            (c, start)
            for c, clip in enumerate(clips)
            for start in range(len(clip) - last)
            if clip.scene_of[start] == clip.scene_of[start + last]
            and any(label is not None for label in clip.labels[start : start + spec.frames])
        ]
        if not self._starts:
            raise InputError(
                f"no window of {spec.frames} labelled frames in {len(clips)} clips: label more, or other data"
            )

    @property
    def windows(self) -> int:
        """How many windows an epoch has."""
        return len(self._starts)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        epoch, place = divmod(number, len(self._starts))
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._starts))
        rng = np.random.default_rng((self._seed, epoch, place))
        c, start = self._starts[order[place]]
        clip, spec = self._clips[c], self._spec
        positions = np.arange(start, start + spec.frames)
        if rng.random() < self._augmentation.reverse:
            positions = positions[::-1].copy()
        for i in range(1, len(positions)):
            if rng.random() < self._augmentation.repeat / spec.frames:
                positions[i] = positions[i - 1]
        median = clip.medians[clip.median_of[start + spec.frames // 2]] if spec.background else None
        points = [_model_xy(clip, int(p)) for p in positions]
        pictures = [clip.pictures[p] for p in positions]
        known = [clip.labels[p] is not None for p in positions]
        erase = rng.random() < self._augmentation.erase and all(known)  # where no label is, a ball may be left
        if erase:
            pictures = _erase(pictures, clip.medians[clip.median_of[start + spec.frames // 2]], points, rng)
        images, points = _crop(pictures, median, points, self._augmentation, rng)
        if erase:
            points = [None] * len(points)
        if rng.random() < self._augmentation.blend:
            images, points = _blend(images, points, rng)
        if rng.random() < self._augmentation.flip:
            width = images.shape[2]
            images, points = images[:, :, ::-1], [None if xy is None else flip_x(xy, width) for xy in points]
        images = _degrade(np.ascontiguousarray(images), self._augmentation, rng, pictures=len(positions))
        return _sample(images, points, known, spec)


def _model_xy(clip: CachedClip, position: int) -> XY | None:
    label = clip.labels[position]
    return None if label is None or label.xy is None else clip.transform.to_model(label.xy)


def _sample(images: Image, points: list[XY | None], known: list[bool], spec: ModelSpec) -> dict[str, torch.Tensor]:
    """images (T [+ 1], h, w[, 3]), the background last."""
    h, w = images.shape[1:3]
    hw = (h // spec.stride, w // spec.stride)
    points, known = points[-spec.outputs :], known[-spec.outputs :]
    offsets, near = heatmap.render_offsets(points, hw, stride=spec.stride)
    heatmaps = heatmap.render(points, hw, sigma_px=spec.sigma_px, stride=spec.stride)
    return {
        "window": torch.from_numpy(stack_channels(list(images), None)),
        "heatmaps": torch.from_numpy(heatmaps),
        "offsets": torch.from_numpy(offsets),
        "near": torch.from_numpy(near),
        "known": torch.tensor(known),
    }


def _crop(
    pictures: list[Image],
    median: Image | None,
    points: list[XY | None],
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[Image, list[XY | None]]:
    """The same scaled crop of all pictures (and the background after them), and the points inside it."""
    h, w = pictures[0].shape[:2]
    planes = pictures if median is None else [*pictures, median]
    if augmentation.crop_wh is None:
        return np.stack(planes), points
    low, high = augmentation.scale
    scale = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    cw, ch = augmentation.crop_wh
    region_wh = (min(w, round(cw / scale)), min(h, round(ch / scale)))
    x, y = _place(region_wh, (w, h), [xy for xy in points if xy is not None], augmentation.on_ball, rng)
    drift = _drift(len(pictures), rng) if rng.random() < augmentation.shake else np.zeros((len(pictures), 2), np.int64)
    drift = np.concatenate([drift, np.zeros((len(planes) - len(pictures), 2), np.int64)])  # the background stays
    corners = np.clip(np.array((x, y)) + drift, 0, np.array((w - region_wh[0], h - region_wh[1])))
    cut = np.stack(
        [p[v : v + region_wh[1], u : u + region_wh[0]] for p, (u, v) in zip(planes, corners.tolist(), strict=True)]
    )
    resize = FrameTransform(region_wh, augmentation.crop_wh, augmentation.crop_wh)
    moved = [
        None if xy is None else resize.to_model((xy[0] - u, xy[1] - v))
        for xy, (u, v) in zip(points, corners.tolist()[: len(points)], strict=True)
    ]
    inside = [xy if xy and -2 < xy[0] < cw + 1 and -2 < xy[1] < ch + 1 else None for xy in moved]
    return _resize(cut, (ch, cw)), inside


def _erase(pictures: list[Image], median: Image, points: list[XY | None], rng: np.random.Generator) -> list[Image]:
    """The ball and half of its way from and to its neighbours, painted over with the background under a soft edge."""
    radius_px, painted = rng.uniform(5, 11), []
    for i, (image, here) in enumerate(zip(pictures, points, strict=True)):
        if here is None:
            painted.append(image)
            continue
        near = [xy for xy in points[max(0, i - 1) : i + 2] if xy is not None]
        steps = np.linspace(0, 0.5, 6)[:, None]
        path = np.concatenate([here + steps * np.subtract(xy, here) for xy in near])
        low = np.clip(np.floor(path.min(0) - radius_px - 2), 0, None).astype(int)
        high = np.ceil(path.max(0) + radius_px + 3).astype(int)
        part = (slice(low[1], high[1]), slice(low[0], high[0]))
        y, x = np.mgrid[part[0], part[1]][:, : image.shape[0] - low[1], : image.shape[1] - low[0]]
        distance = np.hypot(x[..., None] - path[:, 0], y[..., None] - path[:, 1]).min(-1)
        share = np.clip((radius_px + 2 - distance) / 4, 0, 1).astype(np.float32)
        share = share if image.ndim == 2 else share[..., None]
        mixed = image.copy()
        mixed[part] = np.rint(mixed[part] * (1 - share) + median[part] * share).astype(np.uint8)
        painted.append(mixed)
    return painted


def _drift(pictures: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Whole pixels (pictures, 2) by which the camera has moved: a steady pan, and a tremble of about a pixel."""
    pan_px, tremble_px = rng.normal(0, 2, 2) * rng.integers(0, 2), rng.uniform(0, 1)
    steps = np.arange(pictures)[:, None] - pictures // 2
    return np.rint(steps * pan_px + rng.normal(0, tremble_px, (pictures, 2))).astype(np.int64)


def _place(
    region_wh: tuple[int, int], wh: tuple[int, int], points: list[XY], on_ball: float, rng: np.random.Generator
) -> tuple[int, int]:
    """Top-left corner of a crop, so that it holds one of the points in `on_ball` of the cases."""
    aimed = bool(points) and rng.random() < on_ball
    target = points[int(rng.integers(len(points)))] if aimed else None
    corner = []
    for axis in (0, 1):
        room = wh[axis] - region_wh[axis]
        start = int(rng.integers(room + 1))
        if target is not None:
            start = round(target[axis] - rng.uniform(0.05, 0.95) * region_wh[axis])
        corner.append(min(max(start, 0), room))
    return corner[0], corner[1]


def _resize(images: Image, hw: tuple[int, int]) -> Image:
    if images.shape[1:3] == hw:
        return images
    planes = torch.from_numpy(images).float()
    planes = planes[:, None] if images.ndim == 3 else planes.permute(0, 3, 1, 2)
    antialias = hw[0] < images.shape[1]
    planes = F.interpolate(planes, hw, mode="bilinear", align_corners=False, antialias=antialias).round().clamp(0, 255)
    resized: Image = planes.to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return resized[..., 0] if images.ndim == 3 else resized


def _blend(images: Image, points: list[XY | None], rng: np.random.Generator) -> tuple[Image, list[XY | None]]:
    """Pictures mixed with the one before; the ball is then between its two images, as annotators put it."""
    mixed, moved = images.copy(), list(points)
    for i in range(1, len(points)):
        share = np.float32(rng.uniform(0.2, 0.8))
        before, here = points[i - 1], points[i]
        if rng.random() < 0.4 and (before is None) == (here is None):
            blend = share * images[i].astype(np.float32) + (1 - share) * images[i - 1].astype(np.float32)
            mixed[i] = np.rint(blend).astype(np.uint8)
            if before is not None and here is not None:
                w = float(share)
                moved[i] = (w * here[0] + (1 - w) * before[0], w * here[1] + (1 - w) * before[1])
    return mixed, moved


def _degrade(images: Image, augmentation: Augmentation, rng: np.random.Generator, *, pictures: int) -> Image:
    """Tone (the same for the whole window), sensor noise (fresh per picture, not on the background), blur, coding."""
    x: NDArray[np.float32] = images.astype(np.float32)
    if augmentation.gain:
        gain, bias, gamma = (np.float32(v) for v in rng.uniform(-augmentation.gain, augmentation.gain, 3))
        one, middle = np.float32(1), np.float32(128)
        x = np.float32(255) * (x / np.float32(255)) ** (one + gamma)
        x = (x - middle) * (one + gain) + middle * (one + bias)
    if rng.random() < augmentation.blur:
        x = _blur(x, float(rng.uniform(0.4, 1.0)))
    if augmentation.noise:
        level = np.float32(rng.uniform(0, augmentation.noise))
        x[:pictures] += level * rng.standard_normal(x[:pictures].shape, np.float32)
    out = np.clip(np.rint(x), 0, 255).astype(np.uint8)
    if rng.random() < augmentation.jpeg:
        quality = int(rng.integers(30, 90))
        colour: Any = "grey" if out.ndim == 3 else "rgb"
        out = np.stack([video.decode_jpeg(video.encode_jpeg(image, quality), colour) for image in out])
    return out


def _blur(x: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    side = np.float32(np.exp(-0.5 / sigma_px**2))
    norm = np.float32(1 / (1 + 2 * side))
    for axis in (1, 2):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)]
        padded = np.pad(x, pad, mode="edge")
        n = x.shape[axis]
        left, right = (padded.take(range(s, s + n), axis) for s in (0, 2))
        x = (x + side * (left + right)) * norm
    return x
