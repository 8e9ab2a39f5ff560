//! What visitors see, and what is cached of it.

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use crate::site::{Site, Visitor, header};

#[test]
fn home_is_slow_once_and_then_shows_the_same_time() {
    let site = Site::start();
    let visitor = site.visitor();
    let started = Instant::now();
    let first = visitor.get("/");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(header(&first, "cache-control"), "max-age=300");
    assert_ne!(header(&first, "expires"), "");
    assert!(header(&first, "cache-status").contains("stored"));
    let first = first.text().unwrap();
    assert!(first.contains("Results received!") && first.contains("Get new data"));

    let started = Instant::now();
    let second = visitor.get("/");
    assert!(started.elapsed() < Duration::from_millis(500));
    assert!(header(&second, "cache-status").starts_with("larder; hit"));
    assert!(header(&second, "age").parse::<u64>().is_ok());
    assert_eq!(second.text().unwrap(), first);
}

#[test]
fn metrics_count_what_the_caches_do_and_are_for_this_machine_alone() {
    let site = Site::start();
    let visitor = site.visitor();
    let count = |line: &str| {
        let text = visitor.get("/metrics").text().unwrap();
        let found = text.lines().find_map(|is| is.strip_prefix(line)?.trim().parse::<f64>().ok());
        found.unwrap_or_default()
    };
    let hits = r##"larder_cache_hits_total{alias="default",kind="page",group="/objects/#/",stale="false"}"##;
    let misses = r##"larder_cache_misses_total{alias="default",kind="page",group="/objects/#/",reason="absent"}"##;
    ["/objects/1/", "/objects/2/", "/objects/1/"].iter().for_each(|path| drop(visitor.page(path)));
    assert_eq!((count(hits), count(misses)), (1.0, 2.0));
    visitor.page("/objects/2/");
    assert_eq!(count(hits), 2.0);
    let answer = visitor.get("/metrics");
    assert_eq!(header(&answer, "content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(header(&answer, "cache-control").contains("no-store"));
    let proxied =
        visitor.request(reqwest::Method::GET, "/metrics").header("X-Forwarded-For", "203.0.113.7").send().unwrap();
    assert_eq!(proxied.status(), 404);
    let closed = Site::start_with(&[("LARDER__SERVER__METRICS_ALLOW", "[]")]);
    assert_eq!(closed.visitor().get("/metrics").status(), 404);
}

#[test]
fn metrics_are_not_cached_with_the_whole_site_nor_read_by_who_pretends() {
    let site = Site::start_with(&[("LARDER__SITE_CACHE__ENABLED", "true"), ("LARDER__SITE_CACHE__SECONDS", "60")]);
    let visitor = site.visitor();
    let invalidated = r##"larder_cache_invalidations_total{alias="default",kind="tag",group="object:*"} "##;
    let stored = r##"larder_cache_stored_total{alias="default",kind="page",group="/objects/#/"} "##;
    let invalidations = || {
        let text = visitor.get("/metrics").text().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(invalidated));
        line.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    for number in 1..=3 {
        visitor.page(&format!("/objects/{number}/"));
        let text = visitor.get("/metrics").text().unwrap();
        assert!(text.contains(&format!("{stored}{number}\n")), "{text}");
        assert!(!text.contains("object:1") && !text.contains("/objects/1/"), "no key is a label: {text}");
    }
    let before = invalidations();
    assert_eq!(site.staff().submit("/admin/objects/1/change/", &[("title", "Jam pan")]).status(), 303);
    assert_eq!(invalidations(), before + 1);
    assert!(!site.log().contains("stored page=/metrics"));
    let proxied = visitor.request(reqwest::Method::GET, "/metrics").header("x-forwarded-for", "203.0.113.7");
    assert_eq!(
        visitor.send(proxied).status(),
        404,
        "the page cache keeps the field from the view, not from the answer"
    );

    let elsewhere = Site::start_with(&[("LARDER__SERVER__METRICS_ALLOW", "[\"203.0.113.7\"]")]);
    for name in ["x-forwarded-for", "x-real-ip", "forwarded"] {
        let request = elsewhere.visitor().request(reqwest::Method::GET, "/metrics").header(name, "203.0.113.7");
        assert_eq!(elsewhere.visitor().send(request).status(), 404, "{name}");
    }
}

#[test]
fn every_object_has_a_page_of_its_own_in_the_cache() {
    let site = Site::start();
    let visitor = site.visitor();
    let (one, two) = (visitor.page("/objects/1/"), visitor.page("/objects/2/"));
    assert_ne!(one.one("h1"), two.one("h1"));
    assert_eq!(visitor.page("/objects/1/"), one);
    assert_eq!(visitor.page("/objects/2/"), two);
    for path in ["/objects/1/", "/objects/2/"] {
        assert!(header(&visitor.get(path), "cache-status").starts_with("larder; hit"));
    }
}

#[test]
fn the_list_comes_from_the_fragment_and_the_name_does_not() {
    let site = Site::start();
    let stranger = site.visitor();
    let staff = site.staff();
    let (public, personal) = (stranger.page("/objects/"), staff.page("/objects/"));
    assert!(personal.one(".account").contains("admin") && !public.one(".account").contains("admin"));
    assert_eq!(public.one(".fragment"), personal.one(".fragment"), "made at the same moment");
    assert!(!stranger.page("/objects/").one(".account").contains("admin"));
    let log = site.log();
    assert!(log.contains("hit fragment=object_list alias=default took_us="), "{log}");
    assert_eq!(log.matches("miss key=objects").count(), 1, "the query ran once: {log}");
}

#[test]
fn the_cached_view_is_made_once_and_shows_each_his_name() {
    let site = Site::start();
    let stranger = site.visitor();
    let staff = site.staff();
    let (public, personal) = (stranger.page("/levels/view/"), staff.page("/levels/view/"));
    assert_eq!(public.one(".answered"), personal.one(".answered"), "made at the same moment");
    assert!(personal.one(".account").contains("admin") && !public.one(".account").contains("admin"));
    let again = stranger.get("/levels/view/");
    assert!(header(&again, "cache-status").starts_with("larder; hit"));
    assert_eq!(header(&again, "cache-control"), "private, no-store");
    assert!(!again.text().unwrap().contains("admin</a>"));
    assert!(site.log().contains("hit page=/levels/view/"), "{}", site.log());
}

#[test]
fn the_levels_stand_side_by_side() {
    let site = Site::start();
    let levels = site.visitor().page("/levels/");
    assert_eq!(levels.all("section.panel h2").len(), 4);
    assert_eq!(levels.all("section.panel pre").len(), 4);
    assert!(levels.one("section[aria-labelledby=level-value] .state").starts_with("Miss"));
    let again = site.visitor().page("/levels/");
    assert!(again.one("section[aria-labelledby=level-value] .state").starts_with("Hit"));
    let fragment = "section[aria-labelledby=level-fragment] .state";
    assert_eq!(again.one(fragment), levels.one(fragment));
}

#[test]
fn addresses_that_lead_nowhere_say_so() {
    let site = Site::start();
    let visitor = site.visitor();
    for path in ["/nowhere/", "/objects/99999/", "/objects/99999999999999999999999/", "/static/nothing.css"] {
        let answer = visitor.get(path);
        assert_eq!(answer.status(), 404, "{path}");
        assert_eq!(header(&answer, "cache-control"), "no-store");
        assert!(answer.text().unwrap().contains("Not found"));
    }
    let answer = visitor.send(visitor.request(reqwest::Method::POST, "/objects/1/"));
    assert_eq!(answer.status(), 405);
    assert_eq!(visitor.get("/objects").status(), 308);
}

#[test]
fn an_unpublished_object_is_not_shown() {
    let site = Site::start();
    let staff = site.staff();
    let listed = site.visitor().page("/objects/").all(".jars h2").len();
    assert_eq!(staff.submit("/admin/objects/1/change/", &[]).status(), 303);
    let mut form = staff.page("/admin/objects/1/change/").form();
    form.remove("published");
    assert_eq!(staff.post("/admin/objects/1/change/", &form).status(), 303);
    assert_eq!(site.visitor().get("/objects/1/").status(), 404);
    assert_eq!(site.visitor().page("/objects/").all(".jars h2").len(), listed - 1);
}

#[test]
fn head_answers_as_get_without_a_body() {
    let site = Site::start();
    let visitor = site.visitor();
    let page = visitor.page("/objects/1/");
    for path in ["/objects/1/", "/objects/"] {
        let answer = visitor.send(visitor.request(reqwest::Method::HEAD, path));
        assert_eq!(answer.status(), 200, "{path}");
        assert_ne!(header(&answer, "content-length"), "0");
        assert_eq!(answer.text().unwrap(), "");
    }
    let answer = visitor.send(visitor.request(reqwest::Method::HEAD, "/objects/1/"));
    assert_eq!(header(&answer, "content-length"), page.0.len().to_string());
}

#[test]
fn other_hosts_are_refused() {
    let site = Site::start();
    let visitor = site.visitor();
    for host in ["evil.test", "", "127.0.0.1@evil.test"] {
        let answer = visitor.send(visitor.request(reqwest::Method::GET, "/objects/1/").header("host", host));
        assert_eq!(answer.status(), 400, "{host}");
    }
}

#[test]
fn the_slow_api_answers_as_httpbin_does() {
    let site = Site::start();
    let visitor = site.visitor();
    let answer: serde_json::Value = visitor.get("/delay/0?a=b").json().unwrap();
    assert_eq!(answer["args"]["a"], "b");
    assert_eq!(answer["url"], format!("{}/delay/0?a=b", site.address));
    for path in ["/delay/soon", "/delay/-1"] {
        assert_eq!(visitor.get(path).status(), 400, "{path}");
    }
}

#[test]
fn the_whole_site_can_be_cached() {
    let site = Site::start_with(&[("LARDER__SITE_CACHE__ENABLED", "true"), ("LARDER__SITE_CACHE__SECONDS", "60")]);
    let visitor = site.visitor();
    let levels = visitor.page("/levels/");
    assert_eq!(visitor.page("/levels/"), levels);
    assert!(header(&visitor.get("/levels/"), "cache-status").starts_with("larder; hit"));
    let personal = site.staff().get("/levels/");
    assert!(header(&personal, "cache-status").contains("bypass"));
    assert!(personal.text().unwrap().contains("admin"));
    assert!(!header(&site.visitor().get("/admin/login/"), "cache-status").contains("; stored"));
}

/// Answers each connection with these bytes after a while.
fn api(answer: &'static str, delay: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 1024]);
            thread::sleep(delay);
            let _ = connection.write_all(answer.as_bytes());
        }
    });
    address
}

