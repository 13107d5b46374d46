/** What the annotator's hands do to a task: every key, button and click ends in one command here. */

import { inPicture, type Point, rounded, streak } from "../core/coords";
import { FrameStore } from "../core/frames";
import type { Command } from "../core/keys";
import { absent, type Draft, labelOf } from "../core/labelset";
import { ghost, located, peakNear, standsOut } from "../core/motion";
import { Review } from "../core/review";
import { set, settings } from "../core/settings";
import { Signal } from "../core/signal";
import type { TaskSession } from "../core/tasksession";
import type { HitEvent, Label, Proposal, QueueBy, Visibility } from "../core/types";
import { api, messageOf } from "../core/api";
import { paintOverlay } from "./overlay";
import { Stage } from "./stage";

export interface Range { kind: "absent" | "accept"; from: number }
type Frames = { frame: number; label: Label | undefined }[];

const NUDGES: Record<string, Point> = { left: { x: -1, y: 0 }, right: { x: 1, y: 0 }, up: { x: 0, y: -1 }, down: { x: 0, y: 1 } };
const REACTION_S = 0.3;
const SNAP_PX = 12; // on the screen, where hands are as good at any zoom
const VISIBILITIES: Partial<Record<Command, Visibility>> = { "clear-visibility": 1, hard: 2, occluded: 3 };

export class Workspace {
  readonly session: TaskSession;
  readonly frames: FrameStore;
  readonly stage: Stage;
  readonly review = new Review();
  /** Panels draw themselves anew when this moves. */
  readonly changed = new Signal(0);
  readonly notice = new Signal("");
  readonly help = new Signal(false);
  /** Frames that a reviewer has marked for the annotator. */
  readonly flags = new Set<number>();
  range: Range | undefined;
  /** What the next click here will carry, chosen before it. */
  next: { visibility: Visibility; event: HitEvent } = { visibility: 1, event: "" };
  pointer: Point | undefined;
  drag: { from: Point; to: Point } | undefined;
  #target: number;
  #direction: 1 | -1 = 1;
  #work: Promise<void> = Promise.resolve();
  #play: ReturnType<typeof setTimeout> | undefined;
  #queue: { by: QueueBy; frames: number[]; at: number } | undefined;
  #stops: (() => void)[] = [];
  #telling: ReturnType<typeof setTimeout> | undefined;

