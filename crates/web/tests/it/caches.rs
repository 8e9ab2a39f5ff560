//! The admin's pages of the caches, and the stream of the live view.

use std::io::{BufRead, BufReader};

use reqwest::Method;
use serde_json::Value;

use crate::{
    admin::member,
    site::{Site, Visitor, header, location},
};

/// Reads the next lines of a stream, with the number behind which to go on.
fn news(stream: &mut impl BufRead) -> (String, Vec<Value>) {
    let (mut id, mut line) = (String::new(), String::new());
    loop {
        line.clear();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0, "the stream has ended");
        if let Some(number) = line.strip_prefix("id: ") {
            number.trim().clone_into(&mut id);
        } else if let Some(data) = line.strip_prefix("data: ") {
            let data: Value = serde_json::from_str(data).unwrap();
            return (id, data["lines"].as_array().unwrap().clone());
        }
    }
}

fn follow(staff: &Visitor, after: &str) -> BufReader<reqwest::blocking::Response> {
    let request = staff.request(Method::GET, "/admin/live/stream/?after=0").header("last-event-id", after);
    let answer = staff.send(request);
    assert_eq!(header(&answer, "content-type"), "text/event-stream");
    assert!(header(&answer, "cache-control").contains("no-store"));
    BufReader::new(answer)
}

#[test]
fn whoever_comes_back_to_the_live_view_has_missed_nothing() {
    let site = Site::start();
    let staff = site.staff();
    staff.page("/admin/live/");
    let mut stream = follow(&staff, "0");
    site.visitor().page("/objects/1/");
    let (id, lines) = news(&mut stream);
    let log = site.log();
    for line in &lines {
        let written = format!("cache: {} {}", line["message"].as_str().unwrap(), line["fields"].as_str().unwrap());
        assert!(log.contains(&written), "{written} is not in the log\n{log}");
    }
    drop(stream);
    staff.submit("/admin/objects/1/change/", &[("title", "While nobody watched")]);
    let mut stream = follow(&staff, &id);
    let (_, lines) = news(&mut stream);
    let is_it = |line: &Value| line["outcome"] == "invalidation" && line["cause"] == "post_save Object#1";
    assert!(lines.iter().any(is_it), "{lines:?}");
}

