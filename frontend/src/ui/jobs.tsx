/** Jobs: make one, see who does what how fast and how well they agree, merge and export. */

import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import { api, every } from "../core/api";
import type { Agreement, Consensus, Format, Job, JobKind, PairAgreement, Task, User } from "../core/types";
import { NewJob } from "./newjob";
import { Badge, Bar, count, duration, Empty, Problem, useAction, useLoad } from "./widgets";

export function JobsView({ user }: { user: User }): JSX.Element {
  const { data: jobs, error, reload } = useLoad(() => every<Job>("/api/jobs"), 15_000);
  const [making, setMaking] = useState(false);
  return (
    <main class="page">
      <div class="page-head">
        <div>
          <h1>Jobs</h1>
          <p class="lead">A job cuts videos into sequences and hands them to people.</p>
        </div>
        {user.role === "admin" && (
          <button class="primary big" onClick={() => setMaking(true)}>
            New job
          </button>
        )}
      </div>
      <Problem text={error} />
      {jobs?.length === 0 && <Empty title="No jobs yet" />}
      <div class="grid">
        {jobs?.map((job) => (
          <a class="tile" key={job.id} href={`#/jobs/${job.id}`}>
            <div class="tile-head">
              <b>{job.name}</b>
              <Badge kind={job.kind}>{job.kind}</Badge>
            </div>
            <span class="hint">
              {job.replicas > 1 ? `${job.replicas} people per sequence` : "one person per sequence"}
              {job.gold_fraction > 0 ? ` · ${Math.round(100 * job.gold_fraction)} % gold` : ""}
            </span>
            {job.progress && <Bar share={job.progress.labelled / Math.max(1, job.progress.frames)} label="Labelled" />}
          </a>
        ))}
      </div>
      {making && (
        <NewJob
          onClose={() => {
            setMaking(false);
            reload();
          }}
        />
      )}
    </main>
  );
}

export const KINDS: Record<JobKind, string> = {
  label: "label every frame",
  adjust: "correct what is there",
  verify: "look through it only",
};

