/** Every key of the canvas, once: the handler and the `?` sheet read the same table. */

export type Command =
  | "next" | "previous" | "next10" | "previous10" | "first" | "last" | "accept" | "absent" | "range" | "clear"
  | "clear-visibility" | "hard" | "occluded" | "hit" | "bounce" | "undo" | "redo" | "uncertain" | "uncertain-back"
  | "review" | "loupe" | "onion" | "picture" | "fit" | "zoom-in" | "zoom-out" | "follow" | "proposals" | "snap" | "accept-range"
  | "place" | "nudge-left" | "nudge-right" | "nudge-up" | "nudge-down" | "push-left" | "push-right" | "push-up"
  | "push-down" | "flag" | "cancel" | "help" | "panel";

export interface Shortcut { keys: string[]; command: Command; says: string; group: string; repeats?: boolean }

function nudges(kind: "nudge" | "push", modifier: string, says: string): Shortcut[] {
  return (["left", "right", "up", "down"] as const).map((way, i) => ({
    keys: [`${modifier}+Arrow${way[0]!.toUpperCase()}${way.slice(1)}`],
    command: `${kind}-${way}`,
    says: i === 0 ? says : "",
    group: "Place",
    repeats: true,
  }));
}

export const SHORTCUTS: Shortcut[] = [
  { keys: ["Enter", " "], command: "accept", says: "accept the proposal or the ghost, and next", group: "Place" },
  { keys: ["n", "0"], command: "absent", says: "no ball, and next", group: "Place", repeats: true },
  { keys: ["Shift+n"], command: "range", says: "no ball from here until … (go there, Enter)", group: "Place" },
  { keys: ["k"], command: "place", says: "place a label without the mouse, to be moved", group: "Place" },
  ...nudges("nudge", "Shift", "move the label by half a pixel (Shift + arrows)"),
  ...nudges("push", "Alt", "move the label by 8 pixels (Alt + arrows)"),
  { keys: ["Delete", "Backspace"], command: "clear", says: "remove the label (unlabelled again)", group: "Place" },
  { keys: ["z", "Ctrl+z"], command: "undo", says: "undo", group: "Place" },
  { keys: ["Shift+z", "Ctrl+Shift+z", "Ctrl+y"], command: "redo", says: "redo", group: "Place" },
  { keys: ["1"], command: "clear-visibility", says: "clearly visible", group: "Describe" },
  { keys: ["2"], command: "hard", says: "hard to see", group: "Describe" },
  { keys: ["3"], command: "occluded", says: "occluded, position guessed", group: "Describe" },
  { keys: ["h"], command: "hit", says: "a player hits the ball", group: "Describe" },
  { keys: ["b"], command: "bounce", says: "the ball bounces", group: "Describe" },
  { keys: ["d", "ArrowRight"], command: "next", says: "next frame (hold: faster and faster)", group: "Go", repeats: true },
  { keys: ["a", "ArrowLeft"], command: "previous", says: "previous frame", group: "Go", repeats: true },
  { keys: ["PageDown"], command: "next10", says: "10 frames on", group: "Go", repeats: true },
  { keys: ["PageUp"], command: "previous10", says: "10 frames back", group: "Go", repeats: true },
  { keys: ["Home"], command: "first", says: "first frame", group: "Go" },
  { keys: ["End"], command: "last", says: "last frame", group: "Go" },
  { keys: ["g"], command: "uncertain", says: "next uncertain frame", group: "Go" },
  { keys: ["Shift+g"], command: "uncertain-back", says: "back to the uncertain frame before", group: "Go" },
  { keys: ["r"], command: "review", says: "review: play, stop, correct", group: "Review" },
  { keys: ["Shift+p"], command: "accept-range", says: "accept proposals from here until … (go there, Enter)", group: "Review" },
  { keys: ["p"], command: "proposals", says: "show or hide proposals", group: "Review" },
  { keys: ["s"], command: "snap", says: "clicks snap to the proposal near them (Ctrl + click: the other way, once)", group: "Review" },
  { keys: ["m"], command: "flag", says: "mark the frame for the annotator", group: "Review" },
  { keys: ["l"], command: "loupe", says: "loupe", group: "See" },
  { keys: ["o"], command: "onion", says: "onion skin: labels before and after", group: "See" },
  { keys: ["x"], command: "picture", says: "plain, difference or blended picture", group: "See" },
  { keys: ["f"], command: "fit", says: "whole picture, or back", group: "See" },
  { keys: ["+", "="], command: "zoom-in", says: "zoom in (or the wheel, or two fingers)", group: "See" },
  { keys: ["-"], command: "zoom-out", says: "zoom out", group: "See" },
  { keys: ["v"], command: "follow", says: "the view follows the ball", group: "See" },
  { keys: ["i"], command: "panel", says: "side panel", group: "See" },
  { keys: ["Escape"], command: "cancel", says: "leave what was begun", group: "See" },
  { keys: ["?"], command: "help", says: "this sheet", group: "See" },
];

const BY_KEY = new Map(SHORTCUTS.flatMap((shortcut) => shortcut.keys.map((key) => [key, shortcut])));

interface Pressed { key: string; shiftKey: boolean; ctrlKey: boolean; metaKey: boolean; altKey: boolean }

export function shortcutFor(event: Pressed): Shortcut | undefined {
  const letter = event.key.length === 1;
  const key = letter ? event.key.toLowerCase() : event.key;
  // Of signs such as "?" and "+" the shift is part; of letters and named keys it is a modifier.
  const shifted = event.shiftKey && (!letter || /[a-z]/.test(key));
  const name = `${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${event.altKey ? "Alt+" : ""}${shifted ? "Shift+" : ""}${key}`;
  return BY_KEY.get(name);
}

const NAMES: Record<string, string> = { " ": "Space", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc", Delete: "Del", Backspace: "⌫" };

export function keyName(key: string): string {
  if (key === "+") return key;
  return key.split("+").map((part) => NAMES[part] ?? (part.length === 1 ? part.toUpperCase() : part)).join(" ");
}

const REPEAT_MS = [220, 160, 120, 90, 70, 55, 40];

/** Milliseconds to the n-th repeat of a held key. */
export function repeatDelay(n: number): number {
  return REPEAT_MS[Math.min(n, REPEAT_MS.length - 1)]!;
}
