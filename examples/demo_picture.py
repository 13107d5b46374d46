"""Track a synthetic rally and keep four frames of the result: the picture in the README.

python examples/demo_picture.py docs/img/demo.jpg
"""

import sys
import tempfile
from pathlib import Path

from rallytrace import RallyOptions, Style, make_clip, track_video, video
from rallytrace.evaluate import contact_sheet

FRAMES = (25, 60, 95, 140)

with tempfile.TemporaryDirectory() as folder:
    clip = Path(folder) / "rally.mp4"
    make_clip(clip, RallyOptions(seconds=6, seed=6))
    result = track_video(clip, folder, style=Style(trail_s=0.6))
    assert result.video
    with video.read(result.video, wh=(640, 360), colour="rgb") as reader:
        pictures = [frame.image for frame in reader if frame.index in FRAMES]
    Path(sys.argv[1]).write_bytes(video.encode_jpeg(contact_sheet(pictures, 2), 88))
