import { describe, expect, it } from "vitest";
import { ChunkParser } from "../src/core/chunks";
import { chunkAt, decodedBudget, wanted } from "../src/core/frames";
import { repeatDelay, SHORTCUTS, shortcutFor } from "../src/core/keys";

function chunk(frames: [number, string][]): Uint8Array {
  const parts = frames.map(([index, text]) => {
    const body = new TextEncoder().encode(text);
    const part = new Uint8Array(8 + body.length);
    new DataView(part.buffer).setUint32(0, index, true);
    new DataView(part.buffer).setUint32(4, body.length, true);
    part.set(body, 8);
    return [...part];
  });
  return new Uint8Array(parts.flat());
}

describe("the chunk stream", () => {
  it("gives every frame, however the bytes are cut", async () => {
    const bytes = chunk([[300, "abc"], [301, ""], [302, "defgh"]]);
    for (const size of [1, 3, 8, 100]) {
      const parser = new ChunkParser();
      const found = [];
      for (let at = 0; at < bytes.length; at += size) found.push(...parser.push(bytes.slice(at, at + size)));
      expect(found.map((jpeg) => jpeg.index)).toEqual([300, 301, 302]);
      expect(await Promise.all(found.map((jpeg) => jpeg.blob.text()))).toEqual(["abc", "", "defgh"]);
    }
  });
  it("stops at nonsense", () => {
    expect(() => new ChunkParser().push(new Uint8Array(16).fill(255))).toThrow("damaged");
  });
});

describe("what is fetched", () => {
  it("is near first, and ahead before behind", () => {
    expect(wanted(10, 1, 4, 2, 0, 100)).toEqual([10, 11, 12, 13, 9, 14, 8]);
    expect(wanted(10, -1, 4, 2, 0, 100)).toEqual([10, 9, 8, 7, 11, 6, 12]);
    expect(wanted(1, 1, 2, 3, 0, 3)).toEqual([1, 2, 0]);
  });
  it("comes in runs that end at what is there", () => {
    expect(chunkAt(5, new Set([5, 6, 7, 9]), 1, 8)).toEqual({ start: 5, count: 3 });
    expect(chunkAt(5, new Set([5, 4, 3]), -1, 2)).toEqual({ start: 4, count: 2 });
  });
  it("fits into memory", () => {
    expect(decodedBudget(640, 360)).toEqual({ ahead: 60, behind: 20 });
    const { ahead, behind } = decodedBudget(3840, 2160);
    expect((ahead + behind) * 3840 * 2160 * 4).toBeLessThan(0.5 * 2 ** 30);
  });
});

describe("keys", () => {
  const press = (key: string, more: object = {}): string | undefined =>
    shortcutFor({ key, shiftKey: false, ctrlKey: false, metaKey: false, altKey: false, ...more })?.command;
  it("mean one thing each", () => {
    const keys = SHORTCUTS.flatMap((shortcut) => shortcut.keys);
    expect(new Set(keys).size).toBe(keys.length);
  });
  it("are told apart by their modifiers", () => {
    expect(press("n")).toBe("absent");
    expect(press("N", { shiftKey: true })).toBe("range");
    expect(press("N")).toBe("absent"); // caps lock
    expect(press("?", { shiftKey: true })).toBe("help");
    expect(press("+", { shiftKey: true })).toBe("zoom-in");
    expect(press("ArrowLeft", { shiftKey: true })).toBe("nudge-left");
    expect(press("ArrowLeft", { altKey: true })).toBe("push-left");
    expect(press("z", { metaKey: true })).toBe("undo");
    expect(press("r", { ctrlKey: true })).toBeUndefined(); // the browser's
  });
  it("quicken while they are held", () => {
    expect(repeatDelay(0)).toBeGreaterThan(repeatDelay(3));
    expect(repeatDelay(1000)).toBe(40);
  });
});