fn home_with_upstream(upstream: &str) -> (reqwest::StatusCode, String, Visitor) {
    let site = Site::start_with(&[
        ("UPSTREAM_BASE_URL", upstream),
        ("LARDER__UPSTREAM__TIMEOUT_SECONDS", "1"),
        ("LARDER__UPSTREAM__DELAY_SECONDS", "0"),
    ]);
    let visitor = site.visitor();
    let answer = visitor.get("/");
    assert!(!header(&answer, "cache-status").contains("; stored"));
    assert_eq!(header(&answer, "cache-control"), "no-store");
    let again = visitor.get("/");
    assert_eq!(again.status(), answer.status(), "an error is made anew each time");
    (answer.status(), answer.text().unwrap(), visitor)
}

#[test]
fn an_api_that_is_down_slow_or_limited_has_a_plain_page() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (status, page, _) = home_with_upstream(&format!("http://{closed}"));
    assert_eq!((status.as_u16(), page.contains("The API does not answer")), (502, true));

    let slow = api("", Duration::from_secs(3));
    let (status, page, _) = home_with_upstream(&slow);
    assert_eq!((status.as_u16(), page.contains("The API is too slow")), (504, true));

    let limited =
        api("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", Duration::ZERO);
    let (status, page, _) = home_with_upstream(&limited);
    assert_eq!((status.as_u16(), page.contains("asked too often")), (502, true));

    let broken = api("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\n<p>", Duration::ZERO);
    let (status, ..) = home_with_upstream(&broken);
    assert_eq!(status.as_u16(), 502);
}

