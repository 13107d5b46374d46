/** Small pieces that several views share. */

import type { ComponentChildren, JSX } from "preact";
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { messageOf } from "../core/api";

/** Loads when first drawn, and again when `reload` is called or every `every_ms`. */
export function useLoad<T>(load: () => Promise<T>, every_ms = 0): { data: T | undefined; error: string; reload: () => void } {
  const [data, setData] = useState<T>();
  const [error, setError] = useState("");
  const latest = useRef(load);
  latest.current = load;
  const reload = useCallback(() => {
    latest.current().then(
      (answer) => {
        setData(answer);
        setError("");
      },
      (problem: unknown) => setError(messageOf(problem)),
    );
  }, []);
  useEffect(() => {
    reload();
    if (every_ms === 0) return;
    const timer = setInterval(() => !document.hidden && reload(), every_ms);
    return () => clearInterval(timer);
  }, [every_ms, reload]);
  return { data, error, reload };
}

/** Runs an action of a button: busy while it runs, its error shown. */
export function useAction(): { busy: boolean; error: string; act: (work: () => Promise<unknown>) => void; say: (error: string) => void } {
  const [busy, setBusy] = useState(false);
  const [error, say] = useState("");
  const act = (work: () => Promise<unknown>): void => {
    setBusy(true);
    say("");
    work()
      .catch((problem: unknown) => say(messageOf(problem)))
      .finally(() => setBusy(false));
  };
  return { busy, error, act, say };
}

export function Problem({ text }: { text: string }): JSX.Element | null {
  return text ? (
    <p class="problem" role="alert">
      {text}
    </p>
  ) : null;
}

export function Field(props: { label: string; hint?: string; children: ComponentChildren }): JSX.Element {
  return (
    <label class="field">
      <span class="field-label">{props.label}</span>
      {props.children}
      {props.hint && <span class="hint">{props.hint}</span>}
    </label>
  );
}

export function Bar({ share, label }: { share: number; label: string }): JSX.Element {
  const percent = Math.round(100 * Math.min(1, Math.max(0, share)));
  return (
    <div class="bar" role="progressbar" aria-label={label} aria-valuenow={percent} aria-valuemin={0} aria-valuemax={100}>
      <div class="bar-fill" style={{ width: `${percent}%` }} />
    </div>
  );
}

export function Badge({ kind, children }: { kind: string; children: ComponentChildren }): JSX.Element {
  return <span class={`badge badge-${kind}`}>{children}</span>;
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }): JSX.Element {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children}
    </div>
  );
}

/** A modal dialog; Escape and the backdrop close it where it may be closed. */
export function Dialog(props: { title: string; onClose?: () => void; wide?: boolean; children: ComponentChildren }): JSX.Element {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = ref.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  return (
    <dialog
      ref={ref}
      class={props.wide ? "wide" : ""}
      aria-label={props.title}
      onCancel={(event) => {
        event.preventDefault();
        props.onClose?.();
      }}
      onClick={(event) => event.target === ref.current && props.onClose?.()}
    >
      <div class="dialog-body">
        <header class="dialog-head">
          <h2>{props.title}</h2>
          {props.onClose && (
            <button class="quiet" aria-label="Close" onClick={props.onClose}>
              ✕
            </button>
          )}
        </header>
        {props.children}
      </div>
    </dialog>
  );
}

/** A value to be copied: a link or a token. */
export function Copy({ value, label }: { value: string; label: string }): JSX.Element {
  const [copied, setCopied] = useState(false);
  const ref = useRef<HTMLInputElement>(null);
  const copy = (): void => {
    ref.current?.select();
    const done = (): void => setCopied(true);
    const clipboard = (navigator as { clipboard?: Clipboard }).clipboard; // missing on plain HTTP: there it is selected only
    if (clipboard) clipboard.writeText(value).then(done, () => undefined);
  };
  return (
    <div class="copy">
      <input ref={ref} readOnly value={value} aria-label={label} onFocus={(e) => e.currentTarget.select()} />
      <button onClick={copy}>{copied ? "Copied" : "Copy"}</button>
    </div>
  );
}

export function count(n: number, one: string, many = `${one}s`): string {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

export function duration(seconds: number): string {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes >= 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes} min`;
}

export function rateOf(rate: string): number {
  const [a, b] = rate.split("/").map(Number);
  return (a ?? 0) / (b ?? 1);
}
