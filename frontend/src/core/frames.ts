/**
 * Pictures by frame index: a ring of decoded ones around the annotator, JPEGs a little further, fetched ahead in the
 * direction of travel. URLs never change their content, so the browser's own cache takes what leaves the ring.
 */

import { ApiError, api, stream } from "./api";
import { ChunkParser } from "./chunks";

export interface FrameSource { id: number; sha: string; w: number; h: number; start: number; stop: number }

const AHEAD = 60;
const BEHIND = 20;
const CHUNK = 8;
const MAX_FETCHES = 2;
const MAX_DECODES = 2;
const RETRY_MS = 700;

/** Decoded pictures cost 4 bytes a pixel: at 1080p all 80 would be 660 MB. */
export function decodedBudget(w: number, h: number, memory_gb = 4): { ahead: number; behind: number } {
  const frames = Math.floor((memory_gb * 2 ** 30 * 0.1) / (w * h * 4));
  const ahead = Math.min(AHEAD, Math.max(8, Math.floor(frames * 0.75)));
  return { ahead, behind: Math.min(BEHIND, Math.max(3, Math.floor(frames * 0.25))) };
}

/** Frames around `at`, nearest first: three ahead for one behind, inside [start, stop). */
export function wanted(at: number, direction: 1 | -1, ahead: number, behind: number, start: number, stop: number): number[] {
  const order = [at];
  let [f, b] = [1, 1];
  while (f <= ahead || b <= behind) {
    for (let n = 0; n < 3 && f <= ahead; n++) order.push(at + direction * f++);
    if (b <= behind) order.push(at - direction * b++);
  }
  return order.filter((i) => i >= start && i < stop);
}

/** The run of frames one request fetches: from the first missing one on, in the direction that it is wanted in. */
export function chunkAt(first: number, missing: ReadonlySet<number>, direction: 1 | -1, count = CHUNK): { start: number; count: number } {
  let last = first;
  while (Math.abs(last - first) + 1 < count && missing.has(last + direction)) last += direction;
  return { start: Math.min(first, last), count: Math.abs(last - first) + 1 };
}

interface Fetch { frames: Set<number>; abort: AbortController }

export class FrameStore {
  readonly source: FrameSource;
  /** Why pictures do not come, if so. */
  trouble = "";
  onTrouble: () => void = () => undefined;
  readonly #onReady: (index: number) => void;
  readonly #bitmaps = new Map<number, ImageBitmap>();
  readonly #jpegs = new Map<number, Blob>();
  readonly #decoding = new Set<number>();
  #fetches: Fetch[] = [];
  #at: number;
  #direction: 1 | -1 = 1;
  #paused = false;
  #closed = false;
  #announced = -Infinity;

  constructor(source: FrameSource, onReady: (index: number) => void) {
    this.source = source;
    this.#at = source.start;
    this.#onReady = onReady;
  }

  bitmap(index: number): ImageBitmap | undefined {
    return this.#bitmaps.get(index);
  }

  /** The annotator is, or wants to be, at `index`. */
  aim(index: number, direction: 1 | -1): void {
    this.#at = index;
    this.#direction = direction;
    this.#pump();
  }

