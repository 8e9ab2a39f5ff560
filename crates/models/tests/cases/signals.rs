use larder_models::{Error, Invalid, Model, NewObject, Object, Signals};

use super::{Journal, database_with, insert};

/// Signals that write their events into a journal.
fn journaled() -> (Signals, Journal) {
    let (signals, journal) = (Signals::new(), Journal::default());
    let lines = journal.clone();
    signals.pre_save::<Object>("journal", move |_db, event| {
        lines.write(event.cause());
        Ok(())
    });
    let lines = journal.clone();
    signals.post_save::<Object>("journal", move |event| {
        lines.write(event.cause());
        Ok(())
    });
    let lines = journal.clone();
    signals.pre_delete::<Object>("journal", move |_db, event| {
        lines.write(event.cause());
        Ok(())
    });
    let lines = journal.clone();
    signals.post_delete::<Object>("journal", move |event| {
        lines.write(event.cause());
        Ok(())
    });
    (signals, journal)
}

#[test]
fn saves_and_deletes_are_announced_before_and_after_the_commit() {
    let (signals, journal) = journaled();
    let database = database_with(signals);
    database
        .write(|db| {
            let mut object = insert(db, "Pan")?;
            object.save(db)?;
            object.delete(db)?;
            assert_eq!(journal.take(), ["pre_save Object", "pre_save Object#1", "pre_delete Object#1"]);
            Ok(())
        })
        .unwrap();
    assert_eq!(journal.take(), ["post_save Object#1", "post_save Object#1", "post_delete Object#1"]);
}

#[test]
fn nothing_is_announced_after_a_rollback() {
    let (signals, journal) = journaled();
    let database = database_with(signals);
    let result = database.write(|db| {
        insert(db, "Pan")?;
        Err::<(), _>(Error::abort("no"))
    });
    assert!(result.is_err());
    assert_eq!(journal.take(), ["pre_save Object"]);
}

#[test]
fn an_event_tells_what_changed() {
    let signals = Signals::new();
    let journal = Journal::default();
    let lines = journal.clone();
    signals.post_save::<Object>("changes", move |event| {
        let changes: Vec<_> =
            event.changed.iter().map(|change| format!("{}: {} -> {}", change.field, change.old, change.new)).collect();
        lines.write(format!("created={} {}", event.created, changes.join(", ")));
        assert_eq!(event.has_changed("title"), !changes.is_empty());
        Ok(())
    });
    let database = database_with(signals.clone());
    let mut object = database.write(|db| insert(db, "Pan")).unwrap();
    object.title = "Jam pan".to_owned();
    object.published = false;
    database.write(|db| object.save(db)).unwrap();
    database.write(|db| object.save(db)).unwrap();
    assert_eq!(
        journal.take(),
        [
            "created=true title: null -> \"Pan\", body: null -> \"\", published: null -> true",
            "created=false title: \"Pan\" -> \"Jam pan\", published: true -> false",
            "created=false ",
        ]
    );
    assert_eq!(signals.failures(), 0);
}

#[test]
fn an_id_is_connected_once_and_receivers_run_in_order() {
    let (signals, journal) = (Signals::new(), Journal::default());
    let connect = |uid: &'static str, line: &'static str| {
        let lines = journal.clone();
        signals.post_save::<Object>(uid, move |_event| {
            lines.write(line);
            Ok(())
        })
    };
    assert!(connect("b", "first"));
    assert!(connect("a", "second"));
    assert!(!connect("b", "again"));
    let database = database_with(signals.clone());
    database.write(|db| insert(db, "Pan")).unwrap();
    assert_eq!(journal.take(), ["first", "second"]);

    assert!(signals.disconnect("b"));
    assert!(!signals.disconnect("b"));
    database.write(|db| insert(db, "Pan")).unwrap();
    assert_eq!(journal.take(), ["second"]);

    assert!(connect("b", "last"));
    database.write(|db| insert(db, "Pan")).unwrap();
    assert_eq!(journal.take(), ["second", "last"]);
}

#[test]
fn receivers_hear_of_their_own_model_only() {
    let (signals, journal) = journaled();
    let database = database_with(signals);
    let password = larder_models::Password::new("quince jelly").unwrap();
    let new = larder_models::NewUser { username: "anna".to_owned(), password, is_staff: false, is_superuser: false };
    database.write(|db| larder_models::User::create(db, new)).unwrap();
    assert!(journal.take().is_empty());
}

#[test]
fn a_failing_or_panicking_receiver_breaks_nothing() {
    let (signals, journal) = (Signals::new(), Journal::default());
    signals.post_save::<Object>("fails", |_event| Err("memcached is down".into()));
    signals.post_save::<Object>("panics", |_event| panic!("on purpose"));
    let lines = journal.clone();
    signals.post_save::<Object>("works", move |event| {
        lines.write(event.cause());
        Ok(())
    });
    let database = database_with(signals.clone());
    let object = database.write(|db| insert(db, "Pan")).unwrap();
    assert_eq!(journal.take(), ["post_save Object#1"]);
    assert_eq!(signals.failures(), 2);
    assert_eq!(database.read(|db| Object::get(db, object.id)).unwrap(), object);
}

