//! Several processes on one store: this one starts others and is itself none of them.
//!
//! What happens first and what later is settled by what they are told and say, not by sleeping. Only what a store or a
//! dead process is waited for takes its time: ten seconds for a ticket that nobody gives back, one for a copy.

mod other;

use std::{
    thread,
    time::{Duration, Instant},
};

use larder_cache::{
    backend::{Options, database::Database},
    conformance::server::MemcachedServer,
};
use tempfile::TempDir;

use self::other::Other;

/// How long the ticket of a dead process keeps others waiting, as documented.
const TICKET_FOR: Duration = Duration::from_secs(10);

/// How late a busy machine may be.
const MARGIN: Duration = Duration::from_secs(3);

/// A store that several processes share.
trait Shared {
    /// The settings of a cache on it, as TOML.
    fn settings(&self) -> String;

    fn process(&self) -> Other {
        Other::start(&self.settings())
    }

    /// Starts a process with copies in its memory, each for so many seconds.
    fn process_with_copies(&self, stale_for: f64) -> Other {
        Other::start(&format!("near = {{ stale_for = {stale_for:?} }}\n{}", self.settings()))
    }
}

impl Shared for MemcachedServer {
    fn settings(&self) -> String {
        // A machine that is busy with other tests answers late.
        format!("backend = \"memcached\"\nlocation = \"{}\"\noptions = {{ timeout_ms = 5000 }}", self.address())
    }
}

struct Folder(TempDir);

impl Folder {
    fn start() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }
}

impl Shared for Folder {
    fn settings(&self) -> String {
        format!("backend = \"file\"\nlocation = \"{}\"", self.0.path().display())
    }
}

struct Table(TempDir);

impl Table {
    fn start() -> Self {
        let table = Table(tempfile::tempdir().unwrap());
        Database::open(&table.url(), "cache_entry", Options::new()).unwrap().create_table().unwrap();
        table
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.0.path().join("cache.sqlite3").display())
    }
}

impl Shared for Table {
    fn settings(&self) -> String {
        format!("backend = \"database\"\nlocation = \"cache_entry\"\noptions = {{ url = \"{}\" }}", self.url())
    }
}

/// The loader reads in one process, the writer commits and invalidates in the other, and the loader then returns.
fn what_one_loads_while_the_other_writes_is_never_served(store: &impl Shared) {
    let (loader, writer) = (store.process(), store.process());
    for invalidate in ["delete", "expire", "invalidate_tag"] {
        for load in ["load", "find_tags", "find_tags", "refresh"] {
            if load == "refresh" {
                writer.answers("set key stale", "set");
                writer.answers("expire key", "invalidated");
            }
            loader.tell(&format!("{load} key"));
            match load {
                "refresh" => loader.says_all(["loaded stale", "loading"]),
                _ => loader.says("loading"),
            }
            writer.answers(&format!("{invalidate} key"), "invalidated");
            writer.answers("get key", "got None");
            loader.answers("get key", "got None");
            loader.tell("row old");
            if load == "refresh" {
                // It says nothing when its refresh is over. Whoever waits for it sees its end.
                loader.tell("load key");
            } else {
                loader.says("loaded old");
                loader.answers("get key", "got None");
                writer.answers("get key", "got None");
                loader.tell("load key");
            }
            loader.says("loading");
            loader.answers("row new", "loaded new");
            loader.answers("get key", "got Some(\"new\")");
            writer.answers("get key", "got Some(\"new\")");
            writer.answers("delete key", "invalidated");
        }
    }
}

fn many_callers_in_several_processes_load_once(store: &impl Shared) {
    let processes = [store.process(), store.process(), store.process()];
    processes[0].answers("crowd one_process 200", "1 loads");
    for process in &processes {
        process.answers("crowd one_process 10", "0 loads");
        process.tell("crowd three_processes 70");
    }
    let [one, two, three] = processes.map(|process| process.next());
    let mut loads = [&*one, &*two, &*three];
    loads.sort_unstable();
    assert_eq!(loads, ["0 loads", "0 loads", "1 loads"]);
}

