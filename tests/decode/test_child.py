"""Work in a child: results, errors, and every limit, each told in one line."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from rallytrace.decode.child import Child, Limits, Pipe, run
from rallytrace.errors import InputError, LabelError

LIMITS = Limits(memory=1 << 30, cpu_s=20, wall_s=30.0)
HERE = __name__


def add(order: dict[str, Any], pipe: Pipe) -> int:
    print("what the work prints is no message")
    data = pipe.receive()
    assert data is not None
    pipe.send(b"on the way")
    return int(order["n"]) + len(data)


def complain(order: dict[str, Any], _: Pipe) -> None:
    raise LabelError("line 3: expected a number")


def stumble(_: dict[str, Any], __: Pipe) -> None:
    raise ZeroDivisionError("oh")


def swallow(_: dict[str, Any], __: Pipe) -> int:
    return len(b"x" * (2 << 30))


def spin(_: dict[str, Any], __: Pipe) -> None:
    while True:
        pass


def sleep(_: dict[str, Any], __: Pipe) -> None:
    time.sleep(100)


def write(order: dict[str, Any], __: Pipe) -> None:
    Path(order["path"]).write_bytes(b"x" * 5000)


def flood(_: dict[str, Any], pipe: Pipe) -> None:
    pipe.send(b"x" * 5000)


def test_a_result_comes_back() -> None:
    assert run(f"{HERE}:add", {"n": 3}, LIMITS, "the file", data=b"four") == 7
    with Child(f"{HERE}:add", {"n": 3}, LIMITS, "the file") as child:
        child.send(b"four")
        assert list(child) == [b"on the way"]
        assert child.result == 7


def test_the_works_own_error_comes_back_as_it_is() -> None:
    with pytest.raises(LabelError, match=r"^line 3: expected a number$"):
        run(f"{HERE}:complain", {}, LIMITS, "the file")


@pytest.mark.parametrize(
    ("work", "limits", "words"),
    [
        ("stumble", LIMITS, "ZeroDivisionError"),
        ("swallow", LIMITS, "the file takes more than the 1024 MiB of memory"),
        ("spin", Limits(1 << 30, 1, 30.0), "the file takes more than the 1 s of processor time"),
        ("sleep", Limits(1 << 30, 9, 0.5), "the file takes more time than the 0.5 s"),
        ("write", LIMITS, "the file takes more than the 0 bytes of disk|File too large"),
    ],
)
def test_limits_are_told_in_one_line(work: str, limits: Limits, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as error:
        run(f"{HERE}:{work}", {"path": str(tmp_path / "x")}, limits, "the file")
    assert "\n" not in str(error.value)


def test_messages_are_bounded() -> None:
    with pytest.raises(InputError, match="more than the 4000 bytes"):
        run(f"{HERE}:flood", {}, LIMITS, "the file", most=4000)


def test_leaving_ends_the_child() -> None:
    with Child(f"{HERE}:sleep", {}, LIMITS, "the file") as child:
        number = child._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
