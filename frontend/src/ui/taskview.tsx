/** The labelling canvas with its panels. */

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Hands } from "../canvas/hands";
import { Workspace } from "../canvas/workspace";
import { api, messageOf } from "../core/api";
import type { Outbox } from "../core/outbox";
import { settings } from "../core/settings";
import { useSignal } from "../core/signal";
import { TaskSession } from "../core/tasksession";
import type { TaskDetail, User } from "../core/types";
import { Panel } from "./panel";
import { ShortcutSheet } from "./shortcuts";
import { Timeline } from "./timeline";
import { Problem } from "./widgets";

export function TaskView({ id, user, outbox }: { id: number; user: User; outbox: Outbox }): JSX.Element {
  const [session, setSession] = useState<TaskSession>();
  const [error, setError] = useState("");
  useEffect(() => {
    let opened: TaskSession | undefined;
    let gone = false;
    const open = async (): Promise<void> => {
      opened = new TaskSession(await api<TaskDetail>("GET", `/api/tasks/${id}`), outbox);
      await opened.open();
      if (gone) opened.close();
      else setSession(opened);
    };
    open().catch((problem: unknown) => setError(messageOf(problem)));
    return () => {
      gone = true;
      opened?.close();
    };
  }, [id, outbox]);
  if (error) {
    return (
      <main class="page">
        <Problem text={error} />
        <a href="#/">Back to the tasks</a>
      </main>
    );
  }
  if (!session) return <main class="page" aria-busy="true" />;
  return <Bench session={session} user={user} outbox={outbox} />;
}

function Bench({ session, user, outbox }: { session: TaskSession; user: User; outbox: Outbox }): JSX.Element {
  const area = useRef<HTMLDivElement>(null);
  const picture = useRef<HTMLCanvasElement>(null);
  const overlay = useRef<HTMLCanvasElement>(null);
  const [space, setSpace] = useState<Workspace>();
  const { panel } = useSignal(settings);
  useEffect(() => {
    const made = new Workspace(session, picture.current!, overlay.current!);
    const hands = new Hands(made, area.current!);
    area.current!.focus();
    setSpace(made);
    return () => {
      hands.close();
      made.close();
    };
  }, [session]);
  return (
    <main class={panel ? "bench" : "bench bench-wide"}>
      <h1 class="unseen">
        {session.task.job_name}, {session.task.video.name}
      </h1>
      <div class="stage" ref={area} tabIndex={0} role="application" aria-label="Picture: click the ball; press ? for all keys">
        <canvas ref={picture} class="layer" id="picture" />
        <canvas ref={overlay} class="layer" />
        {space && <StageNotes space={space} />}
      </div>
      {space && <Actions space={space} area={area.current!} />}
      {space && <Timeline space={space} />}
      {space && panel && <Panel space={space} user={user} outbox={outbox} />}
      {space && <Help space={space} />}
    </main>
  );
}

function Help({ space }: { space: Workspace }): JSX.Element | null {
  return useSignal(space.help) ? <ShortcutSheet onClose={() => (space.help.value = false)} /> : null;
}

function StageNotes({ space }: { space: Workspace }): JSX.Element {
  useSignal(space.changed);
  const notice = useSignal(space.notice);
  const { mode } = space.review;
  const { start, stop } = space.session.task;
  return (
    <>
      <div class="stage-chips">
        <span class="chip chip-frame">
          <b>{Math.max(space.frame, 0)}</b> <span>/ {stop - 1}</span>
        </span>
        {space.range && <span class="chip chip-hot">{space.range.kind === "absent" ? "No ball" : "Accept"} from {space.range.from} … Enter ends it, Esc leaves it</span>}
        {mode === "playing" && <span class="chip chip-hot">▶ Review · click or R stops</span>}
        {mode === "stopped" && <span class="chip chip-hot">⏸ Review · Enter accepts, click corrects, Esc ends</span>}
        {space.next.visibility !== 1 && <span class="chip">next click: {space.next.visibility === 2 ? "hard to see" : "occluded"}</span>}
        {space.next.event && <span class="chip">next click: {space.next.event}</span>}
        {space.flags.has(space.frame) && <span class="chip chip-danger">marked</span>}
        {space.stage.waiting && <span class="chip chip-loading">loading {space.target}</span>}
      </div>
      <p class="stage-notice" role="status">
        {space.frames.trouble ? `Pictures: ${space.frames.trouble}` : notice}
      </p>
      {space.frame < 0 && <p class="stage-first">Loading frame {start} …</p>}
    </>
  );
}

function Actions({ space, area }: { space: Workspace; area: HTMLElement }): JSX.Element {
  useSignal(space.changed);
  const { mode } = space.review;
  const button = (command: Parameters<Workspace["run"]>[0], text: string, key: string, extra = ""): JSX.Element => (
    <button
      class={`action ${extra}`}
      title={`${text} (${key})`}
      onClick={(event) => {
        space.run(command);
        if (event.detail > 0) area.focus(); // after a click the keys belong to the picture again
      }}
    >
      <span>{text}</span> <kbd>{key}</kbd>
    </button>
  );
  return (
    <div class="actions" role="toolbar" aria-label="Frame">
      {button("previous", "◀ Back", "A")}
      {button("next", "Next ▶", "D")}
      <span class="gap" />
      {button("accept", "Accept", "⏎", "action-main")}
      {button("absent", "No ball", "N")}
      {button("range", "No ball to …", "⇧N")}
      <span class="gap" />
      {button("undo", "Undo", "Z")}
      {button("uncertain", "Uncertain", "G")}
      {button("review", mode === "playing" ? "Stop" : mode === "stopped" ? "Play on" : "Review", "R")}
      <span class="spring" />
      {button("help", "Keys", "?")}
      {button("panel", "Panel", "I")}
    </div>
  );
}
