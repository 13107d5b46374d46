"""The bound of the cache, and who may lose what to it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rallytrace.errors import InputError
from rallytrace.storage import fetch, fetch_folder, fetched, open_store
from rallytrace.storage.cache import MAX_HELD, Cache, default_cache


def fill(cache: Cache, unit: str, size: int, *, at: float = 0) -> Path:
    path = cache.file(unit, "x.bin", size, lambda file: file.write(bytes(size)) and None)
    cache.release(unit)
    os.utime(cache.root / unit, (at, at))
    return path


def kept(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.root.iterdir())


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 50_000)
    for n, name in enumerate("abc"):
        fill(cache, name, 15_000, at=1000.0 + n)
    cache.take("a")
    cache.release("a")
    fill(cache, "d", 15_000, at=2000.0)
    assert kept(cache) == ["a", "c", "d"]


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 20_000)
    fill(cache, "a", 15_000)
    fill_b = cache.file("b", "x.bin", 10, lambda file: file.write(b"0123456789") and None)
    assert cache.take("b") is not None
    cache.release("b")
    cache.make_room(50_000)
    assert kept(cache) == ["b"]
    assert fill_b.read_bytes() == b"0123456789"
    cache.release("b")
    cache.make_room(50_000)
    assert kept(cache) == []


def test_what_another_process_uses_stays_until_it_ends(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    fill(cache, "a", 5000)
    code = f"from rallytrace.storage.cache import *; c = Cache(Path({str(tmp_path)!r}), 0); c.take('a'); "
    code += "print(1, flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"1\n"
    cache.make_room(0)
    assert kept(cache) == ["a"]
    other.kill()
    other.communicate()
    cache.make_room(0)
    assert kept(cache) == []


def test_partial_files_stay_for_a_day(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 0)
    (tmp_path / "new.partial").write_bytes(bytes(100))
    (tmp_path / "old.partial").write_bytes(bytes(100))
    os.utime(tmp_path / "old.partial", (1000, 1000))
    cache.make_room(0)
    assert kept(cache) == ["new.partial"]


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10**9)

    def fail(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise InputError("no")

    with pytest.raises(InputError):
        cache.file("a", "x", 8, fail)
    assert (cache.take("a"), kept(cache)) == (None, ["a.partial"])
    found = cache.file("a", "x", 8, lambda file: file.write(b"more") and None)
    assert (found.read_bytes(), kept(cache)) == (b"halfmore", ["a"])


def test_a_folder_shares_its_files_with_the_cache(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALLYTRACE_CACHE_GB", "0.0001")  # 100 kB
    store = open_store("memory:///shared")
    for name in ("a", "b"):
        store.put(name, bytes(45_000))
    folder = fetch_folder("memory:///shared")
    used = {path.stat().st_ino: path.stat().st_size for path in own_cache.rglob("*") if path.is_file()}
    assert sum(used.values()) == 90_000
    store.put("c", bytes(95_000))
    with fetched("memory:///shared/c"):
        pass
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]  # this process uses it
    default_cache().release(folder.parent.name)
    store.put("d", bytes(95_000))
    fetch("memory:///shared/d")
    assert sum(path.stat().st_size for path in own_cache.rglob("*") if path.is_file()) == 95_000


def test_one_process_holds_no_more_locks_than_it_may(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10**9)
    before = len(os.listdir("/proc/self/fd"))
    for n in range(MAX_HELD + 20):
        cache.file(f"u{n}", "x", 0, lambda file: None)
    assert len(os.listdir("/proc/self/fd")) - before <= MAX_HELD


def test_what_this_process_uses_stays_however_much_it_is(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    made = [cache.file(f"u{n}", "x", 10, lambda file: file.write(bytes(10)) and None) for n in range(MAX_HELD + 100)]
    cache.make_room(10**6)
    assert all(path.exists() for path in made)
    for n in range(len(made)):
        cache.release(f"u{n}")
    cache.make_room(10**6)
    assert kept(cache) == []


@pytest.mark.parametrize("text", ["-1", "many", "1e3", "nan"])
def test_a_size_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALLYTRACE_CACHE_GB", text)
    with pytest.raises(InputError, match="expected a size in GB"):
        default_cache()
