"""What a network costs, in the one way in which every figure of the project is taken."""

from __future__ import annotations

import time

import numpy as np

from rallytrace.runtime import Network


def cpu_ms(network: Network) -> float:
    """CPU milliseconds per frame of the network alone: median of 15 runs after a first one. Load it with threads=1."""
    spec = network.spec
    window = np.random.default_rng(0).integers(0, 256, (1, spec.channels, *spec.size_wh[::-1]), np.uint8)
    network.run(window)
    taken = []
    for _ in range(15):
        began = time.process_time()
        network.run(window)
        taken.append(time.process_time() - began)
    return 1000 * float(np.median(taken)) / spec.outputs
