-- +goose Up
-- Disks that an operation began to write and that no deploy has made whole since.
CREATE TABLE unfinished_disks (
    machine_id TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    task_id    BIGINT NOT NULL,
    position   BIGINT NOT NULL,
    image      TEXT NOT NULL,
    since      BIGINT NOT NULL,
    PRIMARY KEY (machine_id, name)
);

-- Who runs what, and which tasks are not over, without a look at all that ever was.
CREATE INDEX operations_running ON operations (machine_id, state);
CREATE INDEX runs_state ON runs (state, task_id);

-- +goose Down
DROP INDEX runs_state;
DROP INDEX operations_running;
DROP TABLE unfinished_disks;
