"""A child process that does one piece of work within limits of memory, time and files.

Work is a function `work(order, pipe)` of any module, named as "package.module:function". `order` is a JSON object of
the parent's; what the function returns is a JSON value for the parent; in between both may send each other bytes.
Nothing is pickled: the parent believes no more of the child than of the file that the child reads.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import IO, Any, Self

from rallytrace import errors
from rallytrace.errors import InputError, RallytraceError

_HEAD = struct.Struct("<BQ")  # kind, length
_DATA = 0
_RESULT = 1
_ERROR = 2
_NOTES = 1 << 20  # bytes of an error
_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG")
_OPEN_FILES = 64
MAX_RESULT = 64 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one child. memory: bytes of address space; cpu_s: of its processor time; wall_s: from start to end.

    file_bytes: how large a file it may write; none by default.
    """

    memory: int
    cpu_s: int
    wall_s: float
    file_bytes: int = 0


class Child(Iterator[bytes]):
    """A process that does `work`; iterating gives the messages that it sends. A context manager; leaving it kills it.

    what: how errors call the thing that is read, such as "the video". most: bytes of one message. error: the class of
    errors that are not the child's own. Raises what the work raises of `rallytrace.errors`, and `error` where the child
    breaks a limit or breaks down.
    """

    def __init__(
        self,
        work: str,
        order: dict[str, Any],
        limits: Limits,
        what: str,
        *,
        most: int = MAX_RESULT,
        error: type[RallytraceError] = InputError,
    ) -> None:
        self.result: Any = None  # what the work returned, once the iteration ends
        self._limits = limits
        self._what = what
        self._most = most
        self._error = error
        self._late = False
        text = json.dumps({"work": work, "order": order, "limits": [*_bounds(limits)]})
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment["OPENBLAS_NUM_THREADS"] = "1"  # each thread would take address space
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rallytrace.decode", text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            close_fds=True,
        )
        self._watchdog: threading.Timer | None = None
        self.watch(limits.wall_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether it may be sent something."""
        return self._process.poll() is None

    def watch(self, seconds: float | None) -> None:
        """Kill it after so many seconds from now, None: not at all."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        if seconds is not None:
            self._watchdog = threading.Timer(seconds, self._expire)
            self._watchdog.daemon = True
            self._watchdog.start()

    def send(self, data: bytes | memoryview) -> None:
        """One message for the work. Raises as iterating does."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(_HEAD.pack(_DATA, len(data)))
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (OSError, ValueError):  # a broken pipe, or one that `close` closed
            raise self._broken() from None

    def __next__(self) -> bytes:
        kind, size = _HEAD.unpack(self._read(_HEAD.size))
        if size > (_NOTES if kind == _ERROR else self._most):
            raise self._error(f"{self._what} gives more than the {self._most} bytes that are allowed here")
        data = self._read(size)
        if kind == _DATA:
            return data
        found = json.loads(data)
        if kind == _RESULT:
            self.result = found
            raise StopIteration
        raise self._told(found)

    def close(self) -> None:
        """Kill the process; may be called from any thread, and twice."""
        self.watch(None)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _expire(self) -> None:
        self._late = True
        self._process.kill()

    def _read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        try:
            data = self._process.stdout.read(size)
        except ValueError:  # closed by another thread
            data = b""
        if len(data) < size:
            raise self._broken()
        return data

    def _told(self, found: dict[str, str]) -> RallytraceError:
        kind = getattr(errors, found["kind"], None)
        if isinstance(kind, type) and issubclass(kind, RallytraceError):
            return kind(found["message"])
        return self._error(found["message"])

    def _broken(self) -> RallytraceError:
        """Why the child ended without a word."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        code = self._process.returncode
        if self._late:
            reason = f"more time than the {self._limits.wall_s:g} s"
        elif code in (-signal.SIGXCPU, -signal.SIGPROF):
            reason = f"more than the {self._limits.cpu_s:g} s of processor time"
        elif code == -signal.SIGXFSZ:
            reason = f"more than the {self._limits.file_bytes} bytes of disk"
        else:
            reason = f"more than the {self._limits.memory >> 20} MiB of memory"
        return self._error(f"{self._what} takes {reason} that are allowed here")


def run(
    work: str, order: dict[str, Any], limits: Limits, what: str, *, most: int = MAX_RESULT, data: bytes = b""
) -> Any:
    """What `work` returns, done in a child; messages that it sends on the way are dropped. Raises as `Child`.

    data: a message for the work, sent where it is not empty.
    """
    with Child(work, order, limits, what, most=most) as child:
        if data:
            child.send(data)
        for _ in child:
            pass
        return child.result


class Pipe:
    """The child's end: messages to and from the parent."""

    def __init__(self, source: IO[bytes], sink: IO[bytes]) -> None:
        self._source = source
        self._sink = sink

    def receive(self) -> bytes | None:
        """The next message, None where there will be none."""
        head = self._source.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        data = self._source.read(_HEAD.unpack(head)[1])
        return data or b""

    def send(self, *parts: bytes | memoryview) -> None:
        """One message, of parts that are written one behind the other."""
        self._write(_DATA, *parts)

    def end(self, result: Any) -> None:
        """Says that the work is done."""
        self._write(_RESULT, json.dumps(result).encode())

    def fail(self, kind: str, message: str) -> None:
        """Says why the work cannot be done. kind: the name of a class of `rallytrace.errors`, or none of them."""
        text = json.dumps({"kind": kind, "message": message[:2000]})
        self._write(_ERROR, text.encode())

    def _write(self, kind: int, *parts: bytes | memoryview) -> None:
        self._sink.write(_HEAD.pack(kind, sum(map(len, parts))))
        for part in parts:
            self._sink.write(part)
        self._sink.flush()


def serve(text: str) -> None:
    """The child's main program. text: the JSON that `Child` makes."""
    told = json.loads(text)
    # What the work prints must not get between the messages.
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    pipe = Pipe(sys.stdin.buffer, sink)
    module, _, name = told["work"].partition(":")
    for kind, value in told["limits"]:
        _lower(kind, value)
    try:
        work = getattr(import_module(module), name)
        pipe.end(work(told["order"], pipe))
    except BrokenPipeError:  # nobody listens any more
        os._exit(1)
    except RallytraceError as error:
        pipe.fail(type(error).__name__, str(error))
    except MemoryError:
        os._exit(1)  # the parent knows the limit, and says it
    except Exception as error:
        pipe.fail("", f"what was sent cannot be read ({' '.join(repr(error).split())})")
    os._exit(0)


def _bounds(limits: Limits) -> Iterator[tuple[int, int]]:
    yield resource.RLIMIT_AS, limits.memory
    yield resource.RLIMIT_CPU, limits.cpu_s
    yield resource.RLIMIT_FSIZE, limits.file_bytes
    yield resource.RLIMIT_CORE, 0
    yield resource.RLIMIT_NOFILE, _OPEN_FILES


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    # At the hard bound of processor time there is SIGKILL, which says nothing; one second before there is SIGXCPU.
    most = bound + 1 if kind == resource.RLIMIT_CPU and hard == resource.RLIM_INFINITY else bound
    resource.setrlimit(kind, (bound, most))
