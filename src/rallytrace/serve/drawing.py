"""The drawn video of a job: the video that was sent, with the trajectory on it, made in a child."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rallytrace.decode.child import Child, Limits, Pipe
from rallytrace.errors import OutputError, VideoError
from rallytrace.serve.bodies import point_rows
from rallytrace.serve.security import ApiError
from rallytrace.types import BallPoint, PointSource

EVERY = 16  # frames between two signs of life


def draw_video(source: Path, points: list[BallPoint], to: Path, limits: Limits, check: Callable[[], None]) -> None:
    """Write an mp4 of `source` with its points to `to`. check: is called now and then, and raises to end it.

    Raises VideoError; ApiError 507 where the disk is full.
    """
    order = {"source": str(source), "to": str(to)}
    try:
        with Child(f"{__name__}:write_video", order, limits, "the drawn video", error=VideoError) as child:
            child.send(json.dumps(point_rows(points)).encode())
            for _ in child:
                check()
    except OutputError:
        raise ApiError(507, "disk_full", "the server has no room for the drawn video", 60) from None
    finally:
        for rest in to.parent.glob(f"*{to.stem}*.partial*"):  # of a child that was killed
            rest.unlink(missing_ok=True)


def write_video(order: dict[str, Any], pipe: Pipe) -> None:
    """The child's work: points in, the video to the file that `order` names; a message now and then."""
    from rallytrace import video
    from rallytrace.track import write_track

    points = [_point(row) for row in json.loads(pipe.receive() or b"[]")]
    source = Path(order["source"])
    to = Path(order["to"])
    table = to.with_suffix(".csv")

    def tell(point: BallPoint) -> None:
        if point.frame % EVERY == 0:
            pipe.send(b"")

    try:
        with video.read(source) as reader:
            info = reader.info
        write_track(source, info, ((None, point) for point in points), table, to, on_point=tell)
    except VideoError as error:
        raise VideoError(str(error).replace(str(source), "the video")) from None
    finally:
        table.unlink(missing_ok=True)


def _point(row: list[Any]) -> BallPoint:
    frame, pts_s, x, y, score, source = row
    return BallPoint(frame, pts_s, None if x is None else (x, y), score, PointSource(source))
