"""From raw videos to trajectory videos: the steps of a pipeline.toml, each a command that anyone could type.

A step is up to date where a note of its last success (WORK/pipeline/<step>.json) names the same commands and the same
inputs as now: files by name and SHA-256, stores by name, size and etag. What comes after `prepare` goes by the feature
set's manifest: labels that were touched, or a project that was only opened, train nothing. Steps that were cut go on
where they stopped, because every command does; their results appear whole or not at all. On AWS a step is a job with a
name that follows from what it is made of, so that a second run follows the job of the first.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
import shlex
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rallytrace import __version__, storage
from rallytrace.errors import InputError, RallytraceError
from rallytrace.evaluate.gate import MIN_F1
from rallytrace.features.manifest import MANIFEST
from rallytrace.files import make_folder
from rallytrace.registry import check_name
from rallytrace.track import output_paths

SECTIONS = ("add", "label", "prepare", "train", "register", "deploy", "track", "aws")
TOP = ("name", "work", "on")
ON = re.compile("local|aws|ray(://.+)?")


class StepFailed(RallytraceError):
    """A command of a step ended with an error, which is the message's last part."""


@dataclass(frozen=True)
class Step:
    """commands: arguments of `rallytrace`, one after the other. inputs: files, folders, patterns and URLs they read.

    makes: results, below `work`, that the commands leave as they are; those of another key are removed before. trained:
    a pattern that stands in the commands for the one file that it means when they run.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    inputs: tuple[str, ...]
    waits_for: str = ""  # what people must do first, where an input is missing
    serves: str = ""  # a network that is deployed for the time of the step
    makes: tuple[str, ...] = ()
    trained: str = ""


@dataclass(frozen=True)
class Pipeline:
    """A pipeline.toml, read and checked. work: folder or URL of all results. on: local, ray, ray://host:10001, aws."""

    name: str
    work: str
    here: Path
    on: str = "local"
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, on: str | None = None) -> Pipeline:
        """Raises InputError. Paths in the file are relative to its folder."""
        try:
            given = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path} is no pipeline: {error}") from error
        unknown = sorted(set(given) - {*TOP, *SECTIONS})
        missing = [name for name in ("name", "work", "add", "label") if name not in given]
        if unknown or missing:
            raise InputError(f"{path}: unknown {unknown}, missing {missing}; expected {[*TOP, *SECTIONS]}")
        sections: dict[str, dict[str, Any]] = {key: given[key] for key in SECTIONS if key in given}
        if not ON.fullmatch(on := on or str(given.get("on", "local"))):
            raise InputError(f"{path}: on = {on!r}, expected local, ray, ray://host:10001 or aws")
        if on == "aws" and not str(given["work"]).startswith("s3://"):
            raise InputError(f"{path}: work = {given['work']!r}, but with on = 'aws' it must be s3://bucket/folder")
        if flat := [key for key, value in sections.items() if not isinstance(value, dict)]:
            raise InputError(f"{path}: {flat[0]} must be a section, as in [{flat[0]}]")
        here = path.resolve().parent
        for section, key, kind in (("add", "videos", list), ("label", "source", str), ("track", "videos", list)):
            if section in sections:
                value = sections[section].get(key)
                if not isinstance(value, kind) or not all(isinstance(each, str) for each in value):
                    wanted = "a list of texts" if kind is list else "a text"
                    raise InputError(f"{path}: [{section}] needs {key}, {wanted}, got {value!r}")
                sections[section][key] = (
                    _near(here, value) if isinstance(value, str) else [_near(here, each) for each in value]
                )
        check_name("name", str(given["name"]))  # now, and not after hours of training
        _check_register(path, sections.get("register", {}))
        work = _near(here, str(given["work"]))
        return cls(str(given["name"]), work, here, on, sections)

    def steps(self) -> Iterator[Step]:
        """In order, each as things are when it is asked for: training is of the features that `prepare` has left."""
        labels, clips = self.sections["label"]["source"], self.sections["add"]["videos"]
        files = [file for clip in clips for file in _expanded(clip)]
        yield Step("add", (("add", *files, "--to", self._at("videos")),), tuple(clips))
        yield Step("label", (), (labels,), waits_for=f"label the videos: rallytrace label PROJECT, then {labels}")
        yield from self._aws_steps((labels, *clips)) if self.on == "aws" else self._own_steps((labels, *clips))

    def _trained_on(self) -> str:
        """The key of a training: other features or options are another run, the same resume it."""
        made_of = _fingerprint(self._features)
        return _digest([self._options("train"), made_of]) if made_of else "not-prepared-yet"

    @property
    def _features(self) -> str:
        return self._at(f"features/{MANIFEST}")

    def _own_steps(self, read: tuple[str, ...]) -> Iterator[Step]:
        """Here or on Ray."""
        where, at = self._at, () if self.on == "local" else ("--on", self.on)
        source = ("prepare", read[0], "--videos", where("videos"), "--out", where("features"), "--overwrite")
        options = (*self._options("label", "source"), *self._options("prepare"))
        yield Step("prepare", ((*source, *at, *options),), read)
        run = str(self.here / "runs" / self._trained_on())  # on a disk: it is written to all the time
        onnx = f"{run}/{self.name}.onnx"
        fit = ("train", "--data", where("features"), "--out", run, *at, *self._options("train"))
        export = ("export", f"{run}/best", "--out", onnx, "--overwrite")
        yield Step("train", (fit, export), (self._features,))
        yield Step("register", (self._register(onnx),), (self._features,))
        if "track" in self.sections:
            videos = self.sections["track"]["videos"]
            names = [path.name for each in videos for file in _expanded(each) for path in output_paths(file, "")]
            options = self._options("track", "videos", "overwrite")
            follow = ("track", *videos, "--out", where("tracked"), *options)
            deployed = "deploy" in self.sections  # then the application goes through an endpoint, as its users will
            command = (*follow, *(("--on", "local") if deployed else ("--model", onnx, *(at or ("--on", "local")))))
            makes = tuple(f"tracked/{name}" for name in names)
            inputs = (*videos, self._features)
            yield Step("track", (command,), inputs, serves=onnx if deployed else "", makes=makes)

    def _aws_steps(self, read: tuple[str, ...]) -> Iterator[Step]:
        """As SageMaker jobs. What is on this machine is stored first."""
        where, labels = self._at, read[0]
        store: list[tuple[str, ...]] = []
        if not storage.is_url(labels):
            store, labels = [("add", labels, "--to", where("labels"), "--overwrite")], where("labels")
        options = (*self._options("label", "source"), *self._options("prepare"))
        job = self._job("prepare", _digest([options, *map(_fingerprint, read)]))
        ask = ("aws", "prepare", labels, "--videos", where("videos"), "--out", where("features"))
        yield Step("prepare", (*store, (*ask, *job, *_in_one(options))), read)
        key = self._trained_on()
        given = self.sections.get("train", {})
        chosen = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
        name = self._job("train", key)
        fit = ("aws", "train", "--data", where("features"), "--out", where("runs"), *name, *chosen)
        trained = f"{where('runs')}/{name[1]}*/output/model.tar.gz"  # a job that failed has successors with a number
        inputs = (self._features,)
        yield Step("train", (fit,), inputs)
        yield Step("register", (self._register(trained),), inputs, trained=trained)
        if "deploy" in self.sections:
            deploy = ("aws", "deploy", _plain(self.name), "--model", trained, *self._aws("deploy"))
            yield Step("deploy", (deploy,), inputs, trained=trained)
        if "track" in self.sections:
            videos = tuple(self.sections["track"]["videos"])
            files = [file for each in videos for file in _expanded(each)]
            job = self._job("track", _digest([key, self.sections["track"], *map(_fingerprint, videos)]))
            follow = ("aws", "track", where("raw"), "--out", where("tracked"), "--model", trained)
            commands = (
                ("add", *files, "--to", where("raw")),
                (*follow, *job, *_in_one(self._options("track", "videos"))),
            )
            yield Step("track", commands, (*videos, *inputs), trained=trained)

    def _register(self, network: str) -> tuple[str, ...]:
        """And promote it, where it is good enough on the features' val split and no worse than what has the stage."""
        options = {"stage": "production", "min-f1": MIN_F1, **self.sections.get("register", {})}
        place = ("--name", self.name, "--registry", self._at("models"))
        return ("models", "register", network, *place, "--data", self._at("features"), *_words(options))

    def _job(self, verb: str, key: str) -> tuple[str, ...]:
        """Its name first: a job that is there already under it is followed, and not made again."""
        return ("--name", f"{_plain(self.name)}-{verb}-{key[:8]}", *self._aws(verb))

    def _aws(self, verb: str) -> tuple[str, ...]:
        """Options of [aws], which all verbs share, and of [aws.verb]."""
        given = self.sections.get("aws", {})
        shared = {name: value for name, value in given.items() if not isinstance(value, dict)}
        return _words({**shared, **given.get(verb, {})})

    def _at(self, name: str) -> str:
        return f"{self.work.rstrip('/')}/{name}"

    def _options(self, section: str, *own: str) -> tuple[str, ...]:
        return _words({key: value for key, value in self.sections.get(section, {}).items() if key not in own})


