"""The child process: see `child.serve`."""

from __future__ import annotations

import sys

from rallytrace.decode.child import serve

serve(sys.argv[1])
