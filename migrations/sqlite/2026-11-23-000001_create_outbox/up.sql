-- What committed transactions invalidate: written in them, so that a crash afterwards loses nothing. AUTOINCREMENT, because
-- other processes go on from the last row that they have read.
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    origin TEXT NOT NULL,
    invalidation TEXT NOT NULL,
    created BIGINT NOT NULL,
    delivered BOOLEAN NOT NULL DEFAULT FALSE CHECK (delivered IN (0, 1))
);

CREATE INDEX IF NOT EXISTS outbox_undelivered ON outbox (id) WHERE NOT delivered;
