/** The end of a task: submit, give back, decline; for reviewers the verdict. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { Workspace } from "../canvas/workspace";
import type { Outbox } from "../core/outbox";
import { useSignal } from "../core/signal";
import type { User } from "../core/types";
import { taskAction } from "./panel";
import { count, Dialog, Field, Problem, useAction } from "./widgets";

export function Finish(props: { space: Workspace; user: User; outbox: Outbox }): JSX.Element {
  const { task } = props.space.session;
  const judges = props.user.role !== "annotator" && task.state === "submitted";
  return (
    <section class={judges ? "card card-last card-verdict" : "card card-last"}>
      {judges && <Verdict {...props} />}
      {!judges && ["claimed", "returned"].includes(task.state) && <HandIn {...props} />}
      {!judges && !["claimed", "returned"].includes(task.state) && <p class="hint">This task is {task.state}.</p>}
    </section>
  );
}

function home(): void {
  location.hash = "#/";
}

function HandIn({ space, outbox }: { space: Workspace; outbox: Outbox }): JSX.Element {
  const { task, labels } = space.session;
  const { unsaved, conflicts } = useSignal(outbox.state);
  const [asking, setAsking] = useState<"submit" | "decline" | "">("");
  const [reason, setReason] = useState("");
  const { busy, error, act } = useAction();
  const open = task.stop - task.start - labels.size;
  const submit = (): void =>
    act(async () => {
      await outbox.flush();
      await taskAction(task.id, "submit", { allow_unlabelled: open > 0 });
      home();
    });
  return (
    <>
      <button class="primary block" disabled={busy || unsaved > 0 || conflicts.length > 0} onClick={() => (open > 0 ? setAsking("submit") : submit())}>
        Submit the task
      </button>
      <div class="pair">
        <button
          class="quiet"
          disabled={busy}
          title="Somebody else can go on with it; your labels stay"
          onClick={() => act(() => taskAction(task.id, "release").then(home))}
        >
          Give back
        </button>
        <button class="quiet" disabled={busy} onClick={() => setAsking("decline")}>
          Decline …
        </button>
      </div>
      <Problem text={error} />
      {asking === "submit" && (
        <Dialog title="Not every frame has a label" onClose={() => setAsking("")}>
          <p>{count(open, "frame has", "frames have")} no label yet. A frame without the ball wants “no ball” (N), which is a label too.</p>
          <Problem text={error} />
          <div class="dialog-foot">
            <button onClick={submit}>Submit anyway</button>
            <button
              class="primary"
              onClick={() => {
                setAsking("");
                space.go(labels.nextUnlabelled(task.start - 1, task.start, task.stop, 1) ?? task.start);
              }}
            >
              Show me
            </button>
          </div>
        </Dialog>
      )}
      {asking === "decline" && (
        <Dialog title="Decline the task" onClose={() => setAsking("")}>
          <Field label="Reason">
            <textarea rows={3} value={reason} onInput={(e) => setReason(e.currentTarget.value)} />
          </Field>
          <Problem text={error} />
          <div class="dialog-foot">
            <button class="danger" disabled={busy} onClick={() => act(() => taskAction(task.id, "decline", { reason }).then(home))}>
              Decline
            </button>
          </div>
        </Dialog>
      )}
    </>
  );
}

function Verdict({ space }: { space: Workspace }): JSX.Element {
  const { task } = space.session;
  const [comment, setComment] = useState("");
  const { busy, error, act } = useAction();
  const frames = [...space.flags].sort((a, b) => a - b);
  const judge = (verdict: "approve" | "return"): void =>
    act(() => taskAction(task.id, "review", { verdict, comment, frames }).then(home));
  return (
    <>
      <h2>Your verdict</h2>
      <p class="hint">
        Mark frames with <kbd>M</kbd>; {frames.length === 0 ? "none is marked." : `marked: ${frames.join(", ")}`}
      </p>
      <Field label="Comment">
        <textarea rows={2} value={comment} onInput={(e) => setComment(e.currentTarget.value)} />
      </Field>
      <div class="pair">
        <button class="primary" disabled={busy} onClick={() => judge("approve")}>
          Approve
        </button>
        <button disabled={busy || (comment === "" && frames.length === 0)} title="Say why, or mark frames" onClick={() => judge("return")}>
          Return
        </button>
      </div>
      <Problem text={error} />
    </>
  );
}
