"""Ground Truth jobs in a bucket, label projects, label files with videos or pictures, buckets as source and target."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from rallytrace import load_clips, video
from rallytrace.errors import InputError, LabelError, VideoError
from rallytrace.features import load_data, load_features, prepare, read_label_sets, recordings
from rallytrace.files import write_text
from rallytrace.labels import ground_truth, write_labels
from rallytrace.labels.formats import FORMATS, render_sets, write_sets
from rallytrace.labels.sets import Extra, LabelSet, ReadOptions, Silence, WriteOptions
from rallytrace.types import Clip
from tests.storage.servers import Server, moto

from .clips import OPTIONS, WH, files, without_place


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with moto() as running:
        yield running


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A new bucket; the cache is one of this test."""
    for name, value in {**server.env, "XDG_CACHE_HOME": str(tmp_path / "xdg")}.items():
        monkeypatch.setenv(name, value)
    name = f"b{uuid.uuid4().hex[:12]}"
    server.client().create_bucket(Bucket=name)
    return name


def upload(server: Server, bucket: str, folder: Path, prefix: str = "") -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            key = prefix + path.relative_to(folder).as_posix()
            server.client().put_object(Bucket=bucket, Key=key, Body=path.read_bytes())


def as_set(clip: Clip) -> LabelSet:
    return LabelSet(clip.name, clip.labels, {}, WH, Fraction(30), video.probe(clip.video).n_frames, clip.video.name)


def jpegs(clip: Clip, folder: Path, name: str = "frame{:06}.jpg", first: int = 1) -> None:
    folder.mkdir(parents=True)
    with video.read(clip.video, colour="rgb") as reader:
        for frame in reader:
            (folder / name.format(frame.index + first)).write_bytes(video.encode_jpeg(frame.image, 95))


def job(bucket: str, clips: list[Clip], folder: Path) -> str:
    """A labelling job's folder with its pictures; the key of its output manifest."""
    sets = [as_set(clip) for clip in clips]
    options = WriteOptions("drop", prefix=f"s3://{bucket}/jobs/")
    for name, text in render_sets(sets, FORMATS["ground_truth"], options).items():
        (folder / "jobs" / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / "jobs" / name, text)
    for clip in clips:
        jpegs(clip, folder / "jobs" / "frames" / clip.name)
    return "jobs/rallytrace/manifests/output/output.manifest"


def test_shares_take_the_size_of_the_videos(tiny: Path, tmp_path: Path) -> None:
    for folder in ("raw", "labels"):
        (tmp_path / folder).mkdir()
    rows = "".join(f"{frame},1,0.5,0.25\n" for frame in range(3))
    for name in ("a", "b"):
        (tmp_path / "raw" / f"{name} 1.mp4").symlink_to(tiny / f"{name}.mp4")
        (tmp_path / "labels" / f"{name} 1.csv").write_text(f"Frame,Ball,x,y\n{rows}")
    found = recordings(tmp_path / "labels", videos=str(tmp_path / "raw"))
    assert [each.clip.name for each in found] == ["a 1", "b 1"]
    assert found[0].clip.labels[1].xy == (WH[0] / 2, WH[1] / 4)


