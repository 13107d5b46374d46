import { describe, expect, it } from "vitest";
import { absent, labelOf } from "../src/core/labelset";
import { ghost, peakNear, residual, speed, standsOut } from "../src/core/motion";
import type { Label } from "../src/core/types";

function at(points: Record<number, [number, number] | null>): (frame: number) => Label | undefined {
  return (frame) => {
    const p = points[frame];
    if (p === undefined) return undefined;
    return p ? labelOf({ frame, x: p[0], y: p[1], visibility: 1, source: "manual" }) : absent(frame);
  };
}

describe("ghost", () => {
  it("flies on as the last two labels say", () => {
    expect(ghost(at({ 3: [10, 10], 4: [13, 9] }), 5, 1)).toEqual({ x: 16, y: 8 });
  });
  it("divides by the frames between them", () => {
    expect(ghost(at({ 1: [10, 10], 3: [14, 10] }), 5, 1)).toEqual({ x: 18, y: 10 });
  });
  it("works backwards too", () => {
    expect(ghost(at({ 6: [10, 10], 7: [12, 11] }), 5, -1)).toEqual({ x: 8, y: 9 });
  });
  it("stays where a single label is, and is not there where the ball was not", () => {
    expect(ghost(at({ 4: [10, 10] }), 5, 1)).toEqual({ x: 10, y: 10 });
    expect(ghost(at({ 2: [5, 5], 3: [10, 10], 4: null }), 5, 1)).toBeUndefined();
    expect(ghost(at({}), 5, 1)).toBeUndefined();
    expect(ghost(at({ 0: [1, 1] }), 5, 1)).toBeUndefined();
  });
});

describe("speed and residual", () => {
  const parabola = at(Object.fromEntries([0, 1, 2, 3, 4].map((f) => [f, [3 * f, f * f - 2 * f] as [number, number]])));
  it("has no residual on a parabola", () => {
    expect(residual(parabola, 2)).toBeCloseTo(0, 9);
    expect(residual(parabola, 1)).toBeUndefined();
  });
  it("is the distance of a label beside it", () => {
    const off = (f: number): Label | undefined => (f === 2 ? labelOf({ frame: 2, x: 6 + 3, y: 0 + 4, visibility: 1, source: "manual" }) : parabola(f));
    expect(residual(off, 2)).toBeCloseTo(5, 9);
  });
  it("measures px per frame", () => {
    expect(speed(at({ 1: [0, 0], 2: [3, 4] }), 2)).toBe(5);
    expect(speed(at({ 2: [3, 4] }), 2)).toBeUndefined();
  });
});

describe("a point off its path", () => {
  const path = (f: number): { x: number; y: number } => ({ x: 10 * f, y: f === 7 ? 90 : 30 });
  it("is found, and its neighbours are not", () => {
    expect([4, 5, 6, 7, 8, 9].filter((f) => standsOut(path, f, 20))).toEqual([7]);
    expect(standsOut(path, 7, 70)).toBe(false);
  });
});

describe("a click near the network's place", () => {
  it("means that place, and no other one", () => {
    expect(peakNear({ x: 13, y: 24 }, { x: 10, y: 20 }, 5)).toEqual({ x: 10, y: 20 });
    expect(peakNear({ x: 13.1, y: 24 }, { x: 10, y: 20 }, 5)).toBeUndefined();
    expect(peakNear({ x: 0, y: 0 }, { x: null, y: null }, 5)).toBeUndefined();
    expect(peakNear({ x: 0, y: 0 }, undefined, 5)).toBeUndefined();
  });
});