  constructor(session: TaskSession, canvas: HTMLCanvasElement, overlay: HTMLCanvasElement) {
    this.session = session;
    const { video, start, stop } = session.task;
    this.frames = new FrameStore({ ...video, start, stop }, (index) => this.stage.ready(index));
    this.stage = new Stage(canvas, overlay, this.frames, video);
    this.stage.mode = settings.value.picture;
    this.stage.drawOverlay = (ctx, scene) => paintOverlay(this, ctx, scene);
    this.stage.onShown = () => this.#touch();
    this.frames.onTrouble = () => this.#touch();
    this.#target = session.labels.at(start) ? (session.labels.nextUnlabelled(start, start, stop, 1) ?? start) : start;
    this.#stops = [
      session.changed.watch(() => this.#touch()),
      settings.watch(() => {
        this.stage.mode = settings.value.picture;
        this.stage.repaint();
        this.#touch();
      }),
    ];
    this.go(this.#target);
  }

  close(): void {
    clearTimeout(this.#play);
    clearTimeout(this.#telling);
    this.#stops.forEach((stop) => stop());
    this.stage.close();
    this.frames.close();
  }

  /** The frame on the screen; what is placed is placed on it. */
  get frame(): number {
    return this.stage.shown;
  }

  get target(): number {
    return this.#target;
  }

  get label(): Label | undefined {
    return this.session.labels.at(this.frame);
  }

  get proposal(): Proposal | undefined {
    return settings.value.proposals ? this.session.proposals.get(this.frame) : undefined;
  }

  /** Where the ball should be in the shown frame, if it flies on as it did. */
  ghostAt(frame = this.frame): Point | undefined {
    const guess = ghost(this.session.labels.at, frame, this.#direction);
    return guess && inPicture(guess, this.stage.picture) ? rounded(guess) : undefined;
  }

  /** One after the other: a held key does not overtake the database. */
  run(command: Command): void {
    this.session.input();
    this.#then(() => this.#do(command));
  }

  /** A click on `frame`, or a drag along the streak. Only where that picture still stands. `other`: snap as not set. */
  put(frame: number, from: Point, to?: Point, other = false): void {
    this.session.input();
    this.#then(async () => {
      if (!inPicture(from, this.stage.picture)) return;
      if (this.stage.waiting || frame !== this.frame) { this.say("The picture was still loading: click again"); return; }
      const { visibility, event } = this.next;
      const peak = !to && settings.value.snap !== other ? peakNear(from, this.proposal, SNAP_PX / this.stage.view.scale) : undefined;
      const score = this.proposal?.score ?? null;
      if (peak) return this.#settle([{ frame, label: labelOf({ frame, visibility, event, ...peak, source: "accepted", score }) }]);
      const base = { frame, visibility, event, source: "manual" };
      const drawn = to && streak(from, to);
      const at = drawn ? { ...drawn.centre, blur_l: drawn.l, blur_theta: drawn.theta } : rounded(from);
      await this.#settle([{ frame, label: labelOf({ ...base, ...at }) }]);
    });
  }

  go(frame: number): void {
    const { start, stop } = this.session.task;
    const to = Math.min(Math.max(frame, start), stop - 1);
    if (to !== this.#target) this.#direction = to > this.#target ? 1 : -1;
    this.#target = to;
    this.next = { visibility: 1, event: "" };
    this.frames.aim(to, this.#direction);
    this.stage.ask(to, settings.value.follow ? this.#likely(to) : undefined);
  }

  setVisibility(visibility: Visibility): Promise<void> {
    const { label } = this;
    if (visibility === 0) return this.#settle([{ frame: this.frame, label: absent(this.frame) }]);
    if (located(label)) return this.#change([{ frame: this.frame, label: { ...label, visibility } }]);
    this.next = { ...this.next, visibility };
    this.#touch();
    return Promise.resolve();
  }

  setEvent(event: HitEvent): Promise<void> {
    const { label } = this;
    if (located(label)) {
      return this.#change([{ frame: this.frame, label: { ...label, event: label.event === event ? "" : event } }]);
    }
    this.next = { ...this.next, event: this.next.event === event ? "" : event };
    this.#touch();
    return Promise.resolve();
  }

  /** Proposals on frames without a label, from those in [from, to] with at least that score. */
  acceptable(from: number, to: number, score = -Infinity): Proposal[] {
    const inside = (p: Proposal): boolean => p.frame >= from && p.frame <= to && (p.score ?? 0) >= score;
    return [...this.session.proposals.values()].filter((p) => inside(p) && !this.session.labels.at(p.frame));
  }

  /** Unseen, so the model stays their source. */
  acceptMany(proposals: Proposal[]): Promise<void> {
    const model = this.session.proposalState.value?.model ?? "unknown";
    return this.#change(proposals.map((p) => ({ frame: p.frame, label: labelOfProposal(p, `model:${model}`) })));
  }

  endRange(): Promise<void> {
    const { range } = this;
    this.range = undefined;
    if (!range) return Promise.resolve();
    const [from, to] = [Math.min(range.from, this.frame), Math.max(range.from, this.frame)];
    if (range.kind === "absent") return this.#settle(this.session.labels.absentRange(from, to));
    return this.acceptMany(this.acceptable(from, to)).then(() => this.#advance());
  }

  /** Says a thing for a moment. */
  say(text: string): void {
    this.notice.value = text;
    setTimeout(() => this.notice.value === text && (this.notice.value = ""), 4000);
  }

  #then(work: () => Promise<void>): void {
    this.#work = this.#work.then(work).catch((error: unknown) => this.say(messageOf(error)));
  }

  async #do(command: Command): Promise<void> {
    if (this.review.mode === "playing" && PAUSES.has(command)) this.stopPlay();
    const visibility = VISIBILITIES[command];
    if (visibility !== undefined) return this.setVisibility(visibility);
    const [kind, way] = command.split("-");
    if ((kind === "nudge" || kind === "push") && way) return this.#nudge(NUDGES[way]!, kind === "nudge" ? 0.5 : 8);
    await (this.#steps[command] ?? this.#edits[command] ?? this.#sights[command])?.();
  }

  readonly #steps: Partial<Record<Command, () => void | Promise<void>>> = {
    next: () => this.#step(1),
    previous: () => this.#step(-1),
    next10: () => this.#step(10),
    previous10: () => this.#step(-10),
    first: () => this.go(this.session.task.start),
    last: () => this.go(this.session.task.stop - 1),
    uncertain: () => this.#uncertain(1),
    "uncertain-back": () => this.#uncertain(-1),
    review: () => this.toggleReview(),
  };

  readonly #edits: Partial<Record<Command, () => void | Promise<void>>> = {
    accept: () => this.#accept(),
    absent: () => this.#ifReady(() => this.#settle([{ frame: this.frame, label: absent(this.frame) }])),
    clear: () => this.#ifReady(() => this.#change([{ frame: this.frame, label: undefined }])),
    place: () => this.#ifReady(() => this.#place()),
    range: () => this.#begin("absent"),
    "accept-range": () => this.#begin("accept"),
    undo: async () => this.#show(await this.session.undo()),
    redo: async () => this.#show(await this.session.redo()),
    hit: () => this.setEvent("hit"),
    bounce: () => this.setEvent("bounce"),
    flag: () => {
      if (!this.flags.delete(this.frame)) this.flags.add(this.frame);
      this.#touch();
    },
    cancel: () => {
      this.range = undefined;
      this.drag = undefined;
      if (this.review.mode !== "off") this.endReview();
      this.#touch();
    },
  };

  readonly #sights: Partial<Record<Command, () => void>> = {
    loupe: () => set({ loupe: !settings.value.loupe }),
    onion: () => set({ onion: !settings.value.onion }),
    follow: () => set({ follow: !settings.value.follow }),
    proposals: () => set({ proposals: !settings.value.proposals }),
    snap: () => {
      set({ snap: !settings.value.snap });
      this.say(settings.value.snap ? "Clicks near a proposal take its place" : "Clicks stay where they are");
    },
    panel: () => set({ panel: !settings.value.panel }),
    picture: () => {
      const modes = ["plain", "difference", "blend"] as const;
      set({ picture: modes[(modes.indexOf(settings.value.picture) + 1) % modes.length]! });
    },
    fit: () => this.stage.toggleFit(),
    "zoom-in": () => this.stage.zoom(this.#zoomPoint(), 1.25),
    "zoom-out": () => this.stage.zoom(this.#zoomPoint(), 0.8),
    help: () => (this.help.value = !this.help.value),
  };

  #zoomPoint(): Point {
    return this.pointer ?? { x: this.stage.viewport.w / 2, y: this.stage.viewport.h / 2 };
  }

  /** Where to look in a frame: at its label, its proposal, its ghost. */
  #likely(frame: number): Point | undefined {
    const label = this.session.labels.at(frame);
    if (located(label)) return label;
    const proposal = settings.value.proposals ? this.session.proposals.get(frame) : undefined;
    if (proposal && proposal.x !== null && proposal.y !== null) return { x: proposal.x, y: proposal.y };
    return label ? undefined : this.ghostAt(frame);
  }

  #step(by: number): void {
    if (this.stage.waiting && Math.abs(by) === 1) return; // no frame is skipped unseen
    this.go(this.#target + by);
  }

  #advance(): void {
    if (this.review.mode === "off") this.#step(1);
  }

  #ifReady(work: () => Promise<void>): Promise<void> {
    return this.stage.waiting ? Promise.resolve() : work();
  }

