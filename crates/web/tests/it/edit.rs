//! What the project is for: edit an object, and see it on the next load of every page that shows it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use larder_cache::conformance::server::MemcachedServer;

use crate::site::{Site, Visitor};

const PAGES: [&str; 4] = ["/objects/", "/objects/1/", "/levels/", "/levels/view/"];

/// Opens all pages twice, so that what can be cached is.
fn warm(visitor: &Visitor) {
    for path in PAGES.iter().chain(&PAGES) {
        visitor.page(path);
    }
}

fn an_edit_shows_everywhere(environment: &[(&str, &str)]) -> Site {
    let site = Site::start_with(environment);
    let (visitor, staff) = (site.visitor(), site.staff());
    warm(&visitor);
    let edit = |title: &str| {
        let answer = staff.submit("/admin/objects/1/change/", &[("title", title)]);
        assert_eq!(answer.status(), 303, "{}", answer.text().unwrap());
    };
    for title in ["A new title", "Another <b>title</b> & more"] {
        edit(title);
        assert_eq!(visitor.page("/objects/1/").one("h1"), title);
        assert!(visitor.page("/objects/").all(".jars h2").iter().any(|heading| heading == title));
        warm(&visitor);
    }

    let answer = staff.submit("/admin/objects/add/", &[("title", "Brand new"), ("body", "Text")]);
    assert_eq!(answer.status(), 303);
    assert_eq!(visitor.page("/objects/").all(".jars h2")[0], "Brand new");
    let levels = visitor.page("/levels/");
    for level in ["fragment", "value"] {
        assert!(levels.one(&format!("section[aria-labelledby=level-{level}] .state")).contains("Brand new"));
    }

    warm(&visitor);
    let answer = staff.submit("/admin/objects/1/delete/", &[]);
    assert_eq!(answer.status(), 303);
    assert_eq!(visitor.get("/objects/1/").status(), 404);
    assert!(!visitor.page("/objects/").all(".jars h2").contains(&"Another <b>title</b> & more".to_owned()));
    site
}

/// The lines that an edit of object 1 leaves after all pages were opened.
fn assert_log(site: &Site) {
    let log = site.log();
    // On a store of this process alone it is for those who look closely: nothing had the tag.
    let without_entries = r#" cache: invalidated tag=object alias=default cause="post_save Object#1" entries=0"#;
    assert!(["INFO ", "DEBUG"].iter().any(|level| log.contains(&format!("{level}{without_entries}"))), "{log}");
    for expected in [
        r#"INFO  cache: invalidated tag=object/published alias=default cause="post_save Object#1" entries=4 removed="fragment levels_newest, fragment object_list, key objects, page /levels/view/""#,
        r#"INFO  cache: invalidated tag=object:1 alias=default cause="post_save Object#1" entries=1 removed="page /objects/1/""#,
        r#"INFO  cache: invalidated tag=object:1 alias=default cause="post_delete Object#1 and 1 more""#,
        "DEBUG cache: hit page=/objects/1/ alias=default took_us=",
        "DEBUG cache: miss page=/objects/1/ alias=default reason=\"tag object:1 changed\"",
    ] {
        assert!(log.contains(expected), "{expected} is not in {log}");
    }
}

#[test]
fn on_locmem() {
    assert_log(&an_edit_shows_everywhere(&[]));
}

#[test]
fn on_memcached() {
    let server = MemcachedServer::start();
    assert_log(&an_edit_shows_everywhere(&[("CACHE_URL", &format!("memcached://{}", server.address()))]));
}

#[test]
fn on_memcached_through_r2d2() {
    let server = MemcachedServer::start();
    assert_log(&an_edit_shows_everywhere(&[("CACHE_URL", &format!("memcached://{}?driver=r2d2", server.address()))]));
}

#[test]
fn on_files() {
    let folder = tempfile::tempdir().unwrap();
    assert_log(&an_edit_shows_everywhere(&[("CACHE_URL", &format!("file://{}", folder.path().display()))]));
}

#[test]
fn in_the_database() {
    assert_log(&an_edit_shows_everywhere(&[("CACHE_URL", "db://cache_entry")]));
}

#[test]
fn without_a_cache() {
    let site = an_edit_shows_everywhere(&[("CACHE_URL", "dummy://")]);
    assert!(!site.log().contains(" hit "));
}

#[test]
fn an_edit_leaves_the_pages_of_other_objects_alone() {
    let site = Site::start();
    let (visitor, staff) = (site.visitor(), site.staff());
    let other = visitor.page("/objects/2/");
    assert_eq!(staff.submit("/admin/objects/1/change/", &[("title", "New")]).status(), 303);
    assert_eq!(visitor.page("/objects/2/"), other);
    assert!(!site.log().contains("miss page=/objects/2/ alias=default reason=\"tag"));
}

#[test]
fn an_edit_under_load_shows_everywhere() {
    let site = Site::start();
    let staff = site.staff();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also when an assertion fails.
        let _stop = StopOnDrop(&stop);
        for _ in 0..4 {
            scope.spawn(|| {
                let visitor = site.visitor();
                while !stop.load(Ordering::Relaxed) {
                    PAGES.iter().for_each(|path| drop(visitor.page(path)));
                }
            });
        }
        let visitor = site.visitor();
        let path = "/admin/objects/1/change/";
        // The first of the list, which every page shows that shows a list.
        assert_eq!(visitor.page("/objects/1/").one("h1"), visitor.page("/objects/").all(".jars h2")[0]);
        for edit in 0..60 {
            let title = format!("Edit {edit}");
            assert_eq!(staff.submit(path, &[("title", &title)]).status(), 303);
            for page in ["/objects/", "/objects/1/"] {
                assert!(visitor.page(page).0.contains(&title), "{page} does not show {title}");
            }
            let levels = visitor.page("/levels/");
            for level in ["fragment", "value"] {
                let panel = levels.one(&format!("section[aria-labelledby=level-{level}] .state"));
                assert!(panel.contains(&title), "{level} shows {panel}, not {title}");
            }
        }
    });
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_edit_shows_when_the_whole_site_is_cached() {
    let site = Site::start_with(&[("LARDER__SITE_CACHE__ENABLED", "true")]);
    let (visitor, staff) = (site.visitor(), site.staff());
    warm(&visitor);
    assert_eq!(staff.submit("/admin/objects/1/change/", &[("title", "Site-wide")]).status(), 303);
    for path in ["/objects/", "/objects/1/", "/levels/"] {
        assert!(visitor.page(path).0.contains("Site-wide"), "{path}");
    }
}
