#!/usr/bin/env python3
"""Ends with 0 where the server of this container answers /ping with 200, over TLS or without.

The port is that of `--port` in the words of the first process, or SAGEMAKER_BIND_TO_PORT, or 8080.
"""

from __future__ import annotations

import os
import re
import ssl
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

TIMEOUT_S = 2.0


def port() -> str:
    """Of the server."""
    with suppress(OSError):
        words = Path("/proc/1/cmdline").read_text(errors="replace").replace("\0", " ")
        if found := re.search(r" --port[ =](\d+)", words):
            return found[1]
    return os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080")


def is_well(url: str) -> bool:
    """Whether it answers with 200. Its certificate may be anybody's: the connection does not leave the container."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),  # one that is set is for the world outside
        urllib.request.HTTPSHandler(context=context),
    )
    with suppress(OSError, ValueError), opener.open(f"{url}/ping", timeout=TIMEOUT_S) as answer:
        return bool(answer.status == 200)
    return False


if __name__ == "__main__":
    address = f"127.0.0.1:{port()}"
    sys.exit(0 if is_well(f"http://{address}") or is_well(f"https://{address}") else 1)
