"""Does memory stay flat? Peak memory of `track` on a 1080p clip and on one ten times as long.

python benchmarks/memory.py [--seconds 4]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from rallytrace import RallyOptions, make_clip

# VmHWM, not getrusage: the latter begins at what the parent held when it forked.
CHILD = """
import re, sys
from rallytrace import track_video
result = track_video(sys.argv[1], sys.argv[2], overwrite=True)
print(result.frames, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def peak_mb(clip: Path, out: Path) -> tuple[int, float]:
    """Frames tracked, and peak memory of a fresh process in MB (10^6 bytes). Linux only."""
    command = [sys.executable, "-c", CHILD, str(clip), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    frames, kib = map(int, done.stdout.split())
    return frames, kib * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peaks = []
        for times in (1, 10):
            clip = folder / f"x{times}.mp4"
            make_clip(clip, RallyOptions(seconds=options.seconds * times, seed=1, wh=(1920, 1080)))
            frames, mb = peak_mb(clip, folder)
            peaks.append(mb)
            print(f"1080p, {frames:5d} frames, with annotated video: peak {mb:.0f} MB")
        print(f"ratio at ten times the length: {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
