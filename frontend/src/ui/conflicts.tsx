/** Two people, or two tabs, on one frame: both labels side by side, and a person decides. */

import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { api } from "../core/api";
import { COLOURS, drawLabel, drawPicture } from "../canvas/painter";
import { fit, type Size, type View } from "../core/coords";
import type { QueuedEvent } from "../core/idb";
import type { Outbox } from "../core/outbox";
import { useSignal } from "../core/signal";
import { labelOfEvent, openSession, TaskSession } from "../core/tasksession";
import type { Label, TaskDetail } from "../core/types";
import { Dialog, Problem, useAction } from "./widgets";

export function ConflictsDialog({ outbox, onClose }: { outbox: Outbox; onClose: () => void }): JSX.Element {
  const { conflicts, rejected } = useSignal(outbox.state);
  return (
    <Dialog title="Your decision is needed" wide onClose={onClose}>
      {conflicts.length > 0 && <p>Somebody else, or another tab of yours, has labelled the same frame meanwhile. Nothing has been overwritten.</p>}
      {conflicts.map((conflict) => (
        <Conflict key={conflict.uuid} conflict={conflict} outbox={outbox} />
      ))}
      {rejected.map((event) => (
        <Refused key={event.uuid} event={event} outbox={outbox} />
      ))}
    </Dialog>
  );
}

function Conflict({ conflict, outbox }: { conflict: QueuedEvent; outbox: Outbox }): JSX.Element {
  const { error, busy, act } = useAction();
  const settle = (keep: "mine" | "theirs"): void =>
    act(async () => {
      const open = openSession(conflict.task);
      const session = open ?? new TaskSession(await api<TaskDetail>("GET", `/api/tasks/${conflict.task}`), outbox);
      await session.resolve(conflict, keep);
    });
  return (
    <section class="conflict" aria-label={`Frame ${conflict.event.frame}`}>
      <h3>Frame {conflict.event.frame}</h3>
      <div class="sides">
        <Side title="Yours" label={labelOfEvent(conflict.event)} conflict={conflict} colour={COLOURS[1]}>
          <button class="primary" disabled={busy} onClick={() => settle("mine")}>
            Keep mine
          </button>
        </Side>
        <Side title="Theirs" label={conflict.current ?? undefined} conflict={conflict} colour={COLOURS.theirs}>
          <button disabled={busy} onClick={() => settle("theirs")}>
            Keep theirs
          </button>
        </Side>
      </div>
      <Problem text={error} />
    </section>
  );
}

function words(label: Label | undefined): string {
  if (!label) return "unlabelled";
  if (label.x === null || label.y === null) return "no ball";
  const seen = ["", "clear", "hard to see", "occluded"][label.visibility] ?? "";
  return `x ${label.x.toFixed(1)}, y ${label.y.toFixed(1)}, ${seen}${label.event ? `, ${label.event}` : ""}`;
}

const CROP = { w: 260, h: 170 };

function Side(props: { title: string; label: Label | undefined; conflict: QueuedEvent; colour: string; children: JSX.Element }): JSX.Element {
  const ref = useRef<HTMLCanvasElement>(null);
  const { label, conflict, colour } = props;
  useEffect(() => {
    void drawCrop(ref.current, conflict, label, colour);
  }, [conflict, label, colour]);
  return (
    <div class="side">
      <h4>{props.title}</h4>
      <canvas ref={ref} width={CROP.w} height={CROP.h} role="img" aria-label={`${props.title}: ${words(label)}`} />
      <p>{words(label)}</p>
      {props.children}
    </div>
  );
}

/** Both balls with some room around them, twice as large where they are near each other. */
function viewOfBoth(points: { x: number; y: number }[], picture: Size): View {
  if (points.length === 0) return fit(CROP, picture);
  const [xs, ys] = [points.map((p) => p.x), points.map((p) => p.y)];
  const span = (values: number[]): number => Math.max(...values) - Math.min(...values) + 60;
  const middle = (values: number[]): number => (Math.max(...values) + Math.min(...values)) / 2 + 0.5;
  return { scale: Math.min(2, CROP.w / span(xs), CROP.h / span(ys)), cu: middle(xs), cv: middle(ys) };
}

/** Both sides show the same piece of the picture. */
async function drawCrop(canvas: HTMLCanvasElement | null, conflict: QueuedEvent, label: Label | undefined, colour: string): Promise<void> {
  const ctx = canvas?.getContext("2d");
  if (!ctx) return;
  try {
    const { video } = await api<TaskDetail>("GET", `/api/tasks/${conflict.task}`);
    const answer = await fetch(`/frames/${video.id}/${conflict.event.frame}.jpg?v=${video.sha.slice(0, 12)}`);
    const bitmap = await createImageBitmap(await answer.blob());
    const view = viewOfBoth([conflict.event, conflict.current].flatMap((p) => (p && p.x !== null && p.y !== null ? [{ x: p.x, y: p.y }] : [])), video);
    const scene = { view, viewport: CROP, picture: video };
    drawPicture(ctx, scene, bitmap);
    if (label) drawLabel(ctx, scene, label, colour);
  } catch {
    // no picture: the words under it say the same
  }
}

function Refused({ event, outbox }: { event: QueuedEvent; outbox: Outbox }): JSX.Element {
  return (
    <section class="conflict">
      <h3>
        Frame {event.event.frame} of task {event.task} was refused
      </h3>
      <p>{event.message}</p>
      <p class="hint">Yours was: {words(labelOfEvent(event.event))}</p>
      <button onClick={() => void outbox.settle(event)}>Let it go</button>
    </section>
  );
}
