"""The promises of the house: small, layered, and no name without a thing behind it."""

import ast
import re
from pathlib import Path

import pytest

import rallytrace

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def code_lines(path: Path) -> int:
    """Lines that are neither blank, comment nor docstring (docs/adr/0005)."""
    text = path.read_text()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            docs |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and n not in docs for n, line in lines)


def test_the_whole_system_stays_small() -> None:
    assert 1000 < sum(map(code_lines, SOURCES)) <= 23_000


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_modules_and_functions_stay_small(path: Path) -> None:
    assert code_lines(path) <= 400
    lines = path.read_text().splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            body = node.body[1:] if ast.get_docstring(node) else node.body
            first = body[0].lineno if body else node.end_lineno
            assert node.end_lineno - first < 60, f"{path.name}:{node.lineno} {node.name}"


def test_public_names_exist_and_nothing_else_is_public() -> None:
    assert sorted(rallytrace.__all__) == sorted(set(rallytrace.__all__))
    for name in rallytrace.__all__:
        thing = getattr(rallytrace, name)
        assert thing.__doc__ if callable(thing) else True, f"{name} has no docstring"
    imported = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse((ROOT / "src/rallytrace/__init__.py").read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rallytrace.")
        for alias in node.names
    }
    assert imported == set(rallytrace.__all__)


def test_the_version_is_said_once() -> None:
    written = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert written
    assert written[1] == rallytrace.__version__


def test_only_video_imports_av() -> None:
    for path in SOURCES:
        if "video" not in path.parts[-2:][0] and path.name != "video.py":
            assert not re.search(r"^\s*(import av|from av)\b", path.read_text(), re.MULTILINE), path


def test_public_functions_are_documented() -> None:
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"
