import { describe, expect, it } from "vitest";
import { absent, labelOf, LabelSet } from "../src/core/labelset";
import type { Label } from "../src/core/types";

function ball(frame: number, x = 1, y = 2): Label {
  return labelOf({ frame, x, y, visibility: 1, source: "manual" });
}

describe("undo and redo", () => {
  it("takes back one step at a time, and puts it again", () => {
    const set = new LabelSet();
    set.change([{ frame: 1, label: ball(1) }]);
    set.change([{ frame: 1, label: ball(1, 5, 5) }]);
    expect(set.undo()[0]?.after).toMatchObject({ x: 1, y: 2 });
    expect(set.at(1)).toMatchObject({ x: 1, y: 2 });
    set.undo();
    expect(set.at(1)).toBeUndefined();
    expect(set.undo()).toEqual([]);
    set.redo();
    set.redo();
    expect(set.at(1)).toMatchObject({ x: 5, y: 5 });
    expect(set.redo()).toEqual([]);
  });

  it("takes a range back as one", () => {
    const set = new LabelSet();
    set.change([{ frame: 4, label: ball(4) }]);
    set.change(set.absentRange(2, 6));
    expect(set.size).toBe(5);
    set.undo();
    expect([...set.values()].map((label) => label.frame)).toEqual([4]);
  });

  it("forgets what was taken back once something new is done", () => {
    const set = new LabelSet();
    set.change([{ frame: 1, label: ball(1) }]);
    set.undo();
    set.change([{ frame: 2, label: ball(2) }]);
    expect(set.canRedo).toBe(false);
  });

  it("leaves alone what somebody else has changed since", () => {
    const set = new LabelSet();
    set.change([{ frame: 1, label: ball(1) }, { frame: 2, label: ball(2) }]);
    set.put(1, { ...ball(1, 50, 50), rev: 9, user: 2 });
    expect(set.undo().map((change) => change.frame)).toEqual([2]);
    expect(set.at(1)).toMatchObject({ x: 50, user: 2 });
  });
});

describe("no ball until", () => {
  it("fills unlabelled frames alone, in either direction", () => {
    const set = new LabelSet();
    set.put(3, ball(3));
    expect(set.absentRange(5, 2).map(({ frame }) => frame)).toEqual([2, 4, 5]);
    expect(set.absentRange(5, 2)[0]!.label).toEqual(absent(2));
    expect(absent(2)).toMatchObject({ visibility: 0, x: null, y: null });
  });
});

it("finds the next unlabelled frame inside the task", () => {
  const set = new LabelSet();
  for (const f of [1, 2, 3]) set.put(f, ball(f));
  expect(set.nextUnlabelled(0, 0, 5, 1)).toBe(4);
  expect(set.nextUnlabelled(4, 0, 5, 1)).toBeUndefined();
  expect(set.nextUnlabelled(3, 0, 5, -1)).toBe(0);
});
