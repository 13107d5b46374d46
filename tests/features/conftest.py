"""Tiny clips, made once."""

from pathlib import Path

import pytest

from .clips import forget, make_folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of three matches, one of them for validation; some frames of a are unlabelled."""
    folder = make_folder(tmp_path_factory.mktemp("tiny") / "badminton")
    forget(folder / "a_ball.csv", 3, 4, 5)
    return folder
