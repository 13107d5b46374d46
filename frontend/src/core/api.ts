/** Requests to the server of this page, and who is logged in. */

import { Signal } from "./signal";
import type { Me, User } from "./types";

/** The server's refusal; `status` 0 where it could not be reached. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly retryAfterS = 0,
  ) {
    super(message);
  }

  /** Will the same request succeed later? */
  get temporary(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

export type Gate = "asking" | "setup" | "login" | "open" | "expired" | "unreachable";

class Session {
  readonly user = new Signal<User | undefined>(undefined);
  /** What stands between the visitor and the workspace; "expired" keeps the page and asks for the password on top. */
  readonly gate = new Signal<Gate>("asking");
  csrf = "";

  open(me: Me): void {
    const before = this.user.value;
    this.csrf = me.csrf;
    this.user.value = me.user;
    this.gate.value = "open";
    if (before && before.id !== me.user.id) location.reload(); // somebody else's work must not stay on the screen
  }

  lost(code: string): void {
    this.gate.value = this.user.value ? "expired" : code === "setup_needed" ? "setup" : "login";
  }

  async ask(): Promise<void> {
    try {
      this.open(await api<Me>("GET", "/api/me"));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status !== 401) this.gate.value = "unreachable";
    }
  }

  async logout(): Promise<void> {
    await api("POST", "/api/logout");
    location.hash = "#/";
    location.reload();
  }
}

export const session = new Session();

const OPEN_ROADS = ["/api/login", "/api/setup", "/api/invites/accept"];

async function refusal(response: Response): Promise<ApiError> {
  const wait = Number(response.headers.get("Retry-After") ?? 0);
  const text = await response.text();
  try {
    const { error } = JSON.parse(text) as { error: { code: string; message: string } };
    return new ApiError(response.status, error.code, error.message, wait);
  } catch {
    return new ApiError(response.status, "unknown", `the server answered ${response.status}`, wait);
  }
}

async function send(method: string, path: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  const raw = body instanceof Blob;
  const headers: Record<string, string> = {};
  if (method !== "GET") headers["X-CSRF-Token"] = session.csrf;
  if (body !== undefined && !raw) headers["Content-Type"] = "application/json";
  try {
    return await fetch(path, {
      method,
      headers,
      credentials: "same-origin",
      ...(body === undefined ? {} : { body: raw ? body : JSON.stringify(body) }),
      ...(signal ? { signal } : {}),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "unreachable", "the server cannot be reached");
  }
}

/** The answer as JSON (undefined where there is none). Raises ApiError. */
export async function api<T = unknown>(method: string, path: string, body?: unknown): Promise<T> {
  let response = await send(method, path, body);
  if (response.status === 403 && method !== "GET" && (await response.clone().text()).includes("csrf")) {
    const me = await send("GET", "/api/me", undefined); // another tab has logged in again: its token counts
    if (me.ok) {
      session.open((await me.json()) as Me);
      response = await send(method, path, body);
    }
  }
  if (!response.ok) {
    const error = await refusal(response);
    if (error.status === 401 && !OPEN_ROADS.includes(path)) session.lost(error.code);
    throw error;
  }
  const text = await response.text();
  return (text ? JSON.parse(text) : undefined) as T;
}

const PAGE = 1000; // rows, the most that the server gives at once

/** All rows of a list, page after page. Raises ApiError. */
export async function every<T extends { id: number }>(path: string): Promise<T[]> {
  const rows: T[] = [];
  for (;;) {
    const page = await api<T[]>("GET", `${path}${path.includes("?") ? "&" : "?"}limit=${PAGE}&after=${rows.at(-1)?.id ?? 0}`);
    rows.push(...page);
    if (page.length < PAGE) return rows;
  }
}

/** A binary answer, as it streams in. Raises ApiError. */
export async function stream(path: string, signal: AbortSignal): Promise<Response> {
  const response = await send("GET", path, undefined, signal);
  if (response.ok) return response;
  const error = await refusal(response);
  if (error.status === 401) session.lost(error.code);
  throw error;
}

export function upload(path: string, file: File, onProgress: (share: number) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells no progress of what it sends
    request.open("POST", path);
    request.setRequestHeader("X-CSRF-Token", session.csrf);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => onProgress(event.loaded / Math.max(1, event.total));
    request.onerror = () => reject(new ApiError(0, "unreachable", "the server cannot be reached"));
    request.onload = () => {
      if (request.status < 300) { resolve(); return; }
      if (request.status === 401) session.lost("expired");
      let message = `the server answered ${request.status}`;
      try {
        message = (JSON.parse(request.responseText) as { error: { message: string } }).error.message;
      } catch {
        // not the server's own words: the number must do
      }
      reject(new ApiError(request.status, "upload", message));
    };
    request.send(file);
  });
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
