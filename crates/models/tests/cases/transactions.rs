use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    time::Duration,
};

use diesel::connection::SimpleConnection;
use larder_models::{Action, Database, Error, LogEntry, Model, Object, Signals};

use super::{Journal, database, insert};

#[test]
fn a_commit_stores_the_rows_and_runs_the_queue_in_order() {
    let (database, journal) = (database(), Journal::default());
    database
        .write(|db| {
            db.on_commit(journal.line("first"));
            insert(db, "Pan")?;
            db.transaction(|db| {
                db.on_commit(journal.line("second"));
                Ok(())
            })?;
            db.on_commit(journal.line("third"));
            assert!(journal.take().is_empty());
            Ok(())
        })
        .unwrap();
    assert_eq!(journal.take(), ["first", "second", "third"]);
    assert_eq!(database.read(Object::count).unwrap(), 1);
}

#[test]
fn a_rollback_stores_nothing_and_drops_the_queue() {
    let (database, journal) = (database(), Journal::default());
    let result = database.write(|db| {
        insert(db, "Pan")?;
        db.on_commit(journal.line("never"));
        Err::<(), _>(Error::abort("no"))
    });
    assert!(matches!(result, Err(Error::Aborted { .. })));
    assert!(journal.take().is_empty());
    assert_eq!(database.read(Object::count).unwrap(), 0);
    database.write(|db| insert(db, "Pan")).unwrap();
    assert!(journal.take().is_empty());
}

#[test]
fn a_savepoint_that_is_rolled_back_takes_only_its_own_part() {
    let (database, journal) = (database(), Journal::default());
    database
        .write(|db| {
            insert(db, "Kept")?;
            db.on_commit(journal.line("outer before"));
            let inner = db.transaction(|db| {
                insert(db, "Lost")?;
                db.on_commit(journal.line("lost"));
                // Its commit is only a release: it goes with the savepoint around it.
                db.transaction(|db| {
                    db.on_commit(journal.line("lost, two levels down"));
                    Ok(())
                })?;
                Err::<(), _>(Error::abort("no"))
            });
            assert!(inner.is_err() && db.in_transaction());
            db.on_commit(journal.line("outer after"));
            Ok(())
        })
        .unwrap();
    assert_eq!(journal.take(), ["outer before", "outer after"]);
    let titles: Vec<_> = database.read(Object::published).unwrap().into_iter().map(|object| object.title).collect();
    assert_eq!(titles, ["Kept"]);
}

#[test]
fn without_a_transaction_on_commit_is_at_once() {
    let (database, journal) = (database(), Journal::default());
    database
        .autocommit(|db| {
            db.on_commit(journal.line("at once"));
            assert_eq!(journal.take(), ["at once"]);
            db.transaction(|db| {
                db.on_commit(journal.line("after the commit"));
                assert!(journal.take().is_empty());
                Ok(())
            })?;
            assert_eq!(journal.take(), ["after the commit"]);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_panicking_callback_stops_neither_the_commit_nor_the_rest() {
    let (database, journal) = (database(), Journal::default());
    database
        .write(|db| {
            insert(db, "Pan")?;
            db.on_commit(journal.line("before"));
            db.on_commit(|| panic!("on purpose"));
            db.on_commit(journal.line("after"));
            Ok(())
        })
        .unwrap();
    assert_eq!(journal.take(), ["before", "after"]);
    assert_eq!(database.read(Object::count).unwrap(), 1);
}

#[test]
fn a_panicking_transaction_is_rolled_back_and_the_connection_lives() {
    let (database, journal) = (database(), Journal::default());
    database.write(|db| insert(db, "Before")).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        database.write(|db| {
            insert(db, "Lost")?;
            db.on_commit(journal.line("never"));
            panic!("on purpose");
            #[expect(unreachable_code, reason = "gives the closure its type")]
            Ok(())
        })
    }));
    assert!(panicked.is_err());
    assert!(journal.take().is_empty());
    assert_eq!(database.read(Object::count).unwrap(), 1);
}

