/** What lies over the picture of the shown frame. */

import { located } from "../core/motion";
import { settings } from "../core/settings";
import type { Label } from "../core/types";
import { toScreen, toSource } from "../core/coords";
import { COLOURS, drawGhost, drawLabel, drawLoupe, drawOnion, drawProposal, type Scene, tag } from "./painter";
import type { Workspace } from "./workspace";

const ONION_FRAMES = 5;

export function paintOverlay(space: Workspace, ctx: CanvasRenderingContext2D, scene: Scene): void {
  const { frame, label, proposal, session } = space;
  if (settings.value.onion) drawOnion(ctx, scene, frame, around(session.labels.at, frame));
  if (proposal && !label) drawProposal(ctx, scene, proposal);
  const guess = label || proposal ? undefined : space.ghostAt();
  if (guess) drawGhost(ctx, scene, guess);
  if (label) drawLabel(ctx, scene, label);
  if (label?.visibility === 0) tag(ctx, { x: 14, y: 56 }, "no ball", "#ffffff");
  if (!label && proposal?.x === null) tag(ctx, { x: 14, y: 56 }, "model: no ball", COLOURS.proposal);
  drawDrag(space, ctx);
  if (settings.value.loupe) drawGlass(space, ctx, scene);
}

function around(at: (frame: number) => Label | undefined, frame: number): Label[] {
  const found: Label[] = [];
  for (let f = frame - ONION_FRAMES; f <= frame + ONION_FRAMES; f++) {
    const label = at(f);
    if (label) found.push(label);
  }
  return found;
}

function drawDrag({ drag }: Workspace, ctx: CanvasRenderingContext2D): void {
  if (!drag) return;
  ctx.strokeStyle = COLOURS[1];
  ctx.lineWidth = 2;
  ctx.beginPath();
  ctx.moveTo(drag.from.x, drag.from.y);
  ctx.lineTo(drag.to.x, drag.to.y);
  ctx.stroke();
}

function drawGlass(space: Workspace, ctx: CanvasRenderingContext2D, scene: Scene): void {
  const bitmap = space.frames.bitmap(space.frame);
  if (!bitmap) return;
  const { pointer, label } = space;
  if (pointer) {
    const source = toSource(scene.view, scene.viewport, pointer);
    drawLoupe(ctx, scene, bitmap, pointer, source);
  } else if (located(label)) drawLoupe(ctx, scene, bitmap, toScreen(scene.view, scene.viewport, label), label);
}
