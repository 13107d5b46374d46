/** Right of the picture: this frame, the model's proposals, how it is seen, and how far the task is. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { Workspace } from "../canvas/workspace";
import { api } from "../core/api";
import { located } from "../core/motion";
import type { Outbox } from "../core/outbox";
import { set, settings, type Settings } from "../core/settings";
import { useSignal } from "../core/signal";
import type { HitEvent, QueueBy, User, Visibility } from "../core/types";
import { Finish } from "./finish";
import { Bar, count, rateOf } from "./widgets";

export function Panel({ space, user, outbox }: { space: Workspace; user: User; outbox: Outbox }): JSX.Element {
  useSignal(space.changed);
  return (
    <aside class="panel" aria-label="Panel">
      <TaskCard space={space} />
      <FrameCard space={space} />
      <ProposalCard space={space} />
      <SightCard />
      <Finish space={space} user={user} outbox={outbox} />
    </aside>
  );
}

function TaskCard({ space }: { space: Workspace }): JSX.Element {
  const { task, labels, made, active_s } = space.session;
  const frames = task.stop - task.start;
  const speed = active_s >= 5 ? (made / active_s) * 60 : 0;
  return (
    <section class="card">
      <h2>{task.job_name}</h2>
      <p class="hint">
        {task.video.name} · frames {task.start}–{task.stop - 1}
      </p>
      <Bar share={labels.size / frames} label="Labelled" />
      <p class="stats">
        <span>
          <b>{labels.size}</b> of {frames}
        </span>
        <span title="Labels per minute of work since this page was opened">
          <b>{speed ? Math.round(speed) : "–"}</b> / min
        </span>
      </p>
      {task.instructions && (
        <details>
          <summary>Instructions</summary>
          <p class="instructions">{task.instructions}</p>
        </details>
      )}
      {task.comment && <p class="comment">Reviewer: {task.comment}</p>}
    </section>
  );
}

const VISIBILITIES: [Visibility, string, string][] = [
  [1, "Clear", "1"],
  [2, "Hard", "2"],
  [3, "Occluded", "3"],
];

function FrameCard({ space }: { space: Workspace }): JSX.Element {
  const { label, frame } = space;
  const { video, start } = space.session.task;
  const pts = video.pts?.[frame - start];
  const time_s = pts ?? frame / (rateOf(video.rate) || 1);
  const visibility = located(label) ? label.visibility : space.next.visibility;
  const event = label ? label.event : space.next.event;
  return (
    <section class="card">
      <h2>
        Frame {Math.max(frame, 0)} <span class="hint">{time_s.toFixed(3)} s</span>
      </h2>
      <p class="where" data-testid="where">
        {!label && <span class="state state-none">unlabelled</span>}
        {label && !located(label) && <span class="state state-absent">no ball</span>}
        {located(label) && (
          <span class="state state-there">
            x {label.x.toFixed(2)} · y {label.y.toFixed(2)}
          </span>
        )}
        {label && <span class="hint">{label.source}</span>}
      </p>
      <div class="segments" role="group" aria-label="Visibility">
        {VISIBILITIES.map(([value, text, key]) => (
          <button key={value} aria-pressed={visibility === value && label?.visibility !== 0} title={`Key ${key}`} onClick={() => void space.setVisibility(value)}>
            {text}
          </button>
        ))}
      </div>
      <div class="segments" role="group" aria-label="Event">
        {(["hit", "bounce"] as HitEvent[]).map((value) => (
          <button key={value} aria-pressed={event === value} title={`Key ${value.slice(0, 1).toUpperCase()}`} onClick={() => void space.setEvent(value)}>
            {value === "hit" ? "Hit" : "Bounce"}
          </button>
        ))}
        <button disabled={!label} onClick={() => space.run("clear")} title="Key Del">
          Clear label
        </button>
      </div>
    </section>
  );
}

function ProposalCard({ space }: { space: Workspace }): JSX.Element {
  const proposals = useSignal(space.session.proposalState);
  const { acceptScore, queue, proposals: shown, snap } = useSignal(settings);
  const { start, stop } = space.session.task;
  const good = space.acceptable(start, stop, acceptScore);
  const running = proposals && ["queued", "running"].includes(proposals.state);
  return (
    <section class="card">
      <h2>Model</h2>
      {space.session.proposals.size === 0 ? (
        <p class="hint">{running ? `Proposals are being made: ${Math.round(100 * proposals.progress)} %` : "No proposals for this task."}</p>
      ) : (
        <>
          <label class="check">
            <input type="checkbox" checked={shown} onChange={() => set({ proposals: !shown })} /> Show {count(space.session.proposals.size, "proposal")}
            <kbd>P</kbd>
          </label>
          <label class="check">
            <input type="checkbox" checked={snap} onChange={() => set({ snap: !snap })} /> Clicks snap to them
            <kbd>S</kbd>
          </label>
          <label class="slider">
            <span>Score at least {acceptScore.toFixed(2)}</span>
            <input type="range" min="0" max="1" step="0.05" value={acceptScore} onInput={(e) => set({ acceptScore: Number(e.currentTarget.value) })} />
          </label>
          <button class="block" disabled={good.length === 0} onClick={() => void space.acceptMany(good)}>
            Accept {good.length} at once
          </button>
        </>
      )}
      {running && (
        <button class="quiet" onClick={() => void space.session.loadProposals()}>
          Look again
        </button>
      )}
      <label class="inline">
        <span>
          Uncertain <kbd>G</kbd> by
        </span>
        <select value={queue} onChange={(e) => set({ queue: e.currentTarget.value as QueueBy })}>
          <option value="unlabelled">unlabelled</option>
          <option value="score">low score</option>
          <option value="jump">jump</option>
          <option value="residual">residual</option>
          <option value="model">far from the model</option>
          <option value="disagreement">disagreement</option>
        </select>
      </label>
    </section>
  );
}

const TOGGLES: ["follow" | "onion" | "loupe" | "advance", string, string][] = [
  ["follow", "Follow the ball", "V"],
  ["onion", "Onion skin", "O"],
  ["loupe", "Loupe", "L"],
  ["advance", "Next frame after a click", ""],
];

function SightCard(): JSX.Element {
  const now = useSignal(settings);
  const pictures: Settings["picture"][] = ["plain", "difference", "blend"];
  const [open, setOpen] = useState(true);
  return (
    <details class="card" open={open} onToggle={(e) => setOpen(e.currentTarget.open)}>
      <summary>
        <h2>View</h2>
      </summary>
      <div class="segments" role="group" aria-label="Picture (key X)">
        {pictures.map((kind) => (
          <button key={kind} aria-pressed={now.picture === kind} onClick={() => set({ picture: kind })}>
            {kind[0]!.toUpperCase() + kind.slice(1)}
          </button>
        ))}
      </div>
      {TOGGLES.map(([name, text, key]) => (
        <label class="check" key={name}>
          <input type="checkbox" checked={now[name]} onChange={() => set({ [name]: !now[name] })} /> {text}
          {key && <kbd>{key}</kbd>}
        </label>
      ))}
    </details>
  );
}

export async function taskAction(id: number, action: string, body: object = {}): Promise<void> {
  await api("POST", `/api/tasks/${id}/${action}`, body);
}
