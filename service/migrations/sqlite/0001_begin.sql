-- Accounts, tokens, the ledger, what was uploaded, runs and their batches.
-- Times are milliseconds since 1970; money is millionths of a credit.

CREATE TABLE accounts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    -- The sum of the account's ledger.
    balance BIGINT NOT NULL DEFAULT 0,
    -- The sum of what its running batches have reserved.
    held BIGINT NOT NULL DEFAULT 0,
    created_ms BIGINT NOT NULL,
    CHECK (held >= 0 AND held <= balance)
);

CREATE TABLE tokens (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account BIGINT NOT NULL REFERENCES accounts (id),
    -- SHA-256 of the half that names it.
    hash TEXT NOT NULL UNIQUE,
    -- The half that signs, encrypted with the service's key.
    sealed BLOB NOT NULL,
    label TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT,
    revoked_ms BIGINT
);

CREATE TABLE ledger (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account BIGINT NOT NULL REFERENCES accounts (id),
    -- grant, adjustment or charge
    kind TEXT NOT NULL,
    amount BIGINT NOT NULL,
    -- The account's balance with this entry.
    balance BIGINT NOT NULL CHECK (balance >= 0),
    run TEXT,
    seq BIGINT,
    note TEXT,
    created_ms BIGINT NOT NULL
);
CREATE INDEX ledger_account ON ledger (account, id);
-- A batch is charged once, whatever the code above does.
CREATE UNIQUE INDEX ledger_charge ON ledger (run, seq) WHERE kind = 'charge';
CREATE TRIGGER ledger_is_not_changed BEFORE UPDATE ON ledger
BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only');
END;
CREATE TRIGGER ledger_is_not_deleted BEFORE DELETE ON ledger
BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only');
END;

-- Executables and contexts, stored once.
CREATE TABLE blobs (
    kind TEXT NOT NULL,
    hash TEXT NOT NULL,
    size BIGINT NOT NULL,
    -- What a worker of this executable says that it is.
    identity TEXT,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (kind, hash)
);
-- Who has uploaded them: nobody else sees or uses them.
CREATE TABLE account_blobs (
    account BIGINT NOT NULL REFERENCES accounts (id),
    kind TEXT NOT NULL,
    hash TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (account, kind, hash)
);

CREATE TABLE runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    account BIGINT NOT NULL REFERENCES accounts (id),
    -- The client's name for it, and what it asked for under that name.
    client_key TEXT NOT NULL,
    request TEXT NOT NULL,
    label TEXT,
    executable TEXT NOT NULL,
    function_offset BIGINT NOT NULL,
    function_name TEXT NOT NULL,
    context TEXT,
    items BIGINT,
    item_timeout_ms BIGINT,
    max_credits BIGINT,
    -- open, done, cancelled, expired or failed
    state TEXT NOT NULL,
    -- Why it failed: a problem document.
    reason TEXT,
    spent BIGINT NOT NULL DEFAULT 0,
    held BIGINT NOT NULL DEFAULT 0 CHECK (held >= 0),
    cpu_ns BIGINT NOT NULL DEFAULT 0,
    result_bytes BIGINT NOT NULL DEFAULT 0,
    batches BIGINT NOT NULL DEFAULT 0,
    items_answered BIGINT NOT NULL DEFAULT 0,
    opened_ms BIGINT NOT NULL,
    ended_ms BIGINT,
    lease_until_ms BIGINT NOT NULL,
    -- Its answers are no longer kept.
    purged BOOLEAN NOT NULL DEFAULT FALSE,
    UNIQUE (account, client_key)
);
CREATE INDEX runs_account ON runs (account, number);
CREATE INDEX runs_open ON runs (lease_until_ms) WHERE state = 'open';

CREATE TABLE batches (
    run TEXT NOT NULL,
    seq BIGINT NOT NULL,
    -- SHA-256 of the request's body.
    digest TEXT NOT NULL,
    -- held, answered or acknowledged
    state TEXT NOT NULL,
    hold BIGINT NOT NULL,
    -- What the hold buys: the batch is cut where it would use more.
    cpu_limit_ns BIGINT NOT NULL,
    byte_limit BIGINT NOT NULL,
    -- Less than the service would have given, because credits are short.
    short BOOLEAN NOT NULL,
    -- Of the answer.
    status BIGINT,
    charge BIGINT,
    answer_digest TEXT,
    opened_ms BIGINT NOT NULL,
    settled_ms BIGINT,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID;
