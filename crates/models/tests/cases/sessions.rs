use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use jiff::Timestamp;
use larder_models::{Database, Session, Signals};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A database, and the hand of its clock in seconds.
fn database() -> (Database, Arc<AtomicI64>) {
    let hand = Arc::new(AtomicI64::new(100));
    let clock = hand.clone();
    let database = crate::open_alone(Signals::new());
    let database = database.with_clock(move || at(clock.load(Ordering::Relaxed)));
    database.migrate().unwrap();
    (database, hand)
}

#[test]
fn a_session_is_stored_and_replaced() {
    let (database, _hand) = database();
    let state = |id: &str| database.read(|db| Session::load(db, id)).unwrap().map(|session| session.state);
    assert_eq!(state("k"), None);
    database.write(|db| Session::save(db, "k", "1", at(200))).unwrap();
    assert_eq!(state("k").as_deref(), Some("1"));
    database.write(|db| Session::save(db, "k", "2", at(200))).unwrap();
    assert_eq!(state("k").as_deref(), Some("2"));
    assert!(database.write(|db| Session::delete(db, "k")).unwrap());
    assert!(!database.write(|db| Session::delete(db, "k")).unwrap());
    assert_eq!(state("k"), None);
}

#[test]
fn a_session_ends_at_its_time() {
    let (database, hand) = database();
    database.write(|db| Session::save(db, "k", "1", at(200))).unwrap();
    hand.store(199, Ordering::Relaxed);
    assert_eq!(database.read(|db| Session::load(db, "k")).unwrap().unwrap().expires_at(), at(200));
    hand.store(200, Ordering::Relaxed);
    assert_eq!(database.read(|db| Session::load(db, "k")).unwrap(), None);
    assert!(!database.write(|db| Session::update(db, "k", "2", at(300))).unwrap());
    assert!(!database.write(|db| Session::touch(db, "k", at(300))).unwrap());
    // Only a new session may take the id.
    database.write(|db| Session::save(db, "k", "3", at(300))).unwrap();
    assert_eq!(database.read(|db| Session::load(db, "k")).unwrap().unwrap().state, "3");
}

#[test]
fn update_and_touch_keep_a_session_alive_but_do_not_bring_it_back() {
    let (database, hand) = database();
    database.write(|db| Session::save(db, "k", "1", at(200))).unwrap();
    assert!(database.write(|db| Session::touch(db, "k", at(300))).unwrap());
    hand.store(250, Ordering::Relaxed);
    assert!(database.write(|db| Session::update(db, "k", "2", at(400))).unwrap());
    hand.store(350, Ordering::Relaxed);
    assert_eq!(database.read(|db| Session::load(db, "k")).unwrap().unwrap().state, "2");
    database.write(|db| Session::delete(db, "k")).unwrap();
    assert!(!database.write(|db| Session::update(db, "k", "3", at(400))).unwrap());
    assert!(!database.write(|db| Session::touch(db, "k", at(400))).unwrap());
    assert_eq!(database.read(|db| Session::load(db, "k")).unwrap(), None);
}

#[test]
fn expired_sessions_are_swept() {
    let (database, hand) = database();
    for (id, expires) in [("a", 150), ("b", 200), ("c", 201)] {
        database.write(|db| Session::save(db, id, "1", at(expires))).unwrap();
    }
    hand.store(200, Ordering::Relaxed);
    assert_eq!(database.write(Session::delete_expired).unwrap(), 2);
    assert_eq!(database.write(Session::delete_expired).unwrap(), 0);
    assert!(database.read(|db| Session::load(db, "c")).unwrap().is_some());
}

#[test]
fn a_session_does_not_print_its_secrets() {
    let (database, _hand) = database();
    database.write(|db| Session::save(db, "secret", "state", at(200))).unwrap();
    let printed = format!("{:?}", database.read(|db| Session::load(db, "secret")).unwrap());
    assert!(!printed.contains("secret") && !printed.contains("state"), "{printed}");
}
