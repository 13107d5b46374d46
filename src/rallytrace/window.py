"""Consecutive frames -> windows for the network, and the windows' overlapping heatmaps -> one per frame.

Positions count the pictures of one scene, without repeats; `track.Tracker` maps them to frames of the video.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from rallytrace.errors import InputError
from rallytrace.types import Frame, Image

Floats = NDArray[np.float32]
MergeMode = Literal["last", "mean", "centre"]
T = TypeVar("T")

BACKGROUND_EVERY = 6  # a picture in six may be a sample of the background,
BACKGROUND_REACH = 24  # which looks so many of them back and ahead (9.6 s in all at 30 frames/s)
BACKGROUND_SAMPLES = 17  # and is the median of at most this many, evenly spread
REPEAT_LEVELS = 1.5  # of 255; see `is_repeat`
CUT_LEVELS = 30.0  # of 255; see `Moments`
FLASH = 5  # pictures that a flash may last


def is_repeat(previous: Image, image: Image) -> bool:
    """Whether `image` shows the same moment as `previous`, as a tenth of broadcast frames do (25 -> 30 fps).

    True when none of some 32x18 blocks changed by more than 1.5 grey levels on average. In 25 -> 30 fps badminton
    broadcasts the repeats stay under 1.4 (coding noise) and real frames start at 2.2 (a distant shuttle moving).
    """
    side = max(1, round(math.sqrt(image.shape[0] * image.shape[1]) / 24))
    h, w = (length // side * side for length in image.shape[:2])
    difference = np.maximum(image, previous) - np.minimum(image, previous)
    blocks = difference[:h, :w].reshape(h // side, side, w // side, -1).mean((1, 3), dtype=np.float32)
    return float(blocks.max()) < REPEAT_LEVELS


class RepeatFilter:
    """Which pictures of a scene are new moments.

    At most two repeats follow each other (as in 24 -> 60 fps): what stands still for longer is a still picture, not a
    repeat, and must not hold results back.
    """

    def __init__(self) -> None:
        self._last: Image | None = None
        self._run = 0

    def is_new(self, image: Image) -> bool:
        repeats = self._last is not None and is_repeat(self._last, image)
        if repeats and self._run < 2:
            self._run += 1
            return False
        self._last, self._run = image, self._run if repeats else 0
        return True

    @property
    def is_fresh(self) -> bool:
        """Whether a new filter that is given the latest picture would go on in the same way."""
        return self._run == 0


def difference(a: Image, b: Image) -> float:
    """By how many grey levels two pictures differ on average; one pixel in sixteen is looked at."""
    return float(np.abs(a[::4, ::4].astype(np.int16) - b[::4, ::4]).mean())


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Shown(Generic[T]):
    """One picture and what it is to its scene. of: what came with it. begins: a new scene. is_new: neither a repeat nor
    a flash. is_fresh: whether new `Moments` that are given this picture first would go on in the same way.
    """

    of: T
    image: Image
    begins: bool
    is_new: bool
    is_flash: bool
    is_fresh: bool


class Moments(Generic[T]):
    """Pictures of a video in, in order; out they come with what they are: new or repeated, of the same scene or not.

    A new scene begins where the picture changes by more than 30 grey levels on average and stays different. A flash, or
    a few pictures of nothing, go by within five pictures: windows and background do without them. So after a jump
    pictures are held back until the next one that is as before the jump, five at most.
    """

    def __init__(self) -> None:
        self._repeats = RepeatFilter()
        self._steady: Image | None = None  # the latest new picture that is no flash
        self._held: deque[tuple[T, Image]] = deque()

    def push(self, of: T, image: Image) -> Iterator[Shown[T]]:
        """The pictures that are known now. Go through all of them before the next call."""
        self._held.append((of, image))
        return self._known(is_last=False)

    def flush(self) -> Iterator[Shown[T]]:
        """The pictures still held back: the video has ended."""
        return self._known(is_last=True)

    def _known(self, *, is_last: bool) -> Iterator[Shown[T]]:
        while self._held:
            jump = self._jump(self._held[0][1])
            if jump <= CUT_LEVELS:
                yield self._show()
                continue
            calm = min(CUT_LEVELS, jump / 2)
            flash = next((n for n, (_, image) in enumerate(self._held) if self._jump(image) <= calm), 0)
            if flash:
                for _ in range(flash):
                    yield self._show(is_flash=True)
            elif is_last or len(self._held) > FLASH:
                self._repeats = RepeatFilter()
                yield self._show(begins=True)
            else:
                return

    def _jump(self, image: Image) -> float:
        return 0.0 if self._steady is None else difference(self._steady, image)

    def _show(self, *, begins: bool = False, is_flash: bool = False) -> Shown[T]:
        of, image = self._held.popleft()
        is_new = not is_flash and self._repeats.is_new(image)
        if is_new:
            self._steady = image
        return Shown(of, image, begins, is_new, is_flash, is_new and self._repeats.is_fresh)


def moments(frames: Iterable[Frame], pad: Callable[[Image], Image]) -> Iterator[tuple[int, int, Image]]:
    """(frame index, scene, padded picture) of the frames that are new moments, as the tracker sees them."""
    told: Moments[int] = Moments()
    known = (told.push(frame.index, pad(frame.image)) for frame in frames)
    scene = 0
    for shown in itertools.chain(itertools.chain.from_iterable(known), told.flush()):
        scene += shown.begins
        if shown.is_new:
            yield shown.of, scene, shown.image


def median(images: list[Image]) -> Image:
    """The per-pixel (upper) median by Batcher's sorting network: on uint8 it is some 20 times faster than np.median."""
    planes = list(images)
    n = len(planes)
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(min(k, n - j - k)):
                    a, b = i + j, i + j + k
                    if a // (2 * p) == b // (2 * p):
                        planes[a], planes[b] = np.minimum(planes[a], planes[b]), np.maximum(planes[a], planes[b])
            k //= 2
        p *= 2
    return planes[n // 2]


class Background:
    """The rolling median of a scene: centred on the present for files, of the past only for live sources.

    The window is long, so that a ball that is held before a serve or lies on the floor does not become background.
    """

    def __init__(self, *, live: bool = False) -> None:
        self._ahead = 0 if live else BACKGROUND_REACH
        self._behind = BACKGROUND_REACH * 2 - self._ahead
        self._samples: deque[tuple[int, Image]] = deque()  # (position / BACKGROUND_EVERY, picture)
        self._made: tuple[tuple[int, ...], Image] | None = None
        self._count = 0

    def push(self, image: Image) -> None:
        if self._count % BACKGROUND_EVERY == 0:
            self._samples.append((self._count // BACKGROUND_EVERY, image))
        self._count += 1

    def ready(self, position: int) -> bool:
        """Whether every sample that the background of `position` would look ahead at has been pushed."""
        return self._count > (position // BACKGROUND_EVERY + self._ahead) * BACKGROUND_EVERY

    def at(self, position: int) -> Image:
        """The background for the picture at `position`; positions must not go back by more than a window's length."""
        now = position // BACKGROUND_EVERY
        while self._samples[0][0] < now - self._behind - 2:
            self._samples.popleft()
        known = [sample for sample in self._samples if now - self._behind <= sample[0] <= now + self._ahead]
        if len(known) > BACKGROUND_SAMPLES:
            spread = np.linspace(0, len(known) - 1, BACKGROUND_SAMPLES).round().astype(int)
            known = [known[k] for k in spread]
        keys = tuple(k for k, _ in known)
        if self._made is None or self._made[0] != keys:
            self._made = keys, median([image for _, image in known])
        return self._made[1]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Window:
    """T consecutive pictures for one run of the network.

    positions: the picture's position in its scene, per input picture; clamped at the scene's ends, where pictures
    repeat. predicts: which of the T the network speaks about. stack: uint8 (C, h, w), the pictures' channels in time
    order, the background last.
    """

    positions: tuple[int, ...]
    predicts: tuple[int, ...]
    stack: Image

    def __repr__(self) -> str:
        return f"Window(positions={self.positions}, stack={self.stack.shape})"


def stack_channels(images: list[Image], background: Image | None) -> Image:
    """uint8 (C, h, w): grey pictures give one channel each, RGB pictures three; the background comes last."""
    planes = [*images, background] if background is not None else images
    return np.concatenate([p[None] if p.ndim == 2 else p.transpose(2, 0, 1) for p in planes])


class WindowMaker:
    """Pictures of one scene in, windows out: every `step` pictures, and up to the last picture at `flush`.

    A network with one output speaks about the last picture of its window only; its windows then begin before the
    scene does (the first picture is repeated), so that the first pictures are predicted too.
    """

    def __init__(self, length: int, *, step: int, outputs: int, background: Background | None) -> None:
        if not 1 <= step <= length:
            raise ValueError(f"step must be between 1 and the window's {length} frames, got {step}")
        if outputs not in (1, length):
            raise ValueError(f"a network predicts 1 or all {length} frames of its window, got {outputs}")
        self._length, self._outputs, self._background = length, outputs, background
        self._step = step if outputs == length else 1
        self._images: deque[Image] = deque()
        self._first = 0  # the position of self._images[0]
        self._next = 0 if outputs == length else 1 - length
        self._covered = 0  # positions before this one are predicted by the windows made so far

    def push(self, image: Image) -> list[Window]:
        self._images.append(image)
        if self._background is not None:
            self._background.push(image)
        made = []
        while self._next + self._length <= self._count and self._is_ready():
            made.append(self._make(self._next))
            self._next += self._step
            self._drop()
        return made

    def flush(self) -> list[Window]:
        """The windows that are still due; at the scene's end they look back to full length, or repeat pictures."""
        made = []
        while self._covered < self._count:
            start = self._next if self._outputs == 1 else max(0, min(self._next, self._count - self._length))
            made.append(self._make(start))
            self._next = start + self._step
        return made

    @property
    def settled(self) -> int:
        """No later window speaks of positions before this one."""
        return self._next if self._outputs == self._length else self._covered

    @property
    def _count(self) -> int:
        return self._first + len(self._images)

    def _is_ready(self) -> bool:
        return self._background is None or self._background.ready(self._next + self._length // 2)

    def _make(self, start: int) -> Window:
        last = self._count - 1
        positions = tuple(min(max(p, 0), last) for p in range(start, start + self._length))
        background = None if self._background is None else self._background.at(max(0, start + self._length // 2))
        predicts = range(self._length) if self._outputs == self._length else [self._length - 1]
        # A last window that looks back must not speak again of pictures whose heatmaps are already merged and gone.
        real = tuple(i for i in predicts if self._next <= start + i <= last)
        self._covered = positions[real[-1]] + 1
        images = [self._images[p - self._first] for p in positions]
        return Window(positions, real, stack_channels(images, background))

    def _drop(self) -> None:
        """Forget the pictures that no later window can need: at the end, one may look back a whole length."""
        while self._first < min(self._next, self._count - self._length):
            self._images.popleft()
            self._first += 1


class Merger:
    """Overlapping predictions in, one heatmap (and offsets) per position out, in order.

    last: the newest window's word; mean: all windows count alike; centre: a window counts more in its middle, where
    the network has seen both the past and the future.
    """

    def __init__(self, length: int, mode: MergeMode = "mean") -> None:
        if mode not in ("last", "mean", "centre"):
            raise InputError(f"merge must be last, mean or centre, got {mode!r}")
        self._mode = mode
        middle = (length - 1) / 2
        self._weights = [1.0 if mode != "centre" else middle + 1 - abs(i - middle) for i in range(length)]
        self._sums: dict[int, tuple[float, Floats, Floats | None]] = {}

    def add(self, window: Window, heatmaps: Floats, offsets: Floats | None) -> None:
        """heatmaps (T_out, h, w) and offsets (T_out, 2, h, w) as the network gave them for `window`."""
        first = len(window.positions) - len(heatmaps)  # a network of one output speaks of the last picture
        for i in window.predicts:
            position, weight = window.positions[i], self._weights[i]
            heat, off = heatmaps[i - first], None if offsets is None else offsets[i - first]
            old = self._sums.get(position)
            if old is None or self._mode == "last":
                self._sums[position] = weight, heat * weight, None if off is None else off * weight
            else:
                both = None if off is None or old[2] is None else old[2] + off * weight
                self._sums[position] = old[0] + weight, old[1] + heat * weight, both

    def pop(self, before: int | None = None) -> list[tuple[int, Floats, Floats | None]]:
        """(position, heatmap (h, w), offsets (2, h, w)) of the positions under `before`, which are complete."""
        ripe = sorted(p for p in self._sums if before is None or p < before)
        popped = []
        for position in ripe:
            weight, heat, off = self._sums.pop(position)
            popped.append((position, heat / weight, None if off is None else off / weight))
        return popped


def backgrounds(images: Image) -> tuple[Image, NDArray[np.int64]]:
    """The file backgrounds of a scene (n, h, w[, 3]): the distinct medians (m, ...) and each picture's index (n,)."""
    maker = Background()
    medians: list[Image] = []
    index = np.empty(len(images), np.int64)
    ahead = itertools.count()
    for position in range(len(images)):
        while not maker.ready(position) and (k := next(ahead)) < len(images):
            maker.push(images[k])
        now = maker.at(position)
        if not medians or medians[-1] is not now:
            medians.append(now)
        index[position] = len(medians) - 1
    return np.stack(medians), index
