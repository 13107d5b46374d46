/**
 * Nothing an annotator does is lost: every event is committed to IndexedDB before the picture changes, sent in batches
 * within a second, and removed when the server has acknowledged it. What waits survives reloads, crashes of either side
 * and the end of a session; each tab sends its own events and those of tabs that are gone.
 */

import { api as realApi, ApiError } from "./api";
import type { EventStore, QueuedEvent } from "./idb";
import { type Client, uuid } from "./ids";
import { Signal } from "./signal";
import type { EventsAnswer, Label, WireEvent, WireLabel } from "./types";

export interface OutboxState {
  /** Events that no server has. */
  unsaved: number;
  conflicts: QueuedEvent[];
  rejected: QueuedEvent[];
  /** Why nothing is being sent, if so. */
  trouble: string;
}

interface Options {
  store: EventStore;
  client: Client;
  user: () => number | undefined;
  api?: typeof realApi;
}

const BATCH = 500;
const GATHER_MS = 200;
const RETRY_MS = [500, 1000, 2000, 4000];
const ORPHAN_CHECK_MS = 5000;

export const OBJECT = "ball:1";

export function labelOfWire(wire: WireLabel | null): Label | undefined {
  return !wire || wire.cleared ? undefined : wire;
}

export class Outbox {
  readonly state = new Signal<OutboxState>({ unsaved: 0, conflicts: [], rejected: [], trouble: "" });
  /** Called with every answer, after it has been digested: who shows a task takes its labels' revisions from here. */
  onAnswer: (task: number, answer: EventsAnswer) => void = () => undefined;
  readonly #options: Options;
  readonly #api: typeof realApi;
  #events: QueuedEvent[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #sending = false;
  #failures = 0;
  #seq = 0;
  #rounds = 0;
  #trouble = "";

  constructor(options: Options) {
    this.#options = options;
    this.#api = options.api ?? realApi;
  }

  /** Reads what earlier pages left and begins to send it. */
  async start(): Promise<void> {
    this.#events = await this.#options.store.all();
    this.#publish();
    this.kick(0);
    if (typeof window !== "undefined") window.addEventListener("online", () => this.kick(0));
    setInterval(() => void this.adopt(), ORPHAN_CHECK_MS);
  }

