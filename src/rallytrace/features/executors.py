"""Where the units of a job run: here, in processes, on Ray. All give the results in the order of the units."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

Work = Callable[[Any], Any]  # one unit; it can be pickled
Executor = Callable[[Work, Sequence[Any]], Iterator[Any]]


def one_process(work: Work, units: Sequence[Any]) -> Iterator[Any]:
    """One unit after the other, in this process."""
    return map(work, units)


def processes(count: int) -> Executor:
    """`count` units at a time, each in a process of its own."""

    def run(work: Work, units: Sequence[Any]) -> Iterator[Any]:
        with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield from pool.map(work, units)

    return run


def on_ray() -> Executor:
    """A task per unit on the Ray cluster that this process is connected to; one whose worker is lost runs again.

    The units' files and the job's folder must be where all workers see them.
    """

    def run(work: Work, units: Sequence[Any]) -> Iterator[Any]:
        import ray

        def task(unit: Any) -> Any:
            return work(unit)

        task.__name__ = task.__qualname__ = getattr(work, "func", work).__name__  # what Ray shows
        remote = ray.remote(num_cpus=1, max_retries=5)(task)
        waiting = deque(remote.remote(unit) for unit in units)
        try:
            while waiting:
                yield ray.get(waiting.popleft())
        except ray.exceptions.RayTaskError as error:
            raise (error.cause or error) from None
        finally:
            for each in waiting:  # and not those that were got: Ray 2.60 aborts where one ends and is cancelled at once
                ray.cancel(each)

    return run
