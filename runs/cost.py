"""What a network costs, in the one way in which every figure of the project is taken."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from rallytrace.runtime import Network


def cpu_ms(network: Network) -> float:
    """CPU milliseconds per frame of the network alone. Load it with threads=1."""
    return frame_ms(network, time.process_time)


def frame_ms(network: Network, clock: Callable[[], float]) -> float:
    """Milliseconds of `clock` per frame of the network alone: median of 15 runs after a first one."""
    spec = network.spec
    window = np.random.default_rng(0).integers(0, 256, (1, spec.channels, *spec.size_wh[::-1]), np.uint8)
    network.run(window)
    taken = []
    for _ in range(15):
        began = clock()
        network.run(window)
        taken.append(clock() - began)
    return 1000 * float(np.median(taken)) / spec.outputs
