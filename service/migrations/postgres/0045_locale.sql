-- Time zone and language of the client's program, in JSON; none in runs of clients that send none.
ALTER TABLE runs ADD COLUMN locale TEXT;