@pytest.mark.parametrize("length", [2000, 6])
def test_a_ground_truth_job_in_a_bucket(
    server: Server, bucket: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """Of clips in one sequence each, and in three."""
    monkeypatch.setattr(ground_truth, "MAX_SEQUENCE", length)
    clips = load_clips(tiny)[:2]
    key = job(bucket, clips, tmp_path / "job")
    upload(server, bucket, tmp_path / "job")
    found = recordings(f"s3://{bucket}/{key}")
    prepare(found, f"s3://{bucket}/features", OPTIONS)
    prepared = load_features(f"s3://{bucket}/features")
    assert [clip.name for clip in prepared] == ["a", "b"]
    for clip, source in zip(prepared, clips, strict=True):
        assert {n: label.xy is None for n, label in clip.labels.items()} == {
            n: label.xy is None for n, label in source.labels.items()
        }
        assert not set(clip.labels) & ({3, 4, 5} if clip.name == "a" else set()), "unlabelled, not absent"
        for n, label in clip.labels.items():
            assert label.xy == (source.labels[n].xy and pytest.approx(source.labels[n].xy, abs=0.006))
        with video.read(source.video) as wanted, video.read_clip(clip) as reader:
            reader.give(wh=WH, colour="grey")
            pairs = list(zip(wanted, reader, strict=True))
        assert all(abs(a.image.astype(int) - b.image).mean() < 3 for a, b in pairs)
    keys = {each["Key"] for each in server.client().list_objects_v2(Bucket=bucket, Prefix="features/")["Contents"]}
    assert "features/manifest.json" in keys
    assert {Path(each).suffix for each in keys} == {".json", ".png", ".tar", ".parquet"}
    assert list(load_data([f"s3://{bucket}/features"])) == prepared


def test_a_job_without_its_pictures_says_which(server: Server, bucket: str, tiny: Path, tmp_path: Path) -> None:
    key = job(bucket, load_clips(tiny)[:1], tmp_path / "job")
    (tmp_path / "job" / "jobs" / "frames" / "a" / "frame000002.jpg").unlink()
    upload(server, bucket, tmp_path / "job")
    with pytest.raises(InputError, match=r"frames/a/frame000002\.jpg is no picture that exists"):
        prepare(f"s3://{bucket}/{key}", tmp_path / "set", OPTIONS)
    assert not files(tmp_path / "set")


def test_the_folder_of_a_job_as_the_service_leaves_it(server: Server, bucket: str, tiny: Path, tmp_path: Path) -> None:
    """In the bucket, as the published solution is given it, and a copy on this machine."""
    job(bucket, load_clips(tiny)[:1], tmp_path / "copy")
    upload(server, bucket, tmp_path / "copy")
    url = f"s3://{bucket}/jobs/rallytrace"
    (there,) = recordings(url)
    assert there.pictures[1] == f"s3://{bucket}/jobs/frames/a/frame000002.jpg"
    (here,) = recordings(tmp_path / "copy")
    assert here.pictures[1] == str(tmp_path / "copy" / "jobs" / "frames" / "a" / "frame000002.jpg")
    assert here.clip == there.clip
    assert [each.labels for each in read_label_sets(url)] == [here.clip.labels]
    server.client().delete_object(Bucket=bucket, Key="jobs/rallytrace/manifests/output/output.manifest")
    with pytest.raises(LabelError) as caught:
        recordings(url)
    assert str(caught.value).startswith(f"{url}: no clips found")
    assert "a finished Ground Truth job with manifests/output/output.manifest" in str(caught.value)


def test_errors_name_what_was_typed_and_no_path_of_the_cache(
    server: Server, bucket: str, tiny: Path, tmp_path: Path
) -> None:
    job(bucket, load_clips(tiny)[:1], tmp_path / "copy")
    said = "jobs/rallytrace/annotations/consolidated-annotation/output/0/SeqLabel.json"
    (tmp_path / "copy" / said).write_text("{}")
    upload(server, bucket, tmp_path / "copy")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"")
    (tmp_path / "clips" / "a_ball.csv").write_text("Frame,Visibility,X,Y\n0,1,ten,20\n")
    upload(server, bucket, tmp_path / "clips", "clips/")
    with pytest.raises(LabelError, match=f"^s3://{bucket}/{said}: neither tracking-annotations nor"):
        recordings(f"s3://{bucket}/jobs/rallytrace")
    table = f"^s3://{bucket}/clips/a_ball.csv, line 2: X is 'ten'"
    with pytest.raises(LabelError, match=table):
        recordings(f"s3://{bucket}/clips")
    with pytest.raises(LabelError, match=table):
        load_data([f"s3://{bucket}/clips"])
    with pytest.raises(LabelError, match=table):
        read_label_sets(f"s3://{bucket}/clips/a_ball.csv")
    (tmp_path / "clips" / "a_ball.csv").write_text("Frame,Visibility,X,Y\n0,1,10,20\n")
    upload(server, bucket, tmp_path / "clips", "clips/")
    with pytest.raises(VideoError, match=f"s3://{bucket}/clips/a.mp4"):
        prepare(f"s3://{bucket}/clips", tmp_path / "set", OPTIONS)


def local_job(folder: Path, frames: str, video: Path | None = None) -> Path:
    """A job that names all by absolute paths: two frames with a ball, one without an entry, one said to have none."""
    said = [
        {"frame-no": "0", "keypoints": [{"x": 10, "y": 20, "class-id": "0"}]},
        {"frame-no": "1", "keypoints": []},
        {"frame-no": "3", "keypoints": [{"x": 12, "y": 22, "class-id": "0"}]},
    ]
    listed = [{"frame-no": n, "frame": f"{n:04}.jpg"} for n in range(4)]
    folder.mkdir(parents=True, exist_ok=True)
    sequence = {"seq-no": 1, "prefix": frames, "number-of-frames": 4, "frames": listed}
    (folder / "seq 1.json").write_text(json.dumps(sequence))
    (folder / "labels.json").write_text(json.dumps({"tracking-annotations": said}))
    line = {"source-ref": str(folder / "seq 1.json"), "b-ref": (folder / "labels.json").as_uri()}
    (folder / "output.manifest").write_text(json.dumps(line) + "\n")
    return folder / "output.manifest"


