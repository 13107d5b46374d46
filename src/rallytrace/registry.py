"""Trained networks by name, version and stage, with what each was made of; plain files in a folder or a store.

    <registry>/<name>/<version>/<name>.onnx   the network; the version is the first 12 digits of its SHA-256
    <registry>/<name>/<version>/version.json  figures, lineage, date, checksum; written last: without it, no version
    <registry>/<name>/stages.json             {"production": "<version>", ...}

A network is data: an .onnx file that is checked against its checksum before it is given out. Two people who register
the same file make the same version, so that nobody numbers and nobody waits.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rallytrace import storage
from rallytrace.errors import InputError, ModelError
from rallytrace.storage.stores import sha256_of

PLAIN = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
VERSION, STAGES = "version.json", "stages.json"
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


def versions(registry: str | Path, name: str | None = None) -> list[ModelVersion]:
    """All versions, newest last, found by one listing. Raises RallytraceError."""
    store = storage.open_store(registry)
    stages: dict[str, dict[str, str]] = {}
    found: list[ModelVersion] = []
    for key in sorted(entry.key for entry in store.list("" if name is None else name)):
        parts = key.split("/")
        if parts[1:] == [STAGES]:
            stages[parts[0]] = json.loads(store.get(key))
        elif len(parts) == 3 and parts[2] == VERSION:
            found.append(_read(store.get(key), key))
    named = [
        ModelVersion(
            v.name, v.version, v.sha256, v.created, v.metrics, v.lineage,
            tuple(sorted(stage for stage, version in stages.get(v.name, {}).items() if version == v.version)),
        )
        for v in found
    ]  # fmt: skip
    return sorted(named, key=lambda v: (v.name, v.created))


def find(registry: str | Path, wanted: str) -> ModelVersion:
    """'tennis@production', 'tennis@3f2a...' (4 digits or more) or 'tennis' (the newest). Raises InputError."""
    name, _, which = wanted.partition("@")
    there = versions(registry, check_name("name", name))
    for version in reversed(there):
        if not which or which in version.stages or (len(which) >= 4 and version.version.startswith(which)):
            return version
    choices = sorted({v.version for v in there} | {stage for v in there for stage in v.stages})
    raise InputError(f"no network {wanted!r} in {registry}: expected one of {choices or 'the registered names'}")


def promote(registry: str | Path, wanted: str, stage: str) -> ModelVersion:
    """Make a version the one that `name@stage` means. Raises InputError."""
    version = find(registry, wanted)
    store, key = storage.open_store(registry), f"{version.name}/{STAGES}"
    stages = json.loads(store.get(key)) if store.head(key) else {}
    stages[check_name("stage", stage)] = version.version
    store.put(key, json.dumps(stages, indent=2).encode())
    return find(registry, f"{version.name}@{version.version}")


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
