//! What the crate promises, tried on PostgreSQL.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in test functions, not in the helpers beside them")]
#![expect(clippy::print_stdout, reason = "some tests say what they measured")]

mod cases;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use diesel::{QueryResult, QueryableByName, RunQueryDsl, connection::SimpleConnection, sql_query, sql_types::Text};
use larder_models::{Connection, Database, Error, Model, Object, Signals, testing::PostgresServer};

use crate::cases::{database, insert, invalidation::own_memory};

static SERVER: LazyLock<PostgresServer> = LazyLock::new(PostgresServer::start);

/// Whether databases of [`open_alone`] have a use for the outbox.
const HAS_OUTBOX: bool = true;

/// A database without tables that nobody else uses.
fn open_alone(signals: Signals) -> Database {
    Database::open(&SERVER.new_database(), signals).unwrap()
}

/// The address of a database that may be opened more than once, and what it lives as long as.
fn new_url() -> (String, ()) {
    (SERVER.new_database(), ())
}

fn defer_foreign_keys(conn: &mut Connection) -> QueryResult<()> {
    conn.batch_execute(
        "ALTER TABLE log_entry ALTER CONSTRAINT log_entry_user_id_fkey DEFERRABLE; SET CONSTRAINTS ALL DEFERRED",
    )
}

#[derive(QueryableByName)]
struct Entry {
    #[diesel(sql_type = Text)]
    sql: String,
}

/// All columns and indexes, but those of the list of migrations.
fn schema(database: &Database) -> Vec<String> {
    let query = "SELECT sql FROM (
        SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || is_identity AS sql
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE '\\_\\_diesel%'
        UNION SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename NOT LIKE '\\_\\_diesel%'
        UNION SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text NOT LIKE '\\_\\_diesel%'
    ) AS parts ORDER BY sql";
    let rows = database.read(|db| Ok(sql_query(query).load::<Entry>(db.conn())?)).unwrap();
    rows.into_iter().map(|row| row.sql).collect()
}

#[test]
fn a_transaction_whose_error_was_passed_over_is_not_called_stored() {
    let database = database();
    let result = database.write(|db| {
        insert(db, "Pan")?;
        let _passed_over = db.conn().batch_execute("SELECT 1 / 0");
        Ok(())
    });
    assert!(matches!(&result, Err(Error::Aborted { .. })), "{result:?}");
    assert_eq!(database.read(Object::count).unwrap(), 0);
    database.write(|db| insert(db, "Next")).unwrap();
    assert_eq!(database.read(Object::count).unwrap(), 1);
}

#[test]
fn of_two_who_save_the_same_row_one_hears_of_the_conflict() {
    let database = database();
    let object = database.write(|db| insert(db, "0")).unwrap();
    let conflicts = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let count = |db: &mut larder_models::Db| {
                        let mut object = Object::get(db, object.id)?;
                        object.title = (object.title.parse::<u32>().unwrap() + 1).to_string();
                        object.save(db)
                    };
                    while let Err(error) = database.write(count) {
                        assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
                        conflicts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(database.read(|db| Object::get(db, object.id)).unwrap().title, "100");
}

#[test]
fn a_deadlock_is_solved_by_running_one_of_the_two_again() {
    let database = database();
    let ids = ["0", "0"].map(|title| database.write(|db| insert(db, title)).unwrap().id);
    let both_hold_one = std::sync::Barrier::new(2);
    let tries = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for order in [[ids[0], ids[1]], [ids[1], ids[0]]] {
            let (database, both_hold_one, tries) = (&database, &both_hold_one, &tries);
            scope.spawn(move || {
                let mut is_first_try = true;
                let count = |db: &mut larder_models::Db| {
                    tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    for (position, id) in order.into_iter().enumerate() {
                        let add = format!("UPDATE object SET title = (title::int + 1)::text WHERE id = {id}");
                        db.conn().batch_execute(&add)?;
                        if position == 0 && std::mem::take(&mut is_first_try) {
                            both_hold_one.wait();
                        }
                    }
                    Ok(())
                };
                database.write_again(count).unwrap();
            });
        }
    });
    let titles = ids.map(|id| database.read(|db| Object::get(db, id)).unwrap().title);
    assert_eq!(titles, ["2", "2"]);
    assert_eq!(tries.into_inner(), 3, "one of them was run again");
}

#[test]
fn serializable_transactions_that_cross_are_run_again() {
    let database = database();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let count = |db: &mut larder_models::Db| {
                        db.conn().batch_execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")?;
                        let title = Object::count(db)?.to_string();
                        insert(db, &title)
                    };
                    // More tries than one call makes: four of them are in each other's way all the time.
                    while let Err(error) = database.write_again(count) {
                        assert!(matches!(error, Error::InTheWay { .. }), "{error:?}");
                    }
                }
            });
        }
    });
    let mut titles: Vec<u32> =
        database.read(Object::published).unwrap().iter().map(|object| object.title.parse().unwrap()).collect();
    titles.sort_unstable();
    assert_eq!(titles, (0..20).collect::<Vec<_>>(), "each saw what the one before it had counted");
}

#[test]
fn a_lock_that_is_not_let_go_of_is_busy() {
    let database = database();
    let object = database.write(|db| insert(db, "Pan")).unwrap();
    let busy = database.write(|db| {
        db.conn().batch_execute(&format!("SELECT 1 FROM object WHERE id = {} FOR UPDATE", object.id))?;
        Ok(database.write(|db| {
            db.conn().batch_execute("SET LOCAL lock_timeout = 50")?;
            object.delete(db)
        }))
    });
    assert!(matches!(busy, Ok(Err(Error::Busy { .. }))), "{busy:?}");
}

