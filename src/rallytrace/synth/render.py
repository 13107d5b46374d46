"""The frames of a synthetic rally: players and ball over the still hall, and the clip with its labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from rallytrace.annotate import RGB, Shape, disc, ring
from rallytrace.files import make_folder
from rallytrace.labels import write_labels
from rallytrace.synth.court import BALL_M, SPORTS, Camera, Floats, RallyOptions, place_camera
from rallytrace.synth.flight import Rally, at, play
from rallytrace.synth.scene import SHIRTS, SKINS, WHITE, Layer, Pen, build, draw, rgb
from rallytrace.types import XY, BallLabel, Image, Visibility
from rallytrace.video import VideoWriter, rgb_to_yuv

EXPOSURES = 32  # moments that make up one frame's motion blur
FAINT = 60  # grey levels: a ball that changes no pixel by more counts as hard to see
REPEAT_EVERY = 6
UP = np.array([0.0, 0.0, 1.0])
SHOES_AND_HAIR: dict[str, RGB] = {"shoes": (226, 226, 222), "hair": (30, 24, 20)}
BODY = (  # colour, joints, radii in metres; in the order of painting, * is one side after the other
    ("skin", "hip*", "knee*", 0.09, 0.065),
    ("skin", "knee*", "foot*", 0.06, 0.04),
    ("shoes", "foot*", "toe*", 0.055, 0.05),
    ("shorts", "hip*", "hem*", 0.125, 0.11),
    ("skin", "shoulderl", "elbowl", 0.05, 0.042),
    ("skin", "elbowl", "handl", 0.042, 0.034),
    ("skin", "chest", "head", 0.06, 0.06),
    ("shirt", "chest", "pelvis", 0.18, 0.145),
    ("shirt", "shoulderl", "shoulderr", 0.085, 0.085),
    ("skin", "shoulderr", "elbowr", 0.05, 0.042),
    ("skin", "elbowr", "handr", 0.042, 0.034),
    ("shirt", "shoulder*", "cuff*", 0.075, 0.065),
    ("hair", "head", "head", 0.11, 0.11),
    ("shorts", "handr", "throat", 0.016, 0.012),
)


def _pose(rally: Rally, player: int, time_s: float) -> dict[str, Floats]:
    """Joints (3,) in metres: a gait from the way run so far, and the racket arm reaching for the ball at each hit."""
    feet, face = rally.feet[player], 1 - 2 * player
    right, ahead = np.array([face, 0.0, 0.0]), np.array([0.0, face, 0.0])
    velocity = np.array([*(at(feet, time_s + 0.03) - at(feet, time_s - 0.03)) / 0.06, 0.0])
    speed = max(float(np.linalg.norm(velocity)), 0.1)
    run, phase = min(1.0, speed / 3), float(at(rally.strides_m[player], time_s)) * 2 * np.pi / 1.7
    go = velocity / speed * run
    hit_s, ball = min(rally.hits[player], key=lambda hit: abs(hit[0] - time_s), default=(np.inf, np.zeros(3)))
    swing = float(np.exp(-(((hit_s - time_s) / 0.12) ** 2)))
    ground = np.array([*at(feet, time_s), 0.0]) + UP * max(0.0, ball[2] - 2.4) * swing
    pelvis = ground + UP * (0.9 - 0.06 * run - 0.2 * swing * (ball[2] < 0.9))
    chest = pelvis + UP * 0.46 + 0.14 * go + ahead * 0.06
    pose = {"pelvis": pelvis, "chest": chest, "head": chest + UP * 0.27 + 0.05 * go + ahead * 0.03}
    for side, sign in (("l", -1), ("r", 1)):
        hip, lift = pelvis + sign * 0.1 * right, 0.2 * run * max(0.0, sign * np.cos(phase))
        foot = ground + sign * (0.2 - 0.08 * run) * right + 0.42 * sign * np.sin(phase) * go + UP * (0.08 + lift)
        knee = (hip + foot) / 2 + 0.1 * ahead + 0.08 * go
        pose |= {"hip" + side: hip, "knee" + side: knee, "hem" + side: 0.4 * hip + 0.6 * knee}
        pose |= {"foot" + side: foot, "toe" + side: foot + 0.14 * ahead - 0.03 * UP}
    left, shoulder = chest - 0.18 * right, chest + 0.18 * right
    reach = (ball - shoulder) / max(float(np.linalg.norm(ball - shoulder)), 1e-6)
    ready = shoulder + 0.16 * right + 0.28 * ahead - 0.28 * UP
    hand = ready + swing * (shoulder + 0.58 * reach - ready)
    elbow = (shoulder + hand) / 2 + (1 - swing) * (0.1 * right - 0.14 * UP)
    aim = (1 - swing) * (0.5 * ahead + 0.7 * UP + 0.3 * right) + swing * reach
    aim /= np.linalg.norm(aim)
    pose |= {"handr": hand, "elbowr": elbow, "throat": hand + 0.42 * aim, "racket": hand + 0.54 * aim}
    pose["handl"] = left - 0.24 * right + 0.22 * ahead + (0.45 * swing - 0.26) * UP
    pose["elbowl"] = (left + pose["handl"]) / 2 - (1 - swing) * 0.1 * UP - 0.08 * right
    for side, top in (("l", left), ("r", shoulder)):
        pose |= {"shoulder" + side: top, "cuff" + side: 0.45 * top + 0.55 * pose["elbow" + side]}
    return pose


def figure(camera: Camera, rally: Rally, player: int, time_s: float, outfit: dict[str, RGB]) -> list[Layer]:
    """A player as layers of shapes, to paint one over the other."""
    pen, pose = Pen(camera), _pose(rally, player, time_s)
    for colour, a, b, from_m, to_m in BODY:
        for side in "lr" if "*" in a else "l":
            pen.bar(outfit[colour], pose[a.replace("*", side)], pose[b.replace("*", side)], from_m, to_m)
    if player:  # the far one looks this way
        pen.bar(outfit["skin"], pose["head"] - 0.05 * UP, pose["head"] - 0.05 * UP, 0.09)
    pen.bar(WHITE, pose["racket"], pose["racket"], 0.11, opacity=0.16)
    (x, y), scale = (value.tolist() for value in camera.project(pose["racket"]))
    return [*pen.layers, (outfit["shorts"], [ring((x, y), 0.115 * scale, max(0.7, 0.022 * scale))])]


def shadow(camera: Camera, feet: Floats, size_m: float) -> list[Layer]:
    """A soft one on the floor below `feet`, whose first two numbers count."""
    pen = Pen(camera)
    for reach in np.linspace(0.2, 0.8, 4) * size_m:
        pen.bar((8, 10, 14), (feet[0] - reach, feet[1], 0), (feet[0] + reach, feet[1], 0), 0.3 * reach, opacity=0.09)
    return pen.layers


@dataclass(frozen=True, slots=True)
class Blur:
    """The ball during one exposure: `xy` its centre, `alpha` (h, w) the share of the time that it covers each pixel."""

    xy: XY
    where: tuple[slice, slice]
    alpha: Floats
    depth_m: float  # y in the world


def expose(camera: Camera, rally: Rally, time_s: float, shutter_s: float, wh: tuple[int, int]) -> Blur | None:
    """Where the ball is while the shutter is open around `time_s`; None while it is in somebody's hand."""
    moments = time_s + ((np.arange(EXPOSURES) + 0.5) / EXPOSURES - 0.5) * shutter_s
    ball = at(rally.ball, moments)
    if np.isnan(ball).any():
        return None
    xy, scale = camera.project(ball)
    radius = max(BALL_M * float(scale.mean()), 0.7)
    x0, y0 = np.clip(np.floor(xy.min(0) - radius - 1), 0, wh).astype(int)
    x1, y1 = np.clip(np.ceil(xy.max(0) + radius + 2), 0, wh).astype(int)
    away = np.hypot(np.arange(x0, x1) - xy[:, 0, None, None], np.arange(y0, y1)[:, None] - xy[:, 1, None, None])
    alpha = np.clip(0.5 + radius - away, 0, 1).mean(0)
    return Blur(
        (float(xy[:, 0].mean()), float(xy[:, 1].mean())),
        (slice(y0, y1), slice(x0, x1)),
        alpha,
        float(ball[:, 1].mean()),
    )