export function JobView({ id, user }: { id: number; user: User }): JSX.Element {
  const { data: job, error, reload } = useLoad(() => api<Job>("GET", `/api/jobs/${id}`), 10_000);
  const { data: tasks, reload: reloadTasks } = useLoad(() => every<Task>(`/api/tasks?job=${id}${user.role === "annotator" ? "&mine=1" : ""}`), 10_000);
  const { data: people } = useLoad(() => api<User[]>("GET", "/api/users"));
  if (!job) return <main class="page">{error ? <Problem text={error} /> : ""}</main>;
  const { progress } = job;
  return (
    <main class="page">
      <p class="crumbs">
        <a href="#/jobs">Jobs</a> / {job.name}
      </p>
      <div class="page-head">
        <div>
          <h1>{job.name}</h1>
          <p class="lead">
            {KINDS[job.kind]}
            {job.replicas > 1 ? ` · ${job.replicas} people per sequence` : ""}
          </p>
        </div>
        {user.role === "admin" && (
          <div class="exchange">
            <ExportButton job={job} />
            <ImportButton job={job} onChange={reload} />
          </div>
        )}
      </div>
      {progress && (
        <section class="figures">
          <Figure value={`${Math.round((100 * progress.labelled) / Math.max(1, progress.frames))} %`} what={`labelled: ${progress.labelled.toLocaleString("en")} of ${count(progress.frames, "frame")}`} share={progress.labelled / Math.max(1, progress.frames)} />
          <Figure value={`${Math.round((100 * progress.approved) / Math.max(1, progress.frames))} %`} what={`approved: ${progress.approved.toLocaleString("en")}`} share={progress.approved / Math.max(1, progress.frames)} />
          <div class="figure">
            <div class="chips">
              {Object.entries(progress.tasks_by_state).map(([state, n]) => (
                <Badge key={state} kind={state}>
                  {n} {state}
                </Badge>
              ))}
            </div>
          </div>
        </section>
      )}
      {progress && progress.per_person.length > 0 && (
        <section class="card">
          <h2>People</h2>
          <table>
            <thead>
              <tr>
                <th>Name</th>
                <th class="num">Labels</th>
                <th class="num">Time at work</th>
                <th class="num">Labels / min</th>
              </tr>
            </thead>
            <tbody>
              {progress.per_person.map((person) => (
                <tr key={person.user}>
                  <td>{person.user}</td>
                  <td class="num">{person.labels.toLocaleString("en")}</td>
                  <td class="num">{duration(person.active_s)}</td>
                  <td class="num">
                    <b>{person.labels_per_min && person.active_s >= 10 ? person.labels_per_min.toFixed(0) : "–"}</b>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
      <AgreementCard job={job} />
      <TaskTable
        tasks={tasks ?? []}
        people={people ?? []}
        admin={user.role === "admin"}
        onChange={() => {
          reload();
          reloadTasks();
        }}
      />
    </main>
  );
}

function Figure({ value, what, share }: { value: string; what: string; share: number }): JSX.Element {
  return (
    <div class="figure">
      <span class="figure-value">{value}</span>
      <span class="hint">{what}</span>
      <Bar share={share} label={what} />
    </div>
  );
}

function px(value: number | null): string {
  return value === null ? "–" : `${value.toFixed(1)} px`;
}

function share(value: number | null): string {
  return value === null ? "–" : `${Math.round(100 * value)} %`;
}

function AgreementCard({ job }: { job: Job }): JSX.Element | null {
  const { data, reload } = useLoad(() => api<Agreement>("GET", `/api/jobs/${job.id}/agreement`));
  const [made, setMade] = useState<Consensus>();
  const { busy, error, act } = useAction();
  if (!data || (data.pairs.length === 0 && data.gold.length === 0)) return null;
  const merge = (): void =>
    act(async () => {
      setMade(await api<Consensus>("POST", `/api/jobs/${job.id}/consensus`, {}));
      reload();
    });
  return (
    <section class="card">
      <div class="tile-head">
        <h2>Agreement</h2>
        {job.replicas > 1 && (
          <button disabled={busy} onClick={merge}>
            Make a consensus
          </button>
        )}
      </div>
      <Pairs title="Between annotators" pairs={data.pairs} />
      <Pairs title="Against hidden gold" pairs={data.gold} />
      {made && (
        <p role="status">
          Version {made.version}: {count(made.n, "frame")} merged
          {made.adjudicate.length > 0 ? `; ${count(made.places.length, "frame")} for a person to decide: ${made.places.slice(0, 20).map((place) => place.frame).join(", ")}${made.places.length > 20 ? " …" : ""}` : "; all agreed."}
        </p>
      )}
      <Problem text={error} />
    </section>
  );
}

function Pairs({ title, pairs }: { title: string; pairs: PairAgreement[] }): JSX.Element | null {
  if (pairs.length === 0) return null;
  return (
    <div class="scroll">
      <table>
        <caption>{title}</caption>
        <thead>
          <tr>
            <th>Who</th>
            <th class="num">Frames</th>
            <th class="num" title="Cohen's kappa on visibility">Kappa</th>
            <th class="num">Median</th>
            <th class="num">95 %</th>
            <th class="num">Within 4 px</th>
            <th class="num">Events F1</th>
            <th class="num" title="A constant shift hints at a wrong frame">Shift</th>
          </tr>
        </thead>
        <tbody>
          {pairs.map((pair) => (
            <tr key={`${pair.a}/${pair.b}`}>
              <td>
                {pair.a} · {pair.b}
              </td>
              <td class="num">{pair.n}</td>
              <td class="num">{pair.kappa?.toFixed(2) ?? "–"}</td>
              <td class="num">{px(pair.median_px)}</td>
              <td class="num">{px(pair.p95_px)}</td>
              <td class="num">{share(pair.share_4px)}</td>
              <td class="num">{share(pair.event_f1)}</td>
              <td class="num">{pair.drift_frames ? <Badge kind="returned">{pair.drift_frames} frames</Badge> : "0"}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function TaskTable({ tasks, people, admin, onChange }: { tasks: Task[]; people: User[]; admin: boolean; onChange: () => void }): JSX.Element {
  const { error, act } = useAction();
  const nameOf = (id: number | null): string => people.find((user) => user.id === id)?.name ?? "–";
  return (
    <section class="card">
      <h2>Tasks</h2>
      <Problem text={error} />
      <div class="scroll">
        <table>
          <thead>
            <tr>
              <th>Frames</th>
              <th>State</th>
              <th>Who</th>
              <th class="num">Labelled</th>
              <th />
            </tr>
          </thead>
          <tbody>
            {tasks.map((task) => (
              <tr key={task.id}>
                <td>
                  {task.start}–{task.stop - 1} {task.is_gold && <Badge kind="gold">gold</Badge>}
                </td>
                <td>
                  <Badge kind={task.state}>{task.state}</Badge>
                </td>
                <td>
                  {admin && (task.state === "available" || task.state === "claimed") ? (
                    <select aria-label={`Who labels task ${task.id}`} value={task.assignee ?? ""} onChange={(e) => act(() => api("POST", `/api/tasks/${task.id}/assign`, { user: Number(e.currentTarget.value) }).then(onChange))}>
                      <option value="" disabled>
                        nobody yet
                      </option>
                      {people.filter((user) => user.active !== false).map((user) => (
                        <option key={user.id} value={user.id}>
                          {user.name}
                        </option>
                      ))}
                    </select>
                  ) : (
                    nameOf(task.assignee)
                  )}
                </td>
                <td class="num">
                  {task.labelled} / {task.frames}
                </td>
                <td>
                  <a href={`#/task/${task.id}`}>{task.state === "submitted" ? "Review" : "Open"}</a>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function ImportButton({ job, onChange }: { job: Job; onChange: () => void }): JSX.Element {
  const [told, setTold] = useState("");
  const input = useRef<HTMLInputElement>(null);
  const { busy, error, act } = useAction();
  const load = (file: File | undefined): void => {
    if (!file) return;
    act(async () => {
      const done = await api<{ imported: number; skipped: number }>("POST", `/api/jobs/${job.id}/import?format=auto&name=${encodeURIComponent(file.name)}`, file);
      setTold(`${count(done.imported, "label")} imported, ${done.skipped} skipped`);
      onChange();
    });
  };
  return (
    <div class="inline import">
      <span class="hint" role="status">
        {told}
      </span>
      <button class="quiet" disabled={busy} onClick={() => input.current?.click()}>
        Import labels …
      </button>
      <input ref={input} class="unseen" type="file" tabIndex={-1} aria-label="Label file" onChange={(e) => load(e.currentTarget.files?.[0])} />
      <Problem text={error} />
    </div>
  );
}

function ExportButton({ job }: { job: Job }): JSX.Element {
  const { data: formats } = useLoad(() => api<Format[]>("GET", "/api/formats"));
  const [format, setFormat] = useState("tracknetv2");
  const { busy, error, act, say } = useAction();
  const save = (unlabelled: "refuse" | "drop"): void =>
    act(async () => {
      const response = await fetch(`/api/jobs/${job.id}/export?format=${format}&unlabelled=${unlabelled}`);
      if (!response.ok) {
        const answer = (await response.json()) as { error: { message: string } };
        say(answer.error.message); return;
      }
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await response.blob());
      link.download = `${job.name}-${format}.zip`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  return (
    <div class="export">
      <div class="inline">
        <select aria-label="Format" value={format} onChange={(e) => setFormat(e.currentTarget.value)}>
          {formats?.filter((f) => f.can_write).map((f) => (
            <option key={f.name} value={f.name}>
              {f.title}
            </option>
          ))}
        </select>
        <button class="primary" disabled={busy} onClick={() => save("refuse")}>
          Export
        </button>
      </div>
      <Problem text={error} />
      {error && (
        <button class="quiet" onClick={() => save("drop")}>
          Leave unlabelled frames out
        </button>
      )}
    </div>
  );
}

