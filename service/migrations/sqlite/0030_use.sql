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

DROP TRIGGER batch_is_charged;
CREATE TRIGGER batch_is_charged AFTER UPDATE OF state ON batches WHEN OLD.state = 'held' AND NEW.state = 'answered'
BEGIN
    UPDATE runs SET held = held - OLD.hold, spent = spent + NEW.charge, cpu_ns = cpu_ns + NEW.cpu_ns,
            result_bytes = result_bytes + NEW.result_bytes, batches = batches + 1,
            items_answered = items_answered + NEW.items
        WHERE id = NEW.run;
    UPDATE accounts SET held = held - OLD.hold, balance = balance - NEW.charge, kept = kept + NEW.answer_length
        WHERE id = (SELECT account FROM runs WHERE id = NEW.run);
    INSERT INTO ledger (account, kind, amount, balance, run, seq, created_ms)
        SELECT a.id, 'charge', -NEW.charge, a.balance, NEW.run, NEW.seq, NEW.settled_ms
        FROM runs r JOIN accounts a ON a.id = r.account
        WHERE r.id = NEW.run AND NEW.charge > 0;
END;

CREATE TRIGGER answer_is_let_go AFTER UPDATE OF state ON batches WHEN OLD.state = 'answered' AND NEW.state <> 'answered'
BEGIN
    UPDATE accounts SET kept = kept - OLD.answer_length WHERE id = (SELECT account FROM runs WHERE id = OLD.run);
END;

CREATE TRIGGER answer_is_forgotten AFTER DELETE ON batches WHEN OLD.state = 'answered'
BEGIN
    UPDATE accounts SET kept = kept - OLD.answer_length WHERE id = (SELECT account FROM runs WHERE id = OLD.run);
END;
