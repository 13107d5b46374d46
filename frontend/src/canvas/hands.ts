/** Pointer and keyboard of the canvas: mouse, pen, one finger, two fingers. */

import { type Point } from "../core/coords";
import { repeatDelay, shortcutFor, type Shortcut } from "../core/keys";
import type { Workspace } from "./workspace";

const DRAG_PX = 5;
const WHEEL_FACTOR = 1.0015;

interface Finger { id: number; at: Point }

export class Hands {
  readonly #space: Workspace;
  readonly #element: HTMLElement;
  #fingers: Finger[] = [];
  #down: { frame: number; screen: Point; source: Point } | undefined;
  #panning: Point | undefined;
  #pinched = false;
  #held: { shortcut: Shortcut; key: string; timer: ReturnType<typeof setTimeout> } | undefined;
  readonly #abort = new AbortController();

  constructor(space: Workspace, element: HTMLElement) {
    this.#space = space;
    this.#element = element;
    const { signal } = this.#abort;
    element.addEventListener("pointerdown", (e) => this.#pointerDown(e), { signal });
    element.addEventListener("pointermove", (e) => this.#pointerMove(e), { signal });
    element.addEventListener("pointerup", (e) => this.#pointerUp(e), { signal });
    element.addEventListener("pointercancel", (e) => this.#release(e), { signal });
    element.addEventListener("pointerleave", () => this.#leave(), { signal });
    element.addEventListener("contextmenu", (e) => e.preventDefault(), { signal });
    element.addEventListener("wheel", (e) => this.#wheel(e), { signal, passive: false });
    window.addEventListener("keydown", (e) => this.#keyDown(e), { signal });
    window.addEventListener("keyup", (e) => this.#keyUp(e), { signal });
    window.addEventListener("blur", () => this.#letGo(), { signal });
  }

  close(): void {
    this.#abort.abort();
    this.#letGo();
  }

  #pointerDown(event: PointerEvent): void {
    this.#element.setPointerCapture(event.pointerId);
    this.#space.session.input();
    const at = this.#space.stage.screenAt(event);
    if (event.pointerType === "touch") {
      this.#fingers.push({ id: event.pointerId, at });
      if (this.#fingers.length > 1) {
        this.#pinched = true;
        this.#cancelDrag();
        return;
      }
    }
    if (event.button !== 0) {
      this.#panning = at;
      return;
    }
    this.#element.focus({ preventScroll: true });
    if (this.#space.review.mode === "playing") {
      this.#space.haltPlay(); // the first touch stops; the ball is placed on a picture that stands still
      return;
    }
    this.#down = { frame: this.#space.frame, screen: at, source: this.#space.stage.sourceAt(event) };
  }

  #pointerMove(event: PointerEvent): void {
    const space = this.#space;
    const at = space.stage.screenAt(event);
    space.pointer = event.pointerType === "touch" && !this.#down ? undefined : at;
    if (this.#fingers.length > 1) this.#pinch(event.pointerId, at);
    else if (this.#panning) {
      space.stage.pan(at.x - this.#panning.x, at.y - this.#panning.y);
      this.#panning = at;
    } else if (this.#down) {
      const { screen } = this.#down;
      const far = Math.hypot(at.x - screen.x, at.y - screen.y) >= DRAG_PX;
      space.drag = far || space.drag ? { from: screen, to: at } : undefined;
    }
    space.stage.overlay();
  }

  #pointerUp(event: PointerEvent): void {
    const { stage } = this.#space;
    const down = this.#down;
    const pinched = this.#pinched;
    const dragged = this.#space.drag !== undefined;
    this.#release(event);
    if (!down || pinched) return;
    this.#space.put(down.frame, down.source, dragged ? stage.sourceAt(event) : undefined, event.ctrlKey || event.metaKey);
  }

  #release(event: PointerEvent): void {
    this.#fingers = this.#fingers.filter(({ id }) => id !== event.pointerId);
    if (this.#fingers.length === 0) this.#pinched = false;
    this.#panning = undefined;
    if (event.pointerType === "touch") this.#space.pointer = undefined;
    this.#cancelDrag();
  }

  #cancelDrag(): void {
    this.#down = undefined;
    this.#space.drag = undefined;
    this.#space.stage.overlay();
  }

  #leave(): void {
    this.#space.pointer = undefined;
    this.#space.stage.overlay();
  }

  #pinch(id: number, at: Point): void {
    const moved = this.#fingers.find((finger) => finger.id === id);
    const other = this.#fingers.find((finger) => finger.id !== id);
    if (!moved || !other) return;
    const span = (p: Point): number => Math.hypot(p.x - other.at.x, p.y - other.at.y);
    const middle = (p: Point): Point => ({ x: (p.x + other.at.x) / 2, y: (p.y + other.at.y) / 2 });
    const [before, after] = [middle(moved.at), middle(at)];
    this.#space.stage.pan(after.x - before.x, after.y - before.y);
    this.#space.stage.zoom(after, span(at) / Math.max(1, span(moved.at)));
    moved.at = at;
  }

  #wheel(event: WheelEvent): void {
    event.preventDefault();
    const { stage } = this.#space;
    if (event.shiftKey) stage.pan(-event.deltaX - event.deltaY, 0);
    else stage.zoom(stage.screenAt(event), WHEEL_FACTOR ** -event.deltaY);
  }

  #keyDown(event: KeyboardEvent): void {
    if (isTyping(event) || document.querySelector("dialog[open]")) return;
    const shortcut = shortcutFor(event);
    if (!shortcut) return;
    if ((event.key === "Enter" || event.key === " ") && isControl(event.target)) return; // it presses the button
    event.preventDefault();
    if (event.repeat || this.#held?.key === event.code) return; // the canvas has its own, quickening repeat
    this.#letGo();
    this.#space.run(shortcut.command);
    if (shortcut.repeats) this.#hold(shortcut, event.code, 0);
  }

  #hold(shortcut: Shortcut, key: string, n: number): void {
    const timer = setTimeout(() => {
      this.#space.run(shortcut.command);
      this.#hold(shortcut, key, n + 1);
    }, repeatDelay(n));
    this.#held = { shortcut, key, timer };
  }

  #keyUp(event: KeyboardEvent): void {
    if (this.#held?.key === event.code) this.#letGo();
  }

  #letGo(): void {
    clearTimeout(this.#held?.timer);
    this.#held = undefined;
  }
}

function isTyping(event: KeyboardEvent): boolean {
  const target = event.target;
  if (target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement) return true;
  return target instanceof HTMLInputElement && !["checkbox", "radio", "button"].includes(target.type);
}

function isControl(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.closest("button, a, input, summary") !== null;
}
