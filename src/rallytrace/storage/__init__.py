"""Folders and stores by URL: s3://, gs://, az://, https:// (read only), memory:// and file://.

    with publishing("s3://bucket/out") as folder, fetched("s3://bucket/raw/match.mp4") as video: ...

Inputs become local files through a bounded cache, outputs are stored when they are whole. The rest of the package sees
local paths only. obstore is imported when a URL is really used.
"""

from rallytrace.storage.naming import as_typed, naming_urls, remember
from rallytrace.storage.stores import Entry, MissingObject, Store, open_store
from rallytrace.storage.transfer import expand, fetch, fetch_folder, fetched, head, matches, plain, publishing
from rallytrace.storage.unfinished import left_for_next_run
from rallytrace.storage.upload import AddReport, add
from rallytrace.storage.urls import SCHEMES, is_url

__all__ = [
    "SCHEMES",
    "AddReport",
    "Entry",
    "MissingObject",
    "Store",
    "add",
    "as_typed",
    "expand",
    "fetch",
    "fetch_folder",
    "fetched",
    "head",
    "is_url",
    "left_for_next_run",
    "matches",
    "naming_urls",
    "open_store",
    "plain",
    "publishing",
    "remember",
]
