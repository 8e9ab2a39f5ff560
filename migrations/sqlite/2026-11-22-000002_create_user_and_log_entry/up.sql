CREATE TABLE user (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    username TEXT NOT NULL UNIQUE,
    password TEXT NOT NULL,
    is_staff BOOLEAN NOT NULL CHECK (is_staff IN (0, 1)),
    is_active BOOLEAN NOT NULL CHECK (is_active IN (0, 1)),
    created BIGINT NOT NULL
);

-- The history outlives the user who made it, therefore SET NULL and not CASCADE.
CREATE TABLE log_entry (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id BIGINT REFERENCES user (id) ON DELETE SET NULL,
    model TEXT NOT NULL,
    object_id BIGINT NOT NULL,
    object_repr TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('added', 'changed', 'deleted')),
    changes TEXT NOT NULL,
    created BIGINT NOT NULL
);

CREATE INDEX log_entry_object ON log_entry (model, object_id, id);
-- SQLite looks here when a user is deleted.
CREATE INDEX log_entry_user ON log_entry (user_id);
