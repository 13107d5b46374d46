"""What every label format must do, run over all of them: what was written is read back."""

from __future__ import annotations

import dataclasses
import math
import shutil
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallytrace.errors import InputError, LabelError, OutputError
from rallytrace.labels import read_labels
from rallytrace.labels.formats import FORMATS, LabelFormat, detect_format, losses, read_sets, write_sets
from rallytrace.labels.sets import Extra, LabelSet, ReadOptions, WriteOptions, safe_name
from rallytrace.labels.source import Source
from rallytrace.types import XY, BallLabel, Visibility

from ..often import examples

WH = (1280, 720)
SIZE = ReadOptions(wh=WH)


def label(frame: int, xy: XY | None, visibility: Visibility = Visibility.CLEAR) -> BallLabel:
    return BallLabel(frame, xy, visibility if xy else Visibility.ABSENT)


def a_set(labels: list[BallLabel], **facts: object) -> LabelSet:
    values = {"name": "rally", "wh": WH, "fps": Fraction(30), "n_frames": 12, **facts}
    return LabelSet(labels={each.frame: each for each in labels}, **values)  # type: ignore[arg-type]


FULL = [
    label(0, (0.0, 0.0)),
    label(1, (640.25, 359.5), Visibility.HARD),
    label(2, (1279.0, 719.0), Visibility.OCCLUDED),
    label(3, None),
    label(4, None),
    label(5, (804.0, 0.0)),
    *(label(frame, (100.0 + 7.3 * frame, 50.0 + frame)) for frame in range(6, 11)),
    label(11, None),
]
SPARSE = [FULL[1], FULL[3], FULL[5], FULL[9]]  # unlabelled: 0, 2, 4, 6 to 8, 10, 11


def read_back(folder: Path, to: LabelFormat) -> LabelSet:
    found = read_sets(folder, options=SIZE)
    assert len(found) == 1
    assert detect_format(Source(folder)) is to
    return found[0]


def survives(each: BallLabel, to: LabelFormat) -> Visibility:
    """The visibility that is left of a label's."""
    if each.xy is None or "visibility" in to.carries:
        return each.visibility
    hidden = each.visibility is Visibility.OCCLUDED and "occluded" in to.carries
    return Visibility.OCCLUDED if hidden else Visibility.CLEAR


def assert_same(found: LabelSet, expected: list[BallLabel], to: LabelFormat) -> None:
    for each in expected:
        back = found.labels[each.frame]
        assert (back.xy is None) == (each.xy is None), each
        assert back.visibility is survives(each, to), each
        if each.xy and back.xy:
            assert math.dist(each.xy, back.xy) <= 0.01, (each, back)


