DROP TABLE log_entry;
DROP TABLE "user";
