-- What several gateways on one PostgreSQL need; one on SQLite has its tables, too, for the statements are the same.

-- The gateway that has the batch in hand: here always 0.
ALTER TABLE batches ADD COLUMN gateway BIGINT NOT NULL DEFAULT 0;

-- What all gateways must have in common, by name.
CREATE TABLE service (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- Signed calls that do something each time they come: which have come, for as long as they could come again.
CREATE TABLE used_nonces (
    token BIGINT NOT NULL,
    nonce TEXT NOT NULL,
    used_ms BIGINT NOT NULL,
    PRIMARY KEY (token, nonce)
) WITHOUT ROWID;
