"""Courts are found where another program's camera drew them, and nowhere else."""

from functools import cache
from itertools import pairwise, product

import cv2
import numpy as np
import pytest

from rallytrace.court import Camera, CourtFollower, court_model, find_court, project, sports, unproject
from rallytrace.court.model import Floats
from rallytrace.errors import InputError
from rallytrace.synth.court import Camera as SynthCamera
from rallytrace.synth.court import RallyOptions
from rallytrace.synth.flight import play
from rallytrace.synth.render import Renderer
from rallytrace.types import Image


@cache
def render(sport: str, seed: int, wh: tuple[int, int] = (1280, 720)) -> tuple[Image, SynthCamera]:
    """A grey picture of a rally and the camera that it was drawn with."""
    renderer = Renderer(RallyOptions(sport=sport, seed=seed, wh=wh))  # type: ignore[arg-type]
    rally = play(np.random.default_rng(seed), renderer.sport, 0)
    image, _, _ = renderer.render(rally, 0.4)
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), renderer.camera


def pixels(camera: SynthCamera, points: Floats) -> Floats:
    """Metres (n, 3), y towards the camera, as the renderer's camera sees them: its y points away."""
    return np.asarray(camera.project(points * (1, -1, 1))[0])


def crossings(sport: str) -> Floats:
    """Where the lines across meet those along, (n, 3) m."""
    model = court_model(sport)
    return np.array([(x, y, 0.0) for x, y in product(model.along, model.across)])


@pytest.mark.parametrize("sport", ["badminton", "tennis"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_court_is_found_within_a_pixel(sport: str, seed: int) -> None:
    image, camera = render(sport, seed)
    court = find_court(image, sport)
    assert court is not None
    points = crossings(sport)
    off = np.linalg.norm(project(court.court_to_image, points[:, :2]) - pixels(camera, points), axis=1)
    assert off.mean() < 1.0
    assert court.support > 0.8  # the net hides a line of badminton


def test_the_camera_is_where_it_was_and_sees_heights() -> None:
    image, truth = render("badminton", 3)
    court = find_court(image, "badminton")
    assert court is not None
    camera = Camera.of(court.court_to_image, (1280, 720))
    assert camera is not None
    assert camera.focal_px == pytest.approx(truth.focal_px, rel=0.05)
    assert camera.place == pytest.approx(np.array(truth.eye) * (1, -1, 1), abs=1.0)
    heights = np.array([(x, y, z) for x in (-3.0, 3.0) for y in (-4.0, 0.0, 4.0) for z in (0.0, 1.55, 4.0)])
    assert np.linalg.norm(camera.project(heights) - pixels(truth, heights), axis=1).max() < 3.0


def test_metres_to_pixels_and_back() -> None:
    image, _ = render("tennis", 1)
    court = find_court(image, "tennis")
    assert court is not None
    points = np.array([(0.0, 0.0), (-5.0, 11.0), (4.1, -6.4)])
    assert unproject(court.court_to_image, project(court.court_to_image, points)) == pytest.approx(points, abs=1e-6)


@pytest.mark.parametrize("wh", [(640, 360), (1920, 1080), (1024, 576)])
def test_any_size_has_its_own_pixels(wh: tuple[int, int]) -> None:
    image, camera = render("badminton", 4, wh)
    court = find_court(image, "badminton")
    assert court is not None
    points = crossings("badminton")
    off = np.linalg.norm(project(court.court_to_image, points[:, :2]) - pixels(camera, points), axis=1)
    assert off.mean() < 1.5 * wh[0] / 1280


def stands() -> Image:
    """Rows of light and dark seats, in perspective, as behind a court."""
    image = np.full((720, 1280), 60, np.uint8)
    for row in range(12):
        y = 60 + 50 * row
        cv2.line(image, (0, y), (1280, y + 20), 200, 3)
    for column in range(-8, 9):
        cv2.line(image, (640 + 60 * column, 0), (640 + 150 * column, 720), 200, 3)
    return image


@pytest.mark.parametrize("sport", ["badminton", "tennis"])
def test_no_court_is_claimed_where_there_is_none(sport: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280)).astype(np.uint8)
    blank = np.full((720, 1280), 90, np.uint8)
    image, _ = render(sport, 5)
    close = cv2.resize(image[300:500, 500:856], (1280, 720))  # a close-up: a line or two
    for picture in (noise, blank, stands(), close):
        assert find_court(picture, sport) is None


def test_another_sports_court_is_not_taken_for_it() -> None:
    image, _ = render("badminton", 6)
    assert find_court(image, "tennis") is None
    image, _ = render("tennis", 6)
    assert find_court(image, "badminton") is None


def test_the_lines_need_to_be_light() -> None:
    """The same lines, darker than the floor, are no painted lines."""
    image, _ = render("tennis", 1)
    assert find_court((255 - image).astype(np.uint8), "tennis") is None


def shifted(image: Image, dx: float) -> Image:
    move = np.array([[1, 0, dx], [0, 1, 0]], np.float64)
    return np.asarray(cv2.warpAffine(image, move, (image.shape[1], image.shape[0]), borderMode=cv2.BORDER_REPLICATE))


def test_a_pan_is_followed_and_a_cut_ends_it() -> None:
    image, camera = render("tennis", 2)
    crowd = stands()
    follower = CourtFollower("tennis")
    for n in range(60):
        dx = -2.0 * max(0, n - 30)
        follower.push(n, shifted(image, dx) if follower.wants(n) else None)
    for n in range(60, 90):
        follower.push(n, crowd if follower.wants(n, cut=n == 60) else None, cut=n == 60)
    stretches = follower.flush()
    assert stretches[0].first == 0
    assert stretches[-1].last == 89
    assert all(a.last + 1 == b.first for a, b in pairwise(stretches))
    seen = {n: each.court for each in stretches for n in range(each.first, each.last + 1)}
    assert all(seen[n] is not None for n in range(60))
    assert all(seen[n] is None for n in range(60, 90))
    points = crossings("tennis")
    for n, limit_px in ((0, 1.0), (20, 1.0), (45, 3.0), (58, 3.0)):
        court = seen[n]
        assert court is not None
        truth = pixels(camera, points) - np.array([2.0 * max(0, n - 30), 0])
        off = np.linalg.norm(project(court.court_to_image, points[:, :2]) - truth, axis=1)
        assert off.mean() < limit_px, n


def test_every_sport_has_a_court_of_its_size() -> None:
    sizes = {"tennis": (10.97, 23.77), "badminton": (6.1, 13.4), "pickleball": (6.1, 13.41), "volleyball": (9.0, 18.0)}
    for sport, (width, length) in sizes.items():
        model = court_model(sport)
        assert 2 * np.array(model.half_wl) == pytest.approx((width, length))
        outer = np.abs(model.lines.reshape(-1, 2)).max(0)
        inset = np.array(model.half_wl) - outer
        assert (inset >= model.line_m / 2 - 1e-9).all()
        assert (inset <= 0.0501).all()
    assert set(sizes) < set(sports())
    with pytest.raises(InputError, match="no court of 'golf' is known, expected one of tennis"):
        court_model("golf")
