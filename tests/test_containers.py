"""The images, as far as they can be checked unbuilt: what goes in, what is pinned, and their health check."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile*"))
LOCKS = sorted((DOCKER / "locks").glob("*.txt"))
TOP = ("LICENSE", "NOTICE", "README.md", "pyproject.toml")
SECRETS = (
    ".git/config",
    ".git/objects/ab/cdef",
    "rallytrace-keys.json",
    "keys.json",
    "src/keys.json",
    "src/rallytrace/endpoint.key",
    "docker/cert.pem",
    ".env",
    "src/.env.local",
    "runs/out/model.onnx",
    "cache/x",
    "shared/x.mp4",
    ".venv/bin/python",
    "frontend/node_modules/x.js",
    "src/rallytrace/__pycache__/x.pyc",
)


def _goes_in(path: str) -> bool:
    """Whether .dockerignore lets a file into the build: the last rule that meets it, or a folder above it, decides."""
    found = True
    parts = path.split("/")
    above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        if any(_meets(each, pattern) for each in above):
            found = line.startswith("!")
    return found


def _meets(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatchcase(path.rpartition("/")[2], pattern[3:])
    return path.count("/") == pattern.count("/") and fnmatchcase(path, pattern)


def _code(path: Path) -> str:
    """Without comments, one instruction a line."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return "\n".join(lines).replace("\\\n", " ")


def test_only_what_is_built_from_goes_in() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("no history here")
    inside = {path for path in tracked if _goes_in(path)}
    package = {path for path in tracked if path.startswith(("src/", "docker/"))}
    assert inside == {*TOP, *package} - {str(path.relative_to(ROOT)) for path in DOCKERFILES}


@pytest.mark.parametrize("path", SECRETS)
def test_history_keys_and_data_stay_out(path: str) -> None:
    assert not _goes_in(path)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_have_two_stages_and_nothing_unpinned(path: Path) -> None:
    code = _code(path)
    assert len(re.findall(r"^FROM ", code, re.MULTILINE)) == 2
    bases = re.findall(r"^ARG BASE=(.+)$", code, re.MULTILINE)
    assert bases
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", base) for base in bases)
    assert all(base.startswith("${BASE}") for base in re.findall(r"^FROM (\S+)", code, re.MULTILINE))
    for install in re.findall(r"pip install ([^&\n]+)", code):
        assert "--require-hashes" in install or re.fullmatch(r"--no-deps /wheels/\*\.whl\s*", install), install
    assert "--no-build-isolation" in code
    assert not re.search(r"^COPY \. ", code, re.MULTILINE)
    final = code.split("FROM ")[-1]
    assert "pip " not in final
    assert "ORT_DISABLE_TELEMETRY=1" in final
    for words in re.findall(r"^COPY (?!--from)(.+)$", code, re.MULTILINE):
        for name in [word for word in words.split() if not word.startswith("--")][:-1]:
            assert (ROOT / name).exists()
            assert _goes_in(name.rstrip("/"))
    for lock in re.findall(r"^ARG LOCK=(\S+)$", code, re.MULTILINE):
        assert (DOCKER / "locks" / f"{lock}.txt").is_file()
        assert (DOCKER / "locks" / f"{lock}-train.txt").is_file()


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_locks_have_hashes_and_the_versions_that_are_tested(path: Path) -> None:
    versions = _versions(path)
    assert versions
    if path.name == "build.txt":
        return
    known = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert {name: version for name, version in versions.items() if known.get(name, version) != version} == {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ["serve", "aws", "store", *(["train"] if "train" in path.name else [])]
    wanted = [*project["dependencies"], *(each for extra in extras for each in project["optional-dependencies"][extra])]
    names = {re.match(r"[\w-]+", each)[0] for each in wanted}  # type: ignore[index]
    names = {"onnxruntime-gpu" if name == "onnxruntime" and "cuda" in path.name else name for name in names}
    assert names <= versions.keys()
    if "cuda" in path.name:  # the two share one folder
        assert "onnxruntime" not in versions
        assert "nvidia-cudnn-cu13" in versions


def _versions(path: Path) -> dict[str, str]:
    entries = re.split(r"\n(?=\S)", path.read_text().strip())
    found = {}
    for entry in entries:
        match = re.match(r"([\w.-]+)==([\w.+!]+)", entry)
        assert match, entry
        assert "--hash=sha256:" in entry, entry
        found[match[1]] = match[2]
    return found


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    from tests.serve.conftest import running

    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(**options))


def _health(port: str) -> int:
    environment = {"PATH": os.environ["PATH"], "SAGEMAKER_BIND_TO_PORT": port, "http_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, str(DOCKER / "healthcheck.py")]
    return subprocess.run(command, env=environment, timeout=60, check=False).returncode


@pytest.mark.parametrize("secure", [False, True])
def test_health_is_checked_with_tls_and_without(start: Callable[..., Any], secure: bool, tmp_path: Path) -> None:
    server = start(tls_self_signed=secure, state=tmp_path)
    port = server.url.rpartition(":")[2]
    assert _health(port) == 0
    server.services.draining = True
    assert _health(port) == 1
    server.services.draining = False


def test_health_of_nobody() -> None:
    assert _health("9") == 1
