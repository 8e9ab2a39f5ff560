use diesel::prelude::*;
use larder_models::{Database, Group, Model, Object, Signals, schema::object};

#[test]
fn migrations_are_applied_once_and_go_all_the_way_back() {
    let (url, _guard) = crate::new_url();
    let database = Database::open(&url, Signals::new()).unwrap();
    let status = database.migrations_status().unwrap();
    assert!(status.len() >= 3 && status.iter().all(|migration| !migration.applied), "{status:?}");

    let applied = database.migrate().unwrap();
    assert_eq!(applied, status.iter().map(|migration| migration.name.clone()).collect::<Vec<_>>());
    assert!(applied[0].starts_with("2026-11-22-000001_create_object"), "{applied:?}");
    assert!(database.migrations_status().unwrap().iter().all(|migration| migration.applied));
    assert!(database.migrate().unwrap().is_empty());
    assert_eq!(database.read(Object::count).unwrap(), 0);
    let full = crate::schema(&database);
    assert!(full.len() > 4);

    let mut reverted = Vec::new();
    while let Some(name) = database.revert_last_migration().unwrap() {
        reverted.push(name);
    }
    reverted.reverse();
    assert_eq!(reverted, applied);
    assert_eq!(crate::schema(&database), Vec::<String>::new());

    database.migrate().unwrap();
    assert_eq!(crate::schema(&database), full);
}

#[test]
fn a_step_back_leaves_the_older_tables() {
    let database = super::database();
    let object = database.write(|db| super::insert(db, "Crock")).unwrap();
    let groups = || database.read(Group::count);
    assert_eq!(groups().unwrap(), 0);
    database.revert_last_migration().unwrap();
    assert!(groups().is_err());
    let titles = || database.read(|db| Ok(object::table.select(object::title).load::<String>(db.conn())?));
    assert_eq!(titles().unwrap(), [object.title]);
    assert_eq!(database.migrate().unwrap().len(), 1);
}
