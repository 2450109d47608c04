-- Several gateways on one database.

-- The gateway that has the batch in hand, by the number under which it holds an advisory lock for as long as it lives.
ALTER TABLE batches ADD COLUMN gateway BIGINT NOT NULL DEFAULT 0;
CREATE INDEX batches_held ON batches (gateway) WHERE state = 'held';

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
);
