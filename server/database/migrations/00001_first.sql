-- +goose Up
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- Times are milliseconds since 1970 UTC; 0 is "not yet".
CREATE TABLE machines (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    state       TEXT NOT NULL,
    reserved_ip TEXT NOT NULL DEFAULT '',
    note        TEXT NOT NULL DEFAULT '',
    address     TEXT NOT NULL DEFAULT '',
    facts       TEXT NOT NULL,
    registered  BIGINT NOT NULL,
    last_seen   BIGINT NOT NULL
);
CREATE UNIQUE INDEX machines_reserved_ip ON machines (reserved_ip) WHERE reserved_ip <> '';

CREATE TABLE machine_evidence (
    machine_id TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
    kind       TEXT NOT NULL,
    value      TEXT NOT NULL,
    last_seen  BIGINT NOT NULL,
    PRIMARY KEY (machine_id, kind, value)
);
CREATE INDEX machine_evidence_value ON machine_evidence (kind, value);

-- What a machine was, one row for each change of hardware.
CREATE TABLE machine_facts (
    machine_id TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
    digest     TEXT NOT NULL,
    facts      TEXT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen  BIGINT NOT NULL,
    PRIMARY KEY (machine_id, digest)
);

CREATE TABLE machine_sessions (
    token_hash TEXT PRIMARY KEY,
    machine_id TEXT NOT NULL UNIQUE REFERENCES machines (id) ON DELETE CASCADE,
    boot       TEXT NOT NULL,
    address    TEXT NOT NULL,
    expires    BIGINT NOT NULL
);

CREATE TABLE admin_sessions (
    token_hash TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    expires    BIGINT NOT NULL
);

CREATE TABLE tasks (
    id      BIGINT PRIMARY KEY,
    title   TEXT NOT NULL,
    creator TEXT NOT NULL,
    created BIGINT NOT NULL
);

-- A task on one machine.
CREATE TABLE runs (
    task_id    BIGINT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    machine_id TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
    state      TEXT NOT NULL,
    ended      BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (task_id, machine_id)
);
CREATE INDEX runs_machine ON runs (machine_id, state);

CREATE TABLE operations (
    task_id    BIGINT NOT NULL,
    machine_id TEXT NOT NULL,
    position   BIGINT NOT NULL,
    spec       TEXT NOT NULL,
    state      TEXT NOT NULL,
    attempts   BIGINT NOT NULL DEFAULT 0,
    boot       TEXT NOT NULL DEFAULT '',
    published  TEXT NOT NULL DEFAULT '',
    result     TEXT NOT NULL DEFAULT '',
    error      TEXT NOT NULL DEFAULT '',
    hint       TEXT NOT NULL DEFAULT '',
    notes      TEXT NOT NULL DEFAULT '[]',
    started    BIGINT NOT NULL DEFAULT 0,
    ended      BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (task_id, machine_id, position),
    FOREIGN KEY (task_id, machine_id) REFERENCES runs (task_id, machine_id) ON DELETE CASCADE
);

-- Partition tables as they were before a deploy overwrote them (JSON, package saved).
CREATE TABLE saved_tables (
    task_id    BIGINT NOT NULL,
    machine_id TEXT NOT NULL,
    position   BIGINT NOT NULL,
    disk       BIGINT NOT NULL,
    content    TEXT NOT NULL,
    saved      BIGINT NOT NULL,
    PRIMARY KEY (task_id, machine_id, position, disk),
    FOREIGN KEY (task_id, machine_id, position) REFERENCES operations (task_id, machine_id, position) ON DELETE CASCADE
);

CREATE TABLE dhcp_leases (
    ip       TEXT PRIMARY KEY,
    mac      TEXT NOT NULL,
    hostname TEXT NOT NULL,
    expires  BIGINT NOT NULL
);

-- +goose Down
DROP TABLE dhcp_leases;
DROP TABLE saved_tables;
DROP TABLE operations;
DROP TABLE runs;
DROP TABLE tasks;
DROP TABLE admin_sessions;
DROP TABLE machine_sessions;
DROP TABLE machine_facts;
DROP TABLE machine_evidence;
DROP TABLE machines;
DROP TABLE settings;
