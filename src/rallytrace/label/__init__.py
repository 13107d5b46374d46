"""The labelling workspace: the label book, the team, jobs, and the web app around them.

Nothing heavy is loaded until a name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rallytrace.label.app import close_workspace, create_app, open_workspace
    from rallytrace.label.book import LabelBook, open_book
    from rallytrace.label.server import ServerOptions, run_workspace

__all__ = ["LabelBook", "ServerOptions", "close_workspace", "create_app"]
__all__ += ["open_book", "open_workspace", "run_workspace"]
_HOMES = {"LabelBook": "book", "open_book": "book", "ServerOptions": "server", "run_workspace": "server"}


def __getattr__(name: str) -> Any:
    """Imports the module that holds `name` at its first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'app')}"), name)
