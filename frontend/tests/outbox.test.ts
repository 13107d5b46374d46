import "fake-indexeddb/auto";
import { IDBFactory } from "fake-indexeddb";
import { beforeEach, describe, expect, it } from "vitest";
import { ApiError, type api as realApi } from "../src/core/api";
import { EventStore } from "../src/core/idb";
import { absent, labelOf } from "../src/core/labelset";
import { Outbox } from "../src/core/outbox";
import type { EventsAnswer, Label, WireEvent } from "../src/core/types";

interface Posted { path: string; client_id: string; events: WireEvent[] }

/** The part of the server that the queue talks to, written down from the contract. */
class Server {
  posts: Posted[] = [];
  down = false;
  refuse: ApiError | undefined;
  conflicts = new Map<number, Label | null>();
  rev = 0;
  readonly seen = new Set<string>();

  readonly api = ((_: string, path: string, body: Omit<Posted, "path">): Promise<EventsAnswer> => {
    if (this.down) return Promise.reject(new ApiError(0, "unreachable", "the server cannot be reached"));
    if (this.refuse) return Promise.reject(this.refuse);
    this.posts.push(structuredClone({ path, ...body }));
    const answer: EventsAnswer = { acked: [], conflicts: [], rejected: [], rev: 0 };
    for (const event of body.events) {
      const current = this.conflicts.get(event.frame);
      if (current !== undefined) answer.conflicts.push({ uuid: event.uuid, frame: event.frame, current: current && { ...current, object: "ball:1" } });
      else answer.acked.push(event.uuid);
      if (!this.seen.has(event.uuid)) this.rev++;
      this.seen.add(event.uuid);
    }
    return Promise.resolve({ ...answer, rev: this.rev });
  }) as typeof realApi;
}

const NOBODY_ELSE = (): Promise<boolean> => Promise.resolve(false);
let factory: IDBFactory;
let server: Server;

async function outbox(id = "tab-1", user = 7, isAlive = NOBODY_ELSE): Promise<Outbox> {
  const store = await EventStore.open(factory);
  const made = new Outbox({ store, client: { id, isAlive }, user: () => user, api: server.api });
  return made;
}

async function stored(): Promise<number> {
  return (await (await EventStore.open(factory)).all()).length;
}

function ball(frame: number, x = 1): Label {
  return labelOf({ frame, x, y: 2, visibility: 1, source: "manual" });
}

beforeEach(() => {
  factory = new IDBFactory();
  server = new Server();
});

describe("the queue", () => {
  it("keeps an event until the server has it", async () => {
    const box = await outbox();
    server.down = true;
    await box.add(3, [{ frame: 5, after: ball(5) }], 0);
    expect(await stored()).toBe(1);
    await box.flush();
    expect(box.state.value).toMatchObject({ unsaved: 1, trouble: "offline" });
    server.down = false;
    await box.flush();
    expect(box.state.value).toMatchObject({ unsaved: 0, trouble: "" });
    expect(await stored()).toBe(0);
    expect(server.posts).toHaveLength(1);
    expect(server.posts[0]).toMatchObject({ path: "/api/tasks/3/events", client_id: "tab-1" });
    expect(server.posts[0]!.events[0]).toMatchObject({ frame: 5, op: "set", x: 1, y: 2, visibility: 1, object: "ball:1", base_rev: 0 });
  });

  it("sends what an earlier page left, in order, under the name it was made with", async () => {
    const old = await outbox("gone");
    server.down = true;
    for (let frame = 0; frame < 3; frame++) await old.add(1, [{ frame, after: absent(frame) }], 0);
    server.down = false;
    const box = await outbox("new");
    await box.start();
    await box.flush();
    expect(server.posts.map((post) => [post.client_id, post.events.map((e) => e.frame)])).toEqual([["gone", [0, 1, 2]]]);
  });

  it("leaves the events of a living tab to it, and those of another person to him", async () => {
    const other = await outbox("alive");
    const stranger = await outbox("gone", 8);
    server.down = true;
    await other.add(1, [{ frame: 0, after: ball(0) }], 0);
    await stranger.add(1, [{ frame: 1, after: ball(1) }], 0);
    server.down = false;
    const box = await outbox("new", 7, () => Promise.resolve(true));
    await box.start();
    await box.flush();
    expect(server.posts).toEqual([]);
    expect(await stored()).toBe(2);
  });

  it("sends at most 500 in one request", async () => {
    const box = await outbox();
    await box.add(1, Array.from({ length: 1100 }, (_, frame) => ({ frame, after: ball(frame) })), 0);
    await box.flush();
    expect(server.posts.map((post) => post.events.length)).toEqual([500, 500, 100]);
  });

  it("waits for a login, and says so", async () => {
    const box = await outbox();
    server.refuse = new ApiError(401, "expired", "the session has ended");
    await box.add(1, [{ frame: 0, after: ball(0) }], 0);
    await box.flush();
    expect(box.state.value).toMatchObject({ unsaved: 1, trouble: "logged out" });
    expect(await stored()).toBe(1);
  });

  it("keeps what a task refuses where its author can see it", async () => {
    const box = await outbox();
    server.refuse = new ApiError(409, "wrong_state", "task 1 is submitted");
    await box.add(1, [{ frame: 0, after: ball(0) }], 0);
    await box.flush();
    expect(box.state.value.rejected[0]).toMatchObject({ message: "task 1 is submitted" });
    expect(await stored()).toBe(1);
  });
});

describe("conflicts", () => {
  it("are kept, with what the other one made, until somebody decides", async () => {
    const box = await outbox();
    server.conflicts.set(4, { ...ball(4, 99), rev: 12, user: 8 });
    await box.add(1, [{ frame: 4, after: ball(4) }, { frame: 5, after: ball(5) }], 3);
    await box.flush();
    const { conflicts, unsaved } = box.state.value;
    expect(unsaved).toBe(0);
    expect(conflicts.map((c) => [c.event.frame, c.event.x, c.current?.x])).toEqual([[4, 1, 99]]);
    expect(await stored()).toBe(1);
    await box.settle(conflicts[0]!);
    expect(box.state.value.conflicts).toEqual([]);
    expect(await stored()).toBe(0);
  });

  it("ask once about a frame, whatever happened on it before", async () => {
    const box = await outbox();
    server.conflicts.set(4, null);
    await box.add(1, [{ frame: 4, after: ball(4, 1) }], 3);
    await box.add(1, [{ frame: 4, after: ball(4, 2) }], 3);
    await box.flush();
    expect(box.state.value.conflicts.map((c) => c.event.x)).toEqual([2]);
  });

  it("do not arise from one's own earlier page", async () => {
    const old = await outbox("gone");
    await old.add(1, [{ frame: 4, after: ball(4, 1) }], 3);
    const box = await outbox("new");
    server.rev = 10;
    server.down = true;
    await box.start();
    await box.add(1, [{ frame: 4, after: ball(4, 2) }], 3);
    server.down = false;
    await box.flush();
    expect(server.posts.map((post) => [post.client_id, post.events[0]!.base_rev])).toEqual([["gone", 3], ["new", 11]]);
  });
});