@pytest.mark.parametrize("to", FORMATS.values(), ids=FORMATS)
class TestEveryFormat:
    def test_what_was_written_is_recognised_and_read_back(self, to: LabelFormat, tmp_path: Path) -> None:
        paths = write_sets([a_set(FULL)], to.name, tmp_path)
        assert all(path.is_file() for path in paths)
        assert any(path.suffix in to.suffixes or path.suffix == ".xml" for path in paths)
        found = read_back(tmp_path, to)
        assert found.name == "rally"
        assert found.labels.keys() == set(range(12))
        assert_same(found, FULL, to)
        assert found.notes == ()

    def test_unlabelled_frames_are_refused_where_they_would_read_as_no_ball(
        self, to: LabelFormat, tmp_path: Path
    ) -> None:
        labels = a_set(SPARSE)
        if "unlabelled" in to.carries:
            write_sets([labels], to.name, tmp_path)
            found = read_back(tmp_path, to)
            assert found.labels.keys() == labels.labels.keys()
            assert_same(found, SPARSE, to)
            return
        with pytest.raises(LabelError, match=r"rally: 8 of 12 frames are unlabelled.*--unlabelled drop"):
            write_sets([labels], to.name, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_unlabelled_frames_are_dropped_on_demand(self, to: LabelFormat, tmp_path: Path) -> None:
        write_sets([a_set(SPARSE)], to.name, tmp_path, WriteOptions(unlabelled="drop"))
        found = read_back(tmp_path, to)
        assert_same(found, SPARSE, to)
        others = {frame for frame in found.labels if frame not in {each.frame for each in SPARSE}}
        # MOT has no word for it; all others bring them back unlabelled.
        assert all(found.labels[frame].xy is None for frame in others) if to.name == "mot" else not others

    def test_unlabelled_frames_become_no_ball_on_demand(self, to: LabelFormat, tmp_path: Path) -> None:
        write_sets([a_set(SPARSE)], to.name, tmp_path, WriteOptions(unlabelled="absent"))
        found = read_back(tmp_path, to)
        assert found.labels.keys() == set(range(12))
        assert_same(found, SPARSE, to)
        assert sum(each.xy is None for each in found.labels.values()) == 9

    def test_extras_survive_or_are_named_as_lost(self, to: LabelFormat, tmp_path: Path) -> None:
        extras = {5: Extra(event="hit"), 6: Extra(keyframe=False), 7: Extra(event="bounce"), 8: Extra(score=0.25)}
        labels = a_set(FULL, extras=extras)
        write_sets([labels], to.name, tmp_path)
        found = read_back(tmp_path, to)
        lost = " ".join(losses([labels], to))
        for frame, field, word in ((5, "event", "event"), (6, "keyframe", "interpolated"), (8, "score", "score")):
            kept = getattr(found.extra(frame), field) == getattr(extras[frame], field)
            assert kept == (field in to.carries)
            assert kept != (word in lost)
        assert [frame for frame in found.labels if not found.extra(frame).keyframe] == (
            [6] * ("keyframe" in to.carries)
        )

    def test_a_set_without_labels(self, to: LabelFormat, tmp_path: Path) -> None:
        write_sets([a_set([], n_frames=0)], to.name, tmp_path)
        if to.name.startswith("yolo"):  # there is no file without a labelled picture
            with pytest.raises(LabelError, match="no label files"):
                read_sets(tmp_path, to.name, SIZE)
        else:
            assert not any(each.labels for each in read_sets(tmp_path, to.name, SIZE))
        labels = a_set([], n_frames=3)
        write_sets([labels], to.name, tmp_path / "three", WriteOptions(unlabelled="absent"))
        assert [each.xy for each in read_sets(tmp_path / "three", to.name, SIZE)[0].labels.values()] == [None] * 3

    @pytest.mark.parametrize("name", ["Fußball クリップ 1", "rally_12", "a.b c", "train", "éé"])
    def test_names_survive(self, to: LabelFormat, name: str, tmp_path: Path) -> None:
        write_sets([a_set(FULL, name=name)], to.name, tmp_path)
        assert read_back(tmp_path, to).name == name

    @pytest.mark.parametrize("name", ["../../out", "/etc/x", "a\\b", "x\0y", "\u202egnp", "<b>&amp;", "n" * 4000, "."])
    def test_hostile_names_stay_inside(self, to: LabelFormat, name: str, tmp_path: Path) -> None:
        for path in write_sets([a_set(FULL, name=name, video=name)], to.name, tmp_path / "out"):
            assert path.resolve().is_relative_to((tmp_path / "out").resolve())
        assert_same(read_back(tmp_path / "out", to), FULL, to)

    def test_several_clips(self, to: LabelFormat, tmp_path: Path) -> None:
        sets = [a_set(FULL, name="first"), a_set(FULL[:5], name="second", n_frames=5)]
        write_sets(sets, to.name, tmp_path)
        found = {each.name: each for each in read_sets(tmp_path, options=SIZE)}
        assert found.keys() == {"first", "second"}
        assert_same(found["first"], FULL, to)
        assert_same(found["second"], FULL[:5], to)
        assert found["second"].labels.keys() == set(range(5))

    def test_existing_files_stay_unless_asked(self, to: LabelFormat, tmp_path: Path) -> None:
        paths = write_sets([a_set(FULL)], to.name, tmp_path)
        before = [path.read_bytes() for path in paths]
        with pytest.raises(OutputError, match="exists already: use --overwrite"):
            write_sets([a_set(FULL[:3], n_frames=3)], to.name, tmp_path)
        assert [path.read_bytes() for path in paths] == before
        write_sets([a_set(FULL)], to.name, tmp_path, overwrite=True)
        assert [path.read_bytes() for path in paths] == before

    def test_size_is_asked_for_where_it_is_needed(self, to: LabelFormat, tmp_path: Path) -> None:
        labels = a_set(FULL, wh=None)
        if not to.needs_wh:
            write_sets([labels], to.name, tmp_path)
            assert_same(read_back(tmp_path, to), FULL, to)
            return
        with pytest.raises(LabelError, match=r"rally: .* needs the picture's size: give --size WxH or --video"):
            write_sets([labels], to.name, tmp_path)

    def test_line_ends_and_byte_order_marks(self, to: LabelFormat, tmp_path: Path) -> None:
        for path in write_sets([a_set(FULL)], to.name, tmp_path):
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        assert_same(read_back(tmp_path, to), FULL, to)

    def test_a_zip_is_as_good_as_a_folder(self, to: LabelFormat, tmp_path: Path) -> None:
        write_sets([a_set(FULL)], to.name, tmp_path / "labels")
        packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "labels"))
        (found,) = read_sets(packed, options=SIZE)
        assert_same(found, FULL, to)


