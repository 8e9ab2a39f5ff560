DROP TABLE user_group;
DROP TABLE staff_group;
ALTER TABLE "user" DROP COLUMN version;
ALTER TABLE "user" DROP COLUMN is_superuser;
