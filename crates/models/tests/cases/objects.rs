use diesel::prelude::*;
use jiff::Timestamp;
use larder_models::{Action, Error, LogEntry, Model, NewObject, Object, Signals, sample, schema::object};

use super::{database, insert};

#[test]
fn pages_cover_the_list_without_overlap() {
    let database = database();
    database
        .write(|db| {
            for number in 1..=7 {
                insert(db, &number.to_string())?;
            }
            Ok(())
        })
        .unwrap();
    let page = |page| {
        let by_id = |rows: <Object as Model>::Rows| rows.order(object::id);
        let page = database.read(|db| Object::page(db, page, 3, |rows| rows, by_id)).unwrap();
        let titles: String = page.items.iter().map(|object| object.title.as_str()).collect();
        (titles, page.page, page.pages, page.total)
    };
    assert_eq!(page(0), ("123".to_owned(), 1, 3, 7));
    assert_eq!(page(2), ("456".to_owned(), 2, 3, 7));
    assert_eq!(page(9), ("7".to_owned(), 3, 3, 7));
}

#[test]
fn visitors_see_published_objects_newest_first() {
    database()
        .write(|db| {
            insert(db, "old")?;
            Object::insert(db, NewObject { title: "draft".into(), ..NewObject::default() })?;
            insert(db, "new")?;
            let titles: Vec<_> = Object::published(db)?.into_iter().map(|object| object.title).collect();
            assert_eq!(titles, ["new", "old"]);
            assert_eq!(Object::count(db)?, 3);
            Ok(())
        })
        .unwrap();
}

#[test]
fn what_is_wrong_is_told_by_field() {
    let database = database();
    let try_insert = |title: &str, body: &str| {
        let new = NewObject { title: title.to_owned(), body: body.to_owned(), published: false, category_id: None };
        match database.write(|db| Object::insert(db, new)) {
            Ok(_) => None,
            Err(Error::Validation(invalid)) => Some(invalid.to_string()),
            Err(error) => panic!("{error:?}"),
        }
    };
    assert_eq!(try_insert(" \n", ""), Some("title: Enter a title.".to_owned()));
    assert_eq!(try_insert(&"ö".repeat(200), &"ö".repeat(20_000)), None);
    assert_eq!(
        try_insert(&"ö".repeat(201), &"ö".repeat(20_001)),
        Some(
            "body: Use at most 20000 characters, this has 20001.; title: Use at most 200 characters, this has 201."
                .to_owned()
        )
    );
    let mut object = database.write(|db| insert(db, "Pan")).unwrap();
    object.title.clear();
    assert!(matches!(database.write(|db| object.save(db)), Err(Error::Validation(_))));
}

#[test]
fn a_save_keeps_the_creation_and_moves_the_update() {
    let now = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(1_000));
    let clock = now.clone();
    let clock = move || Timestamp::from_second(clock.load(std::sync::atomic::Ordering::Relaxed)).unwrap();
    let database = crate::open_alone(Signals::new()).with_clock(clock);
    database.migrate().unwrap();
    let mut object = database.write(|db| insert(db, "Pan")).unwrap();
    now.store(2_000, std::sync::atomic::Ordering::Relaxed);
    database.write(|db| object.save(db)).unwrap();
    assert_eq!(object.created_at().as_second(), 1_000);
    assert_eq!(object.updated_at().as_second(), 2_000);
    assert_eq!(database.read(|db| Object::get(db, object.id)).unwrap(), object);
}

#[test]
fn the_history_keeps_what_was_and_outlives_the_object() {
    let database = database();
    database
        .write(|db| {
            let mut object = insert(db, "Pan")?;
            LogEntry::record(db, None, Action::Added, &object, &[])?;
            object.title = "Jam pan".to_owned();
            let changes = object.save(db)?;
            LogEntry::record(db, None, Action::Changed, &object, &changes)?;
            object.delete(db)?;
            LogEntry::record(db, None, Action::Deleted, &object, &[])?;
            let other = insert(db, "Crock")?;
            LogEntry::record(db, None, Action::Added, &other, &[])?;

            let history = LogEntry::for_object(db, "Object", object.id)?;
            let told: Vec<_> = history.iter().map(|entry| format!("{} {}", entry.action, entry.object_repr)).collect();
            assert_eq!(told, ["deleted Jam pan", "changed Jam pan", "added Pan"]);
            let change = &history[1].changes()?[0];
            assert_eq!((&*change.field, &change.old, &change.new), ("title", &"Pan".into(), &"Jam pan".into()));
            assert_eq!(LogEntry::recent(db, 1)?[0].object_repr, "Crock");
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_sample_is_loaded_once_and_into_an_empty_table_only() {
    let database = database();
    let loaded = database.write(sample::load).unwrap();
    assert!(loaded >= 20, "{loaded}");
    assert_eq!(database.write(sample::load).unwrap(), 0);
    let published = database.read(Object::published).unwrap();
    assert!(published.len() < loaded);
    for object in published {
        let paragraphs = object.body.split("\n\n").count();
        assert!((2..=4).contains(&paragraphs), "{}", object.title);
    }
}
