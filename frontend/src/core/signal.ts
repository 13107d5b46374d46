/** A value that panels can watch. */

import { useEffect, useState } from "preact/hooks";

export class Signal<T> {
  #value: T;
  readonly #watchers = new Set<() => void>();

  constructor(value: T) {
    this.#value = value;
  }

  get value(): T {
    return this.#value;
  }

  set value(value: T) {
    if (Object.is(value, this.#value)) return;
    this.#value = value;
    for (const watcher of [...this.#watchers]) watcher();
  }

  watch(watcher: () => void): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }
}

export function useSignal<T>(signal: Signal<T>): T {
  const [, redraw] = useState(0);
  useEffect(() => {
    const drawn = signal.value;
    const stop = signal.watch(() => redraw((n) => n + 1));
    if (!Object.is(drawn, signal.value)) redraw((n) => n + 1);
    return stop;
  }, [signal]);
  return signal.value;
}
