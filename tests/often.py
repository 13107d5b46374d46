"""How often something is tried: a few times in each run of the tests, many times by `make test-long`."""

import os
from typing import Any

import pytest
from hypothesis import settings

LONG = bool(os.environ.get("RALLYTRACE_LONG"))
in_the_long_run = pytest.mark.skipif(not LONG, reason="it takes long: make test-long")


def often(few: int, many: int) -> int:
    return many if LONG else few


def examples(few: int, **more: Any) -> settings:
    """Of a property; ten times as many by `make test-long`."""
    return settings(max_examples=often(few, 10 * few), deadline=None, **more)
