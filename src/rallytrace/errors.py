"""Every error that rallytrace raises on purpose. Each says the value, what was expected, and what to do.

RallytraceError
 ├─ InputError            a file, folder, URL or option that the user gave cannot be used
 │   ├─ VideoError        a video cannot be opened, decoded or holds no picture
 │   ├─ LabelError        a label or trajectory file is malformed
 │   └─ ModelError        a network is unknown, foreign or corrupt
 ├─ OutputError           a result cannot be written (exists already, read-only, disk full)
 ├─ EndpointError         a server cannot be reached, refuses, or speaks another language
 └─ MissingDependency     an optional package or device is asked for and absent
"""

from importlib import import_module
from typing import Any


class RallytraceError(Exception):
    """Base of all errors raised on purpose; the message is one line, fit to show to a user."""


class InputError(RallytraceError, ValueError):
    """An input that the user chose cannot be used."""


class VideoError(InputError):
    """A video cannot be opened or decoded, or holds no picture."""


class LabelError(InputError):
    """A label or trajectory file is malformed."""


class UnknownSize(LabelError):
    """Positions are shares of a picture whose size nobody has told."""


class ModelError(InputError):
    """A network is unknown, foreign or corrupt."""


class OutputError(RallytraceError, OSError):
    """A result cannot be written."""


class EndpointError(RallytraceError):
    """A server cannot be reached, refuses, or speaks another language."""


class MissingDependency(RallytraceError, ImportError):
    """An optional package or a device is asked for and absent."""


def need(package: str, extra: str) -> Any:
    """Import a package of an extra. Raises MissingDependency, which says how to install it."""
    try:
        return import_module(package)
    except ImportError:
        name = package.partition(".")[0]
        raise MissingDependency(f"{name} is not installed: pip install 'rallytrace[{extra}]'") from None