def run(pipeline: Pipeline, logs: Path, on_change: Callable[[str, str, str], None]) -> None:
    """Run what is not up to date. on_change: told step, state (up to date, running, done, waiting) and a word about it.

    The commands' output goes to `logs`/<step>.log. Raises StepFailed, InputError where people have work to do first.
    """
    make_folder(logs)
    store = storage.open_store(pipeline.work)
    for step in pipeline.steps():
        prints = [_fingerprint(each) for each in step.inputs]
        if not all(prints):
            missing = step.inputs[prints.index([])]
            on_change(step.name, "waiting", step.waits_for or missing)
            raise InputError(f"step {step.name} waits: {missing} is missing; {step.waits_for or 'check the name'}")
        key, note = _digest([__version__, step.commands, prints]), f"pipeline/{step.name}.json"
        before = json.loads(store.get(note)) if store.head(note) else {}
        if before.get("key") == key:
            on_change(step.name, "up to date", f"took {before['seconds']:.0f} s on {before['date']}")
            continue
        if step.makes and before.get("begun", before.get("key")) != key:
            for name in step.makes:
                store.delete(name)
            store.put(note, json.dumps({"begun": key}).encode())
        began = time.monotonic()
        with _serving(step.serves, pipeline, logs) if step.serves else nullcontext(()) as endpoint:
            for words in step.commands:
                command = [storage.matches(word)[-1] if word == step.trained else word for word in words]
                for line in _run(step.name, (*command, *endpoint), logs / f"{step.name}.log"):
                    on_change(step.name, "running", line)
        values = {"key": key, "seconds": time.monotonic() - began, "date": time.strftime("%Y-%m-%d"), "inputs": prints}
        store.put(note, json.dumps({**values, "commands": step.commands}, indent=2).encode())
        on_change(step.name, "done", f"{values['seconds']:.0f} s")


