-- What workers use beside batches, and what answers take on the disk.

-- Charged to the run, and not yet taken from the balance because batches have it reserved.
ALTER TABLE runs ADD COLUMN owed BIGINT NOT NULL DEFAULT 0 CHECK (owed >= 0);
-- The sum over the account's runs.
ALTER TABLE accounts ADD COLUMN owed BIGINT NOT NULL DEFAULT 0 CHECK (owed >= 0);
CREATE INDEX runs_owed ON runs (account) WHERE owed > 0;
-- Used beside batches and given for nothing: of the run; of the account, as of a time, for it comes back.
ALTER TABLE runs ADD COLUMN free_ns BIGINT NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN free_ns BIGINT NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN free_ms BIGINT NOT NULL DEFAULT 0;

-- Bytes of the account's answers that are kept.
ALTER TABLE accounts ADD COLUMN kept BIGINT NOT NULL DEFAULT 0 CHECK (kept >= 0);
UPDATE accounts SET kept = (SELECT COALESCE(SUM(b.answer_length), 0) FROM batches b JOIN runs r ON r.id = b.run
                            WHERE r.account = accounts.id AND b.state = 'answered');

CREATE OR REPLACE FUNCTION batches_are_charged() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM after n JOIN before o ON o.run = n.run AND o.seq = n.seq
                   WHERE o.state = 'held' AND n.state = 'answered') THEN
        RETURN NULL;
    END IF;
    UPDATE runs r SET held = r.held - c.hold, spent = r.spent + c.charge, cpu_ns = r.cpu_ns + c.cpu_ns,
            result_bytes = r.result_bytes + c.result_bytes, batches = r.batches + c.batches,
            items_answered = r.items_answered + c.items
        FROM (SELECT n.run, SUM(o.hold)::BIGINT AS hold, SUM(n.charge)::BIGINT AS charge,
                     SUM(n.cpu_ns)::BIGINT AS cpu_ns, SUM(n.result_bytes)::BIGINT AS result_bytes,
                     COUNT(*) AS batches, SUM(n.items)::BIGINT AS items
              FROM after n JOIN before o ON o.run = n.run AND o.seq = n.seq
              WHERE o.state = 'held' AND n.state = 'answered' GROUP BY n.run) c
        WHERE r.id = c.run;
    -- Each entry says what the account has with it: the entries of one statement stand one behind the other.
    INSERT INTO ledger (account, kind, amount, balance, run, seq, created_ms)
        SELECT a.id, 'charge', -n.charge, a.balance - SUM(n.charge) OVER (PARTITION BY a.id ORDER BY n.run, n.seq),
               n.run, n.seq, n.settled_ms
        FROM after n JOIN before o ON o.run = n.run AND o.seq = n.seq
             JOIN runs r ON r.id = n.run JOIN accounts a ON a.id = r.account
        WHERE o.state = 'held' AND n.state = 'answered' AND n.charge > 0
        ORDER BY a.id, n.run, n.seq;
    UPDATE accounts a SET held = a.held - c.hold, balance = a.balance - c.charge, kept = a.kept + c.kept
        FROM (SELECT r.account, SUM(o.hold)::BIGINT AS hold, SUM(n.charge)::BIGINT AS charge,
                     SUM(n.answer_length)::BIGINT AS kept
              FROM after n JOIN before o ON o.run = n.run AND o.seq = n.seq JOIN runs r ON r.id = n.run
              WHERE o.state = 'held' AND n.state = 'answered' GROUP BY r.account) c
        WHERE a.id = c.account;
    RETURN NULL;
END $$;

CREATE FUNCTION answers_are_let_go() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE accounts a SET kept = a.kept - c.kept
        FROM (SELECT r.account, SUM(o.answer_length)::BIGINT AS kept
              FROM after n JOIN before o ON o.run = n.run AND o.seq = n.seq JOIN runs r ON r.id = n.run
              WHERE o.state = 'answered' AND n.state <> 'answered' GROUP BY r.account) c
        WHERE a.id = c.account;
    RETURN NULL;
END $$;
CREATE TRIGGER answers_are_let_go AFTER UPDATE ON batches REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION answers_are_let_go();

CREATE FUNCTION answers_are_forgotten() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE accounts a SET kept = a.kept - c.kept
        FROM (SELECT r.account, SUM(b.answer_length)::BIGINT AS kept FROM gone b JOIN runs r ON r.id = b.run
              WHERE b.state = 'answered' GROUP BY r.account) c
        WHERE a.id = c.account;
    RETURN NULL;
END $$;
CREATE TRIGGER answers_are_forgotten AFTER DELETE ON batches REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION answers_are_forgotten();
