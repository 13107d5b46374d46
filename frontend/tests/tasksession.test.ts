import "fake-indexeddb/auto";
import { IDBFactory } from "fake-indexeddb";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { api as realApi } from "../src/core/api";
import { EventStore } from "../src/core/idb";
import { labelOf } from "../src/core/labelset";
import { Outbox } from "../src/core/outbox";
import { TaskSession } from "../src/core/tasksession";
import type { EventsAnswer, Label, LabelsAnswer, TaskDetail, WireEvent } from "../src/core/types";

function ball(x: number, rev = 0): Label {
  return { ...labelOf({ frame: 5, x, y: 2, visibility: 1, source: "manual" }), rev };
}

/** A task whose questions for labels are answered when the test says so. */
async function opened(): Promise<{ session: TaskSession; outbox: Outbox; answer: (labels: Label[]) => void }> {
  let answer: (labels: Label[]) => void = () => undefined;
  const json = (body: unknown): Response => new Response(JSON.stringify(body));
  vi.stubGlobal("fetch", (path: string) => {
    if (path.endsWith("/proposals")) return Promise.resolve(json({ model: null, state: "none", progress: 0, proposals: [] }));
    return new Promise<Response>((resolve) => {
      answer = (labels) => {
        const body: LabelsAnswer = { rev: Math.max(0, ...labels.map((l) => l.rev)), labels: labels.map((l) => ({ ...l, object: "ball:1" })) };
        resolve(json(body));
      };
    });
  });
  const accept = ((_: string, __: string, body: { events: WireEvent[] }): Promise<EventsAnswer> =>
    Promise.resolve({ acked: body.events.map((e) => e.uuid), conflicts: [], rejected: [], rev: 10 })) as typeof realApi;
  const client = { id: "tab", isAlive: () => Promise.resolve(false) };
  const outbox = new Outbox({ store: await EventStore.open(new IDBFactory()), client, user: () => 7, api: accept });
  const session = new TaskSession({ id: 3, start: 0, stop: 9 } as TaskDetail, outbox);
  const open = session.open();
  answer([]);
  await open;
  return { session, outbox, answer: (labels) => answer(labels) };
}

afterEach(() => {
  vi.unstubAllGlobals();
});

describe("an answer that an own label overtook", () => {
  it.each([
    ["is older than the label", 9, 1],
    ["knows of a newer one", 11, 2],
  ])("%s", async (_, rev, x) => {
    const { session, outbox, answer } = await opened();
    const asked = session.poll();
    await session.change([{ frame: 5, label: ball(1) }]);
    await outbox.flush();
    expect(outbox.state.value.unsaved).toBe(0);
    answer([ball(2, rev)]);
    await asked;
    expect(session.labels.at(5)?.x).toBe(x);
    session.close();
  });
});