  async #change(labels: Frames): Promise<void> {
    await this.session.change(labels);
    this.stage.overlay();
  }

  /** A decision about the shown frame: safe first, then the next frame, or on with the review. */
  async #settle(labels: Frames): Promise<void> {
    const at = this.frame;
    await this.#change(labels);
    if (this.review.mode !== "off") await this.#resume(at, true);
    else if (settings.value.advance) this.#advance();
  }

  #accept(): Promise<void> {
    if (this.range) return this.endRange();
    return this.#ifReady(async () => {
      const { frame, label, proposal } = this;
      const guess = this.ghostAt();
      if (label) return this.#settle([]); // it is right as it is
      if (proposal) return this.#settle([{ frame, label: labelOfProposal(proposal, "accepted") }]);
      if (guess) return this.#settle([{ frame, label: labelOf({ frame, ...guess, visibility: this.next.visibility, event: this.next.event, source: "accepted" }) }]);
      if (this.review.mode !== "off") return this.#resume(frame, false);
      this.say("Nothing to accept here: click the ball, or N for no ball");
    });
  }

  /** A label without the mouse: where the ball is likely, or in the middle of what is seen. */
  #place(): Promise<void> {
    const { view, picture } = this.stage;
    const centre = rounded({ x: view.cu - 0.5, y: view.cv - 0.5 });
    const at = this.#likely(this.frame) ?? centre;
    const draft: Draft = { frame: this.frame, x: at.x, y: at.y, ...this.next, source: "manual" };
    return inPicture(at, picture) ? this.#change([{ frame: this.frame, label: labelOf(draft) }]) : Promise.resolve();
  }

  #nudge(way: Point, px: number): Promise<void> {
    const { label } = this;
    if (!located(label) || this.stage.waiting) return Promise.resolve();
    const to = rounded({ x: label.x + way.x * px, y: label.y + way.y * px });
    if (!inPicture(to, this.stage.picture)) return Promise.resolve();
    return this.#change([{ frame: this.frame, label: { ...label, ...to, source: "nudged" } }]);
  }

  #begin(kind: Range["kind"]): void {
    this.range = { kind, from: this.frame };
    this.say(kind === "absent" ? "No ball from here: go to the last such frame, then Enter" : "Accept from here: go to the last frame, then Enter");
    this.#touch();
  }

  #show(changes: { frame: number }[]): void {
    const last = changes.at(-1);
    if (!last) return this.say("Nothing left to take back");
    if (Math.abs(last.frame - this.#target) > 0) this.go(last.frame);
    this.stage.overlay();
  }

  async #uncertain(direction: 1 | -1): Promise<void> {
    const by = settings.value.queue;
    if (this.#queue?.by !== by) {
      const { frames } = await api<{ frames: number[] }>("GET", `/api/tasks/${this.session.task.id}/queue?by=${by}`);
      this.#queue = { by, frames, at: -1 };
    }
    const queue = this.#queue;
    const open = (frame: number): boolean => by !== "unlabelled" || !this.session.labels.at(frame);
    let at = queue.at + direction;
    while (at >= 0 && at < queue.frames.length && !open(queue.frames[at]!)) at += direction;
    const frame = queue.frames[at];
    if (frame === undefined) {
      this.#queue = undefined; // asked anew with the next press
      this.say(queue.frames.length === 0 ? "Nothing uncertain is left" : "The end of the queue"); return;
    }
    queue.at = at;
    this.go(frame);
  }

  toggleReview(): Promise<void> {
    if (this.review.mode === "playing") {
      this.haltPlay();
      return Promise.resolve();
    }
    if (this.review.mode === "stopped") return this.#resume(this.frame, false);
    this.review.begin(this.frame);
    this.#tick();
    return Promise.resolve();
  }

  stopPlay(): void {
    clearTimeout(this.#play);
    this.review.stop();
    this.#touch();
  }

  /** Stopped by hand: the eye was faster than the hand, so it goes back to what it saw. */
  haltPlay(): void {
    this.stopPlay();
    this.go(this.frame - Math.round(REACTION_S * settings.value.reviewFps));
  }

  endReview(): void {
    clearTimeout(this.#play);
    this.review.end();
    this.#touch();
  }

  async #resume(from: number, settled: boolean): Promise<void> {
    await this.#acceptSeen(this.review.resume(from, settled));
    this.go(from + (settled ? 1 : 0));
    this.#tick();
  }

  /** Watched and let pass: accepted, by a human who saw it. */
  async #acceptSeen([from, to]: [number, number]): Promise<void> {
    const seen = this.acceptable(from, to - 1);
    await this.#change(seen.map((p) => ({ frame: p.frame, label: labelOfProposal(p, "accepted") })));
  }

  #tick(): void {
    clearTimeout(this.#play);
    this.#play = setTimeout(() => this.#then(() => this.#playOn()), 1000 / settings.value.reviewFps);
    this.#touch();
  }

  async #playOn(): Promise<void> {
    if (this.review.mode !== "playing") return;
    this.session.input();
    if (this.stage.waiting) { this.#tick(); return; }
    await this.#acceptSeen(this.review.show(this.frame));
    if (this.#doubtful(this.frame)) { this.stopPlay(); return; }
    if (this.frame >= this.session.task.stop - 1) {
      await this.#acceptSeen(this.review.finish());
      this.say("Reviewed to the end");
      this.#touch(); return;
    }
    this.go(this.frame + 1);
    this.#tick();
  }

  /** Neither label nor proposal, one that the model does not trust, one off the path: the play waits for a decision. */
  #doubtful(frame: number): boolean {
    if (this.session.labels.at(frame)) return false;
    const proposal = this.session.proposals.get(frame);
    if (!proposal || (proposal.score ?? 1) < settings.value.stopScore) return true;
    const point = (f: number): Label | Proposal | undefined => this.session.labels.at(f) ?? this.session.proposals.get(f);
    return standsOut(point, frame, settings.value.stopJump);
  }

  /** Panels are drawn after the picture, never before it. */
  #touch(): void {
    this.stage.overlay();
    this.#telling ??= setTimeout(() => {
      this.#telling = undefined;
      this.changed.value++;
    }, 0);
  }
}

/** Commands that stop a playing review; the others only change what is seen. */
const PAUSES = new Set<Command>(["next", "previous", "next10", "previous10", "first", "last", "uncertain", "uncertain-back", "absent", "clear", "place", "undo", "redo", "range", "hit", "bounce", "clear-visibility", "hard", "occluded"]);

export function labelOfProposal(proposal: Proposal, source: string): Label {
  const { frame, x, y, score } = proposal;
  if (x === null || y === null) return absent(frame, source, score);
  return labelOf({ frame, x, y, visibility: 1, source, score });
}