/// One process dies while it loads, one is frozen for longer than its ticket is valid, one takes that long and lives.
fn a_process_that_is_killed_or_frozen_while_loading_is_replaced_in_time(store: &impl Shared) {
    let [slow, frozen, victim, heir] = [(); 4].map(|()| store.process());
    slow.answers("load slow", "loading");
    frozen.answers("load frozen", "loading");
    frozen.freeze();
    for key in ["revalidated", "fallen_back"] {
        heir.answers(&format!("set {key} stale"), "set");
        heir.answers(&format!("expire {key}"), "invalidated");
        victim.tell(&format!("refresh {key}"));
        victim.says_all(["loaded stale", "loading"]);
    }
    victim.answers("load cold", "loading");
    heir.tell("load cold");
    let killed = Instant::now();
    victim.kill();

    heir.answers("refresh revalidated", "loaded stale");
    heir.answers("fall_back fallen_back", "loaded stale");
    let took = killed.elapsed();
    assert!(took < MARGIN, "with a stale value nobody waits for the dead: {took:?}");

    heir.says("loading");
    let took = killed.elapsed();
    assert!(took < TICKET_FOR + MARGIN, "the dead kept others waiting for {took:?}");
    heir.answers("row new", "loaded new");
    // Memcached may forget a ticket up to a second early; one beside a stale value has its time written in it.
    thread::sleep(TICKET_FOR.saturating_sub(killed.elapsed()));
    heir.tell("refresh revalidated");
    heir.says_all(["loaded stale", "loading"]);
    heir.tell("row new");

    heir.answers("load frozen", "loading");
    heir.answers("row new", "loaded new");
    frozen.thaw();
    frozen.answers("row old", "loaded old");
    for process in [&heir, &frozen] {
        process.answers("get frozen", "got Some(\"new\")");
    }

    // Whoever lives has renewed his ticket meanwhile.
    heir.tell("load slow");
    slow.answers("row new", "loaded new");
    heir.says("loaded new");
}

fn copies_are_no_older_than_their_bound(store: &impl Shared) {
    let bound = Duration::from_secs(1);
    let (here, there) = (store.process_with_copies(1.0), store.process());
    let at_once = store.process_with_copies(0.0);
    for (key, invalidate) in [("a", "delete"), ("b", "expire"), ("c", "invalidate_tag")] {
        there.answers(&format!("set {key} old"), "set");
        for process in [&here, &at_once, &here, &at_once] {
            process.answers(&format!("get {key}"), "got Some(\"old\")");
        }
        there.answers(&format!("{invalidate} {key}"), "invalidated");
        at_once.answers(&format!("get {key}"), "got None");
    }
    let invalidated = Instant::now();
    thread::sleep(bound.saturating_sub(invalidated.elapsed()));
    for (key, invalidate) in [("a", "delete"), ("b", "expire"), ("c", "invalidate_tag")] {
        here.answers(&format!("get {key}"), "got None");
        here.answers(&format!("set {key} old"), "set");
        here.answers(&format!("get {key}"), "got Some(\"old\")");
        here.answers(&format!("get {key}"), "got Some(\"old\")");
        here.answers(&format!("{invalidate} {key}"), "invalidated");
        here.answers(&format!("get {key}"), "got None");
    }
}

/// Makes a test of every case for one store.
macro_rules! cases {
    ($($store:ident $start:expr;)*) => {
        $(
            mod $store {
                use super::*;

                #[test]
                fn what_one_loads_while_the_other_writes_is_never_served() {
                    super::what_one_loads_while_the_other_writes_is_never_served(&$start);
                }

                #[test]
                fn many_callers_in_several_processes_load_once() {
                    super::many_callers_in_several_processes_load_once(&$start);
                }

                #[test]
                fn a_process_that_is_killed_or_frozen_while_loading_is_replaced_in_time() {
                    super::a_process_that_is_killed_or_frozen_while_loading_is_replaced_in_time(&$start);
                }

                #[test]
                fn copies_are_no_older_than_their_bound() {
                    super::copies_are_no_older_than_their_bound(&$start);
                }
            }
        )*
    };
}

cases! {
    memcached MemcachedServer::start();
    file Folder::start();
    database Table::start();
}