class Renderer:
    """The frames of one venue, in order: the spectators' movement and the noise go on from frame to frame."""

    def __init__(self, options: RallyOptions) -> None:
        self.options, self.sport, self.rng = options, SPORTS[options.sport], np.random.default_rng(options.seed)
        self.camera = place_camera(options, self.rng)
        self.scene = build(options, self.camera, self.rng)
        self.still = self.scene.stills[0].copy()
        shirts, skins = self.rng.permutation(np.array(SHIRTS)), self.rng.choice(np.array(SKINS), 2)
        self.outfits = [
            {"shirt": rgb(shirts[p]), "shorts": rgb(0.6 * shirts[p + 2]), "skin": rgb(skins[p]), **SHOES_AND_HAIR}
            for p in (0, 1)
        ]
        size = options.wh[1] + 32, options.wh[0] + 32
        grain = sum(self.rng.normal(0, options.noise * share, (*size, n)) for n, share in ((1, 0.9), (3, 0.45)))
        self.grain = np.clip(np.rint(grain), -8, 8).astype(np.int8).view(np.uint8)

    def render(self, rally: Rally, time_s: float, *, with_ball: bool = True) -> tuple[Image, XY | None, Visibility]:
        """One frame (h, w, 3) and its label. Without the ball, all else, its shadow too, stays the same."""
        image = self._stir()
        blur = expose(self.camera, rally, time_s, self.options.exposure_s, self.options.wh)
        feet = [at(track, time_s) for track in rally.feet]
        people = [figure(self.camera, rally, p, time_s, self.outfits[p]) for p in (0, 1)]
        for place in feet:
            draw(image, shadow(self.camera, place, 0.8))
        bodies = [(0.0, self.scene.net), *((float(feet[p][1]), people[p]) for p in (0, 1))]
        things = [(depth_m, partial(draw, layers=layers)) for depth_m, layers in bodies]
        if blur and self.sport.bounce[1]:
            draw(image, shadow(self.camera, at(rally.ball, time_s), 0.08))
        if blur and with_ball:
            things.append((blur.depth_m, partial(self._ball, blur=blur)))
        for _, paint in sorted(things, key=lambda thing: -thing[0]):
            paint(image)
        image[self.scene.overlay] = self.still[self.scene.overlay]
        row, col = self.rng.integers(32, size=2)
        image += self.grain[row : row + len(image), col : col + image.shape[1]]  # int8 seen as uint8: it wraps
        in_front = [people[p] for p in (0, 1) if blur and feet[p][1] < blur.depth_m]
        return image, *self._label(blur, [shape for layers in in_front for _, shapes in layers for shape in shapes])

    def _stir(self) -> Image:
        """The still hall, after some spectators moved and perhaps one took a picture with a flash."""
        tiles = self.scene.tiles
        for row, col in tiles[self.rng.integers(len(tiles), size=40)] if len(tiles) else ():
            square = slice(row, row + 16), slice(col, col + 16)
            self.still[square] = self.scene.stills[int(self.rng.integers(2))][square]
        image = self.still.copy()
        if len(tiles) and self.rng.uniform() < 0.06:
            row, col = tiles[self.rng.integers(len(tiles))] + 8
            draw(image, [(WHITE, [disc((float(col), float(row)), image.shape[0] / 220)])])
        return image

    def _ball(self, image: Image, blur: Blur) -> None:
        patch = image[blur.where]
        patch[:] = patch + (np.array(self.sport.ball_rgb) - patch) * blur.alpha[..., None] + 0.5

    def _label(self, blur: Blur | None, in_front: list[Shape]) -> tuple[XY | None, Visibility]:
        w, h = self.options.wh
        if blur is None or not (-0.5 <= blur.xy[0] < w - 0.5 and -0.5 <= blur.xy[1] < h - 0.5):
            return None, Visibility.ABSENT
        rows, cols = blur.where
        hidden = np.zeros_like(blur.alpha)
        for mark in in_front:
            np.maximum(hidden, mark.coverage((cols.start, rows.start, cols.stop, rows.stop)), out=hidden)
        board_rows, board_cols = self.scene.overlay
        if board_rows.start <= blur.xy[1] < board_rows.stop and board_cols.start <= blur.xy[0] < board_cols.stop:
            hidden[:] = 1
        if (hidden * blur.alpha).sum() > 0.5 * blur.alpha.sum():
            return blur.xy, Visibility.OCCLUDED
        change = (np.array(self.sport.ball_rgb) - self.still[blur.where]) * blur.alpha[..., None]
        return blur.xy, Visibility.HARD if abs(change).max() < FAINT else Visibility.CLEAR


