DROP TABLE object_label;
DROP TABLE label;
DROP INDEX object_category;
ALTER TABLE object DROP COLUMN category_id;
DROP TABLE category;