#[test]
fn the_built_in_api_works_whatever_the_site_is_called() {
    let site = Site::start_with(&[
        ("LARDER__SERVER__ALLOWED_HOSTS", "[\"example.org\"]"),
        ("http_proxy", "http://127.0.0.1:1"),
        ("HTTP_PROXY", "http://127.0.0.1:1"),
    ]);
    let visitor = site.visitor();
    let ask = |path| visitor.send(visitor.request(reqwest::Method::GET, path).header("host", "example.org"));
    assert_eq!(ask("/").status(), 200);
    assert_eq!(visitor.get("/objects/").status(), 400);
}

#[test]
fn the_slow_api_does_not_tell_cookies() {
    let site = Site::start();
    let staff = site.staff();
    let answer: serde_json::Value = staff.get("/delay/0").json().unwrap();
    assert!(answer["headers"]["cookie"].is_null() && !answer["headers"]["host"].is_null());
}

#[test]
fn pages_with_a_name_in_them_tell_who_may_keep_them() {
    let site = Site::start();
    for answer in [site.visitor().get("/objects/"), site.staff().get("/levels/")] {
        assert_eq!(header(&answer, "vary"), "Cookie");
    }
}

#[test]
fn a_failing_middleware_has_a_page_and_a_line_in_the_log() {
    let site = Site::start();
    let staff = site.staff();
    let database = larder_models::Database::open(
        &format!("sqlite://{}", site.folder.path().join("var/larder.sqlite3").display()),
        larder_models::Signals::new(),
    );
    database
        .unwrap()
        .write(|db| {
            Ok(diesel::RunQueryDsl::execute(diesel::sql_query("ALTER TABLE session RENAME TO gone"), db.conn())?)
        })
        .unwrap();
    let answer = staff.get("/objects/");
    assert_eq!(answer.status(), 500);
    assert!(answer.text().unwrap().contains("Something went wrong"));
    let log = site.log();
    assert!(log.contains("a request failed") && log.contains("http: GET /objects/ status=500"), "{log}");
}

