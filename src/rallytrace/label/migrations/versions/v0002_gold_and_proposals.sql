-- Written out: Alembic adds a reference by ALTER ... ADD CONSTRAINT, which SQLite does not have.
ALTER TABLE task ADD COLUMN gold_of {ref} REFERENCES task (id);
CREATE TABLE proposal_run (id {id}, video_id {ref} NOT NULL REFERENCES video (id), model TEXT NOT NULL,
    state TEXT NOT NULL, progress DOUBLE PRECISION NOT NULL, error TEXT NOT NULL, created DOUBLE PRECISION NOT NULL);
CREATE INDEX ix_proposal_run_video_id ON proposal_run (video_id);
CREATE TABLE proposal (run_id {ref} NOT NULL REFERENCES proposal_run (id), frame INTEGER NOT NULL,
    x DOUBLE PRECISION, y DOUBLE PRECISION, score DOUBLE PRECISION NOT NULL, PRIMARY KEY (run_id, frame))
