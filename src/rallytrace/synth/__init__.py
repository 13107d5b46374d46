"""A synthetic rally: an invented broadcast of badminton or tennis whose ball positions are known exactly.

A pinhole camera looks down a court of true dimensions; two players run and hit; the ball flies through 3D with
quadratic drag. What stands still is rendered once, each frame only adds patches. Everything follows from the seed.
"""

from rallytrace.synth.court import RallyOptions
from rallytrace.synth.render import make_clip, render_rally

__all__ = ["RallyOptions", "make_clip", "render_rally"]
