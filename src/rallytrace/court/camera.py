"""The camera behind a court's homography: focal length, pose, and the way from metres to pixels.

The picture's centre is taken as the principal point and pixels as square, as broadcast cameras nearly have them. A
homography of the ground then fixes the focal length and the pose (Zhang 2000).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rallytrace.court.model import Floats


def project(court_to_image: Floats, points: Floats) -> Floats:
    """Court metres (n, 2) -> pixels (n, 2), or for homographies (m, 3, 3) -> (m, n, 2)."""
    mapped = points @ court_to_image[..., :2].swapaxes(-1, -2) + court_to_image[..., None, :, 2]
    return np.asarray(mapped[..., :2] / mapped[..., 2:])


def unproject(court_to_image: Floats, pixels: Floats) -> Floats:
    """Pixels (n, 2) -> court metres (n, 2) on the plane of the lines."""
    return project(np.asarray(np.linalg.inv(court_to_image), np.float64), pixels)


def focal_px(court_to_image: Floats, wh: tuple[int, int]) -> tuple[Floats, Floats]:
    """Focal lengths of homographies (m, 3, 3) in px, NaN where there is none, and how badly they fit: 0 is well."""
    centre = np.array([(wh[0] - 1) / 2, (wh[1] - 1) / 2])
    depth = court_to_image[:, 2, :2]
    x = court_to_image[:, 0, :2] - centre[0] * depth
    y = court_to_image[:, 1, :2] - centre[1] * depth
    # The two axes of the court are at right angles and of one length: p / f^2 + q = 0, twice.
    p = np.stack(
        [x[:, 0] * x[:, 1] + y[:, 0] * y[:, 1], (x[:, 0] ** 2 + y[:, 0] ** 2 - x[:, 1] ** 2 - y[:, 1] ** 2) / 2]
    )
    q = np.stack([depth[:, 0] * depth[:, 1], (depth[:, 0] ** 2 - depth[:, 1] ** 2) / 2])
    inverse = -(p * q).sum(0) / np.maximum((p * p).sum(0), 1e-12)
    error = np.linalg.norm(p * inverse + q, axis=0) / np.maximum(np.linalg.norm(q, axis=0), 1e-12)
    focal = 1 / np.sqrt(np.where(inverse > 0, inverse, np.nan))
    return focal, error


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """matrix: (3, 4), court metres (x, y, z, 1) -> homogeneous pixels. place: of the camera, (3,) m. focal_px."""

    matrix: Floats
    place: Floats
    focal_px: float

    @classmethod
    def of(cls, court_to_image: Floats, wh: tuple[int, int], surface_m: float = 0.0) -> Camera | None:
        """The camera that sees the court so; None where no camera above the ground does."""
        focal, _ = focal_px(court_to_image[None], wh)
        if not np.isfinite(focal[0]):
            return None
        inner = np.array([[focal[0], 0, (wh[0] - 1) / 2], [0, focal[0], (wh[1] - 1) / 2], [0, 0, 1]])
        pose = np.linalg.solve(inner, court_to_image)
        pose *= 2 / (np.linalg.norm(pose[:, 0]) + np.linalg.norm(pose[:, 1]))
        if pose[2, 2] < 0:  # the court lies before the camera
            pose = -pose
        right = pose[:, 0]
        near = pose[:, 1]
        up = -np.cross(right, near)  # y comes towards the camera and z goes up: a left-handed pair with x
        u, _, v = np.linalg.svd(np.stack([right, near, up], 1))
        turn = u @ v
        shift = pose[:, 2] - turn[:, 2] * surface_m
        place = -turn.T @ shift
        if place[2] <= surface_m:
            return None
        matrix = inner @ np.column_stack([turn, shift])
        return cls(matrix, place, float(focal[0]))

    def project(self, points: Floats) -> Floats:
        """Metres (n, 3) -> pixels (n, 2)."""
        mapped = points @ self.matrix[:, :3].T + self.matrix[:, 3]
        return np.asarray(mapped[:, :2] / mapped[:, 2:])