@pytest.mark.parametrize("missing", [None, "absent"])
def test_one_reader_of_manifests_with_paths(tiny: Path, tmp_path: Path, missing: Silence | None) -> None:
    """`labels convert`, `prepare` and `prepare --videos` say the same of a frame without an entry, and note it."""
    folder = tmp_path / "job"
    jpegs(load_clips(tiny)[0], folder / "frames" / "a", "{:04}.jpg", first=0)
    manifest = local_job(folder, f"{folder}/frames/a/")
    options = ReadOptions(silence=missing)
    (alone,) = recordings(manifest, options=options)
    (beside,) = recordings(manifest, videos=str(folder / "frames"), options=options)
    (converted,) = read_label_sets(manifest, None, options)
    assert alone.clip.labels == beside.clip.labels == converted.labels
    assert set(converted.labels) == ({0, 1, 3} if missing is None else {0, 1, 2, 3})
    assert converted.labels[1].xy is None
    note = "a: 1 frames have no entry and stay unlabelled (--missing absent: no ball)"
    assert alone.notes == beside.notes == converted.notes == ((note,) if missing is None else ())
    assert alone.pictures == tuple(str(folder / "frames" / "a" / f"{n:04}.jpg") for n in range(4))


def test_what_a_manifest_may_name_is_below_it_or_the_videos(tiny: Path, tmp_path: Path) -> None:
    raw, job_folder = tmp_path / "raw", tmp_path / "job"
    jpegs(load_clips(tiny)[0], raw / "a", "{:04}.jpg", first=0)
    manifest = local_job(job_folder, f"{raw}/a/")
    with pytest.raises(LabelError, match=f"refers to {raw}/a/0000.jpg, which is not below {job_folder}: copy it"):
        recordings(manifest)
    assert len(recordings(manifest, videos=str(raw))[0].clip.labels) == 3
    moved = raw / "output.manifest"
    moved.write_text(manifest.read_text())
    with pytest.raises(LabelError, match=r"refers to file://.*, which is not below .*raw: copy it there"):
        read_label_sets(moved)
    with pytest.raises(LabelError, match="which is not below"):
        recordings(moved)
    assert len(recordings(moved, videos=str(tmp_path))) == 1


def test_options_of_label_files_are_not_dropped_unsaid(tiny: Path) -> None:
    with pytest.raises(InputError, match=r"--missing.* Visibility 0 is no ball, with -1 unlabelled"):
        recordings(tiny, options=ReadOptions(silence="absent"))


@pytest.mark.parametrize(
    "uri", ["file:///etc/passwd", "/etc/passwd", "s3://b/../../etc/passwd", "http://169.254.169.254/"]
)
def test_a_manifest_that_points_elsewhere_is_refused(tmp_path: Path, uri: str) -> None:
    manifest = tmp_path / "output.manifest"
    manifest.write_text(json.dumps({"source-ref": uri, "x-ref": uri, "x-ref-metadata": {}}) + "\n")
    with pytest.raises(LabelError, match="refers to"):
        recordings(manifest)


def test_from_bucket_to_bucket_equals_from_folder_to_folder(
    server: Server, bucket: str, tiny: Path, tmp_path: Path
) -> None:
    upload(server, bucket, tiny, "badminton/")
    found = recordings(f"s3://{bucket}/badminton")
    assert found[0].pictures == f"s3://{bucket}/badminton/a.mp4"
    prepare(found, f"s3://{bucket}/out/set", OPTIONS)
    prepare(tiny, tmp_path / "set", OPTIONS)
    stored = server.client().list_objects_v2(Bucket=bucket, Prefix="out/set/")["Contents"]
    objects = {each["Key"].removeprefix("out/set/"): each for each in stored}
    wanted = files(tmp_path / "set")
    assert set(objects) == set(wanted)
    for name in wanted:
        if not name.startswith("shards/") or not name.endswith(".json"):  # those know the bucket's etags
            body = server.client().get_object(Bucket=bucket, Key=f"out/set/{name}")["Body"].read()
            assert body == (tmp_path / "set" / name).read_bytes(), name
    before = {name: each["LastModified"] for name, each in objects.items()}
    server.client().delete_object(Bucket=bucket, Key="out/set/manifest.json")
    prepare(found, f"s3://{bucket}/out/set", OPTIONS)  # resumes
    again = server.client().list_objects_v2(Bucket=bucket, Prefix="out/set/shards")["Contents"]
    assert {each["Key"].removeprefix("out/set/"): each["LastModified"] for each in again}.items() <= before.items()


