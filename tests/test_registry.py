"""The registry, in a folder and in memory:// alike."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from rallytrace import registry
from rallytrace.errors import InputError, ModelError
from rallytrace.runtime import bundled
from rallytrace.storage import open_store


@pytest.fixture(params=["folder", "memory"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "models") if request.param == "folder" else f"memory://registry-{tmp_path.name}"


def put(where: str, name: str = "tennis", network: str = "fast") -> registry.ModelVersion:
    return registry.register(
        where, name, bundled()[network], metrics={"val_f1_4at288": 0.9}, lineage={"command": "rallytrace train"}
    )


def test_a_version_is_named_by_its_content_and_made_once(where: str) -> None:
    first, again = put(where), put(where)
    assert first == again
    assert first.sha256.startswith(first.version)
    assert registry.versions(where) == [first]
    assert registry.fetch(where, "tennis").read_bytes() == bundled()["fast"].read_bytes()


def test_stages_move_and_versions_stay(where: str) -> None:
    fast, accurate = put(where), put(where, network="accurate")
    registry.promote(where, f"tennis@{fast.version[:6]}", "production")
    assert registry.find(where, "tennis@production").version == fast.version
    registry.promote(where, f"tennis@{accurate.version}", "production")
    assert registry.find(where, "tennis@production").version == accurate.version
    assert registry.find(where, f"tennis@{fast.version}").stages == ()
    assert {v.version for v in registry.versions(where)} == {fast.version, accurate.version}


def test_promotions_at_once_are_all_kept(where: str) -> None:
    """Of eight stages, each given by another thread."""
    version = put(where)
    stages = [f"stage-{n}" for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda stage: registry.promote(where, f"tennis@{version.version}", stage), stages))
    assert registry.find(where, "tennis").stages == tuple(stages)


def test_of_promotions_of_one_stage_at_once_none_is_lost(where: str) -> None:
    """They follow each other: a rollback each leads back through all of them."""
    fast, accurate = put(where), put(where, network="accurate")
    wanted = [f"tennis@{(fast, accurate)[n % 2].version}" for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: registry.promote(where, each, "production"), wanted))
    seen = [registry.find(where, "tennis@production").version]
    with suppress(InputError):
        while True:
            registry.rollback(where, "tennis", "production")
            seen.append(registry.find(where, "tennis@production").version)
    assert all(a != b for a, b in pairwise(seen))
    assert 1 <= len(seen) <= 8


def test_a_rollback_goes_back_and_further_back(where: str) -> None:
    names = ("fast", "accurate", "window3")
    made = [put(where, network=name).version for name in names]
    for version in made:
        registry.promote(where, f"tennis@{version}", "production")
    registry.promote(where, f"tennis@{made[2]}", "production")  # it is there already: nothing to take back
    assert registry.rollback(where, "tennis", "production").version == made[1]
    assert registry.find(where, f"tennis@{made[1]}").stages == ("production",)
    assert registry.rollback(where, "tennis", "production").version == made[0]
    with pytest.raises(InputError, match=f"tennis has had only {made[0]} as production"):
        registry.rollback(where, "tennis", "production")
    registry.promote(where, f"tennis@{made[2]}", "production")
    assert registry.rollback(where, "tennis", "production").version == made[0]
    with pytest.raises(InputError, match="tennis has had no version as staging"):
        registry.rollback(where, "tennis", "staging")


def test_who_is_asked_sees_what_holds_when_the_promotion_is_made(where: str) -> None:
    """Also where somebody else was quicker: then again."""
    fast, accurate, third = put(where), put(where, network="accurate"), put(where, network="window3")
    registry.promote(where, f"tennis@{fast.version}", "production")
    seen: list[str] = []

    def check(now: registry.ModelVersion | None) -> None:
        assert now is not None
        seen.append(now.version)
        if len(seen) == 1:
            registry.promote(where, f"tennis@{third.version}", "production")
        else:
            raise InputError("worse than the third")

    with pytest.raises(InputError, match="worse than the third"):
        registry.promote(where, f"tennis@{accurate.version}", "production", check)
    assert seen == [fast.version, third.version]
    assert registry.find(where, "tennis@production").version == third.version


def test_without_its_description_a_version_is_not_there(where: str) -> None:
    version = put(where)
    open_store(where).delete(f"tennis/{version.version}/version.json")
    assert registry.versions(where) == []
    with pytest.raises(InputError, match="no network 'tennis'"):
        registry.find(where, "tennis")
    put(where)
    assert registry.find(where, "tennis").version == version.version


def test_a_network_that_was_changed_in_the_store_is_not_given_out(where: str) -> None:
    version = put(where)
    open_store(where).put(version.key, bundled()["accurate"])
    with pytest.raises(ModelError, match="is not the file that was registered"):
        registry.fetch(where, "tennis")


@pytest.mark.parametrize("name", ["", "../up", "a/b", "Tennis", "a" * 64, "<b>"])
def test_names_that_could_be_paths_are_refused(where: str, name: str) -> None:
    with pytest.raises(InputError, match="lower case"):
        put(where, name)


def test_a_malformed_description_is_one_clear_error(tmp_path: Path) -> None:
    version = put(str(tmp_path))
    described = tmp_path / "tennis" / version.version / "version.json"
    described.write_text(json.dumps({"name": "tennis"}))
    with pytest.raises(InputError, match="describes no version"):
        registry.versions(tmp_path)
    shutil.rmtree(described.parent)
    assert registry.versions(tmp_path) == []
