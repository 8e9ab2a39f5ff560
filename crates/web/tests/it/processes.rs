//! Several processes of the app on one database.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use larder_cache::conformance::server::MemcachedServer;
use larder_models::testing::PostgresServer;

use crate::site::{Site, Visitor};

static SERVER: LazyLock<PostgresServer> = LazyLock::new(PostgresServer::start);

/// How long a cache in the memory of another process may show what was: 20 ms and the time of a query. Here many share two
/// processors.
const BOUND: Duration = Duration::from_secs(1);

/// How long readers look for something old.
const UNDER_LOAD: Duration = Duration::from_secs(30);

const PAIRS: usize = 32;

fn three_on_postgres(cache: &str) -> Vec<Site> {
    let database = SERVER.new_database();
    let environment = [("DATABASE_URL", &*database), ("CACHE_URL", cache)];
    // One after the other: the first makes the tables, the sample and the account.
    let first = Site::start_with(&environment);
    let mut others: Vec<Site> = (0..2).map(|_| Site::start_with(&environment)).collect();
    others.iter_mut().for_each(|site| site.password.clone_from(&first.password));
    [first].into_iter().chain(others).collect()
}

/// Edits on each in turn and returns the longest time until all others show it, on the page and in the list.
fn longest_wait(sites: &[Site], at_once: bool) -> Duration {
    let visitors: Vec<Visitor> = sites.iter().map(Site::visitor).collect();
    let staff: Vec<Visitor> = sites.iter().map(Site::staff).collect();
    let shows = |visitor: &Visitor, title: &str| {
        let in_list = visitor.page("/objects/").all(".jars h2").iter().any(|heading| heading == title);
        in_list && visitor.page("/objects/1/").one("h1") == title
    };
    let mut longest = Duration::ZERO;
    for edit in 0..30 {
        visitors.iter().for_each(|visitor| drop((visitor.page("/objects/1/"), visitor.page("/objects/"))));
        let editor = edit % sites.len();
        let title = format!("Edit {edit}");
        assert_eq!(staff[editor].submit("/admin/objects/1/change/", &[("title", &title)]).status(), 303);
        let saved = Instant::now();
        assert!(shows(&visitors[editor], &title), "who saved sees it at once");
        for visitor in &visitors {
            while !shows(visitor, &title) {
                assert!(!at_once && saved.elapsed() < BOUND, "{title} is not shown");
            }
            longest = longest.max(saved.elapsed());
        }
    }
    longest
}

/// Saves objects and reads them, for a while and many at a time: no reader sees less than what was saved before he asked. The
/// page is read from the process that saved, unless all see it `at_once`.
fn nothing_old_is_read(sites: &[Site], at_once: bool) {
    let staff = sites[0].staff();
    for number in 0..PAIRS {
        let new = [("title", format!("0 of {number}")), ("body", String::new()), ("published", "on".to_owned())];
        let fields: Vec<(&str, &str)> = new.iter().map(|(name, value)| (*name, &**value)).collect();
        assert_eq!(staff.submit("/admin/objects/add/", &fields).status(), 303);
    }
    let first_id = 25;
    let saved: Vec<AtomicU64> = (0..PAIRS).map(|_| AtomicU64::new(0)).collect();
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for number in 0..PAIRS {
            let (saved, stop, reads) = (&saved[number], &stop, &reads);
            let id = first_id + number;
            let writing = &sites[number % sites.len()];
            let reading = if at_once { &sites[(number + 1) % sites.len()] } else { writing };
            scope.spawn(move || {
                let staff = writing.staff();
                while !stop.load(Ordering::Relaxed) {
                    let next = saved.load(Ordering::SeqCst) + 1;
                    let title = format!("{next} of {number}");
                    let answer = staff.submit(&format!("/admin/objects/{id}/change/"), &[("title", &title)]);
                    assert_eq!(answer.status(), 303, "{title}");
                    saved.store(next, Ordering::SeqCst);
                }
            });
            scope.spawn(move || {
                let visitor = reading.visitor();
                let count = |title: &str| title.split_once(" of ").unwrap().0.parse::<u64>().unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let before = saved.load(Ordering::SeqCst);
                    let shown = visitor.page(&format!("/objects/{id}/")).one("h1");
                    assert!(count(&shown) >= before, "the page shows {shown}, {before} was saved");
                    let before = saved.load(Ordering::SeqCst);
                    let list = visitor.page("/objects/").all(".jars h2");
                    let of_this = format!(" of {number}");
                    let shown = list.iter().find(|title| title.ends_with(&of_this)).unwrap();
                    assert!(count(shown) >= before, "the list shows {shown}, {before} was saved");
                    reads.fetch_add(2, Ordering::Relaxed);
                }
            });
        }
        let until = Instant::now() + UNDER_LOAD;
        while Instant::now() < until {
            thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let saves: u64 = saved.iter().map(|count| count.load(Ordering::SeqCst)).sum();
    let reads = reads.load(Ordering::Relaxed);
    assert!(saves > 500 && reads > 500, "{saves} saves and {reads} reads");
    println!("{saves} saves and {reads} reads in {} s", UNDER_LOAD.as_secs());
}

#[test]
fn with_a_cache_in_the_memory_of_each() {
    let sites = three_on_postgres("locmem://");
    println!("shown by all after {} ms at most", longest_wait(&sites, false).as_millis());
    nothing_old_is_read(&sites, false);
}

#[test]
fn with_two_memcached_servers() {
    let servers = [MemcachedServer::start(), MemcachedServer::start()];
    let sites = three_on_postgres(&format!("memcached://{},{}", servers[0].address(), servers[1].address()));
    println!("shown by all after {} ms at most", longest_wait(&sites, true).as_millis());
    nothing_old_is_read(&sites, true);
}
