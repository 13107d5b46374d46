"""Trajectories: linking as a stream, columns, CSV and Parquet.

`Linker` is the one implementation of linking: `push` a point a frame, take out finished points a few frames later.
`CsvWriter` is the one implementation of the trajectory CSV, streaming; `Trajectory.to_csv` is a loop around it.
"""

from rallytrace.trajectory.columns import COLUMNS, CsvWriter, Trajectory, format_time
from rallytrace.trajectory.linker import MAX_SPEED, Linker, link

__all__ = ["COLUMNS", "MAX_SPEED", "CsvWriter", "Linker", "Trajectory", "format_time", "link"]
