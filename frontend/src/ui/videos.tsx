/** The project's videos: add one (admins), watch its import, pre-label it (reviewers too). */

import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import { api, every, messageOf, upload } from "../core/api";
import type { Prelabel, User, Video } from "../core/types";
import { Badge, Bar, Empty, Problem, rateOf, useAction, useLoad } from "./widgets";

interface Sending { name: string; share: number; error: string }

export function VideosView({ user }: { user: User }): JSX.Element {
  const { data: videos, error, reload } = useLoad(() => every<Video>("/api/videos"), 3000);
  const { data: runs, reload: reloadRuns } = useLoad(() => every<Prelabel>("/api/prelabel"), 3000);
  const [sending, setSending] = useState<Sending[]>([]);
  const [over, setOver] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const send = async (files: Iterable<File>): Promise<void> => {
    for (const file of files) {
      const entry = { name: file.name, share: 0, error: "" };
      const show = (change: Partial<Sending>): void => {
        Object.assign(entry, change);
        setSending((all) => [...all.filter((other) => other.name !== file.name), { ...entry }]);
      };
      show({});
      try {
        await upload(`/api/videos?name=${encodeURIComponent(file.name)}`, file, (share) => show({ share }));
        setSending((all) => all.filter((other) => other.name !== file.name));
      } catch (problem) {
        show({ error: messageOf(problem) });
      }
      reload();
    }
  };
  return (
    <main class="page">
      <div class="page-head">
        <div>
          <h1>Videos</h1>
          <p class="lead">Frames are counted once, when a video is added; from then on a frame number means one picture.</p>
        </div>
      </div>
      {user.role === "admin" && <div
        class={over ? "drop drop-over" : "drop"}
        onDragOver={(e) => {
          e.preventDefault();
          setOver(true);
        }}
        onDragLeave={() => setOver(false)}
        onDrop={(e) => {
          e.preventDefault();
          setOver(false);
          void send(e.dataTransfer?.files ?? []);
        }}
      >
        <p>Drop videos here, or</p>
        <button class="primary" onClick={() => input.current?.click()}>
          Choose files
        </button>
        <input ref={input} class="unseen" type="file" multiple accept="video/*,.mkv,.ts,.mov,.avi" aria-label="Video files" tabIndex={-1} onChange={(e) => void send(e.currentTarget.files ?? [])} />
      </div>}
      {sending.map((file) => (
        <div class="row-card" key={file.name}>
          <b class="clip-name">{file.name}</b>
          {file.error ? <Problem text={file.error} /> : <Bar share={file.share} label={`Upload of ${file.name}`} />}
        </div>
      ))}
      <Problem text={error} />
      {videos?.length === 0 && sending.length === 0 && <Empty title="No videos yet" />}
      <div class="grid">
        {videos?.map((video) => (
          <VideoTile key={video.id} video={video} run={runs?.findLast((run) => run.video === video.id)} onChange={reloadRuns} />
        ))}
      </div>
    </main>
  );
}

function VideoTile({ video, run, onChange }: { video: Video; run: Prelabel | undefined; onChange: () => void }): JSX.Element {
  const ready = video.state === "ready";
  return (
    <article class="tile">
      {ready ? <img class="thumb" loading="lazy" alt="" src={`/frames/${video.id}/${Math.floor(video.n_frames / 2)}.jpg?v=${video.sha.slice(0, 12)}&w=320`} /> : <div class="thumb thumb-empty" />}
      <div class="tile-head">
        <b class="clip-name" title={video.name}>
          {video.name}
        </b>
        <Badge kind={video.state}>{video.state}</Badge>
      </div>
      {ready && (
        <span class="hint">
          {video.w} × {video.h} · {rateOf(video.rate).toFixed(2)} fps · {video.n_frames.toLocaleString("en")} frames
        </span>
      )}
      {video.state === "importing" && <Bar share={video.progress} label={`Import of ${video.name}`} />}
      {video.error && <Problem text={video.error} />}
      {ready && <Prelabelling video={video} run={run} onChange={onChange} />}
    </article>
  );
}

function Prelabelling({ video, run, onChange }: { video: Video; run: Prelabel | undefined; onChange: () => void }): JSX.Element {
  const { data: models } = useLoad(() => api<string[]>("GET", "/api/models"));
  const [model, setModel] = useState("");
  const { busy, error, act } = useAction();
  if (run && (run.state === "queued" || run.state === "running")) {
    return (
      <div class="inline">
        <Bar share={run.progress} label={`Pre-labelling of ${video.name}`} />
        <button class="quiet" onClick={() => act(() => api("DELETE", `/api/prelabel/${run.id}`).then(onChange))}>
          Stop
        </button>
      </div>
    );
  }
  return (
    <div class="inline">
      <select aria-label="Model" value={model || models?.[0]} onChange={(e) => setModel(e.currentTarget.value)}>
        {models?.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
      <button disabled={busy || !models?.length} onClick={() => act(() => api("POST", "/api/prelabel", { video_id: video.id, model: model || models?.[0] }).then(onChange))}>
        {run?.state === "done" ? "Propose again" : "Pre-label"}
      </button>
      <Problem text={error || (run?.state === "failed" ? (run.error ?? "failed") : "")} />
    </div>
  );
}
