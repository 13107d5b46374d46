/** What lives as long as the page: this tab's name and its queue of unsaved events. */

import { session } from "./api";
import { EventStore } from "./idb";
import { newClient } from "./ids";
import { Outbox } from "./outbox";

let outbox: Promise<Outbox> | undefined;

async function start(): Promise<Outbox> {
  const [store, client] = await Promise.all([EventStore.open(), newClient()]);
  const made = new Outbox({ store, client, user: () => session.user.value?.id });
  await made.start();
  session.gate.watch(() => session.gate.value === "open" && made.kick(0)); // logged in again: what waited goes out
  return made;
}

export function theOutbox(): Promise<Outbox> {
  outbox ??= start();
  return outbox;
}
