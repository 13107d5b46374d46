import { describe, expect, it } from "vitest";
import { centreOn, clampView, fit, inPicture, MAX_SCALE, streak, toScreen, toSource, zoomAt } from "../src/core/coords";

const HD = { w: 1920, h: 1080 };
const SCREEN = { w: 960, h: 600 };

describe("screen and source", () => {
  it("puts (0, 0) on the centre of the top-left pixel", () => {
    const view = fit(SCREEN, HD); // scale 0.5, 30 px bars above and below
    expect(toSource(view, SCREEN, { x: 0, y: 30 })).toEqual({ x: -0.5, y: -0.5 });
    expect(toSource(view, SCREEN, { x: 0.25, y: 30.25 })).toEqual({ x: 0, y: 0 });
    expect(toSource(view, SCREEN, { x: 960, y: 570 })).toEqual({ x: 1919.5, y: 1079.5 });
  });

  it("is undone by its inverse at every zoom", () => {
    for (const scale of [0.3, 0.5, 1, 2.7, 8, 32]) {
      const view = clampView({ scale, cu: 700, cv: 400 }, SCREEN, HD);
      for (const p of [{ x: 0, y: 0 }, { x: 123.25, y: 77.5 }, { x: 1919, y: 1079 }]) {
        const back = toSource(view, SCREEN, toScreen(view, SCREEN, p));
        expect(back.x).toBeCloseTo(p.x, 9);
        expect(back.y).toBeCloseTo(p.y, 9);
      }
    }
  });

  it("keeps the point under the pointer while zooming, inside the picture", () => {
    let view = fit(SCREEN, HD);
    const at = { x: 400, y: 300 };
    const kept = toSource(view, SCREEN, at);
    for (let n = 0; n < 6; n++) {
      view = zoomAt(view, SCREEN, HD, at, 1.5);
      expect(toSource(view, SCREEN, at).x).toBeCloseTo(kept.x, 6);
      expect(toSource(view, SCREEN, at).y).toBeCloseTo(kept.y, 6);
    }
    expect(zoomAt(view, SCREEN, HD, at, 1e6).scale).toBe(MAX_SCALE);
    expect(zoomAt(view, SCREEN, HD, at, 1e-6)).toEqual(fit(SCREEN, HD));
  });

  it("follows the ball with its zoom and without a gap at the edge", () => {
    const near = centreOn({ scale: 4, cu: 0, cv: 0 }, SCREEN, HD, { x: 2, y: 500 });
    expect(near).toEqual({ scale: 4, cu: 120, cv: 500.5 });
  });

  it("knows where the picture ends", () => {
    expect(inPicture({ x: -0.5, y: 0 }, HD)).toBe(true);
    expect(inPicture({ x: -0.51, y: 0 }, HD)).toBe(false);
    expect(inPicture({ x: 1919.5, y: 1079.5 }, HD)).toBe(true);
    expect(inPicture({ x: 1919.6, y: 0 }, HD)).toBe(false);
  });
});

describe("streak", () => {
  it("is its middle, half its length and its angle, whichever end was first", () => {
    const a = { x: 10, y: 20 };
    const b = { x: 16, y: 28 };
    expect(streak(a, b)).toEqual({ centre: { x: 13, y: 24 }, l: 5, theta: 0.9273 });
    expect(streak(b, a)).toEqual(streak(a, b));
    expect(streak({ x: 9, y: 1 }, { x: 1, y: 1 }).theta).toBe(0);
  });
});