#[test]
fn many_visitors_of_a_cold_page_make_it_once() {
    let site = Site::start();
    thread::scope(|scope| {
        let visitors: Vec<_> = (0..20).map(|_| scope.spawn(|| site.visitor().page("/").one(".answered"))).collect();
        let times: Vec<_> = visitors.into_iter().map(|visitor| visitor.join().unwrap()).collect();
        assert!(times.iter().all(|time| *time == times[0]), "{times:?}");
    });
    assert_eq!(site.log().matches("http: GET /delay/1 ").count(), 1);
}

#[test]
fn a_page_that_a_visitor_has_is_not_sent_again_and_parts_of_it_are() {
    let site = Site::start();
    let visitor = site.visitor();
    let first = visitor.get("/objects/1/");
    let tag = header(&first, "etag").to_owned();
    let again = |name: &str, value: &str| {
        visitor.send(visitor.request(reqwest::Method::GET, "/objects/1/").header(name, value))
    };
    let not_modified = again("if-none-match", &tag);
    assert_eq!((not_modified.status().as_u16(), not_modified.text().unwrap().len()), (304, 0));
    assert_eq!(again("if-none-match", "\"other\"").status(), 200);
    let part = again("range", "bytes=0-14");
    assert_eq!((part.status().as_u16(), part.text().unwrap().as_str()), (206, "<!doctype html>"));
    site.staff().submit("/admin/objects/1/change/", &[("title", "Changed")]);
    assert_eq!(again("if-none-match", &tag).status(), 200, "an edit changes the page");
    let advertised = visitor.get("/objects/1/?utm_source=mail&fbclid=1");
    assert!(header(&advertised, "cache-status").starts_with("larder; hit"));
}
