"""The same bytes whoever makes them, nothing lost on the way, nothing half after a kill, clear refusals."""

from __future__ import annotations

import io
import json
import math
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rallytrace import Clip, load_clips, video
from rallytrace.dataset import NO_AUGMENTATION, Windows, cache_clip
from rallytrace.errors import InputError, OutputError, RallytraceError
from rallytrace.evaluate import evaluate_clips
from rallytrace.features import (
    PrepareOptions,
    Recording,
    load_data,
    load_features,
    prepare,
    processes,
    read_arrays,
    recordings,
    share_out,
    windows,
)
from rallytrace.heatmap import decode
from rallytrace.models import ModelSpec, get_spec
from rallytrace.runtime import load_network
from rallytrace.train import TrainOptions, train
from rallytrace.window import moments
from tests.networks import Brightest

from .clips import OPTIONS, WH, as_recordings, files, forget, make_folder, without_place


@pytest.fixture(scope="module")
def features(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The feature set of `tiny`. Read it only."""
    out = tmp_path_factory.mktemp("features") / "set"
    prepare(tiny, out, OPTIONS)
    return out


def test_what_comes_out_is_what_went_in(tiny: Path, features: Path) -> None:
    sources, found = load_clips(tiny), load_features(features)
    assert list(map(without_place, found)) == list(map(without_place, sources))
    for source, clip in zip(sources, found, strict=True):
        with video.read(source.video, wh=WH) as wanted, video.read_clip(clip) as reader:
            reader.give(wh=WH, colour="grey")
            assert (reader.info.wh, reader.info.fps) == (wanted.info.wh, wanted.info.fps)
            assert reader.info.n_frames == wanted.info.n_frames
            before, after = list(wanted), list(reader)
        for a, b in zip(before, after, strict=True):
            assert (a.index, a.pts_s) == (b.index, b.pts_s)
            assert np.abs(a.image.astype(int) - b.image).mean() < 1.5  # q90 loses no more than coding noise


def test_repeats_stay_repeats(rally: Clip, tmp_path: Path) -> None:
    """The noise of a JPEG would make new moments of them; they cost a header each, and the tracker sees the same."""
    spec = get_spec("rallynet", size_wh=(512, 288))
    prepare([Recording(rally, str(rally.video))], tmp_path / "set", PrepareOptions(spec))
    (clip,) = load_features(tmp_path / "set")
    seen = []
    for each in (rally, clip):
        with video.read_clip(each) as reader:
            reader.give(wh=(512, 288), colour="grey")
            seen.append([(n, scene) for n, scene, _ in moments(reader, lambda image: image)])
    assert seen[0] == seen[1]
    assert len(seen[0]) < 55
    assert reader.count == 60
    with tarfile.open(clip.video) as tar:
        assert sum(member.islnk() for member in tar) == 60 - len(seen[0])
    network = load_network("fast", threads=1)
    a, b = (evaluate_clips(network, [each]).clips[0] for each in (rally, clip))
    both = [(p.xy, q.xy) for p, q in zip(a.points, b.points, strict=True) if p.xy and q.xy]
    assert len(both) > 20
    assert np.median([math.dist(p, q) for p, q in both]) < 0.5


def test_the_same_bytes_from_one_process_and_from_two(tiny: Path, features: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    prepare(tiny, tmp_path / "two", OPTIONS, on=processes(2), on_unit=lambda done, total: steps.append((done, total)))
    assert files(tmp_path / "two") == files(features)
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_the_manifest_says_what_is_there(tiny: Path, features: Path) -> None:
    manifest = json.loads((features / "manifest.json").read_text())
    told = files(features)
    parts = [part for clip in manifest["clips"] for part in clip["files"].values()]
    assert len(parts) == 6
    for part in parts:
        assert told[part["path"]] == part["sha256"]
        assert (features / part["path"]).stat().st_size == part["bytes"]
    assert manifest["clips"][0]["source"] == {"name": "a.mp4", "sha256": files(tiny)["a.mp4"]}
    total = manifest["statistics"]["splits"]["total"]
    labels = [label for clip in load_clips(tiny) for label in clip.labels.values()]
    assert total["unlabelled"] == 3 == total["frames"] - len(labels)
    assert total["absent"] == sum(label.xy is None for label in labels)
    assert total["matches"] == 3
    assert manifest["statistics"]["reference_bytes_per_frame"] == 5308416


def test_a_shard_is_a_plain_tar_and_the_index_has_its_places(features: Path) -> None:
    from pyarrow import parquet

    rows = parquet.read_table(features / "shards" / "a.parquet").to_pylist()
    data = (features / "shards" / "a.tar").read_bytes()
    with tarfile.open(features / "shards" / "a.tar") as tar:
        names = tar.getnames()
        assert names == [*(f"{n:06}.jpg" for n in range(len(rows))), "clip.json"]
        for row in rows:
            member = tar.extractfile(names[row["frame"]])
            assert member
            assert member.read() == data[row["offset"] : row["offset"] + row["bytes"]]
        assert {(m.mtime, m.uid, m.gid, m.mode) for m in tar.getmembers()} == {(0, 0, 0, 0o644)}
    assert [row["frame"] for row in rows if row["visibility"] is None] == [3, 4, 5]
    assert all((row["x"] is None) == (not row["visibility"]) for row in rows)


SPECS = [OPTIONS.spec, get_spec("tracknet_v2", size_wh=WH), get_spec("tracknet_v1", size_wh=WH)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_windows_are_those_of_training(tiny: Path, tmp_path: Path, spec: ModelSpec) -> None:
    prepare(tiny, tmp_path / "set", PrepareOptions(spec))
    clip = load_features(tmp_path / "set")[0]
    cached = cache_clip(clip, spec, tmp_path / "cache")
    dataset = Windows([cached], spec, seed=0, length=10_000, augmentation=NO_AUGMENTATION)
    made = list(windows(clip, spec))
    assert len(made) == dataset.windows > 3
    trained = {sample["window"].numpy().tobytes(): sample for sample in (dataset[n] for n in range(dataset.windows))}
    unknown = 0
    for sample in made:
        other = trained[sample.window.tobytes()]
        np.testing.assert_array_equal(sample.heatmaps, other["heatmaps"].numpy())
        np.testing.assert_array_equal(sample.known, other["known"].numpy())
        unknown += int((~sample.known).sum())
        for n, heat, known in zip(sample.frames[-spec.outputs :], sample.heatmaps, sample.known, strict=True):
            label = clip.labels.get(n)
            assert (label is not None) == known
            if label and label.xy and heat.max() > 0.9:
                assert decode(heat, stride=spec.stride)[0] == pytest.approx(label.xy, abs=0.6)  # source px are model px
    assert unknown > 0


def test_arrays_equal_the_windows_rendered_on_the_fly(tiny: Path, tmp_path: Path) -> None:
    spec = get_spec("tracknet_v2", size_wh=(128, 72))
    prepare(tiny, tmp_path / "set", PrepareOptions(spec, arrays=True))
    clips, arrays = load_features(tmp_path / "set"), list(read_arrays(tmp_path / "set"))
    assert [name for name, _, _ in arrays] == [clip.name for clip in clips]
    for clip, (_, x, y) in zip(clips, arrays, strict=True):
        wanted = [sample for sample in windows(clip, spec) if sample.known[-1]]  # unlabelled is not "no ball"
        assert (x.dtype, y.dtype, x.shape, y.shape) == ("<f4", "<f4", (len(wanted), 9, 72, 128), (len(wanted), 72, 128))
        for sample, a, b in zip(wanted, x, y, strict=True):
            np.testing.assert_array_equal(np.rint(a * 255).astype(np.uint8), sample.window)
            np.testing.assert_array_equal(b, sample.heatmaps[-1])
        assert 0 <= x.min() <= x.max() <= 1
    assert (tmp_path / "set" / "arrays" / "x_data_0.npy").is_file()


def test_train_and_eval_need_no_videos(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "badminton")
    spec = get_spec("rallynet", size_wh=WH, widths=(4, 8, 8, 8))
    prepare(source, tmp_path / "set", PrepareOptions(spec))
    before = evaluate_clips(Brightest(), load_clips(source)).total
    shutil.rmtree(source)
    clips = load_features(tmp_path / "set")
    quick = TrainOptions(steps=2, batch=2, log_every=1, save_every=1, val_every=2, workers=0, warmup_steps=1)
    best = train(clips, spec, tmp_path / "run", quick)
    assert (best / "model.json").is_file() or any(best.iterdir())
    with pytest.raises(InputError, match=r"grey pictures of 256x144, but grey ones of 512x288 are needed"):
        evaluate_clips(Brightest(), clips)
    small = Brightest(replace(Brightest().spec, size_wh=WH))
    after = evaluate_clips(small, clips).total
    assert next(iter(after.counts.values())).total == next(iter(before.counts.values())).total


def test_kills_leave_nothing_half_and_lose_nothing(tmp_path: Path) -> None:
    """kill -9 at random moments of one job on two processes, over and over in one folder."""
    source = make_folder(tmp_path / "badminton", count=5, seconds=0.3)
    wanted_folder, out = tmp_path / "wanted", tmp_path / "out"
    prepare(source, wanted_folder, OPTIONS)
    wanted = files(wanted_folder)
    code = (
        "import sys; from tests.features.clips import OPTIONS; from rallytrace.features import prepare; "
        "print('ready', flush=True); prepare(sys.argv[1], sys.argv[2], OPTIONS, overwrite=True); print('done')"
    )
    draw, kills, ended = random.Random(6), 0, 0
    while kills < 12:
        job = subprocess.Popen([sys.executable, "-c", code, source, out], stdout=subprocess.PIPE, text=True)
        assert job.stdout
        assert job.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0, 0.25))
        job.send_signal(signal.SIGKILL)
        said = job.communicate()[0]
        kills, ended = kills + 1, ended + ("done" in said)
        seen = {name: sum_ for name, sum_ in files(out).items() if not Path(name).name.startswith(".")}
        assert seen.items() <= wanted.items(), "a file under its final name that is not whole"
        if "manifest.json" in seen:
            assert seen == wanted
            for path in draw.sample(sorted((out / "shards").iterdir()), 8):
                path.unlink()
    assert ended < kills
    stamps = {path.name: path.stat().st_mtime_ns for path in (out / "shards").glob("*.json")}
    prepare(source, out, OPTIONS, overwrite=True)
    assert files(out) == wanted
    for name, stamp in stamps.items():
        whole = all((out / "shards" / name).with_suffix(suffix).exists() for suffix in (".tar", ".parquet"))
        assert whole
        assert stamp <= (out / "shards" / name).stat().st_mtime_ns


def test_a_rerun_makes_only_what_is_missing_or_changed(tiny: Path, features: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(features, out)
    with pytest.raises(OutputError, match="has a feature set already: use --overwrite"):
        prepare(tiny, out, OPTIONS)
    source = tmp_path / "badminton"
    shutil.copytree(tiny, source)
    forget(source / "b_ball.csv", 0)
    (out / "manifest.json").unlink()
    (out / "shards" / "c.parquet").unlink()
    for suffix in (".tar", ".json"):
        (out / "shards" / "stranger").with_suffix(suffix).write_bytes(b"left by another job")
    for name in ("shards/.a.tar.77.partial", ".manifest.json.77.partial", ".contact_sheet.png.77.partial"):
        (out / name).write_bytes(b"left by a killed one")
    stamps = {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    prepare(source, out, OPTIONS)
    made = {path.name for path in (out / "shards").iterdir() if path.stat().st_mtime_ns != stamps.get(path.name)}
    assert {Path(name).stem for name in made} == {"b", "c"}
    assert set(files(out)) == set(files(features))
    assert 0 not in load_features(out)[1].labels


def test_two_folders_with_a_clip_of_one_name_are_refused(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "tennis")
    with pytest.raises(InputError, match=r"2 clips of .*tennis are called a: rename"):
        load_data([tiny, tmp_path / "tennis"])


def test_what_is_nobody_s_clip_stays(tiny: Path, tmp_path: Path) -> None:
    mine = ["shards/imagenet-000.tar", "shards/old/notes.json", "arrays/2019/thesis.npy", ".draft.md.partial"]
    for name in mine:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    prepare(tiny, tmp_path, OPTIONS)
    prepare(tiny, tmp_path, OPTIONS, overwrite=True)
    assert all((tmp_path / name).read_text() == "mine" for name in mine)


def test_splits_are_by_match(tiny: Path, tmp_path: Path) -> None:
    clips = [
        replace(each, clip=replace(each.clip, name=f"{each.clip.name}{n}"))
        for each in as_recordings(tiny)
        for n in "12"
    ]
    for seed in range(5):
        split = share_out(clips, {"val": 0.3, "test": 0.2}, seed)
        of = {each.clip.match: each.clip.split for each in split}
        assert sorted(of.values()) == ["test", "train", "val"]
        assert all(each.clip.split == of[each.clip.match] for each in split)
        assert split == share_out(clips, {"val": 0.3, "test": 0.2}, seed)
    assert len({str([each.clip.split for each in share_out(clips, {"val": 0.3}, s)]) for s in range(9)}) > 1
    with pytest.raises(InputError, match="a split is by match"):
        share_out(clips[:1], {"val": 0.5}, 0)
    mixed = [replace(each, clip=replace(each.clip, split=split)) for each, split in zip(clips, "tttvvv", strict=True)]
    with pytest.raises(InputError, match="is in two splits"):
        prepare(mixed, tmp_path / "set", OPTIONS)
    assert not (tmp_path / "set").exists()


def tar_of(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind
            info.linkname = "/etc/passwd" if kind != tarfile.REGTYPE else ""
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "path traversal": (
        lambda _: tar_of(("../../etc/cron.d/x", b"x")),
        r"'\.\./\.\./etc/cron\.d/x', expected 000000.jpg",
    ),
    "absolute path": (lambda _: tar_of(("/etc/x", b"x")), "nothing is unpacked"),
    "symlink": (lambda _: tar_of(("000000.jpg", b""), kind=tarfile.SYMTYPE), "no plain file"),
    "link that leads out": (lambda _: tar_of(("000000.jpg", b""), kind=tarfile.LNKTYPE), "nothing is unpacked"),
    "no picture": (lambda _: tar_of(("000000.jpg", b"<svg/>"), ("clip.json", b"{}")), "cannot be read as a shard"),
    "cut off": (lambda whole: whole[: len(whole) // 2], "cut off"),
    "nothing": (lambda _: b"", "no shard of pictures"),
    "not a tar": (lambda _: b"MZ" * 4000, "no shard of pictures"),
    "bad times": (lambda whole: whole.replace(b'"pts_s": [0.0, ', b'"pts_s": [9e9, '), "does not fit"),
    "huge": (lambda whole: whole.replace(b'"wh": [256, 144]', b'"wh": [999999,9]'), "size 999999x9"),
    "lying size": (lambda whole: whole.replace(b'"wh": [256, 144]', b'"wh": [255, 144]'), "expected .255, 144."),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_shard_is_one_clear_error(features: Path, tmp_path: Path, what: str) -> None:
    spoil, message = HOSTILE[what]
    path = tmp_path / "a.tar"
    path.write_bytes(spoil((features / "shards" / "a.tar").read_bytes()))
    with pytest.raises(RallytraceError, match=message) as raised, video.read(path) as reader:
        list(reader)
    assert "\n" not in str(raised.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.tar"]


def spoil_offsets(out: Path) -> None:
    from pyarrow import array, parquet

    path = out / "shards" / "a.parquet"
    table = parquet.read_table(path)
    offsets = [offset + 512 for offset in table["offset"].to_pylist()]
    table = table.set_column(table.schema.get_field_index("offset"), "offset", array(offsets))
    parquet.write_table(table, path)
    told = json.loads((out / "manifest.json").read_text())
    index = told["clips"][0]["files"]["index"]
    index["bytes"], index["sha256"] = path.stat().st_size, files(out)["shards/a.parquet"]
    (out / "manifest.json").write_text(json.dumps(told))


def spoil_picture(out: Path) -> None:
    data = bytearray((out / "shards" / "a.tar").read_bytes())
    data[700] ^= 1
    (out / "shards" / "a.tar").write_bytes(data)


def edit(old: str, new: str) -> Callable[[Path], None]:
    def spoil(out: Path) -> None:
        text = (out / "manifest.json").read_text()
        assert old in text
        (out / "manifest.json").write_text(text.replace(old, new, 1))

    return spoil


SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "lying offsets": (spoil_offsets, "its offsets are not those of its shard"),
    "wrong checksum": (spoil_picture, r"a\.tar is damaged or was replaced \(SHA-256"),
    "labels replaced": (lambda out: shutil.copy(out / "shards/b.parquet", out / "shards/a.parquet"), "copy it again"),
    "shard gone": (lambda out: (out / "shards" / "a.tar").unlink(), "does not exist"),
    "path that leads out": (edit('"shards/a.tar"', '"../../secret.tar"'), "none of a feature set's"),
    "name that leads out": (edit('"name": "a"', '"name": "../a"'), "none of a feature set's"),
    "another format": (edit("features 1", "features 9"), "expected 'rallytrace features 1'"),
    "not JSON": (lambda out: (out / "manifest.json").write_text("{"), "is no manifest"),
    "a list": (lambda out: (out / "manifest.json").write_text("[]"), "is no manifest"),
    "two splits": (edit('"match": "second"', '"match": "first"'), "is in two splits"),
    "more frames": (edit('"frames": 1', '"frames": 91'), "expected 91"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_set_is_one_clear_error(features: Path, tmp_path: Path, what: str) -> None:
    out = tmp_path / "set"
    shutil.copytree(features, out)
    spoil, message = SPOILED[what]
    spoil(out)

    def use() -> None:
        for clip in load_features(out):
            cache_clip(clip, OPTIONS.spec, tmp_path / "cache")

    with pytest.raises(RallytraceError, match=message) as raised:
        use()
    assert "\n" not in str(raised.value)


def test_labels_of_another_clip_leave_no_shard(tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "badminton"
    shutil.copytree(tiny, source)
    with open(source / "a_ball.csv", "a") as file:
        file.write("500,1,3,4\n")
    with pytest.raises(InputError, match="a label is on frame 500"):
        prepare(recordings(source), tmp_path / "set", OPTIONS)
    assert not files(tmp_path / "set")


def test_a_video_that_is_gone_is_one_clear_error(tiny: Path, tmp_path: Path) -> None:
    """As where a label project's videos were moved."""
    clips = [replace(each, pictures=f"{each.pictures}.gone") for each in as_recordings(tiny)]
    with pytest.raises(InputError, match="does not exist, but the labels are of it"):
        prepare(clips, tmp_path / "set", OPTIONS, on=processes(2))
    assert not files(tmp_path / "set")
