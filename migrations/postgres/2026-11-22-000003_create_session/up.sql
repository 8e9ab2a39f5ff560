CREATE TABLE session (
    id TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,
    expires BIGINT NOT NULL
);

-- For the sweep that deletes expired sessions.
CREATE INDEX session_expires ON session (expires);