#[test]
fn a_receiver_may_connect_and_disconnect() {
    let (signals, journal) = (Signals::new(), Journal::default());
    let (registry, lines) = (signals.clone(), journal.clone());
    signals.post_save::<Object>("once", move |_event| {
        assert!(registry.disconnect("once"));
        lines.write("once");
        Ok(())
    });
    let database = database_with(signals);
    database.write(|db| insert(db, "Pan")).unwrap();
    database.write(|db| insert(db, "Pan")).unwrap();
    assert_eq!(journal.take(), ["once"]);
}

#[test]
fn pre_save_may_refuse_and_takes_its_own_writes_along() {
    let signals = Signals::new();
    signals.pre_save::<Object>("guard", |db, event| match event.object.title.as_str() {
        "Forbidden" => {
            insert(db, "Written by the guard")?;
            Err("this title is reserved".into())
        }
        _ => Ok(()),
    });
    let database = database_with(signals);
    let error = database
        .write(|db| {
            insert(db, "Allowed")?;
            // The caller may go on after a refusal.
            let refused = insert(db, "Forbidden").unwrap_err();
            assert_eq!(Object::count(db)?, 1);
            Ok(refused)
        })
        .unwrap();
    assert_eq!(error.to_string(), "receiver \"guard\" refused pre_save Object");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "this title is reserved");
}

#[test]
fn pre_save_may_change_the_object_but_not_its_key() {
    let signals = Signals::new();
    signals.pre_save::<Object>("tidy", |_db, event| {
        event.object.title = event.object.title.trim().to_owned();
        event.object.id = 4_711;
        Ok(())
    });
    let database = database_with(signals);
    let mut object = database.write(|db| insert(db, "  Pan ")).unwrap();
    assert_eq!((object.id, object.title.as_str()), (1, "Pan"));
    object.title = " Jam pan".to_owned();
    database.write(|db| object.save(db)).unwrap();
    assert_eq!((object.id, object.title.as_str()), (1, "Jam pan"));
    assert_eq!(database.read(|db| Object::get(db, 1)).unwrap(), object);
}

#[test]
fn pre_save_may_answer_with_an_error_of_this_crate() {
    let signals = Signals::new();
    signals.pre_save::<Object>("house rules", |_db, event| {
        let mut invalid = Invalid::default();
        if event.object.title.ends_with('!') {
            invalid.add("title", "No shouting.");
        }
        Ok(invalid.into_result().map_err(Error::from)?)
    });
    let database = database_with(signals);
    let refused = database.write(|db| insert(db, "Pan!"));
    assert!(matches!(refused, Err(Error::Validation(invalid)) if invalid.of("title") == ["No shouting."]));
}

#[test]
fn pre_delete_may_refuse() {
    let signals = Signals::new();
    signals.pre_delete::<Object>("guard", |_db, _event| Err("on loan".into()));
    let database = database_with(signals);
    let object = database.write(|db| insert(db, "Pan")).unwrap();
    let refused = database.write(|db| object.delete(db));
    assert!(matches!(refused, Err(Error::Refused { cause, .. }) if cause == "pre_delete Object#1"));
    assert_eq!(database.read(Object::count).unwrap(), 1);
}

#[test]
fn a_conflict_announces_nothing_and_leaves_the_object_as_it_was() {
    let (signals, journal) = journaled();
    let database = database_with(signals);
    let mut mine = database.write(|db| insert(db, "Pan")).unwrap();
    let mut theirs = mine.clone();
    theirs.title = "Theirs".to_owned();
    database.write(|db| theirs.save(db)).unwrap();
    journal.take();

    mine.title = "Mine".to_owned();
    let before = mine.clone();
    let conflict = database.write(|db| mine.save(db));
    assert!(matches!(conflict, Err(Error::Conflict { model: "Object", id: 1 })), "{conflict:?}");
    assert_eq!(mine, before);
    assert_eq!(journal.take(), ["pre_save Object#1"]);

    database.read(|db| mine.refresh(db)).unwrap();
    assert_eq!(mine, theirs);
    assert_eq!(mine.version, 2);
    mine.title = "Both".to_owned();
    database.write(|db| mine.save(db)).unwrap();
    assert_eq!(mine.version, 3);
}

#[test]
fn an_object_that_is_gone_is_not_found() {
    let (signals, journal) = journaled();
    let database = database_with(signals);
    let mut object =
        database.write(|db| Object::insert(db, NewObject { title: "Pan".into(), ..NewObject::default() })).unwrap();
    database.write(|db| object.delete(db)).unwrap();
    journal.take();
    for result in [
        database.write(|db| object.clone().save(db).map(drop)),
        database.write(|db| object.delete(db)),
        database.read(|db| object.refresh(db)),
        database.read(|db| Object::get(db, 1).map(drop)),
    ] {
        assert!(matches!(result, Err(Error::NotFound { model: "Object", id: 1 })), "{result:?}");
    }
    assert!(journal.take().is_empty());
    // Its id names it in caches and in the history, so no other object gets it.
    assert_eq!(database.write(|db| insert(db, "Next")).unwrap().id, 2);
}
