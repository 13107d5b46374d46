"""Trained networks by name, version and stage, with what each was made of; plain files in a folder or a store.

    <registry>/<name>/<version>/<name>.onnx          the network; the version is the first 12 digits of its SHA-256
    <registry>/<name>/<version>/version.json         figures, lineage, date, checksum; written last: without it, none
    <registry>/<name>/stages/<stage>/<number>.json   a promotion or rollback; the highest number says what holds

A network is data: an .onnx file that is checked against its checksum before it is given out. Two people who register
the same file make the same version, so that nobody numbers and nobody waits. A promotion never changes a file: it makes
the next one, which of several at once only one can do, and the others look again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rallytrace import storage
from rallytrace.errors import InputError, ModelError
from rallytrace.storage.stores import sha256_of

PLAIN = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
VERSION = "version.json"
STAGES = "stages"
DIGITS = 12


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """metrics: what was measured. lineage: the data's checksums, code version and command, as training kept them."""

    name: str
    version: str
    sha256: str
    created: str  # UTC, ISO 8601
    metrics: dict[str, float]
    lineage: dict[str, Any]
    stages: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Of the network, below the registry."""
        return f"{self.name}/{self.version}/{self.name}.onnx"


def register(
    registry: str | Path, name: str, onnx: Path, *, metrics: dict[str, float], lineage: dict[str, Any]
) -> ModelVersion:
    """Store a network as a version of `name`; nothing happens where it is there already. Raises RallytraceError."""
    check_name("name", name)
    digest = sha256_of(onnx)
    version = ModelVersion(
        name, digest[:DIGITS], digest, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), metrics, lineage
    )
    store = storage.open_store(registry)
    described = f"{name}/{version.version}/{VERSION}"
    if store.head(described) is None:
        store.put(version.key, onnx)
        values = {key: value for key, value in asdict(version).items() if key != "stages"}
        store.put(described, json.dumps(values, indent=2).encode())
    return find(registry, f"{name}@{version.version}")


@dataclass(frozen=True, slots=True)
class Promotion:
    """From `number` on a stage means `version`; a rollback goes to what `before` said, 0 for nothing."""

    number: int
    version: str
    before: int


def versions(registry: str | Path, name: str | None = None) -> list[ModelVersion]:
    """All versions, newest last, found by one listing. Raises RallytraceError."""
    store = storage.open_store(registry)
    keys = sorted(entry.key for entry in store.list("" if name is None else name))
    stages = _stages(store, keys)
    found: list[ModelVersion] = []
    for key in keys:
        parts = key.split("/")
        if len(parts) == 3 and parts[2] == VERSION:
            version = _read(store.get(key), key)
            mine = (stage for (whose, stage), now in stages.items() if (whose, now.version) == (parts[0], parts[1]))
            found.append(replace(version, stages=tuple(sorted(mine))))
    return sorted(found, key=lambda v: (v.name, v.created))


def _stages(store: storage.Store, keys: Iterable[str]) -> dict[tuple[str, str], Promotion]:
    """What holds, by name and stage."""
    last: dict[tuple[str, str], str] = {}
    for key in sorted(keys):
        parts = key.split("/")
        if len(parts) == 4 and parts[1] == STAGES:
            last[parts[0], parts[2]] = key
    return {place: _promotion(store, key) for place, key in last.items()}


def _promotion(store: storage.Store, key: str) -> Promotion:
    try:
        return Promotion(**json.loads(store.get(key)))
    except (ValueError, TypeError) as error:
        raise InputError(f"{key} describes no promotion of a network: {error}") from error


def _key(name: str, stage: str, number: int) -> str:
    return f"{name}/{STAGES}/{stage}/{number:06}.json"


def _now(store: storage.Store, name: str, stage: str) -> Promotion:
    keys = [entry.key for entry in store.list(f"{name}/{STAGES}/{stage}")]
    return _promotion(store, max(keys)) if keys else Promotion(0, "", 0)


def find(registry: str | Path, wanted: str) -> ModelVersion:
    """'tennis@production', 'tennis@3f2a...' (4 digits or more) or 'tennis' (the newest). Raises InputError."""
    name, _, which = wanted.partition("@")
    there = versions(registry, check_name("name", name))
    for version in reversed(there):
        if not which or which in version.stages or (len(which) >= 4 and version.version.startswith(which)):
            return version
    choices = sorted({v.version for v in there} | {stage for v in there for stage in v.stages})
    raise InputError(f"no network {wanted!r} in {registry}: expected one of {choices or 'the registered names'}")


def promote(
    registry: str | Path, wanted: str, stage: str, check: Callable[[ModelVersion | None], None] | None = None
) -> ModelVersion:
    """Make a version the one that `name@stage` means. check: told what it means now, it raises to refuse that.

    Raises InputError.
    """
    version = find(registry, wanted)
    check_name("stage", stage)
    store = storage.open_store(registry)
    while True:
        now = _now(store, version.name, stage)
        if check is not None:
            check(find(registry, f"{version.name}@{now.version}") if now.number else None)
        if now.version == version.version or _append(store, version.name, stage, now, version.version, now.number):
            return find(registry, f"{version.name}@{version.version}")


def rollback(registry: str | Path, name: str, stage: str) -> ModelVersion:
    """Take the last promotion back: `name@stage` means again what it meant before. Raises InputError."""
    store = storage.open_store(registry)
    now = _now(store, check_name("name", name), check_name("stage", stage))
    if not now.before:
        had = f"only {now.version}" if now.number else "no version"
        raise InputError(f"{name} has had {had} as {stage} in {registry}: there is nothing to go back to")
    before = _promotion(store, _key(name, stage, now.before))
    version = find(registry, f"{name}@{before.version}")
    if not _append(store, name, stage, now, before.version, before.before):
        raise InputError(f"{name}@{stage} was changed by somebody else meanwhile: look at it, and run this again")
    return find(registry, f"{name}@{version.version}")


def _append(store: storage.Store, name: str, stage: str, now: Promotion, version: str, before: int) -> bool:
    """False where somebody else made the next promotion."""
    made = Promotion(now.number + 1, version, before)
    return store.create(_key(name, stage, made.number), json.dumps(asdict(made)).encode())


def fetch(registry: str | Path, wanted: str) -> Path:
    """The network as a local file. Raises ModelError where it is not the one that was registered."""
    version = find(registry, wanted)
    path = storage.open_store(registry).fetch(version.key)
    if sha256_of(path) != version.sha256:
        raise ModelError(f"{registry}/{version.key} is not the file that was registered: register it again")
    return path


def check_name(what: str, text: str) -> str:
    """Of a network or a stage: it becomes a part of paths. Raises InputError."""
    if not PLAIN.fullmatch(text):
        raise InputError(f"{what} {text!r}: expected lower case letters, digits, - and _, at most 63, such as tennis")
    return text


def _read(data: bytes, key: str) -> ModelVersion:
    try:
        return ModelVersion(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise InputError(f"{key} describes no version of a network: {error}") from error