#[test]
fn a_panic_in_a_savepoint_that_is_caught_leaves_the_outer_transaction_usable() {
    let (database, journal) = (database(), Journal::default());
    database
        .write(|db| {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                db.transaction(|db| {
                    insert(db, "Lost")?;
                    db.on_commit(journal.line("never"));
                    panic!("on purpose");
                    #[expect(unreachable_code, reason = "gives the closure its type")]
                    Ok(())
                })
            }));
            assert!(panicked.is_err());
            db.on_commit(journal.line("outer"));
            insert(db, "Kept")
        })
        .unwrap();
    assert_eq!(journal.take(), ["outer"]);
    assert_eq!(database.read(Object::count).unwrap(), 1);
}

#[test]
fn a_failing_commit_stores_nothing_and_drops_the_queue() {
    let signals = Signals::new();
    let journal = Journal::default();
    let saves = journal.clone();
    signals.post_save::<Object>("journal", move |event| {
        saves.write(event.cause());
        Ok(())
    });
    let database = super::database_with(signals);
    let result = database.write(|db| {
        crate::defer_foreign_keys(db.conn())?;
        let object = insert(db, "Pan")?;
        LogEntry::record(db, 4_711, Action::Added, &object, &[])?;
        db.on_commit(journal.line("never"));
        Ok(())
    });
    assert!(matches!(result, Err(Error::Database { .. })), "{result:?}");
    assert!(journal.take().is_empty());
    assert_eq!(database.read(Object::count).unwrap(), 0);
    // The connection has no transaction left open.
    database.write(|db| insert(db, "Next")).unwrap();
    assert_eq!(journal.take().len(), 1);
}

#[test]
fn a_failing_statement_inside_a_savepoint_does_not_end_the_transaction() {
    let database = database();
    database
        .write(|db| {
            let object = insert(db, "Pan")?;
            let refused = db.transaction(|db| LogEntry::record(db, 4_711, Action::Added, &object, &[]));
            assert!(matches!(refused, Err(Error::Database { .. })), "{refused:?}");
            LogEntry::record(db, None, Action::Added, &object, &[])
        })
        .unwrap();
    assert_eq!(database.read(|db| LogEntry::recent(db, 10)).unwrap().len(), 1);
}

#[test]
fn a_read_connection_cannot_write() {
    let (url, _guard) = crate::new_url();
    let shared = Database::open(&url, Signals::new()).unwrap();
    shared.migrate().unwrap();
    for database in [shared, database()] {
        let refused = database.read(|db| insert(db, "Pan"));
        assert!(matches!(refused, Err(Error::ReadOnly { model: "Object" })), "{refused:?}");
        let refused = database.read(|db| Ok(db.conn().batch_execute("DELETE FROM object")?));
        assert!(matches!(refused, Err(Error::Database { .. })), "{refused:?}");
        database.write(|db| insert(db, "Pan")).unwrap();
    }
}

#[test]
fn reads_go_on_while_a_transaction_writes_and_see_it_after_its_commit() {
    let (url, _guard) = crate::new_url();
    let database = Database::open(&url, Signals::new()).unwrap();
    database.migrate().unwrap();
    let (written, is_written) = mpsc::channel();
    let (looked, has_looked) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let writer = database.clone();
        scope.spawn(move || {
            writer
                .write(|db| {
                    insert(db, "Pan")?;
                    written.send(()).unwrap();
                    has_looked.recv_timeout(Duration::from_secs(10)).unwrap();
                    Ok(())
                })
                .unwrap();
        });
        is_written.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(database.read(Object::count).unwrap(), 0);
        looked.send(()).unwrap();
    });
    assert_eq!(database.read(Object::count).unwrap(), 1);
}

#[test]
fn what_runs_after_a_write_may_write() {
    let database = database();
    let other = database.clone();
    database
        .write(|db| {
            db.on_commit(move || {
                other.write(|db| insert(db, "Second")).unwrap();
            });
            insert(db, "First")
        })
        .unwrap();
    assert_eq!(database.read(Object::count).unwrap(), 2);
}
