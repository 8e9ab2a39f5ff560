use diesel::{QueryableByName, RunQueryDsl, sql_query, sql_types::Text};
use larder_models::{Database, Object, Session, Signals};

#[derive(QueryableByName)]
struct Entry {
    #[diesel(sql_type = Text)]
    sql: String,
}

/// All tables and indexes, but the list of migrations.
fn schema(database: &Database) -> Vec<String> {
    let query = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE '\\_\\_diesel%' ESCAPE '\\' \
                 AND name NOT LIKE 'sqlite%' ORDER BY name";
    let rows = database.read(|db| Ok(sql_query(query).load::<Entry>(db.conn())?)).unwrap();
    rows.into_iter().map(|row| row.sql).collect()
}

#[test]
fn migrations_are_applied_once_and_go_all_the_way_back() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/larder.db", folder.path().display());
    let database = Database::open(&url, Signals::new()).unwrap();
    let status = database.migrations_status().unwrap();
    assert!(status.len() >= 3 && status.iter().all(|migration| !migration.applied), "{status:?}");

    let applied = database.migrate().unwrap();
    assert_eq!(applied, status.iter().map(|migration| migration.name.clone()).collect::<Vec<_>>());
    assert!(applied[0].starts_with("2026-11-22-000001_create_object"), "{applied:?}");
    assert!(database.migrations_status().unwrap().iter().all(|migration| migration.applied));
    assert!(database.migrate().unwrap().is_empty());
    assert_eq!(database.read(Object::count).unwrap(), 0);
    let full = schema(&database);
    assert!(full.len() > 4);

    let mut reverted = Vec::new();
    while let Some(name) = database.revert_last_migration().unwrap() {
        reverted.push(name);
    }
    reverted.reverse();
    assert_eq!(reverted, applied);
    assert_eq!(schema(&database), Vec::<String>::new());

    database.migrate().unwrap();
    assert_eq!(schema(&database), full);
}

#[test]
fn a_step_back_leaves_the_older_tables() {
    let database = crate::database();
    database.revert_last_migration().unwrap();
    assert!(database.read(|db| Session::load(db, "k")).is_err());
    assert_eq!(database.read(Object::count).unwrap(), 0);
    assert_eq!(database.migrate().unwrap().len(), 1);
}