def _run(step: str, command: tuple[str, ...], log: Path) -> Iterator[str]:
    """The lines that a command prints, as they come."""
    with (
        log.open("a", encoding="utf-8", errors="backslashreplace") as file,
        subprocess.Popen(
            [sys.executable, "-m", "rallytrace", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        file.write(f"$ rallytrace {shlex.join(command)}\n")
        last = ""
        try:
            assert process.stdout
            for line in process.stdout:
                file.write(line)
                file.flush()
                if line.strip():
                    last = line.strip()
                    yield last
        finally:
            process.terminate()  # nothing happens to one that has ended; one that has not goes on at the next run
    if process.returncode:
        raise StepFailed(f"step {step}: {last or 'it was killed'} (all it said: {log})")


def _check_register(path: Path, given: dict[str, Any]) -> None:
    check_name("stage", str(given.get("stage", "production")))
    unknown = sorted(set(given) - {"stage", "min-f1"})
    least = given.get("min-f1", MIN_F1)
    if unknown or not isinstance(least, int | float) or not 0 <= least <= 1:
        raise InputError(f"{path}: [register] has {unknown or least!r}, expected stage, and min-f1 from 0 to 1")


def _words(options: dict[str, Any]) -> tuple[str, ...]:
    """`steps = 200` of a section becomes `--steps 200`, `materialise = true` becomes `--materialise`."""
    words: list[str] = []
    for key, value in options.items():
        if value is not False:
            words += [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
    return tuple(words)


def _in_one(options: Sequence[str]) -> tuple[str, ...]:
    return ("--options", shlex.join(options)) if options else ()


def _plain(name: str) -> str:
    """As AWS takes it."""
    return re.sub("[^a-z0-9]+", "-", name)[:24].strip("-")


def _near(here: Path, where: str) -> str:
    return where if storage.is_url(where) else str(here / where)


def _fingerprint(where: str) -> list[str]:
    """Name and content of each file that `where` means; nothing where there is none yet."""
    folder, _, name = where.rpartition("/")
    try:
        if Path(where).is_dir():
            _settle(Path(where) / "book.sqlite")
            store, entries = storage.open_store(where), None
        elif glob.has_magic(where):
            return [line for each in storage.matches(where) for line in _fingerprint(each)]
        else:
            store = storage.open_store(folder)
            entry = store.head(name)
            entries = [entry] if entry else None
            store = store if entry else storage.open_store(where)
        found = [entry for entry in entries or store.list() if not entry.key.endswith(("-wal", "-shm"))]
        return [f"{entry.key} {_content(store, entry)}" for entry in found]
    except InputError:
        return []


def _content(store: storage.Store, entry: storage.Entry) -> str:
    """What changes when the content does: of a file its checksum, of an object what the server says for one."""
    return f"{entry.size} {entry.etag}" if storage.is_url(store.url) else _checksum(store.url, entry.key, entry.etag)


@lru_cache(maxsize=100_000)
def _checksum(folder: str, key: str, version: str) -> str:
    """Read once in a run, as long as `version` (time and size) is the same."""
    return storage.open_store(folder).digest(key) or ""


def _settle(book: Path) -> None:
    """What a label server that runs has written beside its book goes into it, or new labels would not be seen."""
    if book.is_file():
        with suppress(sqlite3.Error), closing(sqlite3.connect(book)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _expanded(pattern: str) -> list[str]:
    """What a pattern means now; nothing where it matches nothing."""
    try:
        return storage.expand(pattern)
    except InputError:
        return []


@contextmanager
def _serving(weights: str, pipeline: Pipeline, logs: Path) -> Iterator[tuple[str, ...]]:
    """An endpoint of this machine (or, with `on`, of the cluster) while the block runs; options for who calls it."""
    on = () if pipeline.on == "local" else ("--on", pipeline.on)
    command = [sys.executable, "-m", "rallytrace", "serve", "--weights", weights, "--port", "0", *on]
    with (logs / "deploy.log").open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout
        urls = (word for line in process.stdout for word in line.split() if word.startswith("http"))
        url = next(urls, None)
        if url is None:
            raise StepFailed(f"step deploy: the endpoint did not start (all it said: {logs / 'deploy.log'})")
        yield ("--endpoint", url)
    finally:
        process.terminate()
        process.wait()


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
