"""Documentation is run. What is not documented by an example fails here."""

import re
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rallytrace
from rallytrace.cli import app
from rallytrace.cli.common import VERBS, load_verb

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


RUN = [ROOT / "docs" / name for name in ("guide.md", "features.md", "formats.md")]


def commands() -> list[str]:
    """Every command and sub-command, as typed."""
    for verb in VERBS:
        load_verb(verb)
    groups = [(f"{group.name} ", group.typer_instance.registered_commands) for group in app.registered_groups]
    return [f"{group}{each.name}" for group, known in [("", app.registered_commands), *groups] for each in known]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder and a command line of its own, and Ctrl-C as before: one process runs what a user runs in many."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("page", RUN, ids=lambda p: p.name)
def test_every_block_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for language, code in blocks(page):
        if language == "python":
            exec(compile(code, f"{page.name}: {code.splitlines()[0]}", "exec"), {"__name__": "__main__"})
            continue
        for line in filter(str.strip, code.splitlines()):
            name, *words = shlex.split(line)
            assert name == "rallytrace", line
            monkeypatch.setattr(sys, "argv", [name, *words])
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"


def test_every_command_and_public_name_has_an_example() -> None:
    examples = "\n".join(code for page in PAGES for _, code in blocks(page))
    for command in commands():
        assert f"rallytrace {command}" in examples, command
    text = (ROOT / "docs" / "guide.md").read_text()
    for name in rallytrace.__all__:
        assert name in text, f"{name} is public but not in docs/guide.md"


def test_options_named_in_the_docs_exist() -> None:
    """Docs that are not run name things that do not exist: every --option must be known to some command."""
    known = set()
    for command in commands():
        done = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
        assert done.exit_code == 0, command
        known |= set(re.findall(r"--[a-z][a-z-]+", done.output))
    for script in [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "runs").glob("*.py")]:
        known |= set(re.findall(r'"(--[a-z][a-z-]+)"', script.read_text()))
    foreign = {
        "--user",
        "--build-arg",
        "--nproc-per-node",
        "--version",
        "--editable",
        "--no-install-recommends",
        "--require-hashes",
    }
    for page in PAGES:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text()))
        assert named <= known | foreign, f"{page.name}: {named - known - foreign}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "adr").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
