/** Draws: the picture on one canvas, everything that is not the picture on another one above it. */

import { type Point, type Size, toScreen, type View } from "../core/coords";
import { located } from "../core/motion";
import type { Label, Proposal } from "../core/types";

const DARK = "rgb(0 0 0 / 75%)";
export const COLOURS = {
  1: "#c6f135",
  2: "#ffc533",
  3: "#ff8a3d",
  ghost: "#ffffff",
  proposal: "#ff6bf1",
  theirs: "#ff5a5a",
} as const;

type Ctx = CanvasRenderingContext2D;
export interface Scene { view: View; viewport: Size; picture: Size }

function place(ctx: Ctx, bitmap: CanvasImageSource, { view, viewport, picture }: Scene): void {
  const corner = toScreen(view, viewport, { x: -0.5, y: -0.5 });
  ctx.drawImage(bitmap, corner.x, corner.y, picture.w * view.scale, picture.h * view.scale);
}

/** The frame alone. */
export function drawPicture(ctx: Ctx, scene: Scene, bitmap: ImageBitmap): void {
  ctx.imageSmoothingEnabled = scene.view.scale < 3; // beyond, single pixels are what one wants to see
  ctx.globalCompositeOperation = "source-over";
  ctx.fillStyle = "#101214";
  ctx.fillRect(0, 0, scene.viewport.w, scene.viewport.h);
  place(ctx, bitmap, scene);
}

/** The brightest of the frame and its neighbours: a ball in flight becomes a chain. */
export function drawBlend(ctx: Ctx, scene: Scene, bitmap: ImageBitmap, neighbours: ImageBitmap[]): void {
  drawPicture(ctx, scene, bitmap);
  ctx.globalCompositeOperation = "lighten";
  for (const other of neighbours) place(ctx, other, scene);
  ctx.globalCompositeOperation = "source-over";
}

/**
 * What is in this frame and in neither neighbour: the smaller of both differences, times four. `scratch` has the size of
 * the canvas.
 */
export function drawDifference(ctx: Ctx, scratch: Ctx, scene: Scene, bitmap: ImageBitmap, neighbours: ImageBitmap[]): void {
  drawPicture(ctx, scene, bitmap);
  neighbours.forEach((other, n) => {
    const target = n === 0 ? ctx : scratch;
    if (n > 0) drawPicture(scratch, scene, bitmap);
    target.globalCompositeOperation = "difference";
    place(target, other, scene);
    target.globalCompositeOperation = "source-over";
  });
  ctx.save();
  ctx.setTransform(1, 0, 0, 1, 0, 0);
  if (neighbours.length > 1) {
    ctx.globalCompositeOperation = "darken";
    ctx.drawImage(scratch.canvas, 0, 0);
  }
  ctx.globalCompositeOperation = "lighter";
  for (let n = 0; n < 2; n++) ctx.drawImage(ctx.canvas, 0, 0);
  ctx.restore();
}

function outlined(ctx: Ctx, colour: string, width: number, path: () => void): void {
  ctx.beginPath();
  path();
  ctx.strokeStyle = DARK;
  ctx.lineWidth = width + 2.5;
  ctx.stroke();
  ctx.strokeStyle = colour;
  ctx.lineWidth = width;
  ctx.stroke();
}

export function drawLabel(ctx: Ctx, { view, viewport }: Scene, label: Label, colour?: string): void {
  if (!located(label)) return;
  const p = toScreen(view, viewport, label);
  const tone = colour ?? COLOURS[label.visibility as 1 | 2 | 3];
  ctx.setLineDash(label.visibility === 3 ? [5, 3] : []);
  outlined(ctx, tone, 2, () => ctx.arc(p.x, p.y, 10, 0, 2 * Math.PI));
  ctx.setLineDash([]);
  outlined(ctx, tone, 1, () => cross(ctx, p, 3));
  if (label.blur_l !== null && label.blur_theta !== null) {
    const reach = label.blur_l * view.scale;
    const [dx, dy] = [Math.cos(label.blur_theta) * reach, Math.sin(label.blur_theta) * reach];
    outlined(ctx, tone, 2, () => {
      ctx.moveTo(p.x - dx, p.y - dy);
      ctx.lineTo(p.x + dx, p.y + dy);
    });
  }
  if (label.event) tag(ctx, { x: p.x + 14, y: p.y - 12 }, label.event, tone);
}

