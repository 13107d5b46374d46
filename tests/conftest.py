"""Fixtures that several test files share: synthetic rallies, made once per run."""

from pathlib import Path

import pytest

from rallytrace import Clip, RallyOptions, load_clips, make_clip


@pytest.fixture(scope="session")
def rallies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: one clip to train on, with repeated frames, and one of another match to validate on."""
    folder = tmp_path_factory.mktemp("rallies") / "badminton"
    folder.mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        make_clip(folder / f"{name}.mp4", RallyOptions(wh=(512, 288), seconds=1.5, seed=seed, repeats=True))
    (folder / "index.csv").write_text("clip,match,split\na,first,train\nb,second,val\n")
    return folder


@pytest.fixture(scope="session")
def rallies_clips(rallies: Path) -> list[Clip]:
    return load_clips(rallies)


@pytest.fixture(scope="session")
def rally(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Two seconds of 720p with repeated frames, as a broadcast has them."""
    folder = tmp_path_factory.mktemp("rally") / "badminton"
    folder.mkdir()
    make_clip(folder / "rally.mp4", RallyOptions(seconds=2.0, seed=3, repeats=True))
    return load_clips(folder)[0]
