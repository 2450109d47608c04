-- What bounds the rows and the disk of an account. The runs' indexes leave out the sums that each batch
-- changes: a row's next version would need an entry in each.

-- Of batches that were cancelled, which cost nothing, a run keeps the newest.
CREATE INDEX batches_cancelled ON batches (run, opened_ms) WHERE state = 'cancelled';

-- The run ended with nothing answered and nothing charged: it is forgotten before the others. Set when the
-- run ends.
ALTER TABLE runs ADD COLUMN unpaid BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE runs SET unpaid = TRUE WHERE state <> 'open' AND spent = 0 AND batches = 0;
CREATE INDEX runs_unpaid ON runs (account, number) WHERE unpaid;
CREATE INDEX runs_unpaid_ended ON runs (ended_ms) WHERE unpaid;
CREATE INDEX runs_kept ON runs (ended_ms) WHERE state <> 'open' AND NOT purged;
CREATE INDEX runs_purged ON runs (account, number) WHERE purged;
CREATE INDEX runs_purged_ended ON runs (ended_ms) WHERE purged;
-- Reasons are bounded where they enter; these came before.
UPDATE runs SET reason = SUBSTR(reason, 1, 4096) WHERE LENGTH(reason) > 32768;

-- What an upload takes on the disk, and when a run was last opened that needs it.
ALTER TABLE account_blobs ADD COLUMN cost BIGINT NOT NULL DEFAULT 0;
ALTER TABLE account_blobs ADD COLUMN used_ms BIGINT NOT NULL DEFAULT 0;
UPDATE account_blobs SET used_ms = created_ms, cost = COALESCE(
    (SELECT (b.size + 4095) / 4096 * 4096 + 4096 FROM blobs b
     WHERE b.kind = account_blobs.kind AND b.hash = account_blobs.hash), 0);

-- The sums of that, by account.
CREATE TABLE stored (
    account BIGINT PRIMARY KEY REFERENCES accounts (id),
    bytes BIGINT NOT NULL,
    files BIGINT NOT NULL
);
INSERT INTO stored (account, bytes, files)
    SELECT account, SUM(cost)::BIGINT, COUNT(*) FROM account_blobs GROUP BY account;
CREATE FUNCTION blob_is_stored() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO stored AS s (account, bytes, files) VALUES (NEW.account, NEW.cost, 1)
        ON CONFLICT (account) DO UPDATE SET bytes = s.bytes + NEW.cost, files = s.files + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER blob_is_stored AFTER INSERT ON account_blobs FOR EACH ROW EXECUTE FUNCTION blob_is_stored();
CREATE FUNCTION blob_is_forgotten() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE stored SET bytes = bytes - OLD.cost, files = files - 1 WHERE account = OLD.account;
    RETURN NULL;
END $$;
CREATE TRIGGER blob_is_forgotten AFTER DELETE ON account_blobs FOR EACH ROW EXECUTE FUNCTION blob_is_forgotten();

-- Uploads that are begun: what each may take on the disk counts from before its first byte to its end.
CREATE TABLE uploads (
    account BIGINT NOT NULL REFERENCES accounts (id),
    kind TEXT NOT NULL,
    hash TEXT NOT NULL,
    taken BIGINT NOT NULL,
    -- When its last part came.
    touched_ms BIGINT NOT NULL,
    PRIMARY KEY (account, kind, hash)
);
CREATE INDEX uploads_age ON uploads (touched_ms);

-- What is over is found without a look at all accounts' rows.
CREATE INDEX used_nonces_age ON used_nonces (used_ms);
CREATE INDEX dashboard_links_age ON dashboard_links (expires_ms);
CREATE INDEX dashboard_sessions_seen ON dashboard_sessions (seen_ms);
CREATE INDEX dashboard_sessions_age ON dashboard_sessions (created_ms);