  /** Events of other tabs that have gone meanwhile. */
  async adopt(): Promise<void> {
    if (this.#sending) return;
    const rounds = this.#rounds;
    const known = new Set(this.#events.map((event) => event.uuid));
    const stored = await this.#options.store.all();
    if (this.#rounds !== rounds) return; // what was read may have been sent since
    const theirs = stored.filter((event) => !known.has(event.uuid) && event.client_id !== this.#options.client.id);
    const fresh = [];
    for (const event of theirs) if (!(await this.#options.client.isAlive(event.client_id, event.event.client_ts))) fresh.push(event);
    if (fresh.length === 0) return;
    this.#events.push(...fresh);
    this.#publish();
    this.kick(0);
  }

  /** Events of the task that wait, oldest first: they lie on top of the server's labels. */
  pending(task: number): QueuedEvent[] {
    const user = this.#options.user();
    return this.#events.filter((e) => e.task === task && e.user === user && e.state === "pending");
  }

  /** Resolves when the changes are safe in this browser. `after` undefined clears the frame. */
  async add(task: number, changes: { frame: number; after: Label | undefined }[], rev: number): Promise<void> {
    const user = this.#options.user();
    if (user === undefined) throw new Error("nobody is logged in");
    const last = new Map(this.pending(task).map((e) => [e.event.frame, e.uuid]));
    const events = changes.map(({ frame, after }): QueuedEvent => {
      const event = this.#wire(frame, after, rev);
      const over = last.get(frame) ?? null;
      last.set(frame, event.uuid);
      return { uuid: event.uuid, task, user, client_id: this.#options.client.id, over, state: "pending", event };
    });
    await this.#options.store.add(events);
    this.#events.push(...events);
    this.#publish();
    this.kick(GATHER_MS);
  }

  /** A conflict or refusal that the annotator has settled. */
  async settle(event: QueuedEvent): Promise<void> {
    await this.#forget([event]);
    this.#publish();
  }

  kick(wait_ms: number): void {
    if (this.#timer !== undefined && wait_ms > 0) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      void this.flush();
    }, wait_ms);
  }

  /** Sends until nothing is left that can be sent. */
  async flush(): Promise<void> {
    if (this.#sending) return;
    this.#sending = true;
    this.#rounds++;
    try {
      for (let batch = await this.#next(); batch.length > 0; batch = await this.#next()) await this.#send(batch);
      this.#failures = 0;
      this.#trouble = "";
    } catch (error) {
      this.#trouble = error instanceof ApiError && error.status === 401 ? "logged out" : "offline";
      if (error instanceof ApiError && !error.temporary && error.status !== 401) this.#trouble = error.message;
      this.kick(RETRY_MS[Math.min(this.#failures++, RETRY_MS.length - 1)]!);
    } finally {
      this.#sending = false;
      this.#publish();
    }
    // Something added while the last answer was on its way has its own timer.
  }

  /** The oldest events that one request can carry: one task, one client. */
  async #next(): Promise<QueuedEvent[]> {
    const user = this.#options.user();
    const alive = new Map<string, boolean>([[this.#options.client.id, false]]);
    const mine: QueuedEvent[] = [];
    for (const event of this.#events) {
      if (event.state !== "pending" || event.user !== user) continue;
      if (!alive.has(event.client_id)) alive.set(event.client_id, await this.#options.client.isAlive(event.client_id, event.event.client_ts));
      if (alive.get(event.client_id)) continue; // its own tab sends it
      const first = mine[0];
      if (first && (first.task !== event.task || first.client_id !== event.client_id)) break;
      mine.push(event);
      if (mine.length === BATCH) break;
    }
    return mine;
  }

  async #send(batch: QueuedEvent[]): Promise<void> {
    const { task, client_id } = batch[0]!;
    const body = { client_id, events: batch.map((queued) => queued.event) };
    let answer: EventsAnswer;
    try {
      answer = await this.#api<EventsAnswer>("POST", `/api/tasks/${task}/events`, body);
    } catch (error) {
      if (!(error instanceof ApiError) || error.temporary || error.status === 401) throw error;
      // The task is no longer this person's, or the like: shown, kept, and out of the way of other tasks' events.
      answer = { acked: [], conflicts: [], rejected: batch.map((e) => ({ uuid: e.uuid, message: error.message })), rev: 0 };
    }
    await this.#digest(batch, answer);
    this.onAnswer(task, answer);
    const answered = new Set([...answer.acked, ...answer.conflicts.map((c) => c.uuid), ...answer.rejected.map((r) => r.uuid)]);
    if (batch.some((queued) => !answered.has(queued.uuid))) throw new ApiError(0, "unanswered", "an event was not answered");
  }

  async #digest(batch: QueuedEvent[], answer: EventsAnswer): Promise<void> {
    const acked = new Set(answer.acked);
    const conflicts = new Map(answer.conflicts.map((c) => [c.uuid, c.current]));
    const rejected = new Map(answer.rejected.map((r) => [r.uuid, r.message]));
    const changed: QueuedEvent[] = [];
    for (const queued of batch) {
      if (conflicts.has(queued.uuid)) {
        acked.delete(queued.uuid); // stored by the server, but it does not count: the annotator decides
        queued.state = "conflict";
        queued.current = labelOfWire(conflicts.get(queued.uuid) ?? null) ?? null;
        changed.push(queued);
      } else if (rejected.has(queued.uuid)) {
        queued.state = "rejected";
        queued.message = rejected.get(queued.uuid) ?? "";
        changed.push(queued);
      }
    }
    const gone = batch.filter((queued) => acked.has(queued.uuid));
    const made = new Set(gone.map((queued) => queued.uuid));
    for (const later of this.#events) {
      // Made by somebody who saw the acknowledged one, in another life of this tab: it builds upon its revision.
      if (later.over !== null && made.has(later.over) && later.event.base_rev < answer.rev) {
        later.event.base_rev = answer.rev;
        if (!gone.includes(later)) changed.push(later);
      }
    }
    await this.#options.store.update(changed);
    await this.#forget([...gone, ...this.#superseded(changed)]);
    this.#publish();
  }

  /** Of several conflicts on one frame only the last one is a question. */
  #superseded(changed: QueuedEvent[]): QueuedEvent[] {
    const open = changed.filter((e) => e.state === "conflict");
    return this.#events.filter(
      (e) =>
        e.state === "conflict" &&
        open.some((o) => o !== e && o.task === e.task && o.event.frame === e.event.frame && (o.order ?? 0) > (e.order ?? 0)),
    );
  }

  async #forget(events: QueuedEvent[]): Promise<void> {
    if (events.length === 0) return;
    const gone = new Set(events);
    this.#events = this.#events.filter((event) => !gone.has(event));
    await this.#options.store.remove(events);
  }

  #wire(frame: number, after: Label | undefined, base_rev: number): WireEvent {
    const stamp = { uuid: uuid(), frame, object: OBJECT, client_ts: Date.now(), client_seq: ++this.#seq, base_rev };
    if (!after) {
      const nothing = { x: null, y: null, visibility: null, blur_l: null, blur_theta: null, score: null };
      return { ...stamp, ...nothing, op: "clear", event: "", source: "manual" };
    }
    const { x, y, visibility, event, blur_l, blur_theta, source, score } = after;
    return { ...stamp, op: "set", x, y, visibility, event, blur_l, blur_theta, source, score };
  }

  #publish(): void {
    const mine = this.#events.filter((event) => event.user === this.#options.user());
    const of = (state: QueuedEvent["state"]): QueuedEvent[] => mine.filter((event) => event.state === state);
    this.state.value = {
      unsaved: of("pending").length,
      conflicts: of("conflict"),
      rejected: of("rejected"),
      trouble: this.#trouble,
    };
  }
}
