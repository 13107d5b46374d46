"""The registry, in a folder and in memory:// alike."""

import json
import shutil
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
