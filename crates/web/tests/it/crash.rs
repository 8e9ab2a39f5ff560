//! The app is killed while it saves, a hundred times: what was committed is never shown as it was before.

use std::{
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use larder_cache::conformance::server::MemcachedServer;
use larder_models::{Database, Model, Object};
use tempfile::TempDir;

use crate::site::Site;

/// How often it is killed.
const CRASHES: u64 = 100;

const PATH: &str = "/admin/objects/1/change/";

/// Starts the app at the same address each time: it is part of the keys of pages.
fn start(folder: TempDir, address: &str, cache: &str) -> Site {
    Site::start_in(folder, &[("LARDER__SERVER__BIND", address), ("CACHE_URL", cache)])
}

fn title(database: &Database) -> String {
    database.read(|db| Ok(Object::get(db, 1)?.title)).unwrap()
}

/// Kills it `CRASHES` times, each time a little later after a save was sent. `hold` may keep the store from hearing of the
/// save until `release`.
fn survives_crashes(cache: &str, hold: impl Fn(), release: impl Fn()) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut site = start(tempfile::tempdir().unwrap(), &address, cache);
    let database = site.database();
    let staff = site.staff();
    let mut committed = 0;
    for crash in 0..CRASHES {
        let visitor = site.visitor();
        for page in ["/objects/1/", "/objects/", "/objects/1/", "/objects/"] {
            visitor.page(page);
        }
        let before = title(&database);
        let new = format!("Crash {crash}");
        let mut form = staff.page(PATH).form();
        form.insert("title".to_owned(), new.clone());
        let is_held = crash % 2 == 1;
        if is_held {
            hold();
        }
        site = thread::scope(|scope| {
            scope.spawn(|| staff.try_post(PATH, &form));
            if is_held {
                // Until it is committed; the caches are told after that.
                let sent = Instant::now();
                while title(&database) == before && sent.elapsed() < Duration::from_secs(10) {
                    thread::sleep(Duration::from_micros(100));
                }
            } else {
                thread::sleep(Duration::from_micros(crash * 200));
            }
            let folder = site.kill();
            release();
            start(folder, &address, cache)
        });
        let now = title(&database);
        assert!(now == before || now == new, "{now}");
        committed += u32::from(now == new);
        let visitor = site.visitor();
        assert_eq!(visitor.page("/objects/1/").one("h1"), now, "crash {crash}");
        assert!(visitor.page("/objects/").all(".jars h2").contains(&now), "crash {crash}");
    }
    assert!(committed > 10, "{committed} of {CRASHES} saves were committed");
    let left_behind = site.log().matches("invalidated what was changed when the last process ended").count();
    assert!(left_behind > 10, "{left_behind} starts had to tell the caches");
    println!("{committed} of {CRASHES} saves were committed, {left_behind} starts had to tell the caches");
}

#[test]
fn on_memcached() {
    let server = MemcachedServer::start();
    survives_crashes(&format!("memcached://{}", server.address()), || server.freeze(), || server.thaw());
}

#[test]
fn on_files() {
    let folder = tempfile::tempdir().unwrap();
    survives_crashes(&format!("file://{}", folder.path().display()), || (), || ());
}