  close(): void {
    this.#closed = true;
    for (const fetch of this.#fetches) fetch.abort.abort();
    for (const bitmap of this.#bitmaps.values()) bitmap.close();
    this.#bitmaps.clear();
    this.#jpegs.clear();
  }

  #pump(): void {
    if (this.#closed) return;
    const { start, stop, w, h } = this.source;
    const memory = (navigator as { deviceMemory?: number }).deviceMemory;
    const { ahead, behind } = decodedBudget(w, h, memory);
    const near = wanted(this.#at, this.#direction, ahead, behind, start, stop);
    const far = wanted(this.#at, this.#direction, AHEAD, BEHIND, start, stop);
    this.#evict(new Set(near), new Set(far));
    this.#decode(near);
    if (!this.#paused) this.#fetch(far);
  }

  #evict(near: Set<number>, far: Set<number>): void {
    for (const [index, bitmap] of this.#bitmaps) {
      if (near.has(index)) continue;
      bitmap.close();
      this.#bitmaps.delete(index);
    }
    for (const index of this.#jpegs.keys()) if (!far.has(index)) this.#jpegs.delete(index);
    for (const fetch of this.#fetches) if (![...fetch.frames].some((i) => far.has(i))) fetch.abort.abort();
  }

  #decode(near: number[]): void {
    for (const index of near) {
      if (this.#decoding.size >= MAX_DECODES) return;
      const jpeg = this.#jpegs.get(index);
      if (!jpeg || this.#bitmaps.has(index) || this.#decoding.has(index)) continue;
      this.#decoding.add(index);
      void createImageBitmap(jpeg)
        .then((bitmap) => this.#keep(index, bitmap))
        .catch(() => this.#fail(`frame ${index} cannot be decoded`))
        .finally(() => {
          this.#decoding.delete(index);
          this.#pump();
        });
    }
  }

  #keep(index: number, bitmap: ImageBitmap): void {
    if (this.#closed) return bitmap.close();
    this.#bitmaps.set(index, bitmap);
    this.#onReady(index);
  }

  #fetch(far: number[]): void {
    const flying = new Set(this.#fetches.flatMap((fetch) => [...fetch.frames]));
    const missing = new Set(far.filter((i) => !this.#jpegs.has(i) && !this.#bitmaps.has(i) && !flying.has(i)));
    for (const index of far) {
      if (!missing.has(index)) continue;
      const urgent = index === this.#at;
      if (this.#fetches.length >= MAX_FETCHES + (urgent ? 1 : 0)) return;
      const ahead = (index - this.#at) * this.#direction >= 0;
      const run = chunkAt(index, missing, ahead ? this.#direction : (-this.#direction as 1 | -1), urgent ? 1 : CHUNK);
      const frames = new Set(Array.from({ length: run.count }, (_, n) => run.start + n));
      for (const i of frames) missing.delete(i);
      void this.#load(frames, run.start, run.count);
    }
  }

  async #load(frames: Set<number>, start: number, count: number): Promise<void> {
    const fetch = { frames, abort: new AbortController() };
    this.#fetches.push(fetch);
    const { id, sha } = this.source;
    const version = sha.slice(0, 12);
    try {
      if (count === 1) {
        const response = await stream(`/frames/${id}/${start}.jpg?v=${version}`, fetch.abort.signal);
        this.#arrived({ index: start, blob: await response.blob() }, frames);
      } else {
        this.#announce(start, count);
        const path = `/frames/${id}/chunk?start=${start}&count=${count}&v=${version}`;
        const reader = (await stream(path, fetch.abort.signal)).body!.getReader();
        const parser = new ChunkParser();
        for (let part = await reader.read(); !part.done; part = await reader.read()) {
          for (const jpeg of parser.push(part.value)) this.#arrived(jpeg, frames);
        }
      }
      if (this.trouble) this.#say("");
    } catch (error) {
      if (!fetch.abort.signal.aborted) this.#fail(error instanceof ApiError ? error.message : "the pictures do not come");
    } finally {
      this.#fetches = this.#fetches.filter((other) => other !== fetch);
      this.#pump();
    }
  }

  #arrived(jpeg: { index: number; blob: Blob }, frames: Set<number>): void {
    frames.delete(jpeg.index);
    this.#jpegs.set(jpeg.index, jpeg.blob);
    this.#pump();
  }

  /** After a jump the server may decode ahead of what is asked for. */
  #announce(start: number, count: number): void {
    if (Math.abs(start - this.#announced) <= 4 * CHUNK) return;
    this.#announced = start;
    const direction = this.#direction;
    void api("POST", `/frames/${this.source.id}/prefetch`, { start, count: Math.max(count, AHEAD), direction }).catch(() => undefined);
  }

  #fail(why: string): void {
    this.#say(why);
    if (this.#paused) return;
    this.#paused = true;
    setTimeout(() => {
      this.#paused = false;
      this.#pump();
    }, RETRY_MS);
  }

  #say(trouble: string): void {
    this.trouble = trouble;
    this.onTrouble();
  }
}
