/** The labels of one task as this browser knows them, with undo; it makes changes and knows no network. */

import type { HitEvent, Label, Visibility } from "./types";

/** `undefined` means unlabelled. */
export interface Change { frame: number; before: Label | undefined; after: Label | undefined }

export interface Draft {
  frame: number;
  x: number | null;
  y: number | null;
  visibility: Visibility;
  event?: HitEvent;
  blur_l?: number | null;
  blur_theta?: number | null;
  source: string;
  score?: number | null;
}

export function labelOf(draft: Draft): Label {
  return { event: "", blur_l: null, blur_theta: null, score: null, ...draft, rev: 0, user: null };
}

export function absent(frame: number, source = "manual", score: number | null = null): Label {
  return labelOf({ frame, x: null, y: null, visibility: 0, source, score });
}

const KEPT_STEPS = 2000;

export class LabelSet {
  readonly #labels = new Map<number, Label>();
  #done: Change[][] = [];
  #undone: Change[][] = [];

  readonly at = (frame: number): Label | undefined => this.#labels.get(frame);

  get size(): number {
    return this.#labels.size;
  }

  values(): IterableIterator<Label> {
    return this.#labels.values();
  }

  /** What the server, or another tab, says; no step to undo. */
  put(frame: number, label: Label | undefined): void {
    if (label) this.#labels.set(frame, label);
    else this.#labels.delete(frame);
  }

  /** One step of this annotator, over one frame or many: it can be undone as one. */
  change(labels: { frame: number; label: Label | undefined }[]): Change[] {
    const step = labels.map(({ frame, label }) => ({ frame, before: this.at(frame), after: label }));
    this.#done.push(step);
    if (this.#done.length > KEPT_STEPS) this.#done.shift();
    this.#undone = [];
    return this.#apply(step);
  }

  /** The changes that take the last step back; none where nothing is left. */
  undo(): Change[] {
    const step = this.#done.pop();
    if (!step) return [];
    this.#undone.push(step);
    const back = step.map(({ frame, after, before }) => ({ frame, before: after, after: before })).reverse();
    return this.#apply(this.#unchangedSince(back));
  }

  redo(): Change[] {
    const step = this.#undone.pop();
    if (!step) return [];
    this.#done.push(step);
    return this.#apply(this.#unchangedSince(step));
  }

  get canUndo(): boolean {
    return this.#done.length > 0;
  }

  get canRedo(): boolean {
    return this.#undone.length > 0;
  }

  /** "No ball" for every frame between the two, both included, that has no label yet. */
  absentRange(from: number, to: number): { frame: number; label: Label }[] {
    const frames = [];
    for (let f = Math.min(from, to); f <= Math.max(from, to); f++) {
      if (!this.at(f)) frames.push({ frame: f, label: absent(f) });
    }
    return frames;
  }

  nextUnlabelled(from: number, start: number, stop: number, direction: 1 | -1): number | undefined {
    for (let f = from + direction; f >= start && f < stop; f += direction) if (!this.at(f)) return f;
    return undefined;
  }

  /** Frames that somebody else changed meanwhile are left as they are. */
  #unchangedSince(changes: Change[]): Change[] {
    return changes.filter(({ frame, before }) => same(this.at(frame), before));
  }

  #apply(changes: Change[]): Change[] {
    for (const { frame, after } of changes) this.put(frame, after);
    return changes;
  }
}

/** Do they say the same? Provenance aside. */
export function same(a: Label | undefined, b: Label | undefined): boolean {
  if (!a || !b) return a === b;
  const [p, q] = [a, b].map((l) => JSON.stringify([l.x, l.y, l.visibility, l.event, l.blur_l, l.blur_theta]));
  return p === q;
}