places = st.tuples(st.floats(-5, 1285), st.floats(-5, 725)).filter(lambda xy: xy != (-1, -1))
seen = st.sampled_from([Visibility.CLEAR, Visibility.HARD, Visibility.OCCLUDED])
states = st.lists(st.tuples(places, seen) | st.just((None, Visibility.ABSENT)), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


@pytest.mark.parametrize("to", FORMATS.values(), ids=FORMATS)
@examples(10)
@given(found=states, holes=st.sets(st.integers(0, 11)))
def test_any_labels_come_back(to: LabelFormat, scratch: Path, found: list, holes: set[int]) -> None:
    labels = [BallLabel(n, xy, visibility) for n, (xy, visibility) in enumerate(found) if n not in holes]
    shutil.rmtree(scratch / to.name, ignore_errors=True)
    write_sets([a_set(labels)], to.name, scratch / to.name, WriteOptions(unlabelled="drop"))
    if labels:
        (back,) = read_sets(scratch / to.name, to.name, SIZE)
        assert_same(back, labels, to)


def test_the_formats_are_those_of_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    for name, each in FORMATS.items():
        assert name == each.name
        assert f"`{name}`" in text
        assert each.title


def test_a_set_checks_itself() -> None:
    with pytest.raises(LabelError, match=r"frame 12 .* the clip has 12"):
        a_set([label(12, (1.0, 1.0))])
    with pytest.raises(LabelError, match="frame 3 under 4"):
        LabelSet("x", {4: label(3, None)})
    with pytest.raises(ValueError, match="event must be one of"):
        Extra(event="smash")
    labels = a_set(SPARSE)
    assert labels.unlabelled == [0, 2, 4, 6, 7, 8, 10, 11]
    assert [each.frame for each in labels.located()] == [1, 5, 9]
    assert repr(labels) == "LabelSet('rally', labels=4, n_frames=12, wh=(1280, 720))"


def test_the_place_that_means_no_ball_is_refused(tmp_path: Path) -> None:
    for name in FORMATS:
        with pytest.raises(LabelError, match=r"rally, frame 0: xy is \(-1, -1\), which means no ball in files"):
            write_sets([a_set([label(0, (-1.0, -1.0))], n_frames=1)], name, tmp_path)


def test_unknown_formats_and_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown label format 'xls', expected one of tracknetv2, .*cvat"):
        write_sets([a_set(FULL)], "xls", tmp_path)
    (tmp_path / "note.txt").write_text("hello\n")
    with pytest.raises(LabelError, match=r"note.txt: no label format that is known here; --from takes tracknetv2"):
        read_sets(tmp_path / "note.txt")
    with pytest.raises(LabelError, match="nowhere: no such file or folder"):
        read_sets(tmp_path / "nowhere")
    write_sets([a_set(FULL)], "mot", tmp_path / "both")
    write_sets([a_set(FULL)], "coco", tmp_path / "both")
    with pytest.raises(LabelError, match="could be coco, mot: choose with --from"):
        read_sets(tmp_path / "both")
    assert len(read_sets(tmp_path / "both", "mot")) == 1


def test_what_a_tool_interpolated_is_no_label_to_train_on(tmp_path: Path) -> None:
    extras = {6: Extra(keyframe=False), 7: Extra(keyframe=False)}
    (path,) = write_sets([a_set(FULL, extras=extras)], "tracknetv2", tmp_path)
    assert read_labels(path).keys() == {frame for frame in range(12) if frame not in (6, 7)}
    assert dict(read_labels(path, keyframes_only=False)) == {each.frame: each for each in FULL}


def test_provenance_and_streaks_travel_in_the_ball_csv(tmp_path: Path) -> None:
    extras = {5: Extra(source="model:accurate", score=0.75, blur=(6.5, -0.3), event="hit")}
    write_sets([a_set(FULL, extras=extras)], "tracknetv2", tmp_path)
    assert read_back(tmp_path, FORMATS["tracknetv2"]).extras == extras
    assert losses([a_set(FULL, extras=extras)], FORMATS["coco"]) == ["1 labels lose a blur streak"]


def test_the_box_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    write_sets([a_set(FULL)], "mot", tmp_path, WriteOptions(box_px=8))
    row = (tmp_path / "rally" / "gt" / "gt.txt").read_text().splitlines()[0]
    assert row == "1,1,-3.000,-3.000,8,8,1,-1,-1,-1"


def test_long_clips_are_cut_for_ground_truth_and_come_together_again(tmp_path: Path) -> None:
    labels = [label(frame, (float(frame % 1000), 5.0)) for frame in range(4100)]
    paths = write_sets([a_set(labels, n_frames=4100)], "ground_truth", tmp_path)
    assert sum(path.parent.name == "sequences" for path in paths) == 3
    assert len((tmp_path / "input.manifest").read_text().splitlines()) == 3
    (found,) = read_sets(tmp_path)
    assert dict(found.labels) == {each.frame: each for each in labels}


def test_at_most_ten_sequences_stand_in_a_manifest(tmp_path: Path) -> None:
    sets = [a_set(FULL, name=f"clip{n}") for n in range(12)]
    write_sets(sets, "ground_truth", tmp_path)
    assert len((tmp_path / "input.manifest").read_text().splitlines()) == 10
    assert len((tmp_path / "input1.manifest").read_text().splitlines()) == 2
    assert len(read_sets(tmp_path)) == 12


def test_labels_beyond_the_video_are_an_error(tmp_path: Path) -> None:
    for name in FORMATS:
        write_sets([a_set(FULL)], name, tmp_path / name)
        with pytest.raises(LabelError, match=r"a label is on frame 1[01], but the clip has 7 frames"):
            read_sets(tmp_path / name, name, dataclasses.replace(SIZE, n_frames=7))


def test_safe_names() -> None:
    assert safe_name("../../etc/passwd") == "_.._etc_passwd"
    assert safe_name("") == "clip"
    assert len(safe_name("ü" * 4000).encode()) <= 120


TRACKED = (
    "Frame,Visibility,X,Y,Time,Score,Source\n0,1,10.00,20.00,00:00:00.000,0.9000,model\n"
    "1,0,0.00,0.00,00:00:00.033,0.1000,none\n2,1,12.00,22.00,00:00:00.067,0.2000,filled\n"
)


def test_what_a_tracker_wrote_is_proposals_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    """Ours, and the published solution's, which has times only."""
    ours, other = tmp_path / "a.csv", tmp_path / "b.csv"
    ours.write_text(TRACKED)
    other.write_text("\n".join(",".join(line.split(",")[:5]) for line in TRACKED.splitlines()) + "\n")
    for path in (ours, other):
        (found,) = read_sets(path)
        assert (set(found.labels), found.unlabelled) == ({0, 2}, [1])
        assert not any(found.extra(frame).keyframe for frame in found.labels)
        assert len(found.notes) == 1
        assert "a tracker wrote it" in found.notes[0]
        (said,) = read_sets(path, None, ReadOptions(origin="labels"))
        assert (set(said.labels), said.labels[1].xy, said.extra(0).keyframe) == ({0, 1, 2}, None, True)
        assert said.notes == ()
    write_sets(read_sets(ours, None, ReadOptions(origin="labels")), "tracknetv2", tmp_path / "labels")
    assert set(read_labels(tmp_path / "labels" / "a_ball.csv")) == {0, 1}  # the filled one is interpolated
    write_sets(read_sets(ours), "tracknetv2", tmp_path / "proposals")
    assert read_labels(tmp_path / "proposals" / "a_ball.csv") == {}
    (again,) = read_sets(tmp_path / "proposals" / "a_ball.csv")
    assert not any(again.extra(frame).keyframe for frame in again.labels)


def test_any_file_is_proposals_where_the_user_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Frame,Visibility,X,Y\n0,1,10,20\n1,0,0,0\n")
    (found,) = read_sets(path, None, ReadOptions(origin="proposals"))
    assert (set(found.labels), found.length, found.extra(0).keyframe) == ({0}, 2, False)


def test_missing_absent_counts_up_to_the_last_row_where_nobody_tells_the_length(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Frame,Visibility,X,Y\n0,1,10,20\n3,1,10,20\n")
    (found,) = read_sets(path, None, ReadOptions(silence="absent"))
    assert found.unlabelled == []
