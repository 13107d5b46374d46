/**
 * The one road between the screen and source pixels.
 *
 * The picture covers [0, w] x [0, h] in corner-based units (u, v); labels are centre-based: (0, 0) is the middle of the
 * top-left pixel, so x = u - 0.5. Screen points are CSS px from the top-left corner of the viewport.
 */

export interface Point { x: number; y: number }
export interface Size { w: number; h: number }

/** `scale` CSS px per source px; (cu, cv) is the corner-based point in the middle of the viewport. */
export interface View { scale: number; cu: number; cv: number }

export const MAX_SCALE = 32;

export function fitScale(viewport: Size, picture: Size): number {
  return Math.min(viewport.w / picture.w, viewport.h / picture.h);
}

export function fit(viewport: Size, picture: Size): View {
  return { scale: fitScale(viewport, picture), cu: picture.w / 2, cv: picture.h / 2 };
}

export function toSource(view: View, viewport: Size, screen: Point): Point {
  return {
    x: (screen.x - viewport.w / 2) / view.scale + view.cu - 0.5,
    y: (screen.y - viewport.h / 2) / view.scale + view.cv - 0.5,
  };
}

export function toScreen(view: View, viewport: Size, source: Point): Point {
  return {
    x: (source.x + 0.5 - view.cu) * view.scale + viewport.w / 2,
    y: (source.y + 0.5 - view.cv) * view.scale + viewport.h / 2,
  };
}

/** Is the point on the picture? Its edges lie half a pixel beyond the centres of the outer pixels. */
export function inPicture(p: Point, picture: Size): boolean {
  return p.x >= -0.5 && p.y >= -0.5 && p.x <= picture.w - 0.5 && p.y <= picture.h - 0.5;
}

/** Keeps the picture in sight: centred where it is smaller than the viewport, without a gap where it is larger. */
export function clampView(view: View, viewport: Size, picture: Size): View {
  const scale = Math.min(Math.max(view.scale, fitScale(viewport, picture)), MAX_SCALE);
  return {
    scale,
    cu: clampCentre(view.cu, viewport.w / scale, picture.w),
    cv: clampCentre(view.cv, viewport.h / scale, picture.h),
  };
}

function clampCentre(centre: number, seen: number, whole: number): number {
  if (seen >= whole) return whole / 2;
  return Math.min(Math.max(centre, seen / 2), whole - seen / 2);
}

/** Scales by `factor`; the source point under `at` stays under it as far as the picture's edges allow. */
export function zoomAt(view: View, viewport: Size, picture: Size, at: Point, factor: number): View {
  const kept = toSource(view, viewport, at);
  const scale = Math.min(Math.max(view.scale * factor, fitScale(viewport, picture)), MAX_SCALE);
  const moved = {
    scale,
    cu: kept.x + 0.5 - (at.x - viewport.w / 2) / scale,
    cv: kept.y + 0.5 - (at.y - viewport.h / 2) / scale,
  };
  return clampView(moved, viewport, picture);
}

export function panBy(view: View, viewport: Size, picture: Size, dx: number, dy: number): View {
  return clampView({ ...view, cu: view.cu - dx / view.scale, cv: view.cv - dy / view.scale }, viewport, picture);
}

/** The view moved, with its zoom, so that `source` is in the middle. */
export function centreOn(view: View, viewport: Size, picture: Size, source: Point): View {
  return clampView({ scale: view.scale, cu: source.x + 0.5, cv: source.y + 0.5 }, viewport, picture);
}

/** Labels are stored to a hundredth of a pixel, well below what a hand can do. */
export function rounded(p: Point): Point {
  return { x: Math.round(p.x * 100) / 100, y: Math.round(p.y * 100) / 100 };
}

/** A drag as a streak: its middle, half its length and its angle in [0, pi) from +x towards +y. */
export function streak(a: Point, b: Point): { centre: Point; l: number; theta: number } {
  const [dx, dy] = [b.x - a.x, b.y - a.y];
  const angle = Math.atan2(dy, dx);
  return {
    centre: rounded({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 }),
    l: Math.round(Math.hypot(dx, dy) * 50) / 100,
    theta: Math.round((((angle % Math.PI) + Math.PI) % Math.PI) * 10_000) / 10_000,
  };
}
