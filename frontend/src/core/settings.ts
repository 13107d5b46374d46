/** What an annotator likes, remembered in this browser. */

import { Signal } from "./signal";

export interface Settings {
  theme: "system" | "dark" | "light";
  advance: boolean;
  follow: boolean;
  onion: boolean;
  loupe: boolean;
  proposals: boolean;
  /** A click near the network's proposal takes the proposal's place. */
  snap: boolean;
  picture: "plain" | "difference" | "blend";
  chart: "position" | "speed" | "residual" | "score";
  reviewFps: number;
  stopScore: number;
  /** Px off a smooth path at which a review stops; at a hit the path has a corner too. */
  stopJump: number;
  acceptScore: number;
  queue: "unlabelled" | "score" | "jump" | "residual" | "disagreement" | "model";
  panel: boolean;
}

const DEFAULTS: Settings = {
  theme: "system",
  advance: true,
  follow: true,
  onion: true,
  loupe: false,
  proposals: true,
  snap: false,
  picture: "plain",
  chart: "position",
  reviewFps: 10,
  stopScore: 0.5,
  stopJump: 24,
  acceptScore: 0.8,
  queue: "unlabelled",
  panel: true,
};
const KEY = "rallytrace-settings";

function load(): Settings {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? "{}") as Record<string, unknown>;
    const usable = Object.entries(stored).filter(([k, v]) => k in DEFAULTS && typeof v === typeof DEFAULTS[k as keyof Settings]);
    return { ...DEFAULTS, ...Object.fromEntries(usable) };
  } catch {
    return { ...DEFAULTS };
  }
}

export const settings = new Signal<Settings>(typeof localStorage === "undefined" ? { ...DEFAULTS } : load());

export function set(change: Partial<Settings>): void {
  settings.value = { ...settings.value, ...change };
  try {
    localStorage.setItem(KEY, JSON.stringify(settings.value));
  } catch {
    // a browser that keeps nothing forgets settings; labels are another matter and have their own error
  }
}

/** Keeps the page's theme in step with the setting and the system. */
export function applyTheme(): void {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = (): void => {
    const { theme } = settings.value;
    document.documentElement.dataset["theme"] = theme === "system" ? (system.matches ? "dark" : "light") : theme;
  };
  system.addEventListener("change", apply);
  settings.watch(apply);
  apply();
}
