import { describe, expect, it } from "vitest";
import { REACTION_FRAMES, Review } from "../src/core/review";

function played(review: Review, from: number, to: number): number[] {
  const accepted: number[] = [];
  for (let frame = from; frame <= to; frame++) {
    const [a, b] = review.show(frame);
    for (let f = a; f < b; f++) accepted.push(f);
  }
  return accepted;
}

describe("play-and-stop review", () => {
  it("accepts what was let pass, a reaction time later", () => {
    const review = new Review();
    review.begin(0);
    expect(played(review, 0, 20)).toEqual(Array.from({ length: 20 - REACTION_FRAMES }, (_, n) => n));
  });

  it("accepts everything before the frame that is corrected, never that frame, and plays the later ones again", () => {
    const review = new Review();
    review.begin(0);
    const before = played(review, 0, 14); // up to 5
    review.stop();
    const [from, to] = review.resume(11, true); // stepped back to 11 and corrected it
    expect([from, to]).toEqual([before.length, 11]);
    expect(played(review, 12, 25)[0]).toBe(12);
  });

  it("takes nothing on the way out but what was decided", () => {
    const review = new Review();
    review.begin(0);
    played(review, 0, 10);
    review.stop();
    review.end();
    expect(review.mode).toBe("off");
    review.begin(30);
    expect(played(review, 30, 30 + REACTION_FRAMES + 1)).toEqual([30]);
  });

  it("accepts the rest at the end of the task", () => {
    const review = new Review();
    review.begin(0);
    played(review, 0, 9);
    expect(review.finish()).toEqual([9 - REACTION_FRAMES, 10]);
  });
});
