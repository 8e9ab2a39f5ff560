-- What an object is: each belongs to one category or to none.
CREATE TABLE category (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    version BIGINT NOT NULL
);

ALTER TABLE object ADD COLUMN category_id BIGINT REFERENCES category (id) ON DELETE SET NULL;
CREATE INDEX object_category ON object (category_id, published, created, id);

-- What is said of objects: many of one, and many have it.
CREATE TABLE label (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    version BIGINT NOT NULL
);

CREATE TABLE object_label (
    object_id BIGINT NOT NULL REFERENCES object (id) ON DELETE CASCADE,
    label_id BIGINT NOT NULL REFERENCES label (id) ON DELETE CASCADE,
    PRIMARY KEY (object_id, label_id)
);
CREATE INDEX object_label_label ON object_label (label_id);