function cross(ctx: Ctx, p: Point, arm: number): void {
  ctx.moveTo(p.x - arm, p.y);
  ctx.lineTo(p.x + arm, p.y);
  ctx.moveTo(p.x, p.y - arm);
  ctx.lineTo(p.x, p.y + arm);
}

export function tag(ctx: Ctx, at: Point, text: string, colour: string): void {
  ctx.font = "600 12px system-ui, sans-serif";
  const width = ctx.measureText(text).width + 10;
  ctx.fillStyle = DARK;
  ctx.beginPath();
  ctx.roundRect(at.x, at.y - 9, width, 18, 5);
  ctx.fill();
  ctx.fillStyle = colour;
  ctx.textBaseline = "middle";
  ctx.fillText(text, at.x + 5, at.y + 0.5);
}

/** A diamond: no label looks like it. */
export function drawProposal(ctx: Ctx, { view, viewport }: Scene, proposal: Proposal): void {
  if (proposal.x === null || proposal.y === null) return;
  const p = toScreen(view, viewport, { x: proposal.x, y: proposal.y });
  outlined(ctx, COLOURS.proposal, 2, () => {
    ctx.moveTo(p.x, p.y - 13);
    ctx.lineTo(p.x + 13, p.y);
    ctx.lineTo(p.x, p.y + 13);
    ctx.lineTo(p.x - 13, p.y);
    ctx.closePath();
  });
  if (proposal.score !== null) tag(ctx, { x: p.x + 16, y: p.y + 14 }, proposal.score.toFixed(2), COLOURS.proposal);
}

export function drawGhost(ctx: Ctx, { view, viewport }: Scene, at: Point): void {
  const p = toScreen(view, viewport, at);
  ctx.setLineDash([4, 4]);
  outlined(ctx, COLOURS.ghost, 1.5, () => ctx.arc(p.x, p.y, 12, 0, 2 * Math.PI));
  ctx.setLineDash([]);
}

/** Labels before and after, the farther the paler; those after the frame are hollow. */
export function drawOnion(ctx: Ctx, { view, viewport }: Scene, frame: number, labels: Label[]): void {
  let last: Point | undefined;
  for (const label of labels) {
    if (!located(label) || label.frame === frame) {
      last = label.frame === frame && located(label) ? toScreen(view, viewport, label) : last;
      continue;
    }
    const p = toScreen(view, viewport, label);
    ctx.globalAlpha = 0.85 - 0.13 * Math.abs(label.frame - frame);
    ctx.strokeStyle = label.frame < frame ? "#67d4ff" : "#ffffff";
    ctx.fillStyle = ctx.strokeStyle;
    ctx.lineWidth = 1.5;
    if (last) {
      ctx.beginPath();
      ctx.moveTo(last.x, last.y);
      ctx.lineTo(p.x, p.y);
      ctx.stroke();
    }
    ctx.beginPath();
    ctx.arc(p.x, p.y, 3.5, 0, 2 * Math.PI);
    if (label.frame < frame) ctx.fill();
    else ctx.stroke();
    last = p;
  }
  ctx.globalAlpha = 1;
}

const LOUPE_PX = 168;
const LOUPE_ZOOM = 8;

/** A round piece of the picture, eight times as large, beside the pointer. */
export function drawLoupe(ctx: Ctx, scene: Scene, bitmap: ImageBitmap, at: Point, source: Point): void {
  const { viewport, picture } = scene;
  const r = LOUPE_PX / 2;
  const centre = {
    x: at.x + r + 28 + r > viewport.w ? at.x - r - 28 : at.x + r + 28,
    y: Math.min(Math.max(at.y - r - 28, r + 4), viewport.h - r - 4),
  };
  ctx.save();
  ctx.beginPath();
  ctx.arc(centre.x, centre.y, r, 0, 2 * Math.PI);
  ctx.clip();
  ctx.fillStyle = "#101214";
  ctx.fill();
  ctx.imageSmoothingEnabled = false;
  const x = centre.x - (source.x + 0.5) * LOUPE_ZOOM;
  const y = centre.y - (source.y + 0.5) * LOUPE_ZOOM;
  ctx.drawImage(bitmap, x, y, picture.w * LOUPE_ZOOM, picture.h * LOUPE_ZOOM);
  ctx.restore();
  outlined(ctx, "#ffffff", 1.5, () => ctx.arc(centre.x, centre.y, r, 0, 2 * Math.PI));
  outlined(ctx, "#c6f135", 1, () => cross(ctx, centre, 7));
}
