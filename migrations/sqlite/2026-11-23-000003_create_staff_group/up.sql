-- Those who were let into the admin could do everything there.
ALTER TABLE user ADD COLUMN is_superuser BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE user ADD COLUMN version BIGINT NOT NULL DEFAULT 1;
UPDATE user SET is_superuser = is_staff;

-- What its members may do: object.view category.change, with a space between.
CREATE TABLE staff_group (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    permissions TEXT NOT NULL,
    version BIGINT NOT NULL
);

CREATE TABLE user_group (
    user_id BIGINT NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    group_id BIGINT NOT NULL REFERENCES staff_group (id) ON DELETE CASCADE,
    PRIMARY KEY (user_id, group_id)
);
CREATE INDEX user_group_group ON user_group (group_id);
