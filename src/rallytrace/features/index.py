"""The Parquet file beside a shard: a row per frame, with the place of its picture in the tar and its label."""

from __future__ import annotations

from pathlib import Path

from rallytrace.errors import LabelError
from rallytrace.files import AtomicFile, output_errors
from rallytrace.trajectory.columns import import_pyarrow
from rallytrace.types import BallLabel, Visibility
from rallytrace.video import shard_bytes

COLUMNS = {"frame": "int32", "offset": "int64", "bytes": "int32", "visibility": "int8", "x": "float64", "y": "float64"}
Places = list[tuple[int, int]]


def write_index(path: Path, places: Places, labels: dict[int, BallLabel]) -> None:
    """visibility is null where a frame is unlabelled; x and y (source px) also where there is no ball."""
    pa, parquet = import_pyarrow()
    said = [labels.get(frame) for frame in range(len(places))]
    rows = [
        (n, *place, label and int(label.visibility), *(label.xy if label and label.xy else (None, None)))
        for n, (place, label) in enumerate(zip(places, said, strict=True))
    ]
    types = pa.schema(list(COLUMNS.items()))
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=types)
    with AtomicFile(path, "wb") as file, output_errors(path):
        parquet.write_table(table, file, compression="zstd")


def read_index(path: Path, frames: int, shard_size: int) -> tuple[Places, dict[int, BallLabel]]:
    """Raises LabelError for anything that is not the index of a shard of `frames` pictures and `shard_size` bytes."""
    pa, parquet = import_pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            if file.metadata.num_rows != frames or not set(COLUMNS) <= set(file.schema_arrow.names):
                raise ValueError(f"{file.metadata.num_rows} rows of {file.schema_arrow.names}, expected {frames}")
            table = file.read(columns=list(COLUMNS)).cast(pa.schema(list(COLUMNS.items())))
        columns = table.to_pydict()
        places = list(zip(columns["offset"], columns["bytes"], strict=True))
        if columns["frame"] != list(range(frames)) or not 0 < shard_bytes(places) < shard_size:
            raise ValueError("its offsets are not those of its shard")
        found = zip(*(columns[name] for name in ("frame", "visibility", "x", "y")), strict=True)
        return places, {
            n: BallLabel(n, None if x is None or y is None else (x, y), Visibility(v)) for n, v, x, y in found
            if v is not None
        }  # fmt: skip
    except (OSError, TypeError, ValueError, pa.ArrowException) as error:
        raise LabelError(f"{path} cannot be used ({str(error)[:200]}): copy it or prepare it again") from None
