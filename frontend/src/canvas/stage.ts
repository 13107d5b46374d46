/** The two canvases, the view over them, and what is drawn when. */

import { centreOn, clampView, fit, fitScale, panBy, type Point, type Size, toSource, type View, zoomAt } from "../core/coords";
import type { FrameStore } from "../core/frames";
import { drawBlend, drawDifference, drawPicture, type Scene } from "./painter";

export type PictureMode = "plain" | "difference" | "blend";

export class Stage {
  readonly picture: Size;
  view: View;
  viewport: Size = { w: 1, h: 1 };
  mode: PictureMode = "plain";
  /** The frame whose picture is on the canvas; -1 before the first one. All that is placed is placed on it. */
  shown = -1;
  onShown: (frame: number) => void = () => undefined;
  drawOverlay: (ctx: CanvasRenderingContext2D, scene: Scene) => void = () => undefined;
  readonly #canvas: HTMLCanvasElement;
  readonly #ctx: CanvasRenderingContext2D;
  readonly #over: CanvasRenderingContext2D;
  readonly #scratch: CanvasRenderingContext2D;
  readonly #frames: FrameStore;
  readonly #observer: ResizeObserver;
  #asked = -1;
  #centre: Point | undefined;
  #askedAt = 0;
  #due = false;
  #dirty = false;
  #unfit: View | undefined;

  constructor(canvas: HTMLCanvasElement, overlay: HTMLCanvasElement, frames: FrameStore, picture: Size) {
    this.picture = picture;
    this.#canvas = canvas;
    this.#ctx = canvas.getContext("2d", { alpha: false })!;
    this.#over = overlay.getContext("2d")!;
    this.#scratch = document.createElement("canvas").getContext("2d", { alpha: false })!;
    this.#frames = frames;
    this.view = fit(this.viewport, picture);
    this.#observer = new ResizeObserver(() => this.#resize());
    this.#observer.observe(canvas);
    this.#resize();
  }

  close(): void {
    this.#observer.disconnect();
  }

  get scene(): Scene {
    return { view: this.view, viewport: this.viewport, picture: this.picture };
  }

  /** Shows `frame` with the next repaint after its picture is here, the view, with its zoom, moved to `centre`. */
  ask(frame: number, centre?: Point): void {
    if (frame !== this.#asked) this.#askedAt = performance.now();
    this.#asked = frame;
    this.#centre = centre;
    this.repaint();
  }

  get waiting(): boolean {
    return this.#asked !== this.shown;
  }

  ready(index: number): void {
    if (index === this.#asked || (this.mode !== "plain" && Math.abs(index - this.shown) === 1)) this.repaint();
  }

  /** The picture and what lies over it, once, at the next repaint. */
  repaint(): void {
    this.#dirty = true;
    this.overlay();
  }

  overlay(): void {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => this.#paint());
  }

  zoom(at: Point, factor: number): void {
    this.view = zoomAt(this.view, this.viewport, this.picture, at, factor);
    this.repaint();
  }

  pan(dx: number, dy: number): void {
    this.view = panBy(this.view, this.viewport, this.picture, dx, dy);
    this.repaint();
  }

  /** The whole picture, or back to the zoom there was before. */
  toggleFit(): void {
    const whole = fit(this.viewport, this.picture);
    const isFit = this.view.scale <= whole.scale * 1.001;
    if (isFit && this.#unfit) this.view = clampView(this.#unfit, this.viewport, this.picture);
    else if (!isFit) {
      this.#unfit = this.view;
      this.view = whole;
    }
    this.repaint();
  }

  sourceAt(event: { clientX: number; clientY: number }): Point {
    const box = this.#canvas.getBoundingClientRect();
    return toSource(this.view, this.viewport, { x: event.clientX - box.left, y: event.clientY - box.top });
  }

  screenAt(event: { clientX: number; clientY: number }): Point {
    const box = this.#canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  #resize(): void {
    const { clientWidth: w, clientHeight: h } = this.#canvas;
    if (w === 0 || h === 0) return;
    const wasFit = this.view.scale <= fitScale(this.viewport, this.picture) * 1.001 || this.viewport.w === 1;
    this.viewport = { w, h };
    const ratio = window.devicePixelRatio || 1;
    for (const ctx of [this.#ctx, this.#over, this.#scratch]) {
      ctx.canvas.width = Math.round(w * ratio);
      ctx.canvas.height = Math.round(h * ratio);
      ctx.setTransform(ctx.canvas.width / w, 0, 0, ctx.canvas.height / h, 0, 0);
    }
    this.view = wasFit ? fit(this.viewport, this.picture) : clampView(this.view, this.viewport, this.picture);
    this.#dirty = true;
    this.#paint(); // at once: a resized canvas is empty
  }

  #paint(): void {
    this.#due = false;
    const bitmap = this.#frames.bitmap(this.#asked);
    const fresh = bitmap !== undefined && this.#asked !== this.shown;
    const old = this.shown >= 0 ? this.#frames.bitmap(this.shown) : undefined;
    if (fresh) {
      this.shown = this.#asked;
      if (this.#centre) this.view = centreOn(this.view, this.viewport, this.picture, this.#centre);
      this.#centre = undefined;
    }
    const now = fresh ? bitmap : old;
    if (this.#dirty && now) this.#drawMode(now);
    if (now) this.#dirty = false;
    if (fresh) this.#report();
    const { w, h } = this.viewport;
    this.#over.clearRect(0, 0, w, h);
    if (this.shown >= 0) this.drawOverlay(this.#over, this.scene);
  }

  #drawMode(bitmap: ImageBitmap): void {
    const around = [this.shown - 1, this.shown + 1].flatMap((i) => this.#frames.bitmap(i) ?? []);
    if (this.mode === "difference") drawDifference(this.#ctx, this.#scratch, this.scene, bitmap, around);
    else if (this.mode === "blend") drawBlend(this.#ctx, this.scene, bitmap, around);
    else drawPicture(this.#ctx, this.scene, bitmap);
  }

  /** `data-frame` and the measure "next-frame" say which picture was drawn and how long after it was asked for. */
  #report(): void {
    this.#canvas.dataset["frame"] = String(this.shown);
    performance.measure("next-frame", { start: this.#askedAt, end: performance.now() });
    if (this.shown % 2000 === 0) performance.clearMeasures("next-frame");
    this.onShown(this.shown);
  }
}