@pytest.mark.parametrize("form", ["cvat", "coco", "tracknetv2"])
def test_label_files_with_their_videos(tiny: Path, tmp_path: Path, form: str) -> None:
    clips = load_clips(tiny)
    sets = [as_set(clip) for clip in clips]
    write_sets(sets, form, tmp_path / "labels", WriteOptions("drop"))
    found = recordings(tmp_path / "labels", videos=str(tiny))
    assert [(each.clip.name, each.clip.match, each.clip.split) for each in found] == [
        ("a", "first", "train"), ("b", "second", "val"), ("c", "third", "train")
    ]  # fmt: skip
    for each, clip in zip(found, clips, strict=True):
        assert {n for n, label in each.clip.labels.items() if label.xy} == {
            n for n, label in clip.labels.items() if label.xy
        }
        assert each.pictures == str(clip.video)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "d.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="no video of clip 'a', but of d"):
        recordings(tmp_path / "labels", videos=str(tmp_path / "other"))


def test_interpolated_labels_are_left_out(tiny: Path, tmp_path: Path) -> None:
    clip = load_clips(tiny)[0]
    sets = LabelSet("a", clip.labels, {7: Extra(keyframe=False)}, WH, n_frames=15)
    write_sets([sets], "cvat", tmp_path / "labels", WriteOptions("drop"))
    found = recordings(tmp_path / "labels", videos=str(tiny))
    assert set(clip.labels) - set(found[0].clip.labels) == {7}


def test_folders_of_pictures(tiny: Path, tmp_path: Path) -> None:
    """TrackNet V1's layout."""
    clip = load_clips(tiny)[0]
    jpegs(clip, tmp_path / "games" / "game1" / "Clip1", "{:04}.jpg", first=0)
    (tmp_path / "games" / "game1" / "Clip2").mkdir()
    rows = ["file name,visibility,x-coordinate,y-coordinate,status"]
    seen = {n: each for n, each in clip.labels.items() if each.xy}
    rows += [f"{n:04}.jpg,{int(each.visibility)},{each.xy[0]},{each.xy[1]},0" for n, each in seen.items() if each.xy]
    (tmp_path / "games" / "game1" / "Clip1" / "Label.csv").write_text("\n".join(rows) + "\n")
    games = str(tmp_path / "games")
    prepare(recordings(games, videos=games), tmp_path / "set", OPTIONS)
    (found,) = load_features(tmp_path / "set")
    assert found.name == "game1_Clip1"
    assert {n: label.xy for n, label in found.labels.items()} == {n: each.xy for n, each in seen.items()}


def rallytrace(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rallytrace", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_label_project_by_the_command_line(tiny: Path, tmp_path: Path) -> None:
    from rallytrace.label import open_book
    from rallytrace.label.exchange import import_set
    from rallytrace.label.jobs import create_job
    from tests.label.conftest import member, ready_video

    clip = load_clips(tiny)[0]
    n_frames = video.probe(clip.video).n_frames or 0
    project = tmp_path / "club"
    project.mkdir()
    with open_book(project / "book.sqlite") as book:
        ada = member(book, "ada", "admin")
        added = ready_video(book, clip.video.name, n_frames, WH, clip.video)
        made = create_job(book, ada, name="rallies", video_ids=[added.id])
        import_set(book, ada, made.id, added.id, as_set(clip), "a.csv")
    done = rallytrace("prepare", project, "--out", tmp_path / "set", "--size", "256x144")
    assert done.returncode == 0, done.stderr
    assert "3 unlabelled" in done.stdout
    assert "5308 KB" in done.stdout
    (found,) = load_features(tmp_path / "set")
    assert (found.name, found.sport, found.labels) == ("a", "club", clip.labels)


def test_the_command_line_twice_makes_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    size = ("--size", "256x144", "--val", "0.3")
    one = rallytrace("prepare", tiny, "--out", tmp_path / "one", *size)
    two = rallytrace("prepare", tiny, "--out", tmp_path / "two", *size, "--workers", "2", "--json")
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert json.loads(two.stdout)["splits"]["total"]["clips"] == 3
    command = json.loads((tmp_path / "one" / "manifest.json").read_text())["provenance"]["command"]
    assert command == "rallytrace prepare badminton --size 256x144 --val 0.3"
    refused = rallytrace("prepare", tiny, "--out", tmp_path / "one", *size)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].endswith("use --overwrite, or another --out")
    evaluated = rallytrace("eval", "--data", tmp_path / "one", "--weights", "window3", "--split", "all", "--json")
    assert evaluated.returncode == 1
    assert "prepare the features for this network" in evaluated.stderr


def test_labels_outlive_the_way_through_parquet(tiny: Path, tmp_path: Path) -> None:
    """Any float64, kept to the bit."""
    clip = load_clips(tiny)[0]
    write_labels(tmp_path / "exact.csv", clip.labels)
    prepare(tiny, tmp_path / "set", OPTIONS)
    assert without_place(load_features(tmp_path / "set")[0]) == without_place(clip)
