/** One task on the screen: its labels in step with the browser's queue and the server, proposals, time spent. */

import { api } from "./api";
import { type Change, LabelSet, labelOf } from "./labelset";
import type { QueuedEvent } from "./idb";
import { labelOfWire, OBJECT, type Outbox } from "./outbox";
import { Signal } from "./signal";
import type { EventsAnswer, Label, LabelsAnswer, Proposal, Proposals, TaskDetail, WireEvent } from "./types";

const POLL_MS = 3000;
const HEARTBEAT_MS = 15_000;
const IDLE_MS = 10_000; // hands off for so long is not work

const onScreen = new Map<number, TaskSession>();

/** The session of that task, where it is on the screen. */
export function openSession(task: number): TaskSession | undefined {
  return onScreen.get(task);
}

export class TaskSession {
  readonly task: TaskDetail;
  readonly labels = new LabelSet();
  readonly proposals = new Map<number, Proposal>();
  readonly proposalState = new Signal<Proposals | undefined>(undefined);
  /** Told after every change of the labels, whoever made it. */
  readonly changed = new Signal(0);
  /** Labels placed since the page was opened, and the seconds of work they took: the live speed. */
  made = 0;
  active_s = 0;
  readonly #outbox: Outbox;
  #rev = 0;
  #timers: ReturnType<typeof setInterval>[] = [];
  #lastInput = 0;
  #unreported_ms = 0;
  #polling = false;
  /** What an answer under way may be too old to know: labels queued when it was asked for, or since; `rev` once acked. */
  readonly #ahead = new Map<number, { label: Label | undefined; rev: number }>();

  constructor(task: TaskDetail, outbox: Outbox) {
    this.task = task;
    this.#outbox = outbox;
  }

  async open(): Promise<void> {
    onScreen.set(this.task.id, this);
    this.#outbox.onAnswer = (task, answer) => task === this.task.id && this.#answered(answer);
    await Promise.all([this.poll(), this.loadProposals()]);
    this.#timers = [
      setInterval(() => void this.poll().catch(() => undefined), POLL_MS),
      setInterval(() => this.#beat(), 1000),
      setInterval(() => void this.#report(), HEARTBEAT_MS),
    ];
  }

  close(): void {
    this.#timers.forEach(clearInterval);
    if (onScreen.get(this.task.id) === this) onScreen.delete(this.task.id);
    this.#outbox.onAnswer = () => undefined;
    void this.#report();
  }

  /** What the server has that this page does not show yet. Frames with queued events keep what the annotator did. */
  async poll(): Promise<void> {
    if (this.#polling) return;
    this.#polling = true;
    try {
      this.#queued();
      const answer = await api<LabelsAnswer>("GET", `/api/tasks/${this.task.id}/labels?since=${this.#rev}`);
      this.#queued(); // another tab's, taken over meanwhile
      const first = this.#rev === 0;
      for (const wire of answer.labels) {
        const own = this.#ahead.get(wire.frame);
        if (wire.object !== OBJECT || (own && wire.rev <= own.rev)) continue;
        this.labels.put(wire.frame, labelOfWire(wire));
        this.#ahead.delete(wire.frame);
      }
      for (const [frame, { label }] of this.#ahead) this.labels.put(frame, label);
      this.#rev = Math.max(this.#rev, answer.rev);
      if (first || answer.labels.length > 0) this.changed.value++;
    } finally {
      this.#polling = false;
      this.#ahead.clear();
    }
  }

  #queued(): void {
    for (const { event } of this.#outbox.pending(this.task.id)) this.#own(event.frame, labelOfEvent(event));
  }

  #own(frame: number, label: Label | undefined): void {
    this.#ahead.set(frame, { label, rev: Infinity });
  }

  async loadProposals(): Promise<void> {
    const answer = await api<Proposals>("GET", `/api/tasks/${this.task.id}/proposals`);
    this.proposals.clear();
    for (const proposal of answer.proposals) this.proposals.set(proposal.frame, proposal);
    this.proposalState.value = answer;
    this.changed.value++;
  }

  /** One step of the annotator. Resolves when it is safe in this browser; raises, and changes nothing, if it cannot be. */
  async change(labels: { frame: number; label: Label | undefined }[]): Promise<void> {
    if (labels.length === 0) return;
    this.made += labels.filter(({ label }) => label).length;
    await this.#commit(this.labels.change(labels));
  }

  async undo(): Promise<Change[]> {
    return this.#commit(this.labels.undo());
  }

  async redo(): Promise<Change[]> {
    return this.#commit(this.labels.redo());
  }

  /** Settles a conflict: the annotator's label again, upon what the other one made, or the other one's. */
  async resolve(conflict: QueuedEvent, keep: "mine" | "theirs"): Promise<void> {
    const { event, current } = conflict;
    if (keep === "mine") {
      const before = this.labels.at(event.frame);
      const after = labelOfEvent(event);
      this.labels.put(event.frame, after);
      await this.#commit([{ frame: event.frame, before, after }], current?.rev);
    } else {
      this.labels.put(event.frame, current ?? undefined);
    }
    await this.#outbox.settle(conflict);
    this.changed.value++;
  }

  /** A hand on the mouse or the keyboard. */
  input(): void {
    this.#lastInput = performance.now();
  }

  async #commit(changes: Change[], rev = 0): Promise<Change[]> {
    if (changes.length === 0) return changes;
    for (const { frame, after } of changes) this.#own(frame, after);
    try {
      await this.#outbox.add(this.task.id, changes, Math.max(this.#rev, rev));
    } catch (error) {
      for (const { frame, before } of changes) {
        this.labels.put(frame, before);
        this.#ahead.delete(frame);
      }
      const advice = "Free some disk space, or leave private mode.";
      throw new Error(`This browser cannot keep the label (${String(error)}). ${advice}`, { cause: error });
    }
    this.changed.value++;
    return changes;
  }

  #answered(answer: EventsAnswer): void {
    for (const { frame, current } of answer.conflicts) {
      this.labels.put(frame, labelOfWire(current));
      this.#ahead.delete(frame);
    }
    const waiting = new Set(this.#outbox.pending(this.task.id).map(({ event }) => event.frame));
    for (const [frame, own] of this.#ahead) if (!waiting.has(frame)) own.rev = Math.min(own.rev, answer.rev);
    if (answer.conflicts.length > 0 || answer.rejected.length > 0) this.changed.value++;
    void this.poll().catch(() => undefined);
  }

  #beat(): void {
    if (performance.now() - this.#lastInput > IDLE_MS || this.#lastInput === 0) return;
    this.#unreported_ms += 1000;
    this.active_s += 1;
  }

  async #report(): Promise<void> {
    const seconds = this.#unreported_ms / 1000;
    if (seconds === 0) return;
    this.#unreported_ms = 0;
    try {
      await api("POST", `/api/tasks/${this.task.id}/active`, { seconds });
    } catch {
      this.#unreported_ms += seconds * 1000; // told with the next beat
    }
  }
}

export function labelOfEvent(event: WireEvent): Label | undefined {
  if (event.op === "clear") return undefined;
  const { frame, x, y, blur_l, blur_theta, source, score } = event;
  return labelOf({ frame, x, y, visibility: event.visibility ?? 1, event: event.event, blur_l, blur_theta, source, score });
}
