//! Memcached stops in the middle: pages answer, the log says it once, and nothing old comes back.

use std::time::{Duration, Instant};

use larder_cache::conformance::server::MemcachedServer;

use crate::site::{Site, Visitor};

/// What a visitor may wait for a page at most while the cache is away.
const BOUND: Duration = Duration::from_secs(2);

const PAGES: [&str; 4] = ["/objects/", "/objects/1/", "/levels/", "/levels/view/"];

fn all_pages_answer_in_time(visitor: &Visitor) {
    for path in PAGES {
        let started = Instant::now();
        visitor.page(path);
        assert!(started.elapsed() < BOUND, "{path} took {:?}", started.elapsed());
    }
}

fn on_server(server: &MemcachedServer) -> Site {
    Site::start_with(&[("CACHE_URL", &format!("memcached://{}", server.address()))])
}

/// Loads a page until the cache takes part again.
fn wait_for_recovery(site: &Site, visitor: &Visitor) {
    let started = Instant::now();
    while !site.log().contains("store answers again") {
        assert!(started.elapsed() < Duration::from_secs(20), "{}", site.log());
        visitor.page("/objects/");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn assert_said_once(site: &Site) {
    let log = site.log();
    for line in ["WARN  cache: store failed", "INFO  cache: store answers again"] {
        assert_eq!(log.matches(line).count(), 1, "{line} in {log}");
    }
}

#[test]
fn a_stopped_server_slows_no_page_and_comes_back_empty() {
    let mut server = MemcachedServer::start();
    let site = on_server(&server);
    let (visitor, staff) = (site.visitor(), site.staff());
    all_pages_answer_in_time(&visitor);
    server.stop();
    all_pages_answer_in_time(&visitor);
    assert_eq!(staff.submit("/admin/objects/1/change/", &[("title", "During the outage")]).status(), 303);
    assert_eq!(visitor.page("/objects/1/").one("h1"), "During the outage");
    server.restart();
    wait_for_recovery(&site, &visitor);
    assert_eq!(visitor.page("/objects/1/").one("h1"), "During the outage");
    assert_said_once(&site);
}

#[test]
fn a_frozen_server_does_not_bring_old_pages_back() {
    let server = MemcachedServer::start();
    let site = on_server(&server);
    let (visitor, staff) = (site.visitor(), site.staff());
    all_pages_answer_in_time(&visitor);
    all_pages_answer_in_time(&visitor);
    server.freeze();
    all_pages_answer_in_time(&visitor);
    assert_eq!(staff.submit("/admin/objects/1/change/", &[("title", "While it was frozen")]).status(), 303);
    // It still has the pages of before, and is asked for them.
    server.thaw();
    wait_for_recovery(&site, &visitor);
    assert_eq!(visitor.page("/objects/1/").one("h1"), "While it was frozen");
    assert!(visitor.page("/objects/").all(".jars h2").contains(&"While it was frozen".to_owned()));
    assert_said_once(&site);
}

#[test]
fn the_app_starts_while_memcached_is_down() {
    let mut server = MemcachedServer::start();
    server.stop();
    let site = on_server(&server);
    all_pages_answer_in_time(&site.visitor());
}
