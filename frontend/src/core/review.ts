/**
 * Play-and-stop review: pictures play at 10 a second with a proposal on each; what the annotator lets pass is accepted,
 * but only a reaction time later, or when he goes on from a later frame. A stop, by him or on a doubtful frame, leaves
 * the last frames open: he steps back to the wrong one, corrects it, and the play goes on from there.
 */

export type Mode = "off" | "playing" | "stopped";

export const REACTION_FRAMES = 8;

export class Review {
  mode: Mode = "off";
  /** First watched frame that is not accepted yet. */
  #open = 0;
  /** The last frame that has been shown in this run. */
  #seen = -1;

  begin(frame: number): void {
    this.mode = "playing";
    this.#open = frame;
    this.#seen = frame;
  }

  /** The play shows `frame`; returns the frames [from, to) that are old enough to be accepted. */
  show(frame: number): [number, number] {
    this.#seen = Math.max(this.#seen, frame);
    return this.#take(frame - REACTION_FRAMES);
  }

  stop(): void {
    if (this.mode === "playing") this.mode = "stopped";
  }

  /**
   * On from `frame`, which is settled itself (accepted or corrected) where `settled`: everything watched before it
   * was right. Frames after it are played again.
   */
  resume(frame: number, settled: boolean): [number, number] {
    this.mode = "playing";
    const passed = this.#take(frame);
    if (settled) this.#open = Math.max(this.#open, frame + 1);
    this.#seen = frame;
    return passed;
  }

  /** Over: what was seen to its end counts as accepted, what lies within the reaction time does not. */
  end(): void {
    this.mode = "off";
  }

  /** The end of the task has been shown: everything watched is accepted. */
  finish(): [number, number] {
    this.mode = "off";
    return this.#take(this.#seen + 1);
  }

  #take(to: number): [number, number] {
    const from = this.#open;
    this.#open = Math.max(from, to);
    return [from, this.#open];
  }
}
