"""`make mutants`: deliberate mistakes in the core, one by one. Prints those that the tests do not see.

Cosmic Ray makes the mistakes; each is tried in a copy of the project with the tests that concern the module, in a
process of its own that is forked from this one, so that torch and NumPy are loaded once. A module with more than
`--most` mistakes is sampled. What survives is the same program, or harmless, or asks for a test.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import os
import random
import shutil
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch  # noqa: F401 (what is loaded here need not be by those who are forked)
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from hypothesis import Phase, settings

import rallytrace.dataset  # noqa: F401

ROOT = Path(__file__).parent.parent
CONCERNS = {  # module -> tests, the fast and likely ones first
    "geometry.py": ["test_geometry.py", "properties/test_inverse_pairs.py"],
    "heatmap.py": ["test_heatmap.py", "properties/test_inverse_pairs.py"],
    "window.py": ["test_window.py", "test_scenes.py"],
    "tracker.py": ["test_scenes.py", "test_tracker.py"],
    "trajectory/path.py": ["test_path_limits.py", "test_path.py"],
    "trajectory/linker.py": ["test_linker.py", "properties/test_linker_properties.py"],
    "trajectory/columns.py": ["test_trajectory.py"],
    "trajectory/table.py": ["test_trajectory.py", "properties/test_tables.py"],
    "dataset.py": ["test_dataset.py"],
    "evaluate/metrics.py": ["test_metrics.py"],
}
# One change of each operator tells what ten would: the neighbour of a comparison, the opposite of an operation.
KEPT = (
    *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul"),
    *("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is", "In_NotIn", "NotIn_In"),
)
TIMEOUT_S = 120
SURVIVED = 0


def is_kept(operator: str) -> bool:
    """Whether mistakes of this kind are made: not every replacement, and no `|` of types, which is no operation."""
    kind, _, change = operator.removeprefix("core/").partition("_")
    return kind not in ("ReplaceBinaryOperator", "ReplaceComparisonOperator") or change in KEPT


def changed(source: str, mutated: str) -> list[str]:
    """Where the two differ, and the lines that do with - or + before them."""
    return list(difflib.unified_diff(source.splitlines(), mutated.splitlines(), lineterm="", n=0))[2:]


def mistakes(source: str) -> Iterator[tuple[str, str]]:
    """(kind, source with one mistake) of each mistake."""
    nodes = list(ast_nodes(get_ast(source)))
    for name in filter(is_kept, plugins.operator_names()):
        operator_class = plugins.get_operator(name)
        if operator_class.arguments() or "ExceptionReplacer" in name:  # it cannot replace names with a dot
            continue
        operator = operator_class()
        for occurrence in range(sum(len(list(operator.mutation_positions(node))) for node in nodes)):
            mutated = mutate_code(source, operator, occurrence)
            if mutated is not None and mutated != source and not is_declaration(*changed(source, mutated)[1:]):
                yield name.removeprefix("core/"), mutated


def is_declaration(before: str, after: str, *_: str) -> bool:
    """Whether a decorator changed, such as its `slots`, or the `*` between parameters, which is no operator."""
    return before[1:].lstrip().startswith("@") or ("*, " in before and "/, " in after)


def run_tests(folder: Path, tests: list[str]) -> None:
    """In a process of its own, which ends with pytest's status. The package is imported from `folder`, anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("rallytrace", "tests")]:
        del sys.modules[name]
    sys.path.insert(0, str(folder / "src"))
    os.chdir(folder)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", "-o", "timeout=0"]
    os._exit(pytest.main([*options, *(f"tests/{name}" for name in tests)]))


def status(folder: Path, tests: list[str]) -> int | None:
    """Of the tests: SURVIVED where all pass; None where they do not end."""
    process = get_context("fork").Process(target=run_tests, args=(folder, tests))
    process.start()
    process.join(TIMEOUT_S)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def try_module(module: str, folder: Path, most: int, seed: int) -> None:
    path, tests = folder / "src/rallytrace" / module, CONCERNS[module]
    if status(folder, tests) != SURVIVED:
        sys.exit(f"{module}: the tests fail without a mistake")
    sys.dont_write_bytecode = True  # two mistakes in one second would look like one file
    source = path.read_text()
    possible = list(mistakes(source))
    chosen = random.Random(seed).sample(possible, min(most, len(possible)))
    survivors = 0
    for kind, mutated in chosen:
        path.write_text(mutated)
        if status(folder, tests) == SURVIVED:
            survivors += 1
            where, *lines = changed(source, mutated)
            print(f"{module} {where} {kind}", *lines, sep="\n  ", flush=True)
    path.write_text(source)
    print(f"{module}: {survivors} of {len(chosen)} mistakes survive, {len(possible)} are possible\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(CONCERNS), help=f"of {', '.join(CONCERNS)}; all if none")
    parser.add_argument("--most", type=int, default=100, help="mistakes a module")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    options = parser.parse_args()
    settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], database=None, derandomize=True)
    settings.load_profile("mutants")
    gc.freeze()
    # Plugins that these tests do not need take longer to load than most of the tests take to run.
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    with TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("src", "tests"):
            shutil.copytree(ROOT / part, folder / part)
        shutil.copy(ROOT / "pyproject.toml", folder)
        for module in options.modules:
            try_module(module, folder, options.most, options.seed)


if __name__ == "__main__":
    main()
