"""Pictures of strangers: JPEG and PNG, decoded in children that live on, one picture at a time each."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from rallytrace.decode.child import Child, Limits, Pipe
from rallytrace.errors import VideoError
from rallytrace.geometry import FrameTransform
from rallytrace.types import Image
from rallytrace.video.frames import Colour, Converter, decode_picture, upright_wh

CPU_S = 5.0  # for one picture
WALL_S = 30.0
MEMORY = 640 << 20
CHILDREN = 4
MAX_SCANS = 64  # of a progressive JPEG: each is a pass over the whole picture
MAX_HEAD = 1 << 16
KINDS = (b"\xff\xd8", b"\x89PNG")


@dataclass(frozen=True, slots=True)
class Wish:
    """How a picture is to be decoded, once it is upright.

    max_pixels: of the picture. wh: the size that it must have, None for any. to: the size at which it is wanted; None
    for what `fit`, a network's (size_wh, multiple), makes of the picture's size, or else that size itself.
    """

    colour: Colour
    max_pixels: int
    wh: tuple[int, int] | None = None
    to: tuple[int, int] | None = None
    fit: tuple[tuple[int, int], int] | None = None


class Pictures:
    """Decodes pictures in up to `children` processes, which start when they are needed. For use by many threads."""

    def __init__(self, children: int | None = None) -> None:
        n = children or min(CHILDREN, os.cpu_count() or 1)
        self._places: queue.LifoQueue[Child | None] = queue.LifoQueue()  # a place without a child yet: None
        self._lock = threading.Lock()
        self._all: set[Child] = set()
        self._closed = False
        for _ in range(n):
            self._places.put(None)

    def decode(self, data: bytes | memoryview, wish: Wish) -> tuple[Image, tuple[int, int]]:
        """The picture, uint8 (h, w) or (h, w, 3), and the size in px that it had, upright.

        Waits for a free child. Raises VideoError for what is no such picture, or takes more memory or time to decode
        than is allowed.
        """
        order = {
            "colour": wish.colour,
            "max_pixels": wish.max_pixels,
            "wh": wish.wh,
            "to": wish.to,
            "fit": wish.fit,
        }
        with self._child() as child:
            child.watch(WALL_S)
            child.send(json.dumps(order).encode())
            child.send(data)
            answer = json.loads(next(child))
            if "error" in answer:
                raise VideoError(answer["error"])
            pixels = np.frombuffer(next(child), np.uint8)
            child.watch(None)
        return pixels.reshape(answer["shape"]), (answer["wh"][0], answer["wh"][1])

    def close(self) -> None:
        """Ends the children; who waits for one gets VideoError."""
        with self._lock:
            self._closed = True
            children = list(self._all)
        for child in children:
            child.close()

    @contextmanager
    def _child(self) -> Iterator[Child]:
        """A child for one picture. One that broke a limit is gone, and another takes its place."""
        child = self._places.get()
        kept = None
        try:
            if child is None:
                child = self._start()
            yield child
            kept = child
        except VideoError:
            if child is not None and child.is_alive:
                child.watch(None)
                kept = child
            raise
        finally:
            if kept is None and child is not None:
                with self._lock:
                    self._all.discard(child)
                child.close()
            self._places.put(kept)

    def _start(self) -> Child:
        with self._lock:
            if self._closed:
                raise VideoError("the server stops: no picture is decoded any more")
            limits = Limits(MEMORY, cpu_s=1 << 30, wall_s=WALL_S)
            child = Child(f"{__name__}:serve_pictures", {}, limits, "a picture", error=VideoError)
            self._all.add(child)
            return child


def serve_pictures(_: dict[str, Any], pipe: Pipe) -> None:
    """The child's work: a wish and a picture in, its size and its bytes, or an error, out; to the end of the input."""
    while (told := pipe.receive()) is not None:
        order = json.loads(told)
        data = pipe.receive()
        if data is None:
            return
        signal.setitimer(signal.ITIMER_PROF, CPU_S)  # its signal ends this process
        try:
            image, wh = _decode(data, order)
        except VideoError as error:
            pipe.send(json.dumps({"error": str(error)}).encode())
            continue
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send(json.dumps({"wh": wh, "shape": image.shape}).encode())
        pipe.send(image.tobytes())


def _decode(data: bytes, order: dict[str, Any]) -> tuple[Image, tuple[int, int]]:
    what = f"a picture of {len(data)} bytes"
    if not data.startswith(KINDS):
        raise VideoError(f"{what} is neither JPEG nor PNG")
    if data.startswith(KINDS[0]) and data.count(b"\xff\xda") > MAX_SCANS:
        raise VideoError(f"a JPEG of more than {MAX_SCANS} scans")
    most = order["max_pixels"]
    if order["wh"]:
        most = min(most, order["wh"][0] * order["wh"][1])
    frame = decode_picture(data, what, most)
    wh = upright_wh(frame)
    if order["wh"] and list(wh) != order["wh"]:
        raise VideoError(f"{what} has {wh[0]}x{wh[1]} pixels, expected {order['wh'][0]}x{order['wh'][1]}")
    to = wh
    if order["to"]:
        to = (order["to"][0], order["to"][1])
    elif order["fit"]:
        (size_w, size_h), multiple = order["fit"]
        to = FrameTransform.fit_area(wh, (size_w, size_h), multiple).content_wh
    return Converter().image(frame, to, order["colour"]), wh