#[test]
fn open_streams_do_not_keep_the_server_from_stopping() {
    let site = Site::start();
    let staff = site.staff();
    let _stream = follow(&staff, "0");
    let begun = std::time::Instant::now();
    let (_, status) = site.stop();
    assert_eq!(status, Some(0));
    assert!(begun.elapsed() < std::time::Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn caches_are_for_those_who_may() {
    let site = Site::start();
    let nobody = member(&site, "nobody", "object.view object.change");
    let viewer = member(&site, "viewer", "cache.view");
    for (path, of_viewer) in [
        ("/admin/live/", 200),
        ("/admin/caches/", 200),
        ("/admin/caches/default/", 200),
        ("/admin/caches/default/key/?key=objects", 200),
        ("/admin/caches/default/clear/", 403),
        ("/admin/caches/nothing/", 404),
    ] {
        assert_eq!(nobody.get(path).status(), 403, "{path}");
        assert_eq!(viewer.get(path).status(), of_viewer, "{path}");
        assert_eq!(site.visitor().get(path).status(), 303, "{path}");
    }
    assert_eq!(nobody.get("/admin/live/stream/").status(), 403);
    assert!(!nobody.page("/admin/objects/1/change/").0.contains("data-live"));
    let token = site_token(&viewer);
    for action in ["clear", "clear_prefix", "delete", "expire", "invalidate", "purge"] {
        let form = [("csrf_token", &*token), ("action", action), ("key", "objects"), ("what", "object")];
        let form = form.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(viewer.post("/admin/caches/default/", &form).status(), 403, "{action}");
    }
}

/// Returns the token of a session, which stands in the form to sign out.
fn site_token(visitor: &Visitor) -> String {
    visitor.page("/admin/").form_of("form.account")["csrf_token"].clone()
}

#[test]
fn what_is_thrown_out_is_gone() {
    let site = Site::start();
    let (visitor, staff) = (site.visitor(), site.staff());
    let token = site_token(&staff);
    let act = |fields: &[(&str, &str)]| {
        let mut form: std::collections::BTreeMap<String, String> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        form.insert("csrf_token".to_owned(), token.clone());
        let answer = staff.post("/admin/caches/default/", &form);
        assert_eq!(answer.status(), 303, "{fields:?}");
        staff.page(location(&answer)).one(".message")
    };
    let warm = || {
        for path in ["/objects/", "/objects/1/", "/objects/2/", "/objects/1/", "/objects/2/"] {
            visitor.page(path);
        }
    };
    let is_hit = |path: &str| header(&visitor.get(path), "cache-status").contains("hit");
    warm();
    assert!(act(&[("action", "purge"), ("what", "/objects/1/")]).contains("Purged http://127.0.0.1"));
    assert!(!is_hit("/objects/1/") && is_hit("/objects/2/"));
    assert!(act(&[("action", "purge"), ("what", "/objects/1/x")]).contains("was there"));
    warm();
    assert!(act(&[("action", "purge"), ("what", "/objects/*")]).contains("Purged all pages under"));
    assert!(!is_hit("/objects/1/") && !is_hit("/objects/2/"));
    warm();
    let message = act(&[("action", "invalidate"), ("what", " object:2 , object:3 ")]);
    assert!(message.contains("Invalidated object:2, object:3.") && message.contains("1 page"), "{message}");
    assert!(is_hit("/objects/1/") && !is_hit("/objects/2/"));
    assert!(staff.page("/admin/caches/default/key/?key=objects").one(".lead").contains("A look-up hits."));
    assert!(act(&[("action", "delete"), ("key", "objects")]).contains("“objects” was deleted."));
    assert!(act(&[("action", "delete"), ("key", "objects")]).contains("was not there"));
    assert!(site.log().contains("cause=\"admin by admin\""), "{}", site.log());
    warm();
    act(&[("action", "clear")]);
    assert!(!is_hit("/objects/1/") && !is_hit("/objects/2/"));
    for what in ["nonsense", "*", "//evil.test/"] {
        assert!(act(&[("action", "purge"), ("what", what)]).contains("Enter a path"), "{what}");
    }
    let odd = ["http://", "https://*", "/*?*", " , ", "x y"];
    for (action, what) in ["purge", "invalidate"].iter().flat_map(|action| odd.map(|what| (*action, what))) {
        act(&[("action", action), ("what", what)]);
    }
    for (key, leads) in [("", ""), ("%20", ""), ("/objects/1/", "?find=%2Fobjects%2F1%2F")] {
        let answer = staff.get(&format!("/admin/caches/default/key/?key={key}"));
        assert_eq!(location(&answer), format!("/admin/caches/default/{leads}"));
    }
    let long = "k".repeat(10_000);
    assert!(staff.page(&format!("/admin/caches/default/key/?key={long}")).one(".lead").contains("A look-up misses."));
    assert_eq!(staff.submit("/admin/caches/default/clear/", &[("action", "nonsense")]).status(), 405);
}

#[test]
fn what_saves_time_is_told_from_what_is_no_use() {
    let site = Site::start();
    let (visitor, staff) = (site.visitor(), site.staff());
    for number in 1..4 {
        visitor.page(&format!("/categories/1/?unlike-the-others={number}"));
    }
    for _ in 0..9 {
        visitor.page("/objects/1/");
    }
    let page = staff.page("/admin/caches/default/");
    let of = |heading: &str| page.all(&format!("section[aria-labelledby={heading}] tbody tr"));
    let words = |row: &str| row.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let worth: Vec<_> = of("worth").iter().map(|row| words(row)).collect();
    let objects = worth.iter().find(|row| row[1] == "/objects/#/").unwrap_or_else(|| panic!("{}", page.0));
    assert_eq!(objects[2..6].join(" "), "89 % of 9", "{objects:?}");
    assert!(objects[6..].iter().all(|word| word != "–"), "what it takes is known of pages too: {objects:?}");
    let waste = of("waste").join(" ");
    assert!(waste.contains("/categories/#/") && waste.contains("stored 3 times, never found"), "{waste}");
}

#[test]
fn a_store_that_is_down_is_said_to_be() {
    let server = larder_cache::conformance::server::MemcachedServer::start();
    let address = format!("memcached://{}", server.address());
    let site = Site::start_with(&[("CACHE_URL", &address)]);
    let staff = site.staff();
    assert_eq!(staff.page("/admin/caches/").one("td .badge"), "answers");
    drop(server);
    let page = staff.page("/admin/caches/");
    assert_eq!(page.one("td .badge"), "down");
    let page = staff.page("/admin/caches/default/");
    assert!(page.one("[role=alert]").contains("The store does not answer"), "{}", page.0);
    let page = staff.page("/admin/caches/default/key/?key=objects");
    assert!(page.one("pre").contains("store does not answer"), "{}", page.0);
}
