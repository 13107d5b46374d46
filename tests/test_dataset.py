"""Image and points move together; samples depend on nothing but their number; a split is by match."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rallytrace.dataset import NO_AUGMENTATION, Augmentation, CachedClip, Windows, cache_clip
from rallytrace.errors import InputError
from rallytrace.geometry import FrameTransform
from rallytrace.heatmap import decode
from rallytrace.labels import check_split
from rallytrace.models import get_spec
from rallytrace.types import BallLabel, Clip, Visibility
from rallytrace.window import Background, WindowMaker, backgrounds

from .networks import dot_frame

SPEC = get_spec("rallynet", size_wh=(512, 288))


def flying_dot(
    n: int = 40, *, missing: frozenset[int] = frozenset(), unlabelled: frozenset[int] = frozenset()
) -> CachedClip:
    """A dot that flies through a clip of (288, 512), and its labels in pixels of a 1280x720 source."""
    transform = FrameTransform.fit_area((1280, 720), SPEC.size_wh)
    places = [None if i in missing else (60.2 + 9.7 * i, 140.0 + 60 * np.sin(i / 5)) for i in range(n)]
    labels: list[BallLabel | None] = [
        None
        if i in unlabelled
        else BallLabel(i, None if p is None else transform.to_source(p), Visibility(p is not None))
        for i, p in enumerate(places)
    ]
    clip = Clip("dot", Path("dot.mp4"), {}, "m", "test", "train")
    pictures = np.stack([dot_frame(p) for p in places])
    ground = np.full((1, 288, 512), 30, np.uint8)
    return CachedClip(clip, pictures, ground, np.zeros(n, np.int64), np.zeros(n, np.int64), labels, transform)


def windows(augmentation: Augmentation, clip: CachedClip | None = None, *, seed: int = 0) -> Windows:
    return Windows([clip or flying_dot()], SPEC, seed=seed, length=10_000, augmentation=augmentation)


def bright_spot(picture: torch.Tensor) -> tuple[float, float]:
    """Centroid of what is brighter than the ground: an independent measurement of where the dot went."""
    x = picture.numpy().astype(float)
    x = np.where(x > np.median(x) + 40, x - np.median(x), 0)
    rows, cols = np.indices(x.shape)
    return float((x * cols).sum() / x.sum()), float((x * rows).sum() / x.sum())


GEOMETRY_ONLY = dataclasses.replace(Augmentation(), gain=0, noise=0, blur=0, jpeg=0, repeat=0, blend=0)


@pytest.mark.parametrize(
    "augmentation",
    [
        NO_AUGMENTATION,
        dataclasses.replace(NO_AUGMENTATION, flip=1.0),
        dataclasses.replace(NO_AUGMENTATION, reverse=1.0),
        dataclasses.replace(NO_AUGMENTATION, repeat=1.0),
        dataclasses.replace(NO_AUGMENTATION, crop_wh=(256, 160), on_ball=1.0),
        dataclasses.replace(NO_AUGMENTATION, crop_wh=(256, 160), on_ball=1.0, scale=(0.75, 0.76)),
        dataclasses.replace(NO_AUGMENTATION, crop_wh=(256, 160), on_ball=1.0, scale=(1.32, 1.33)),
        dataclasses.replace(NO_AUGMENTATION, crop_wh=(256, 160), on_ball=1.0, shake=1.0),
        GEOMETRY_ONLY,
    ],
    ids=["none", "flip", "reverse", "repeat", "crop", "shrink", "enlarge", "shake", "all"],
)
def test_the_target_lies_on_the_dot(augmentation: Augmentation) -> None:
    dataset, checked = windows(augmentation), 0
    for number in range(60):
        sample = dataset[number]
        h, w = sample["window"].shape[1:]
        for t in range(SPEC.frames):
            heat, offsets = sample["heatmaps"][t].numpy(), sample["offsets"][t].numpy()
            if heat.max() < 0.5:
                continue
            (x, y), _ = decode(heat, offsets, stride=SPEC.stride)
            if 8 < x < w - 9 and 8 < y < h - 9:  # the whole dot is inside
                assert bright_spot(sample["window"][t]) == pytest.approx((x, y), abs=0.25)
                checked += 1
    assert checked > 100


def numbered(n: int) -> CachedClip:
    """Picture i is filled with i, and its background with 100 + i: a sample says where each came from."""
    clip = flying_dot(n)
    pictures = np.repeat(np.arange(n, dtype=np.uint8), 32 * 64).reshape(n, 32, 64)
    return dataclasses.replace(clip, pictures=pictures, medians=pictures + np.uint8(100), median_of=np.arange(n))


@pytest.mark.parametrize("changed", [{}, {"reverse": 1.0}, {"repeat": 5.0}], ids=["plain", "reverse", "repeat"])
def test_the_background_is_that_of_the_middle_picture(changed: dict[str, float]) -> None:
    dataset, starts = windows(dataclasses.replace(NO_AUGMENTATION, **changed), numbered(40)), set()
    for number in range(36):
        values = [int(plane[0, 0]) for plane in dataset[number]["window"]]
        start = min(values) if "repeat" not in changed else values[0]
        assert values[-1] == 100 + start + 2
        starts.add(start)
    assert starts == set(range(36))


def test_training_sees_the_windows_that_tracking_sees() -> None:
    """Picture for picture and with the same background, for every window of a scene."""
    stack = np.random.default_rng(0).integers(0, 256, (220, 16, 16), dtype=np.uint8)
    medians, median_of = backgrounds(stack)
    clip = dataclasses.replace(flying_dot(220), pictures=stack, medians=medians, median_of=median_of)
    maker = WindowMaker(SPEC.frames, step=1, outputs=SPEC.frames, background=Background())
    made = [window for picture in stack for window in maker.push(picture)] + maker.flush()
    served = {window.stack.tobytes() for window in made}
    dataset = windows(NO_AUGMENTATION, clip)
    assert len(served) == dataset.windows == 216
    assert {dataset[number]["window"].numpy().tobytes() for number in range(216)} == served


def test_an_erased_ball_shows_the_background_of_the_middle_picture() -> None:
    clip = numbered(40)
    labels = [BallLabel(i, clip.transform.to_source((32.0, 16.0))) for i in range(40)]
    dataset = windows(dataclasses.replace(NO_AUGMENTATION, erase=1.0), dataclasses.replace(clip, labels=labels))
    for number in range(36):
        sample = dataset[number]["window"]
        assert sample[:-1, 16, 32].tolist() == [int(sample[-1, 0, 0])] * SPEC.frames
        assert [int(plane[0, 0]) + 100 for plane in sample[:-1]] == [int(sample[-1, 0, 0]) + i for i in range(-2, 3)]


def test_pictures_without_a_ball_have_no_target() -> None:
    clip = flying_dot(missing=frozenset(range(0, 40, 2)))
    for number in range(30):
        sample = windows(NO_AUGMENTATION, clip)[number]
        for t in range(SPEC.frames):
            has_dot = int(sample["window"][t].max()) > 100
            assert (float(sample["heatmaps"][t].max()) > 0.5) == has_dot
            assert bool(sample["near"][t].any()) == has_dot


def test_unlabelled_is_not_absent() -> None:
    sample = windows(NO_AUGMENTATION, flying_dot(unlabelled=frozenset({3, 4, 5})))
    known = {int(n) for number in range(len(range(36))) for n in sample[number]["known"].sum(0, keepdim=True)}
    assert min(known) < SPEC.frames  # windows over frames 3..5 say so
    assert max(known) == SPEC.frames


def test_a_window_without_any_label_is_not_drawn() -> None:
    clip = flying_dot(40, unlabelled=frozenset(range(10, 40)))
    assert windows(NO_AUGMENTATION, clip).windows == 10
    with pytest.raises(InputError, match="no window of 5 labelled frames"):
        windows(NO_AUGMENTATION, flying_dot(20, unlabelled=frozenset(range(20))))


def test_windows_do_not_cross_scenes() -> None:
    clip = flying_dot(40)
    split = dataclasses.replace(clip, scene_of=np.repeat([0, 1], 20))
    assert windows(NO_AUGMENTATION, split).windows == 2 * 16


def test_samples_are_a_pure_function_of_their_number() -> None:
    a, b = windows(Augmentation(jpeg=0), seed=3), windows(Augmentation(jpeg=0), seed=3)
    for number in (0, 7, 35, 36, 4000):
        b[number + 1]  # what was drawn before must not matter
        for name, value in a[number].items():
            assert torch.equal(value, b[number][name])
    assert not torch.equal(a[0]["window"], windows(Augmentation(jpeg=0), seed=4)[0]["window"])


def test_an_epoch_draws_every_window_once() -> None:
    dataset = windows(NO_AUGMENTATION)
    for epoch in range(2):
        firsts = {round(bright_spot(dataset[epoch * 36 + k]["window"][0])[0]) for k in range(36)}
        assert len(firsts) == 36


def test_a_blended_picture_has_its_ball_between_the_two_images_of_it() -> None:
    """The weighted middle, which is also the centroid of the two fainter dots."""
    dataset, blended = windows(dataclasses.replace(NO_AUGMENTATION, blend=1.0)), 0
    for number in range(30):
        sample = dataset[number]
        for t in range(SPEC.frames):
            x = sample["window"][t].numpy().astype(float) - 30.0
            rows, columns = np.indices(x.shape)
            (u, v), _ = decode(sample["heatmaps"][t].numpy(), sample["offsets"][t].numpy(), stride=SPEC.stride)
            if 20 < u < 490:
                assert ((x * columns).sum() / x.sum(), (x * rows).sum() / x.sum()) == pytest.approx((u, v), abs=0.5)
                blended += x.max() < 0.85 * (sample["window"].numpy().max() - 30)
    assert blended > 10


def test_an_erased_ball_leaves_only_ground_and_no_target() -> None:
    dataset = windows(dataclasses.replace(NO_AUGMENTATION, erase=1.0))
    for number in range(36):
        sample = dataset[number]
        assert int(sample["window"].max()) <= 34  # the ground is 30, the dot 200 and more
        assert float(sample["heatmaps"].max()) == 0
        assert bool(sample["known"].all())


@pytest.mark.parametrize("xy", [(2.0, 2.0), (61.0, 2.0), (2.0, 29.0), (61.0, 29.0)])
def test_a_ball_at_the_picture_s_edge_is_erased_too(xy: tuple[float, float]) -> None:
    clip = numbered(40)
    column, row = int(xy[0]), int(xy[1])
    clip.pictures[:, row - 1 : row + 2, column - 1 : column + 2] = 255
    labels = [BallLabel(i, clip.transform.to_source(xy)) for i in range(40)]
    dataset = windows(dataclasses.replace(NO_AUGMENTATION, erase=1.0), dataclasses.replace(clip, labels=labels))
    assert all(int(dataset[number]["window"].max()) < 255 for number in range(36))


def test_nothing_is_erased_where_a_ball_may_be_left() -> None:
    clip = flying_dot(unlabelled=frozenset(range(3, 40, 5)))  # one in each window
    dataset = windows(dataclasses.replace(NO_AUGMENTATION, erase=1.0), clip)
    assert all(int(dataset[number]["window"].max()) > 100 for number in range(36))


def test_a_shaken_camera_moves_what_stands_still_against_the_background() -> None:
    still = np.random.default_rng(0).integers(0, 255, (288, 512), np.uint8)
    clip = flying_dot()
    clip = dataclasses.replace(clip, pictures=np.stack([still] * len(clip)), medians=still[None])
    crop = dataclasses.replace(NO_AUGMENTATION, crop_wh=(256, 160))
    for shake, moved in ((0.0, 0), (1.0, 15)):
        dataset = windows(dataclasses.replace(crop, shake=shake), clip)
        seen = [sample["window"] for sample in map(dataset.__getitem__, range(20))]
        assert sum(any(not torch.equal(p, w[-1]) for p in w[:-1]) for w in seen) >= moved
        assert shake or all(torch.equal(w[0], w[-1]) for w in seen)


@pytest.mark.parametrize("axis", [0, 1], ids=["across", "down"])
def test_the_background_stays_where_the_middle_picture_is_aimed_at(axis: int) -> None:
    """A camera pans and trembles around the middle picture; the background is of the camera that stands still.

    Each pixel holds its own column or row, so that a crop says where it was cut: the steady pan shows in the outer
    pictures, which lie on either side of the background, and the middle one trembles by some pixels around it.
    """
    places = np.indices((160, 200), np.uint8)[1 - axis]
    clip = dataclasses.replace(flying_dot(), pictures=np.stack([places] * 40), medians=places[None])
    crop = dataclasses.replace(NO_AUGMENTATION, crop_wh=(64, 48), on_ball=0.0, shake=1.0)
    drifts = []
    for number in range(200):
        corners = windows(crop, clip)[number]["window"][:, 0, 0].numpy().astype(int)
        if 40 <= corners[-1] <= 90:  # no crop is held back by the picture's edge
            drifts.append(corners[:-1] - corners[-1])
    moved = np.array(drifts)
    assert len(moved) > 40
    assert (abs(moved[:, 2]) <= 5).all()
    assert 0.15 < (moved[:, 2] != 0).mean() < 0.4  # 0.27: half a pixel or more, where sigma is between 0 and 1
    pans = abs(moved[:, 4] - moved[:, 0]) > 8
    assert pans.sum() > 4
    assert abs(moved[pans] + moved[pans][:, ::-1]).max() <= 6  # as far to the left as to the right


def test_a_crop_may_be_the_whole_picture() -> None:
    whole = windows(dataclasses.replace(NO_AUGMENTATION, crop_wh=(512, 288), on_ball=0.5))
    plain = windows(NO_AUGMENTATION)
    starts = {plain[number]["window"].numpy().tobytes() for number in range(36)}
    assert {whole[number]["window"].numpy().tobytes() for number in range(36)} == starts


def test_noise_and_tone_leave_the_dot_in_place_and_the_background_clean() -> None:
    dataset = windows(dataclasses.replace(NO_AUGMENTATION, noise=4.0, gain=0.2))
    sample = dataset[3]
    background = sample["window"][SPEC.frames]
    assert background.float().std() == 0  # a median has no sensor noise
    assert sample["window"][0].float().std() > 1


def test_tone_goes_both_ways_and_is_one_for_a_window() -> None:
    """The ground of 30 becomes darker and brighter; brightness alone may add or take 0.3 * 128 = 38."""
    dataset = windows(dataclasses.replace(NO_AUGMENTATION, gain=0.3))
    grounds = np.array([dataset[number]["window"][:, 0, 0].numpy() for number in range(30)], int)
    assert (grounds == grounds[:, :1]).all()
    assert grounds.min() < 20
    assert grounds.max() > 50


def test_blur_spreads_one_pixel_evenly() -> None:
    """The kernel is (s, 1, s) / (1 + 2 s) along rows and along columns, with s from exp(-0.5 / 0.4^2) to exp(-0.5)."""
    pictures = np.zeros((40, 32, 64), np.uint8)
    pictures[:, 16, 20] = 250
    clip = dataclasses.replace(flying_dot(), pictures=pictures, medians=np.full((1, 32, 64), 90, np.uint8))
    dataset = windows(dataclasses.replace(NO_AUGMENTATION, blur=1.0), clip)
    for number in range(10):
        *seen, background = dataset[number]["window"].numpy().astype(float)
        spot = seen[0][15:18, 19:22]
        assert seen[0].sum() == spot.sum() == pytest.approx(250, abs=4)
        side = spot[1, 0] / spot[1, 1]
        assert math.exp(-0.5 / 0.4**2) - 0.01 < side < math.exp(-0.5) + 0.01
        kernel = np.array([side, 1, side]) / (1 + 2 * side)
        assert spot == pytest.approx(250 * np.outer(kernel, kernel), abs=2)
        assert (background == 90).all()  # up to the edge


def test_jpeg_augmentation_runs_and_stays_close() -> None:
    coded = windows(dataclasses.replace(NO_AUGMENTATION, jpeg=1.0))[3]["window"].float()
    plain = windows(NO_AUGMENTATION)[3]["window"].float()
    assert coded.shape == plain.shape
    assert 0 < (coded - plain).abs().mean() < 4


def test_rgb_windows() -> None:
    clip = flying_dot()
    pictures, medians = (np.repeat(planes[..., None], 3, -1) for planes in (clip.pictures, clip.medians))
    rgb = dataclasses.replace(clip, pictures=pictures, medians=medians)
    spec = get_spec("tracknet_v2")
    sample = Windows([rgb], spec, seed=0, length=10, augmentation=Augmentation(jpeg=1.0))[0]
    assert sample["window"].shape == (9, 160, 256)
    assert sample["heatmaps"].shape == (3, 160, 256)


def clip_of(name: str, match: str, split: str) -> Clip:
    return Clip(name, Path(f"{name}.mp4"), {}, match, "badminton", split)


def test_a_match_in_two_splits_is_refused() -> None:
    check_split([clip_of("a", "Osaka", "val"), clip_of("b", "Osaka", "val"), clip_of("c", "Tokyo", "train")])
    with pytest.raises(InputError, match=r"match 'Osaka' is in two splits \(a in 'train', b in 'val'\)"):
        check_split([clip_of("a", "Osaka", "train"), clip_of("b", "Osaka", "val")])


def test_cache_holds_what_the_tracker_sees(rally: Clip, tmp_path: Path) -> None:
    """Repeats left out, labels of the first of equal frames, and the same arrays when called again."""
    cached = cache_clip(rally, SPEC, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = cache_clip(rally, SPEC, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert (cached.pictures == again.pictures).all()
    assert cached.pictures.shape[1:] == (288, 512)
    assert len(cached) < len(rally.labels)  # the clip has repeats
    assert len(cached) == len(cached.labels) == len(cached.median_of)
    frames = [label.frame for label in cached.labels if label]
    assert frames == sorted(set(frames))
    assert cached.medians.shape[0] == cached.median_of.max() + 1


def test_caches_of_other_sizes_and_dotted_names_do_not_meet(rally: Clip, tmp_path: Path) -> None:
    dotted = dataclasses.replace(rally, name="match.1.final")
    large = cache_clip(dotted, SPEC, tmp_path)
    small = cache_clip(dotted, get_spec("rallynet", size_wh=(256, 144)), tmp_path)
    assert (large.pictures.shape[1:], small.pictures.shape[1:]) == ((288, 512), (144, 256))
    assert len(list(tmp_path.iterdir())) == 6