def _frames(options: RallyOptions, *, with_ball: bool = True) -> Iterator[tuple[Image, BallLabel]]:
    renderer = Renderer(options)
    rng = np.random.default_rng([options.seed, 1])
    rally, begins_s, number, last = play(rng, renderer.sport, 0), 0.0, 0, None
    for n in range(options.n_frames):
        if last is not None and options.repeats and n % REPEAT_EVERY == REPEAT_EVERY - 1:
            image, xy, visibility = last
        else:
            shown = n - n // REPEAT_EVERY if options.repeats else n
            rate = options.fps * (REPEAT_EVERY - 1) / REPEAT_EVERY if options.repeats else options.fps
            while float(shown / rate) - begins_s >= rally.seconds:
                begins_s, number = begins_s + rally.seconds, number + 1
                rally = play(rng, renderer.sport, number % 2)
            image, xy, visibility = last = renderer.render(rally, float(shown / rate) - begins_s, with_ball=with_ball)
        yield image.copy() if options.repeats else image, BallLabel(n, xy, visibility)


def render_rally(options: RallyOptions) -> Iterator[tuple[Image, BallLabel]]:
    """The frames, uint8 RGB (h, w, 3), each with its label; one at a time, the same ones for the same options.

    The label's place is the centre of the ball's motion blur in source pixels. Visibility is ABSENT in a hand or out
    of the picture, OCCLUDED where a player or the scoreboard hides more than half of the ball, HARD where the ball
    changes no pixel by more than 60 grey levels, else CLEAR.
    """
    return _frames(options)


def make_clip(path: Path | str, options: RallyOptions) -> list[BallLabel]:
    """Write the rally to `path` (H.264 mp4) and its labels beside it, as `<stem>_ball.csv`. Returns the labels.

    Raises OutputError where either cannot be written.
    """
    path = Path(path)
    make_folder(path.parent)
    labels = []
    with VideoWriter(path, options.wh, options.fps) as writer:
        for image, label in render_rally(options):
            writer.write(rgb_to_yuv(image), float(label.frame / options.fps))
            labels.append(label)
    write_labels(path.with_name(f"{path.stem}_ball.csv"), {label.frame: label for label in labels})
    return labels
