"""The command line in this process: a start of Python for each call takes longer than most calls.

`e2e/test_journey.py` starts synth, train, eval, export and track for real; so do the tests of signals, servers, stores
and pipelines with other verbs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO
from unittest.mock import patch

from rallytrace import cli

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def caught(name: str, number: int) -> Iterator[IO[bytes]]:
    """What is written to a standard stream, by Python or by FFmpeg."""
    getattr(sys, name).flush()
    kept = os.dup(number)
    with TemporaryFile() as file:
        os.dup2(file.fileno(), number)
        try:
            with os.fdopen(os.dup(number), "w", encoding="utf-8") as stream, patch.object(sys, name, stream):
                yield file
        finally:
            os.dup2(kept, number)
            os.close(kept)


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` of `rallytrace` with these arguments, in the folder `cwd`."""
    words = ["rallytrace", *map(str, arguments)]
    handlers = [signal.getsignal(number) for number in SIGNALS]
    code = 0
    with ExitStack() as stack:
        stack.enter_context(chdir(cwd or "."))
        stack.enter_context(patch.object(sys, "argv", words))
        stack.enter_context(patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}))
        out, err = stack.enter_context(_both())
        try:
            cli.main()
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else int(done.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            for number, handler in zip(SIGNALS, handlers, strict=True):
                signal.signal(number, handler)
        sys.stdout.flush()
        sys.stderr.flush()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode().replace("\r\n", "\n"))
    return subprocess.CompletedProcess(words, code, *texts)


@contextmanager
def _both() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    with caught("stdout", 1) as out, caught("stderr", 2) as err:
        yield out, err
