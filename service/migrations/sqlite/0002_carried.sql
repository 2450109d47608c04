-- What a batch reserves and costs is carried to its run, its account and the ledger by the database itself, in the
-- statement that changes the batch: one statement for many batches is all that a group of them needs.

-- Of the answer: what it took, and where it is kept (a file of its run's, a place in it).
ALTER TABLE batches ADD COLUMN cpu_ns BIGINT NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN result_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN items BIGINT NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN answer_file BIGINT NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN answer_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN answer_length BIGINT NOT NULL DEFAULT 0;

CREATE TRIGGER batch_reserves AFTER INSERT ON batches WHEN NEW.state = 'held'
BEGIN
    UPDATE runs SET held = held + NEW.hold WHERE id = NEW.run;
    UPDATE accounts SET held = held + NEW.hold WHERE id = (SELECT account FROM runs WHERE id = NEW.run);
END;

CREATE TRIGGER batch_is_given_up AFTER DELETE ON batches WHEN OLD.state = 'held'
BEGIN
    UPDATE runs SET held = held - OLD.hold WHERE id = OLD.run;
    UPDATE accounts SET held = held - OLD.hold WHERE id = (SELECT account FROM runs WHERE id = OLD.run);
END;

CREATE TRIGGER batch_is_charged AFTER UPDATE OF state ON batches WHEN OLD.state = 'held' AND NEW.state = 'answered'
BEGIN
    UPDATE runs SET held = held - OLD.hold, spent = spent + NEW.charge, cpu_ns = cpu_ns + NEW.cpu_ns,
            result_bytes = result_bytes + NEW.result_bytes, batches = batches + 1,
            items_answered = items_answered + NEW.items
        WHERE id = NEW.run;
    UPDATE accounts SET held = held - OLD.hold, balance = balance - NEW.charge
        WHERE id = (SELECT account FROM runs WHERE id = NEW.run);
    INSERT INTO ledger (account, kind, amount, balance, run, seq, created_ms)
        SELECT a.id, 'charge', -NEW.charge, a.balance, NEW.run, NEW.seq, NEW.settled_ms
        FROM runs r JOIN accounts a ON a.id = r.account
        WHERE r.id = NEW.run AND NEW.charge > 0;
END;
