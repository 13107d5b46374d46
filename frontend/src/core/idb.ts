/** The browser's own database, as promises: one store, of events that the server has not acknowledged. */

import type { Label, WireEvent } from "./types";

export interface QueuedEvent {
  uuid: string;
  /** Place in the queue; grows over all tabs of this browser. */
  order?: number;
  task: number;
  user: number;
  client_id: string;
  /** The queued event of the same frame that its author saw, if any: what it was made upon. */
  over: string | null;
  state: "pending" | "conflict" | "rejected";
  event: WireEvent;
  /** On a conflict: what the server has instead, null where that is "unlabelled". */
  current?: Label | null;
  message?: string;
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("the browser's database failed"));
  });
}

function committed(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new Error("the browser's database failed"));
  });
}

export class EventStore {
  readonly #db: IDBDatabase;

  private constructor(db: IDBDatabase) {
    this.#db = db;
  }

  static async open(factory: IDBFactory = indexedDB, name = "rallytrace"): Promise<EventStore> {
    const request = factory.open(name, 1);
    request.onupgradeneeded = () => {
      const store = request.result.createObjectStore("events", { keyPath: "order", autoIncrement: true });
      store.createIndex("uuid", "uuid", { unique: true });
    };
    return new EventStore(await done(request));
  }

  /** Resolves when they are committed; sets their `order`. */
  async add(events: QueuedEvent[]): Promise<void> {
    const transaction = this.#db.transaction("events", "readwrite");
    const store = transaction.objectStore("events");
    const keys = events.map((event) => done(store.add(event)));
    await committed(transaction);
    for (const [i, key] of (await Promise.all(keys)).entries()) events[i]!.order = key as number;
  }

  /** All events, oldest first. */
  async all(): Promise<QueuedEvent[]> {
    return done(this.#db.transaction("events").objectStore("events").getAll() as IDBRequest<QueuedEvent[]>);
  }

  /** Those that another tab has removed meanwhile stay removed. */
  async update(events: QueuedEvent[]): Promise<void> {
    await this.#write((store) => {
      for (const event of events) {
        const found = store.count(event.order);
        found.onsuccess = () => found.result > 0 && store.put(event);
      }
    });
  }

  async remove(events: QueuedEvent[]): Promise<void> {
    await this.#write((store) => events.forEach((event) => event.order !== undefined && store.delete(event.order)));
  }

  async #write(work: (store: IDBObjectStore) => void): Promise<void> {
    const transaction = this.#db.transaction("events", "readwrite");
    work(transaction.objectStore("events"));
    await committed(transaction);
  }
}
