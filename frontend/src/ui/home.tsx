/** Where an annotator starts: the next task, his own, those that wait for a review. */

import type { JSX } from "preact";
import { api, ApiError, every } from "../core/api";
import type { Task, User } from "../core/types";
import { Badge, Bar, Empty, Problem, useAction, useLoad } from "./widgets";

const ORDER = ["returned", "claimed", "submitted", "approved", "declined"];

export function HomeView({ user }: { user: User }): JSX.Element {
  const { data: tasks, error, reload } = useLoad(() => every<Task>("/api/tasks?mine=1"), 20_000);
  const reviews = user.role !== "annotator";
  const { busy, error: failed, act, say } = useAction();
  const next = (): void =>
    act(async () => {
      try {
        location.hash = `#/task/${(await api<Task>("POST", "/api/tasks/next", {})).id}`;
      } catch (problem) {
        if (!(problem instanceof ApiError && problem.status === 404)) throw problem;
        say("No task is free now.");
      }
      reload();
    });
  const mine = [...(tasks ?? [])].sort((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state));
  const open = mine.filter((task) => task.state === "claimed" || task.state === "returned");
  const done = mine.filter((task) => !open.includes(task));
  return (
    <main class="page">
      <div class="page-head">
        <div>
          <h1>Good to see you, {user.name}</h1>
          <p class="lead">{open.length > 0 ? "Go on where you stopped, or take another piece." : "Take a piece of video and label the ball."}</p>
        </div>
        <button class="primary big" disabled={busy} onClick={next}>
          Next task →
        </button>
      </div>
      <Problem text={error || failed} />
      {tasks?.length === 0 && (
        <Empty title="No task of yours">
          <p>Press “Next task” to claim one.</p>
          {user.role === "admin" && <p>For new work add <a href="#/videos">videos</a>, then make a <a href="#/jobs">job</a>.</p>}
        </Empty>
      )}
      <div class="grid">
        {open.map((task) => (
          <TaskCard key={task.id} task={task} />
        ))}
      </div>
      {reviews && <ToReview />}
      {done.length > 0 && (
        <>
          <h2>Handed in</h2>
          <div class="grid">
            {done.map((task) => (
              <TaskCard key={task.id} task={task} />
            ))}
          </div>
        </>
      )}
    </main>
  );
}

function ToReview(): JSX.Element | null {
  const { data } = useLoad(() => every<Task>("/api/tasks?state=submitted"), 20_000);
  if (!data || data.length === 0) return null;
  return (
    <>
      <h2>To review</h2>
      <div class="grid">
        {data.map((task) => (
          <TaskCard key={task.id} task={task} />
        ))}
      </div>
    </>
  );
}

export function TaskCard({ task }: { task: Task }): JSX.Element {
  return (
    <a class="tile" href={`#/task/${task.id}`}>
      <div class="tile-head">
        <b>{task.job_name}</b>
        <Badge kind={task.state}>{task.state}</Badge>
      </div>
      <span class="hint">
        {task.video_name} · frames {task.start}–{task.stop - 1}
        {task.replica > 0 ? ` · copy ${task.replica + 1}` : ""}
      </span>
      <Bar share={task.labelled / Math.max(1, task.frames)} label="Labelled" />
      <span class="hint">
        {task.labelled} of {task.frames} frames
      </span>
      {task.comment && <span class="comment">{task.comment}</span>}
    </a>
  );
}
