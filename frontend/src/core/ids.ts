/** Names that are unique without a server; also where `crypto.randomUUID` is hidden, on a plain-HTTP address in a LAN. */

export function uuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

export interface Client {
  /** Of this page: a reload, or a duplicated tab, is another client. */
  id: string;
  /** Does the page of that client still live, to send what it has queued? */
  isAlive: (id: string, lastSign_ms: number) => Promise<boolean>;
}

const SIGN_OF_LIFE_MS = 30_000;

/** A new client, known to other tabs by a lock that is held as long as the page lives. */
export async function newClient(): Promise<Client> {
  const id = uuid();
  const locks = (navigator as { locks?: LockManager }).locks; // missing on plain HTTP
  if (!locks) {
    const isAlive = (_: string, lastSign_ms: number): Promise<boolean> =>
      Promise.resolve(Date.now() - lastSign_ms < SIGN_OF_LIFE_MS); // sending twice is harmless: the server knows uuids
    return { id, isAlive };
  }
  await new Promise<void>((held) => {
    void locks.request(lockName(id), () => {
      held();
      return new Promise<void>(() => undefined);
    });
  });
  const isAlive = async (other: string): Promise<boolean> =>
    ((await locks.query()).held ?? []).some((lock) => lock.name === lockName(other));
  return { id, isAlive };
}

function lockName(id: string): string {
  return `rallytrace-client-${id}`;
}
