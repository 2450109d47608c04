-- The dashboard: who is signed in, and what its pages show of runs beside what the ledger needs.

-- Operators see the service's agents.
ALTER TABLE accounts ADD COLUMN operator BOOLEAN NOT NULL DEFAULT FALSE;

-- One-time links, minted by a signed call. What names them is known to who minted them alone.
CREATE TABLE dashboard_links (
    -- SHA-256 of the code.
    hash TEXT PRIMARY KEY,
    token BIGINT NOT NULL REFERENCES tokens (id),
    expires_ms BIGINT NOT NULL
);
CREATE INDEX dashboard_links_token ON dashboard_links (token, expires_ms);

CREATE TABLE dashboard_sessions (
    -- SHA-256 of the cookie.
    hash TEXT PRIMARY KEY,
    -- The token that minted its link: the session ends with it.
    token BIGINT NOT NULL REFERENCES tokens (id),
    -- What its forms must say.
    csrf TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    seen_ms BIGINT NOT NULL
);
CREATE INDEX dashboard_sessions_token ON dashboard_sessions (token, created_ms);

-- What happened in a run over time, and by which workers: one bounded JSON document each.
CREATE TABLE run_activity (
    run TEXT PRIMARY KEY,
    series TEXT NOT NULL,
    failures BIGINT NOT NULL DEFAULT 0,
    deaths BIGINT NOT NULL DEFAULT 0,
    updated_ms BIGINT NOT NULL
);
CREATE INDEX run_activity_age ON run_activity (updated_ms);

-- The first failures of a run.
CREATE TABLE run_failures (
    run TEXT NOT NULL,
    n BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    -- Index in the input; null where no single item is to blame.
    item BIGINT,
    kind TEXT NOT NULL,
    cause TEXT NOT NULL,
    worker TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (run, n)
);

-- What runs are searched by. A run's own row may be long (functions have names of up to 10,000 bytes): a search that finds
-- nothing would read them all. Of letters beyond ASCII both cases stay what they are, as in SQLite.
CREATE TABLE run_words (
    account BIGINT NOT NULL,
    number BIGINT NOT NULL,
    words TEXT NOT NULL,
    PRIMARY KEY (account, number)
);
INSERT INTO run_words (account, number, words)
    SELECT account, number,
           LOWER((COALESCE(label, '') || ' ' || SUBSTR(function_name, 1, 200)) COLLATE "C") || ' ' || id FROM runs;
CREATE FUNCTION run_is_searched() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO run_words (account, number, words) VALUES (NEW.account, NEW.number,
        LOWER((COALESCE(NEW.label, '') || ' ' || SUBSTR(NEW.function_name, 1, 200)) COLLATE "C") || ' ' || NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER run_is_searched AFTER INSERT ON runs FOR EACH ROW EXECUTE FUNCTION run_is_searched();

CREATE INDEX runs_account_state ON runs (account, state, number);
-- The entries of the ledger that are no charges: few among many.
CREATE INDEX ledger_other ON ledger (account, id) WHERE kind <> 'charge';
