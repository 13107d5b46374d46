-- A hidden test was always a task on top of the work; from now on a task of the work may be one, too.
ALTER TABLE task ADD COLUMN work BOOLEAN NOT NULL DEFAULT {true};
UPDATE task SET work = {false} WHERE gold_of IS NOT NULL;
CREATE TABLE seen (task_id {ref} NOT NULL REFERENCES task (id), user_id {ref} NOT NULL REFERENCES member (id),
    rev {ref} NOT NULL, PRIMARY KEY (task_id, user_id))
