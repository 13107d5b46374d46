import { afterEach, expect, it, vi } from "vitest";
import { every } from "../src/core/api";

afterEach(() => {
  vi.unstubAllGlobals();
});

it.each([0, 999, 1000, 2500])("a list of %d rows comes whole, page after page", async (length) => {
  const asked: string[] = [];
  vi.stubGlobal("fetch", (path: string) => {
    asked.push(path);
    const after = Number(new URL(path, "http://x").searchParams.get("after"));
    const rows = Array.from({ length: Math.min(1000, length - after) }, (_, i) => ({ id: after + i + 1 }));
    return Promise.resolve(new Response(JSON.stringify(rows)));
  });
  expect((await every("/api/tasks?mine=1")).map((row) => row.id)).toEqual(Array.from({ length }, (_, i) => i + 1));
  expect(asked).toHaveLength(Math.floor(length / 1000) + 1);
  expect(asked[0]).toBe("/api/tasks?mine=1&limit=1000&after=0");
});
