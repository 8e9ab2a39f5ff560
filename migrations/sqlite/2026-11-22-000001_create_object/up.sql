-- AUTOINCREMENT, because an id names the object in cache tags (object:7) and in the history: the id of a deleted
-- object must never be given to another one.
CREATE TABLE object (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    title TEXT NOT NULL,
    body TEXT NOT NULL,
    published BOOLEAN NOT NULL CHECK (published IN (0, 1)),
    created BIGINT NOT NULL,
    updated BIGINT NOT NULL,
    version BIGINT NOT NULL
);

-- For the public list: published objects, newest first.
CREATE INDEX object_published_created ON object (published, created, id);
