/** The form that makes a job. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { api, every } from "../core/api";
import type { JobKind, Video } from "../core/types";
import { KINDS } from "./jobs";
import { Dialog, Field, Problem, useAction, useLoad } from "./widgets";

export function NewJob({ onClose }: { onClose: () => void }): JSX.Element {
  const { data: videos } = useLoad(() => every<Video>("/api/videos"));
  const [name, setName] = useState("");
  const [instructions, setInstructions] = useState("Mark the middle of the ball in every frame, the middle of the streak where it is blurred. No ball in sight: press N.");
  const [kind, setKind] = useState<JobKind>("label");
  const [length, setLength] = useState(600);
  const [replicas, setReplicas] = useState(1);
  const [gold, setGold] = useState(0);
  const [left, setLeft] = useState<ReadonlySet<number>>(new Set());
  const { busy, error, act } = useAction();
  const ready = (videos ?? []).filter((video) => video.state === "ready");
  const chosen = ready.filter((video) => !left.has(video.id)).map((video) => video.id);
  const toggle = (id: number): void => {
    const next = new Set(left);
    if (!next.delete(id)) next.add(id);
    setLeft(next);
  };
  const submit = (event: Event): void => {
    event.preventDefault();
    act(async () => {
      await api("POST", "/api/jobs", { name, instructions, kind, video_ids: chosen, sequence_length: length, replicas, gold_fraction: gold / 100 });
      onClose();
    });
  };
  const number = (value: number, change: (n: number) => void, min: number, max: number): JSX.Element => (
    <input type="number" min={min} max={max} required value={value} onInput={(e) => change(Number(e.currentTarget.value))} />
  );
  return (
    <Dialog title="New job" onClose={onClose}>
      <form onSubmit={submit}>
        <Field label="Name">
          <input required autoFocus value={name} onInput={(e) => setName(e.currentTarget.value)} />
        </Field>
        <Field label="Instructions">
          <textarea rows={3} value={instructions} onInput={(e) => setInstructions(e.currentTarget.value)} />
        </Field>
        <Field label="Kind">
          <select value={kind} onChange={(e) => setKind(e.currentTarget.value as JobKind)}>
            {(Object.keys(KINDS) as JobKind[]).map((key) => (
              <option key={key} value={key}>
                {key}: {KINDS[key]}
              </option>
            ))}
          </select>
        </Field>
        <fieldset>
          <legend>Videos</legend>
          {ready.length === 0 && <p class="hint">No video is ready yet.</p>}
          {ready.map((video) => (
            <label class="check" key={video.id}>
              <input type="checkbox" checked={!left.has(video.id)} onChange={() => toggle(video.id)} /> {video.name}
              <span class="hint">{video.n_frames} frames</span>
            </label>
          ))}
        </fieldset>
        <div class="three">
          <Field label="Frames per task" hint="0: a whole video">
            {number(length, setLength, 0, 100_000)}
          </Field>
          <Field label="People per sequence" hint="2 or more: agreement">
            {number(replicas, setReplicas, 1, 9)}
          </Field>
          <Field label="Hidden gold, %">{number(gold, setGold, 0, 100)}</Field>
        </div>
        <Problem text={error} />
        <div class="dialog-foot">
          <button class="primary" disabled={busy || chosen.length === 0}>
            Make the job
          </button>
        </div>
      </form>
    </Dialog>
  );
}
