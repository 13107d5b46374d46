"""A trajectory as columns, its CSV and its Parquet file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rallytrace.errors import LabelError, MissingDependency
from rallytrace.files import AtomicFile, output_errors
from rallytrace.trajectory.table import MAX_FRAME, Row, read_rows
from rallytrace.types import BallPoint, PointSource

COLUMNS = ("Frame", "Visibility", "X", "Y", "Time", "Score", "Source")

_TIME = re.compile(r"(-?)(\d{1,9}):([0-5]\d):([0-5]\d(?:\.\d{1,9})?)", re.ASCII)


def format_time(pts_s: float) -> str:
    """`HH:MM:SS.mmm`; hours grow past 99, a time before zero has a minus sign."""
    ms = round(abs(pts_s) * 1000)
    sign = "-" if pts_s < 0 and ms else ""
    return f"{sign}{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"


class CsvWriter:
    """Writes the trajectory CSV row by row: `with CsvWriter(path) as out: out.write(point)`.

    The file appears under `path` when the block ends without an exception, replacing an older one; otherwise nothing
    is left. Columns: Frame (0-based), Visibility (0 or 1), X and Y (source px, 0,0 where Visibility is 0, as tools of
    the TrackNetV2 family expect: look at Visibility, never at x == 0), Time, Score, Source (model, filled, none).
    Raises OutputError where the file cannot be written.
    """

    def __init__(self, path: Path | str) -> None:
        self._atomic = AtomicFile(path)

    def __enter__(self) -> Self:
        self._file = self._atomic.__enter__()
        self._file.write(",".join(COLUMNS) + "\n")
        return self

    def write(self, point: BallPoint) -> None:
        x, y = point.xy or (0.0, 0.0)
        visible = int(point.xy is not None)
        row = f"{point.frame},{visible},{x:z.2f},{y:z.2f},{format_time(point.pts_s)},{point.score:.4f},{point.source}\n"
        with output_errors(self._atomic.path):
            self._file.write(row)

    def flush(self) -> None:
        """Hand all rows to the disk, so that a full one is noticed now."""
        with output_errors(self._atomic.path):
            self._file.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._atomic.__exit__(kind, error, at)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Trajectory:
    """One point per frame, as read-only columns of n rows.

    frame: int64, 0-based and increasing. pts_s: float64. xy: float64 (n, 2) source px, NaN where there is no ball.
    score: float64 in [0, 1]. source: str ("model", "filled", "none").
    """

    frame: NDArray[np.int64]
    pts_s: NDArray[np.float64]
    xy: NDArray[np.float64]
    score: NDArray[np.float64]
    source: NDArray[np.str_]

    def __post_init__(self) -> None:
        n = len(self.frame)
        shapes = [column.shape for column in (self.frame, self.pts_s, self.score, self.source)]
        if shapes != [(n,)] * 4 or self.xy.shape != (n, 2):
            raise ValueError(f"columns must be 4 times ({n},) and xy ({n}, 2), got {shapes} and {self.xy.shape}")
        if (np.diff(self.frame) <= 0).any():
            raise ValueError("frame must increase from row to row")
        for column in (self.frame, self.pts_s, self.xy, self.score, self.source):
            column.flags.writeable = False

    @classmethod
    def from_points(cls, points: Iterable[BallPoint]) -> Self:
        rows = list(points)
        return cls(
            np.array([p.frame for p in rows], np.int64),
            np.array([p.pts_s for p in rows], np.float64),
            np.array([p.xy or (np.nan, np.nan) for p in rows], np.float64).reshape(-1, 2),
            np.array([p.score for p in rows], np.float64),
            np.array([p.source.value for p in rows], "U6"),
        )

    @property
    def visible(self) -> NDArray[np.bool_]:
        """Where there is a ball, measured or filled; bool (n,)."""
        return ~np.isnan(self.xy[:, 0])

    def __len__(self) -> int:
        return len(self.frame)

    def __iter__(self) -> Iterator[BallPoint]:
        for i, seen in enumerate(self.visible):
            xy = (float(self.xy[i, 0]), float(self.xy[i, 1])) if seen else None
            source = PointSource(str(self.source[i]))
            yield BallPoint(int(self.frame[i]), float(self.pts_s[i]), xy, float(self.score[i]), source)

    def __repr__(self) -> str:
        n_filled = int((self.source == PointSource.FILLED.value).sum())
        return f"Trajectory(n={len(self)}, visible={int(self.visible.sum())}, filled={n_filled}, xy={self.xy.shape})"

    def to_csv(self, path: Path | str) -> None:
        """See `CsvWriter`; keeps 0.01 px, 1 ms and 0.0001 of score. Raises OutputError."""
        with CsvWriter(path) as out:
            for point in self:
                out.write(point)

    @classmethod
    def from_csv(cls, path: Path | str) -> Self:
        """Reads what `to_csv` wrote; Source may be missing. Raises LabelError."""
        points: list[BallPoint] = []
        for row in read_rows(Path(path), COLUMNS[:6]):
            points.append(_point_of_row(row))
            if len(points) > 1 and points[-1].frame <= points[-2].frame:
                raise row.error("Frame", f"expected more than {points[-2].frame}, the frame before")
        return cls.from_points(points)

    def to_parquet(self, path: Path | str) -> None:
        """Typed and lossless: frame int64, pts_s, x, y (null where no ball), score double, source string.

        Raises MissingDependency without pyarrow, OutputError.
        """
        arrow, parquet = import_pyarrow()
        x, y = (arrow.array(self.xy[:, i], mask=~self.visible) for i in (0, 1))
        source = arrow.array(self.source.tolist(), arrow.string())
        columns = {"frame": self.frame, "pts_s": self.pts_s, "x": x, "y": y, "score": self.score, "source": source}
        table = arrow.table(columns)
        with AtomicFile(path, "wb") as file, output_errors(Path(path)):
            parquet.write_table(table, file)

    @classmethod
    def from_parquet(cls, path: Path | str) -> Self:
        """Reads what `to_parquet` wrote. Raises MissingDependency without pyarrow, LabelError."""
        arrow, parquet = import_pyarrow()
        try:
            table = parquet.ParquetFile(str(path)).read().cast(_parquet_schema(arrow))
            rows = table.to_pylist()
            return cls.from_points(_point_of_record(record) for record in rows)
        except (arrow.ArrowException, OSError, ValueError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise LabelError(f"{path}: not a trajectory in Parquet as rallytrace writes it ({reason})") from error


def _point_of_row(row: Row) -> BallPoint:
    frame = row.integer("Frame", 0, MAX_FRAME)
    time = _TIME.fullmatch(row.cells["time"])
    if time is None:
        raise row.error("Time", "expected HH:MM:SS.mmm")
    sign, hours, minutes, seconds = time.groups()
    pts_s = (-1 if sign else 1) * (int(hours) * 3600 + int(minutes) * 60 + float(seconds))
    score = row.number("Score")
    if not 0.0 <= score <= 1.0:
        raise row.error("Score", "expected a number from 0 to 1")
    if row.integer("Visibility", 0, 1) == 0:
        xy, sources = None, [PointSource.NONE]
    else:
        xy, sources = (row.number("X"), row.number("Y")), [PointSource.MODEL, PointSource.FILLED]
    source = row.cells.get("source", sources[0].value)
    if source not in sources:
        raise row.error("Source", f"expected {' or '.join(sources)} where Visibility is {int(xy is not None)}")
    return BallPoint(frame, pts_s, xy, score, PointSource(source))


def import_pyarrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Raises MissingDependency."""
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingDependency("Parquet needs pyarrow, which is not installed: pip install pyarrow") from error


def _parquet_schema(arrow: Any) -> Any:
    double = arrow.float64()
    fields = [("frame", arrow.int64()), ("pts_s", double), ("x", double), ("y", double), ("score", double)]
    return arrow.schema([*fields, ("source", arrow.string())])


def _point_of_record(record: dict[str, Any]) -> BallPoint:
    xy = None if record["x"] is None or record["y"] is None else (record["x"], record["y"])
    return BallPoint(record["frame"], record["pts_s"], xy, record["score"], PointSource(record["source"]))
