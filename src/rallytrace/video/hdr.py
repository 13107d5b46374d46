"""High dynamic range -> the ordinary one: the curves of PQ and HLG (ITU-R BT.2100), one lookup for each sample."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from rallytrace.types import HLG, PQ

Floats = NDArray[np.float64]

WHITE_NITS = 203.0  # of a white sheet in an HDR programme (ITU-R BT.2408); becomes white
HLG_PEAK_NITS = 1000.0  # of the screen that HLG's system gamma of 1.2 belongs to
SDR_GAMMA = 2.4  # ITU-R BT.1886


@cache
def to_sdr(transfer: int) -> NDArray[np.uint8] | None:
    """uint8 (65536,): the ordinary value of each 16-bit signal of full range; None for other transfers."""
    signal = np.arange(65536) / 65535
    if transfer == PQ:
        nits = _pq_nits(signal)
    elif transfer == HLG:
        nits = HLG_PEAK_NITS * _hlg_light(signal) ** 1.2
    else:
        return None
    level = np.clip(nits / WHITE_NITS, 0, 1) ** (1 / SDR_GAMMA)
    return np.rint(255 * level).astype(np.uint8)


def _pq_nits(signal: Floats) -> Floats:
    """BT.2100 table 4: the EOTF of PQ."""
    power = signal ** (1 / 78.84375)
    light = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
    return 10_000 * light ** (1 / 0.1593017578125)


def _hlg_light(signal: Floats) -> Floats:
    """BT.2100 table 5: the inverse OETF of HLG, 0 to 1."""
    bright = (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return np.where(signal <= 0.5, signal**2 / 3, bright)
