"""Documentation is run. What is not documented by an example fails here."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import rallytrace
from rallytrace.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


RUN = [ROOT / "docs" / name for name in ("guide.md", "features.md", "formats.md")]


def commands() -> list[str]:
    """Every command and sub-command, as typed."""
    groups = [(f"{group.name} ", group.typer_instance.registered_commands) for group in app.registered_groups]
    return [f"{group}{each.name}" for group, known in [("", app.registered_commands), *groups] for each in known]


@pytest.mark.parametrize("page", RUN, ids=lambda p: p.name)
def test_every_block_runs(page: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    for language, code in blocks(page):
        if language == "python":
            commands = [[sys.executable, "-c", code]]
        else:
            lines = [line for line in code.splitlines() if line.strip()]
            assert all(line.startswith("rallytrace ") for line in lines), lines
            commands = [[sys.executable, "-m", *shlex.split(line)] for line in lines]
        for command in commands:
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


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
        done = subprocess.run(
            [sys.executable, "-m", "rallytrace", *command.split(), "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COLUMNS": "300", "TERM": "dumb"},
        )
        known |= set(re.findall(r"--[a-z][a-z-]+", done.stdout))
    for script in [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "runs").glob("*.py")]:
        known |= set(re.findall(r'"(--[a-z][a-z-]+)"', script.read_text()))
    foreign = {"--nproc-per-node", "--version", "--editable", "--no-install-recommends"}
    for page in PAGES:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text()))
        assert named <= known | foreign, f"{page.name}: {named - known - foreign}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "adr").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
