/** What the server sends and takes; the shapes of its JSON. */

export type Role = "admin" | "annotator" | "reviewer";
export interface User { id: number; name: string; role: Role; active?: boolean }
export interface Me { user: User; csrf: string }

export interface Video {
  id: number;
  name: string;
  w: number;
  h: number;
  n_frames: number;
  rate: string;
  state: "importing" | "ready" | "failed" | "missing";
  progress: number;
  error: string | null;
  sha: string;
  /** Presentation times in seconds, of the task's frames where the video comes with a task. */
  pts?: number[];
}

export type JobKind = "label" | "adjust" | "verify";
export interface PersonProgress { user: string; labels: number; active_s: number; labels_per_min: number }
export interface JobProgress {
  frames: number;
  labelled: number;
  approved: number;
  tasks_by_state: Record<string, number>;
  per_person: PersonProgress[];
}
export interface Job {
  id: number;
  name: string;
  instructions: string;
  kind: JobKind;
  replicas: number;
  gold_fraction: number;
  sequence_length: number;
  progress?: JobProgress;
}
export interface PairAgreement {
  a: string;
  b: string;
  n: number;
  kappa: number | null;
  median_px: number | null;
  p95_px: number | null;
  share_4px: number | null;
  event_f1: number | null;
  drift_frames: number | null;
}
export interface Agreement { pairs: PairAgreement[]; gold: PairAgreement[] }
export interface Consensus { version: number; n: number; adjudicate: number[]; places: { video: number; frame: number }[] }

export type TaskState = "available" | "claimed" | "submitted" | "approved" | "returned" | "declined";
export interface Review { id?: number; verdict: string; comment: string; frames: number[]; user?: string | number }
export interface Task {
  id: number;
  job: number;
  job_name: string;
  video_name: string;
  video: number;
  start: number;
  stop: number;
  replica: number;
  assignee: number | null;
  state: TaskState;
  lease_until: number | string | null;
  labelled: number;
  frames: number;
  comment: string | null;
  is_gold?: boolean;
}
export interface TaskDetail extends Omit<Task, "video"> {
  video: Video;
  instructions: string;
  kind?: JobKind;
  reviews: Review[];
}

export type Visibility = 0 | 1 | 2 | 3;
export type HitEvent = "" | "hit" | "bounce";

/** The state of one frame's ball. Source px of the upright frame, (0, 0) is the centre of the top-left pixel. */
export interface Label {
  frame: number;
  x: number | null;
  y: number | null;
  /** 0 absent (x and y null), 1 clear, 2 hard to see, 3 occluded. */
  visibility: Visibility;
  event: HitEvent;
  /** Half the length of the blur streak in px, and its angle in radians from +x towards +y (down), in [0, pi). */
  blur_l: number | null;
  blur_theta: number | null;
  source: string;
  score: number | null;
  /** Revision of the server that made it; 0 while only this browser knows it. */
  rev: number;
  user: number | null;
}
export type Located = Label & { x: number; y: number };

export interface WireEvent {
  uuid: string;
  frame: number;
  object: string;
  op: "set" | "clear";
  x: number | null;
  y: number | null;
  visibility: Visibility | null;
  event: HitEvent;
  blur_l: number | null;
  blur_theta: number | null;
  source: string;
  score: number | null;
  client_ts: number;
  client_seq: number;
  base_rev: number;
}
export type WireLabel = (Label & { object: string; cleared?: false }) | { frame: number; object: string; cleared: true; rev: number };
export interface LabelsAnswer { rev: number; labels: WireLabel[] }
export interface EventsAnswer {
  acked: string[];
  conflicts: { uuid: string; frame: number; current: WireLabel | null }[];
  rejected: { uuid: string; message: string }[];
  rev: number;
}

export interface Proposal { frame: number; x: number | null; y: number | null; score: number | null }
export interface Proposals { model: string | null; state: string; progress: number; proposals: Proposal[] }
export type QueueBy = "unlabelled" | "score" | "jump" | "residual" | "disagreement" | "model";
export interface Prelabel { id: number; video: number; model: string; state: string; progress: number; error: string | null }
export interface Invite { id: number; role: Role; expires_s?: number; used?: boolean; url?: string; token?: string }
export interface ApiToken { id: number; name: string; user: string; user_id: number; created: number; token?: string }
export interface Format { name: string; title: string; extensions: string[]; can_read: boolean; can_write: boolean }
