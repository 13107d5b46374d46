/** The timeline: one column per frame (or several frames per column), its rows state and score; click to jump. */

import { located } from "../core/motion";
import type { TaskSession } from "../core/tasksession";
import type { Label } from "../core/types";
import { COLOURS } from "./painter";

export interface StripColours { empty: string; absent: string; cursor: string; flag: string }

const STATE_H = 16;
const SCORE_H = 10;
export const STRIP_H = STATE_H + SCORE_H + 2;

function colourOf(label: Label, colours: StripColours): string {
  return located(label) ? COLOURS[label.visibility as 1 | 2 | 3] : colours.absent;
}

export function drawStrip(canvas: HTMLCanvasElement, session: TaskSession, frame: number, flags: ReadonlySet<number>, colours: StripColours): void {
  const ratio = window.devicePixelRatio || 1;
  const w = canvas.clientWidth;
  canvas.width = Math.round(w * ratio);
  canvas.height = Math.round(STRIP_H * ratio);
  const ctx = canvas.getContext("2d")!;
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  const { start, stop } = session.task;
  const step = w / (stop - start);
  const x = (f: number): number => (f - start) * step;
  const wide = Math.max(step, 1);
  ctx.fillStyle = colours.empty;
  ctx.fillRect(0, 0, w, STATE_H);
  for (const label of session.labels.values()) {
    ctx.fillStyle = colourOf(label, colours);
    ctx.fillRect(x(label.frame), label.event ? 0 : 2, wide, label.event ? STATE_H : STATE_H - 4);
    if (label.event === "hit") ctx.fillRect(x(label.frame) - 1, 0, 3, STATE_H);
  }
  ctx.fillStyle = COLOURS.proposal;
  for (const proposal of session.proposals.values()) {
    ctx.globalAlpha = proposal.x === null ? 0.25 : 1;
    const high = Math.max(1, (proposal.score ?? 1) * SCORE_H);
    ctx.fillRect(x(proposal.frame), STRIP_H - high, wide, high);
  }
  ctx.globalAlpha = 1;
  ctx.fillStyle = colours.flag;
  for (const flag of flags) ctx.fillRect(x(flag) - 1.5, 0, 3, STATE_H);
  ctx.strokeStyle = colours.cursor;
  ctx.lineWidth = 2;
  ctx.strokeRect(x(frame) - 1, 1, wide + 2, STRIP_H - 2);
}