#[test]
fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let error = Database::open("postgres://larder:secret@127.0.0.1:1/larder", Signals::new()).unwrap_err();
    assert!(matches!(&error, Error::Connect { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("postgres://larder:***@127.0.0.1:1/larder") && text.contains("check that the server"),
        "{text}"
    );
    let error = Database::open(&SERVER.new_database().replace("test_", "none_"), Signals::new()).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("does not exist"), "{source}");
}

#[test]
fn connections_that_the_server_has_closed_are_replaced() {
    let database = database();
    database.write(|db| insert(db, "Pan")).unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    database.write(|db| Ok(db.conn().batch_execute(end)?)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    for _ in 0..8 {
        assert_eq!(database.read(Object::count).unwrap(), 1);
    }
    database.write(|db| insert(db, "Next")).unwrap();
}

/// Stands between a process and the server, and can stop passing on what they say.
struct Proxy {
    url: String,
    is_stuck: Arc<AtomicBool>,
    /// Whether the next one who commits is cut off, and his COMMIT passed on a moment later.
    cuts_commits: Arc<AtomicBool>,
}

impl Proxy {
    fn before(url: &str) -> Self {
        let (user, rest) = url.split_once('@').unwrap();
        let (server, database) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{user}@{}/{database}", listener.local_addr().unwrap());
        let (is_stuck, cuts_commits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (server, stuck, cuts) = (server.to_owned(), Arc::clone(&is_stuck), Arc::clone(&cuts_commits));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
                {
                    let (stuck, cuts) = (Arc::clone(&stuck), Arc::clone(&cuts));
                    thread::spawn(move || {
                        let mut buffer = [0; 4096];
                        while let Ok(count @ 1..) = from.read(&mut buffer) {
                            while stuck.load(Ordering::Relaxed) {
                                thread::sleep(Duration::from_millis(5));
                            }
                            let is_commit = buffer[..count].windows(6).any(|text| text == b"COMMIT");
                            if is_commit && cuts.swap(false, Ordering::Relaxed) {
                                from.shutdown(Shutdown::Both).unwrap();
                                thread::sleep(Duration::from_millis(100));
                            }
                            if to.write_all(&buffer[..count]).is_err() {
                                break;
                            }
                        }
                        let _closed = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Proxy { url, is_stuck, cuts_commits }
    }
}

#[test]
fn who_cannot_ask_the_server_is_behind_by_ten_seconds_at_most() {
    let url = SERVER.new_database();
    let writer = Database::open(&url, Signals::new()).unwrap().with_caches(&own_memory());
    writer.migrate().unwrap();
    let mut pan = writer.write(|db| insert(db, "Pan")).unwrap();

    let proxy = Proxy::before(&url);
    let caches = own_memory();
    let behind = Database::open(&proxy.url, Signals::new()).unwrap().with_caches(&caches);
    let cache = caches.default_cache().blocking();
    let title = || cache.get_or_set("title", 600, || behind.read(|db| Ok(Object::get(db, pan.id)?.title))).unwrap();
    assert_eq!(title(), "Pan");
    thread::sleep(Duration::from_millis(300));
    proxy.is_stuck.store(true, Ordering::Relaxed);
    let mut edited = pan.clone();
    edited.title = "Jam pan".to_owned();
    writer.write(|db| edited.save(db)).unwrap();
    let saved = Instant::now();
    while cache.has_key("title").unwrap() {
        assert!(saved.elapsed() < Duration::from_secs(15), "it is still there");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(saved.elapsed() < Duration::from_millis(10_500), "{:?}", saved.elapsed());
    println!("a cache that heard nothing was cleared after {:?}", saved.elapsed());

    proxy.is_stuck.store(false, Ordering::Relaxed);
    assert_eq!(title(), "Jam pan");
    pan = edited;
    pan.title = "Skillet".to_owned();
    writer.write(|db| pan.clone().save(db)).unwrap();
    let saved = Instant::now();
    while cache.has_key("title").unwrap() {
        assert!(saved.elapsed() < Duration::from_secs(3), "it hears again");
        thread::sleep(Duration::from_millis(1));
    }
    println!("it heard again after {:?}", saved.elapsed());
}

#[test]
fn a_commit_that_comes_after_its_connection_broke_is_told() {
    let proxy = Proxy::before(&SERVER.new_database());
    let caches = own_memory();
    let database = Database::open(&proxy.url, Signals::new()).unwrap().with_caches(&caches);
    database.migrate().unwrap();
    let pan = database.write(|db| insert(db, "Pan")).unwrap();
    let cache = caches.default_cache().blocking();
    let title = || cache.get_or_set("title", 600, || database.read(|db| Ok(Object::get(db, pan.id)?.title))).unwrap();
    assert_eq!(title(), "Pan");
    thread::sleep(Duration::from_millis(300));
    let mut edited = pan.clone();
    edited.title = "Jam pan".to_owned();
    proxy.cuts_commits.store(true, Ordering::Relaxed);
    assert!(database.write(|db| edited.save(db)).is_err(), "nobody knows whether it was stored");
    // What is read now may be what was.
    title();
    let cut = Instant::now();
    while title() != "Jam pan" {
        assert!(cut.elapsed() < Duration::from_secs(5), "it is shown as it was");
        thread::sleep(Duration::from_millis(5));
    }
}
