-- {label}: what an event sets and the current state shows; {id}, {ref}, {real}, {blob}: as the database calls them.
CREATE TABLE member (id {id}, name TEXT NOT NULL, name_key TEXT NOT NULL UNIQUE, role TEXT NOT NULL,
    active BOOLEAN NOT NULL, password_hash TEXT NOT NULL, created {real} NOT NULL);
CREATE TABLE invite (id {id}, token_hash TEXT NOT NULL UNIQUE, role TEXT NOT NULL,
    created_by {ref} REFERENCES member (id), created {real} NOT NULL, expires {real} NOT NULL,
    used_by {ref} REFERENCES member (id));
CREATE TABLE session (token_hash TEXT PRIMARY KEY NOT NULL, user_id {ref} NOT NULL REFERENCES member (id),
    created {real} NOT NULL, last_seen {real} NOT NULL);
CREATE INDEX ix_session_user_id ON session (user_id);
CREATE TABLE api_token (id {id}, user_id {ref} NOT NULL REFERENCES member (id), name TEXT NOT NULL,
    token_hash TEXT NOT NULL UNIQUE, created {real} NOT NULL);
CREATE INDEX ix_api_token_user_id ON api_token (user_id);
CREATE TABLE throttle (key TEXT PRIMARY KEY NOT NULL, failures INTEGER NOT NULL, blocked_until {real} NOT NULL,
    last {real} NOT NULL);
CREATE TABLE video (id {id}, name TEXT NOT NULL, path TEXT NOT NULL UNIQUE, state TEXT NOT NULL, error TEXT NOT NULL,
    progress {real} NOT NULL, sha256 TEXT, w INTEGER, h INTEGER, n_frames INTEGER, rate TEXT, pts {blob});
CREATE TABLE sequence (id {id}, video_id {ref} NOT NULL REFERENCES video (id), start INTEGER NOT NULL,
    stop INTEGER NOT NULL);
CREATE INDEX ix_sequence_video_id ON sequence (video_id);
CREATE TABLE job (id {id}, name TEXT NOT NULL, instructions TEXT NOT NULL, kind TEXT NOT NULL,
    replicas INTEGER NOT NULL, gold_fraction {real} NOT NULL, sequence_length INTEGER NOT NULL,
    created_by {ref} NOT NULL REFERENCES member (id), created {real} NOT NULL);
CREATE TABLE task (id {id}, job_id {ref} NOT NULL REFERENCES job (id),
    sequence_id {ref} NOT NULL REFERENCES sequence (id), replica INTEGER NOT NULL, state TEXT NOT NULL,
    assignee {ref} REFERENCES member (id), lease_until {real}, accepted_at {real}, submitted_at {real},
    comment TEXT NOT NULL, UNIQUE (job_id, sequence_id, replica));
CREATE INDEX task_state ON task (state, id);
CREATE INDEX task_assignee ON task (assignee);
CREATE TABLE participation (job_id {ref} NOT NULL REFERENCES job (id),
    sequence_id {ref} NOT NULL REFERENCES sequence (id), user_id {ref} NOT NULL REFERENCES member (id),
    task_id {ref} NOT NULL REFERENCES task (id), declined BOOLEAN NOT NULL, active_s {real} NOT NULL,
    last_active {real} NOT NULL, PRIMARY KEY (job_id, sequence_id, user_id));
CREATE INDEX ix_participation_task_id ON participation (task_id);
CREATE TABLE review (id {id}, task_id {ref} NOT NULL REFERENCES task (id),
    reviewer {ref} NOT NULL REFERENCES member (id), verdict TEXT NOT NULL, comment TEXT NOT NULL, frames TEXT NOT NULL,
    created {real} NOT NULL);
CREATE INDEX ix_review_task_id ON review (task_id);
CREATE TABLE annotation_event (seq {id}, uuid TEXT NOT NULL UNIQUE, task_id {ref} NOT NULL REFERENCES task (id),
    frame INTEGER NOT NULL, object TEXT NOT NULL, op TEXT NOT NULL, {label}, client_ts {real},
    base_rev BIGINT NOT NULL, outcome TEXT NOT NULL, server_ts {real} NOT NULL);
CREATE INDEX annotation_event_frame ON annotation_event (task_id, frame, object);
CREATE TABLE label (task_id {ref} NOT NULL REFERENCES task (id), frame INTEGER NOT NULL, object TEXT NOT NULL,
    rev {ref} NOT NULL REFERENCES annotation_event (seq), {label}, PRIMARY KEY (task_id, frame, object));
CREATE INDEX label_rev ON label (task_id, rev);
CREATE TABLE consensus (id {id}, job_id {ref} NOT NULL REFERENCES job (id), version INTEGER NOT NULL,
    created_by {ref} NOT NULL REFERENCES member (id), created {real} NOT NULL, UNIQUE (job_id, version));
CREATE TABLE consensus_label (consensus_id {ref} NOT NULL REFERENCES consensus (id),
    sequence_id {ref} NOT NULL REFERENCES sequence (id), frame INTEGER NOT NULL, visibility INTEGER, x {real},
    y {real}, event TEXT NOT NULL, n INTEGER NOT NULL, spread_px {real}, method TEXT NOT NULL,
    PRIMARY KEY (consensus_id, sequence_id, frame))
