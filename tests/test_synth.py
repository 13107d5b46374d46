"""The synthetic rally: labels that agree with the pixels, flight that agrees with physics, the same for a seed."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from rallytrace.errors import InputError, OutputError
from rallytrace.labels import read_labels
from rallytrace.synth import RallyOptions, make_clip, render_rally
from rallytrace.synth.court import BALL_M, SPORTS, Camera, Floats, place_camera
from rallytrace.synth.flight import GRAVITY, STEP_S, Rally, at, fly, play
from rallytrace.synth.render import Renderer, _frames, expose
from rallytrace.types import BallLabel, Visibility
from rallytrace.video import read

SMALL = RallyOptions(wh=(320, 180), seconds=1.5, seed=5)
SPORT_NAMES = ("badminton", "tennis")


def options_of(sport: str, **changes: object) -> RallyOptions:
    return replace(SMALL, sport=sport, **changes)  # type: ignore[arg-type]


def still_rally(ball: tuple[float, float, float], velocity: tuple[float, float, float] = (0, 0, 0)) -> Rally:
    """Two players who stand, a second long; the ball passes `ball` at half a second."""
    times = np.arange(241) * STEP_S - 0.5
    feet = np.broadcast_to(np.array([[[0.0, -3.0]], [[0.0, 5.0]]]), (2, 241, 2))
    return Rally(np.array(ball) + times[:, None] * np.array(velocity), feet, np.zeros((2, 241)), ([], []))


def label_of(renderer: Renderer, rally: Rally) -> tuple[object, Visibility]:
    return renderer.render(rally, 0.5)[1:]


# --- the flight -------------------------------------------------------------------------------------------------------


def test_without_drag_the_flight_is_a_parabola() -> None:
    start, velocity = np.array([1.0, -4.0, 2.0]), np.array([[3.0, 20.0, 9.0], [0.0, -5.0, 1.0]])
    path = fly(start, velocity, 1.5)
    t = np.arange(len(path))[:, None, None] * STEP_S
    assert np.allclose(path, start + velocity * t - np.array([0, 0, GRAVITY / 2]) * t * t, atol=1e-9)


def test_a_fall_with_drag_follows_the_closed_form() -> None:
    v_t = 6.8
    path = fly(np.array([0.0, 0.0, 50.0]), np.zeros(3), 3, terminal_mps=v_t)
    t = np.arange(len(path)) * STEP_S
    assert np.allclose(path[:, 2], 50 - v_t**2 / GRAVITY * np.log(np.cosh(GRAVITY * t / v_t)), atol=1e-3)
    assert (path[-2, 2] - path[-1, 2]) / STEP_S == pytest.approx(v_t, rel=0.01)


def test_level_drag_slows_by_one_over_distance() -> None:
    """dv/dt = -k v^2 has v = v0 / (1 + k v0 t), so x = ln(1 + k v0 t) / k; gravity is slight within a tenth."""
    path = fly(np.zeros(3), np.array([0, 60.0, 0]), 0.1, terminal_mps=6.8)
    k = GRAVITY / 6.8**2
    assert path[-1, 1] == pytest.approx(math.log(1 + k * 60 * 0.1) / k, rel=2e-3)


def test_a_bounce_keeps_its_share_and_the_shuttle_lies_still() -> None:
    drop, level = np.array([0.0, 0.0, 2.0]), np.array([4.0, 0, 0])
    path = fly(drop, level, 1.1, bounce=(0.5, 0.7), floor_m=0.0)
    hit = int((path[:, 2] <= 0).argmax())
    assert path[hit:, 2].max() == pytest.approx(2 * 0.7**2, rel=0.03)
    assert np.diff(path[hit + 1 :, 0]) / STEP_S == pytest.approx(2.0)
    dead = fly(drop, level, 2, floor_m=BALL_M)
    assert np.array_equal(dead[-1], dead[-200])
    assert dead[-1, 2] == BALL_M


@pytest.mark.parametrize("sport", SPORT_NAMES)
def test_a_rally_is_played_by_the_rules(sport: str) -> None:
    table = SPORTS[sport]
    for seed in range(4):
        rally = play(np.random.default_rng(seed), table, seed % 2)
        hits = sorted((second, player) for player in (0, 1) for second, _ in rally.hits[player])
        assert [player for _, player in hits] == [(seed + k) % 2 for k in range(len(hits))]
        for player, side in ((0, -1), (1, 1)):
            for second, place in rally.hits[player]:
                assert place[1] * side > 0
                assert np.allclose(at(rally.ball, second + STEP_S / 100), place, atol=0.01)
                assert np.hypot(*(at(rally.feet[player], second) - place[:2])) < 0.7  # within reach
        flying = rally.ball[~np.isnan(rally.ball[:, 0])]
        crossing = np.flatnonzero(np.diff(np.sign(flying[:, 1])))
        assert (flying[crossing, 2] > table.net[2]).all()
        assert len(crossing) >= len(hits) - 1
        assert np.linalg.norm(np.diff(flying, axis=0), axis=1).max() / STEP_S < 80
        assert np.hypot(*np.moveaxis(np.diff(rally.feet, axis=1), -1, 0)).max() / STEP_S < 11


def test_the_shuttle_moves_over_the_picture_as_in_broadcasts() -> None:
    """The median of 35 labelled rallies at 720p and 30 fps is 7 to 9 pixels a frame, the 99th percentile 54."""
    steps: list[Floats] = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        camera = place_camera(RallyOptions(seed=seed), rng)
        xy, _ = camera.project(play(rng, SPORTS["badminton"], 0).ball[::8])
        steps.append(np.hypot(*np.diff(xy, axis=0).T))
    speed = np.concatenate(steps)
    assert 6 < np.nanmedian(speed) < 12
    assert 30 < np.nanpercentile(speed, 99) < 80


# --- the camera -------------------------------------------------------------------------------------------------------


def test_the_camera_is_a_pinhole() -> None:
    camera = Camera(1700.0, (639.5, 359.5), (0.3, -20.0, 7.0), 0.3)
    turn = np.array([[1, 0, 0], [0, -math.sin(0.3), -math.cos(0.3)], [0, math.cos(0.3), -math.sin(0.3)]])
    inner = np.array([[1700, 0, 639.5], [0, 1700, 359.5], [0, 0, 1]])
    points = np.random.default_rng(0).uniform((-5, -8, 0), (5, 8, 6), (50, 3))
    x, y, depth = inner @ turn @ (points - camera.eye).T
    xy, scale = camera.project(points)
    assert np.allclose(xy, np.stack([x / depth, y / depth], -1))
    assert np.allclose(scale, 1700 / depth)


@pytest.mark.parametrize("sport", SPORT_NAMES)
@pytest.mark.parametrize("wh", [(1280, 720), (512, 288), (640, 480), (360, 640)])
def test_the_whole_court_is_in_the_picture(sport: str, wh: tuple[int, int]) -> None:
    half_w, half_l = SPORTS[sport].half_wl
    corners = np.array([[x, y, 0] for x in (-half_w, half_w) for y in (-half_l, half_l)])
    for seed in range(5):
        xy, scale = place_camera(options_of(sport, wh=wh), np.random.default_rng(seed)).project(corners)
        assert (xy > 0).all()
        assert (xy < wh).all()
        assert (scale > 0).all()


# --- the labels agree with the pixels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sport", SPORT_NAMES)
def test_the_label_is_the_centre_of_what_the_ball_adds(sport: str) -> None:
    """The ball's share of each pixel is read back from the channel in which it differs most from what is behind it.

    A ball that a player, the net's tape or the picture's edge cuts has its centre elsewhere; those are few.
    """
    errors, plain = [], []
    options = options_of(sport, wh=(640, 360), seconds=2.5, noise=0)
    for (image, label), (without, same) in zip(_frames(options), _frames(options, with_ball=False), strict=True):
        assert label == same
        if label.visibility is not Visibility.CLEAR or label.xy is None or label.xy[1] < 15:
            continue
        rows, cols = np.nonzero((image != without).any(2))
        behind = without[rows, cols].astype(float)
        added, missing = image[rows, cols] - behind, np.array(SPORTS[sport].ball_rgb) - behind
        best = np.arange(len(rows)), abs(missing).argmax(1)
        share = added[best] / missing[best]
        errors.append(math.dist((np.average(cols, weights=share), np.average(rows, weights=share)), label.xy))
        if behind.std(0).max() < 3:
            light = added.sum(1)
            plain.append(math.dist((np.average(cols, weights=light), np.average(rows, weights=light)), label.xy))
    assert len(errors) > 40
    assert np.median(errors) < 0.05
    assert np.mean(np.array(errors) < 0.3) > 0.95
    assert len(plain) > 10
    assert max(plain) < 0.3  # before one colour the bright residual itself will do


def test_without_the_ball_all_other_pixels_are_the_same() -> None:
    for (image, label), (without, _) in zip(_frames(SMALL), _frames(SMALL, with_ball=False), strict=True):
        rows, cols = np.nonzero((image != without).any(2))
        if label.xy is None:
            continue
        assert abs(cols - label.xy[0]).max(initial=0) < 25
        assert abs(rows - label.xy[1]).max(initial=0) < 25


def test_the_streak_is_as_long_as_speed_times_exposure() -> None:
    camera = place_camera(RallyOptions(), np.random.default_rng(0))
    for speed in (10.0, 25.0, 60.0):
        blur = expose(camera, still_rally((0, 0, 3), (speed, 0, 0)), 0.5, 1 / 100, (1280, 720))
        slow = expose(camera, still_rally((0, 0, 3)), 0.5, 1 / 100, (1280, 720))
        assert blur is not None
        assert slow is not None
        middle, scale = camera.project(np.array([0.0, 0.0, 3.0]))
        assert blur.xy == pytest.approx(middle, abs=1e-6)
        rows, cols = np.mgrid[blur.where]
        spread = np.average((cols - blur.xy[0]) ** 2, weights=blur.alpha)
        width = np.average((np.mgrid[slow.where][1] - slow.xy[0]) ** 2, weights=slow.alpha)
        length_px = math.sqrt(12 * (spread - width))  # of a uniform streak; the ball's own width set apart
        assert length_px == pytest.approx(speed / 100 * float(scale), rel=0.03)
        assert blur.alpha.sum() == pytest.approx(slow.alpha.sum(), rel=0.02)  # the same light, spread out
        assert np.average(rows, weights=blur.alpha) == pytest.approx(blur.xy[1], abs=0.05)


def test_the_ball_has_its_true_size() -> None:
    camera = place_camera(RallyOptions(), np.random.default_rng(0))
    blur = expose(camera, still_rally((0, -3, 1)), 0.5, 1 / 100, (1280, 720))
    assert blur is not None
    _, scale = camera.project(np.array([0.0, -3.0, 1.0]))
    assert blur.alpha.sum() == pytest.approx(math.pi * (BALL_M * float(scale)) ** 2, rel=0.05)
    assert 4 < 2 * BALL_M * float(scale) < 8


def test_visibility() -> None:
    renderer = Renderer(RallyOptions(wh=(640, 360)))
    assert label_of(renderer, still_rally((1.5, 0.5, 2.5)))[1] is Visibility.CLEAR
    assert label_of(renderer, still_rally((0.0, -2.0, 1.0)))[1] is Visibility.OCCLUDED  # behind the near player
    assert label_of(renderer, still_rally((0.0, -4.0, 1.0)))[1] is Visibility.CLEAR  # in front of him
    assert label_of(renderer, still_rally((1.5, 0.5, 2.5), (90, 0, 0)))[1] is Visibility.HARD  # a faint streak
    for nowhere in ((0, 0, 12), (30, 0, 1), (math.nan,) * 3):
        assert label_of(renderer, still_rally(nowhere)) == (None, Visibility.ABSENT)


def test_the_scoreboard_hides_the_ball() -> None:
    renderer = Renderer(RallyOptions())
    rows, cols = renderer.scene.overlay
    middle = (cols.start + cols.stop) / 2, (rows.start + rows.stop) / 2
    x, z = min(
        itertools.product(np.linspace(-6, 0, 61), np.linspace(2, 6, 61)),
        key=lambda xz: math.dist(renderer.camera.project(np.array([xz[0], 4.0, xz[1]]))[0], middle),
    )
    rally = still_rally((x, 4.0, z))
    assert label_of(renderer, rally)[1] is Visibility.OCCLUDED
    image = renderer.render(rally, 0.5)[0].astype(int)
    board = renderer.scene.stills[0][rows, cols]
    assert abs(image[rows, cols] - board).max() <= 8  # sensor noise


@pytest.mark.parametrize("sport", SPORT_NAMES)
def test_every_label_lies_in_the_picture(sport: str) -> None:
    frames = list(render_rally(options_of(sport)))
    assert len(frames) == 45
    for n, (image, label) in enumerate(frames):
        assert image.dtype == np.uint8
        assert image.shape == (180, 320, 3)
        assert label.frame == n
        if label.xy is not None:
            assert -0.5 <= label.xy[0] < 319.5
            assert -0.5 <= label.xy[1] < 179.5
    assert sum(label.xy is not None for _, label in frames) > 20


# --- the same again, and not the same ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sport", SPORT_NAMES)
def test_a_seed_says_everything(sport: str) -> None:
    options = options_of(sport, seconds=0.7)
    first, second = list(render_rally(options)), list(render_rally(options))
    other = list(render_rally(replace(options, seed=4)))
    assert [label for _, label in first] == [label for _, label in second]
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))
    assert [label for _, label in first] != [label for _, label in other]
    assert not np.array_equal(first[0][0], other[0][0])


def test_noise_is_as_strong_as_asked_and_the_crowd_moves() -> None:
    quiet = [image.astype(float) for image, _ in render_rally(replace(SMALL, seconds=0.3, noise=0))]
    loud = [image.astype(float) for image, _ in render_rally(replace(SMALL, seconds=0.3, noise=2))]
    change = loud[0] - quiet[0]
    assert change.std() == pytest.approx(2, rel=0.1)
    assert abs(change.mean()) < 0.05
    later = loud[4] - quiet[4]
    assert abs(np.corrcoef(change.ravel(), later.ravel())[0, 1]) < 0.05
    crowd = slice(0, 30)
    moved = abs(quiet[5][crowd] - quiet[0][crowd]).max(2)
    assert 0 < (moved > 0).mean() < 0.5


def test_repeats_repeat_every_sixth_frame_of_a_25_fps_rally() -> None:
    frames = list(render_rally(replace(SMALL, repeats=True, seconds=1)))
    for n in range(1, 30):
        assert np.array_equal(frames[n][0], frames[n - 1][0]) == (n % 6 == 5)
    slow = [(label.xy, label.visibility) for _, label in render_rally(replace(SMALL, fps=Fraction(25), seconds=1))]
    assert [(label.xy, label.visibility) for _, label in frames if label.frame % 6 != 5] == slow
    for n in range(5, 30, 6):
        assert frames[n][1] == replace(frames[n - 1][1], frame=n)
    frames[4][0][:] = 0  # a caller may write into what it got
    assert frames[5][0].any()


def test_frames_come_one_at_a_time() -> None:
    hour = render_rally(replace(SMALL, seconds=3600))
    assert [next(hour)[1].frame for _ in range(3)] == [0, 1, 2]


def test_several_rallies_follow_each_other() -> None:
    labels = [
        label for _, label in render_rally(replace(SMALL, wh=(64, 36), seconds=40, fps=Fraction(10), shutter_s=0.01))
    ]
    absent = [label.xy is None for label in labels]
    serves = sum(a and not b for a, b in itertools.pairwise(absent))
    assert serves >= 2
    assert absent.count(False) > 200


@pytest.mark.parametrize("wh", [(16, 16), (64, 36), (333, 187), (180, 320)])
def test_any_size(wh: tuple[int, int]) -> None:
    image, _ = next(iter(render_rally(replace(SMALL, wh=wh))))
    assert image.shape == (wh[1], wh[0], 3)


# --- the clip ---------------------------------------------------------------------------------------------------------


def test_a_clip_and_its_labels_come_back(tmp_path: Path) -> None:
    options = replace(SMALL, seconds=0.8, fps=Fraction(30000, 1001), shutter_s=0.01)
    labels = make_clip(tmp_path / "rally.mp4", options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rally.mp4", "rally_ball.csv"]
    assert (tmp_path / "rally_ball.csv").read_text().startswith("Frame,Visibility,X,Y")
    back = read_labels(tmp_path / "rally_ball.csv")
    assert [back[n] for n in range(len(labels))] == labels
    rendered = [image for image, _ in render_rally(options)]
    with read(tmp_path / "rally.mp4") as reader:
        frames = list(reader)
        assert reader.info.fps == options.fps
    assert len(frames) == len(labels) == 24
    for n, (frame, image) in enumerate(zip(frames, rendered, strict=True)):
        assert frame.pts_s == pytest.approx(float(n / options.fps), abs=1e-3)
        grey = image @ np.array([0.299, 0.587, 0.114]) if frame.image.ndim == 2 else image
        assert abs(frame.image - grey).mean() < 6


def test_a_clip_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "rally.mp4").mkdir()
    for path in (tmp_path / "file" / "rally.mp4", tmp_path / "rally.mp4"):
        with pytest.raises(OutputError):
            make_clip(path, replace(SMALL, seconds=0.1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "rally.mp4"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sport": "golf"}, "golf"),
        ({"wh": (8, 720)}, "8"),
        ({"fps": Fraction(0)}, "fps"),
        ({"seconds": math.nan}, "nan"),
        ({"seconds": math.inf}, "inf"),
        ({"seed": -1}, "seed"),
        ({"shutter_s": 0.1}, "shutter_s"),
        ({"noise": 9.0}, "noise"),
    ],
)
def test_options_that_cannot_be_rendered_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        RallyOptions(**wrong)  # type: ignore[arg-type]


def test_labels_are_of_the_types_of_the_house() -> None:
    image, label = next(iter(render_rally(SMALL)))
    assert isinstance(label, BallLabel)
    assert image.flags.writeable
