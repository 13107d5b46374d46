/** What earlier labels say about a frame: the ghost, the speed and the residual to a local parabola. */

import type { Point } from "./coords";
import type { Label, Located } from "./types";

export type LabelAt = (frame: number) => Label | undefined;
type Placed = { x: number | null; y: number | null } | undefined;
export type PointAt = (frame: number) => Placed;

const MAX_GAP = 4; // frames between two labels that still make a velocity

export function located(label: Label | undefined): label is Located;
export function located(label: Placed): label is { x: number; y: number };
export function located(label: Placed): boolean {
  return label !== undefined && label.x !== null && label.y !== null;
}

/** The nearest located label before `frame` in the direction of travel; none beyond an absent one. */
function nearest(at: LabelAt, frame: number, direction: 1 | -1): Located | undefined {
  for (let back = 1; back <= MAX_GAP; back++) {
    const label = at(frame - direction * back);
    if (located(label)) return label;
    if (label) return undefined; // the ball was not there
  }
  return undefined;
}

/**
 * Constant-velocity guess for `frame` from the two labels before it (in the direction of travel); the position of a
 * single one where there is no second; none where the ball was absent.
 */
export function ghost(at: LabelAt, frame: number, direction: 1 | -1): Point | undefined {
  const last = nearest(at, frame, direction);
  if (!last) return undefined;
  const before = nearest(at, last.frame, direction);
  if (!before) return { x: last.x, y: last.y };
  const steps = (frame - last.frame) / (last.frame - before.frame);
  return { x: last.x + (last.x - before.x) * steps, y: last.y + (last.y - before.y) * steps };
}

/** The network's place, where it lies within `reach_px` of `at`: a click there means it. */
export function peakNear(at: Point, peak: Placed, reach_px: number): Point | undefined {
  if (!located(peak) || Math.hypot(peak.x - at.x, peak.y - at.y) > reach_px) return undefined;
  return { x: peak.x, y: peak.y };
}

/** Distance in px from the previous frame's position; none where either is unknown. */
export function speed(at: LabelAt, frame: number): number | undefined {
  const [a, b] = [at(frame - 1), at(frame)];
  return located(a) && located(b) ? Math.hypot(b.x - a.x, b.y - a.y) : undefined;
}

/** Distance in px to the parabola through the two neighbours on either side: (-1, 4, 4, -1) / 6 of them. */
export function residual(at: PointAt, frame: number): number | undefined {
  const [p, a, b, c, d] = [at(frame), at(frame - 2), at(frame - 1), at(frame + 1), at(frame + 2)];
  if (!(located(p) && located(a) && located(b) && located(c) && located(d))) return undefined;
  const x = (4 * (b.x + c.x) - a.x - d.x) / 6;
  const y = (4 * (b.y + c.y) - a.y - d.y) / 6;
  return Math.hypot(p.x - x, p.y - y);
}

/**
 * Does the point of `frame` stand out of its path by more than `limit_px`? A wrong point pulls its neighbours' parabolas
 * too: only the one that is farthest off is meant.
 */
export function standsOut(at: PointAt, frame: number, limit_px: number): boolean {
  const own = residual(at, frame) ?? 0;
  return own > limit_px && own >= (residual(at, frame - 1) ?? 0) && own >= (residual(at, frame + 1) ?? 0);
}
