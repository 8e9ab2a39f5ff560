//! The debug toolbar: for whom it is, and that nothing of it stays anywhere.

use std::collections::BTreeMap;

use reqwest::Method;

use crate::site::{Page, Site, Visitor, header, location};

/// Asks as a browser does that shows a page.
fn look(visitor: &Visitor, path: &str) -> reqwest::blocking::Response {
    visitor.send(visitor.request(Method::GET, path).header("accept", "text/html,*/*;q=0.8"))
}

fn bar(visitor: &Visitor, path: &str) -> String {
    Page(look(visitor, path).text().unwrap()).one(".toolbar summary")
}

#[test]
fn pages_say_what_they_took_and_what_they_took_when_they_were_made() {
    let site = Site::start();
    let visitor = site.visitor();
    let first = bar(&visitor, "/");
    assert!(first.contains("made now") && first.contains("stored"), "{first}");
    let second = bar(&visitor, "/");
    assert!(second.contains(" from cache, 1,0") && second.contains("when made at "), "{second}");

    let page = visitor.page("/");
    assert!(!page.0.contains("toolbar"), "programs get the page as it is stored");
    assert_eq!(header(&visitor.get("/"), "etag").len(), 34);
    let answer = look(&visitor, "/");
    assert_eq!(header(&answer, "cache-control"), "no-store");
    assert!(answer.headers().get("etag").is_none(), "a page with a bar is not the one that is stored");
    let nothing = look(&visitor, "/nothing/");
    assert_eq!(nothing.status(), 404);
    assert!(nothing.text().unwrap().contains("class=\"toolbar\""));
}

#[test]
fn a_request_is_told_from_start_to_end() {
    let site = Site::start();
    let staff = site.staff();
    look(&staff, "/objects/");
    staff.submit("/admin/objects/1/change/", &[("title", "Told")]);
    let history = staff.page("/__toolbar/");
    let requests = history.all("tbody th a");
    assert!(requests.iter().any(|one| one == "POST /admin/objects/1/change/"), "{requests:?}");
    assert!(!requests.iter().any(|one| one.contains("/static/") || one.contains("__toolbar")), "{requests:?}");
    let number = |what: &str| {
        let selector = scraper::Selector::parse("tbody th a").unwrap();
        let document = scraper::Html::parse_document(&history.0);
        let link = document.select(&selector).find(|link| link.text().collect::<String>() == what).unwrap();
        link.attr("href").unwrap().to_owned()
    };
    let list = staff.page(&number("GET /objects/"));
    let calls = list.all(".calls tbody tr");
    assert!(
        calls.iter().any(|call| call.contains("fragment object_list") && call.contains("templates/objects/list.html:"))
    );
    assert!(calls.iter().any(|call| call.contains("key objects") && call.contains("crates/web/src/pages/objects.rs:")));
    assert!(list.all(".sql").iter().any(|sql| sql.contains("FROM `object`")), "{}", list.0);
    assert!(!list.0.contains("larder_session="), "cookies are not shown");

    let edit = staff.page(&number("POST /admin/objects/1/change/"));
    let calls = edit.all(".calls tbody tr");
    assert!(calls.iter().any(|call| call.contains("invalidated") && call.contains("object_list")), "{calls:?}");
    assert!(edit.all(".sql").iter().any(|sql| sql.contains("UPDATE `object`")), "{}", edit.0);
    assert!(!edit.all(".sql").iter().any(|sql| sql.contains("Told")), "statements are shown without values");
}

#[test]
fn a_page_is_purged_and_compared() {
    let site = Site::start();
    let visitor = site.visitor();
    look(&visitor, "/");
    let page = Page(look(&visitor, "/").text().unwrap());
    assert!(page.one(".toolbar summary").contains("from cache"));
    let form = page.form_of(".toolbar form");
    let answer = visitor.post("/__toolbar/purge/", &form);
    assert_eq!((answer.status().as_u16(), location(&answer)), (303, "/"));
    assert!(bar(&visitor, "/").contains("made now"));

    let compared = visitor.page("/__toolbar/compare/?url=%2F");
    assert_eq!(compared.one(".lead .badge"), "different", "the time of the answer");
    assert!(compared.all(".diff del").iter().any(|line| line.contains("Answered at")), "{}", compared.0);
    let same = visitor.page("/__toolbar/compare/?url=%2Fobjects%2F");
    assert_eq!(same.one(".lead .badge"), "the same", "{}", same.0);
    assert!(bar(&visitor, "/__toolbar/without-cache/?url=%2F").contains("without any cache"));
    assert!(bar(&visitor, "/").contains("from cache"), "what is stored stays as it was");
}

#[test]
fn forms_from_elsewhere_purge_nothing() {
    let site = Site::start();
    let visitor = site.visitor();
    let form = Page(look(&visitor, "/").text().unwrap()).form_of(".toolbar form");
    let mut guessed = form.clone();
    guessed.insert("token".to_owned(), "0".repeat(64));
    assert_eq!(visitor.post("/__toolbar/purge/", &guessed).status(), 403);
    let body = serde_html_form::to_string(&form).unwrap();
    let request = visitor.request(Method::POST, "/__toolbar/purge/").header("origin", "https://evil.test");
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
    assert_eq!(visitor.send(request).status(), 403);
    let elsewhere =
        BTreeMap::from([("token".to_owned(), form["token"].clone()), ("url".to_owned(), "//evil.test/".to_owned())]);
    assert_eq!(visitor.post("/__toolbar/purge/", &elsewhere).status(), 400);
    for path in [
        "/__toolbar/compare/?url=http://evil.test/",
        "/__toolbar/compare/?url=/./__toolbar/compare/",
        "/__toolbar/compare/?url=/admin/../admin/live/stream/",
        "/__toolbar/without-cache/?url=//evil.test/",
    ] {
        assert_eq!(visitor.get(path).status(), 400, "{path}");
    }
    assert!(bar(&visitor, "/").contains("from cache"));
}

#[test]
fn it_is_for_those_alone_whom_the_settings_allow() {
    for environment in [
        [("LARDER__SERVER__DEBUG", "false")],
        [("LARDER__SERVER__TOOLBAR_ALLOW", "[]")],
        [("LARDER__SERVER__TOOLBAR_ALLOW", "[\"10.0.0.1\"]")],
    ] {
        let site = Site::start_with(&environment);
        let visitor = site.visitor();
        assert!(!look(&visitor, "/objects/").text().unwrap().contains("toolbar"), "{environment:?}");
        for path in ["/__toolbar/", "/__toolbar/1/", "/__toolbar/compare/?url=/", "/__toolbar/without-cache/?url=/"] {
            assert_eq!(visitor.get(path).status(), 404, "{environment:?} {path}");
        }
    }
    let site = Site::start();
    let visitor = site.visitor();
    let proxied = visitor.request(Method::GET, "/__toolbar/").header("x-forwarded-for", "10.0.0.1");
    assert_eq!(visitor.send(proxied).status(), 404);
}

#[test]
fn its_pages_are_never_stored() {
    let site = Site::start_with(&[("LARDER__SITE_CACHE__ENABLED", "true")]);
    let visitor = site.visitor();
    look(&visitor, "/objects/1/");
    for path in ["/__toolbar/", "/__toolbar/1/", "/__toolbar/compare/?url=/", "/__toolbar/without-cache/?url=/"] {
        for _ in 0..2 {
            let answer = visitor.get(path);
            assert_eq!(answer.status(), 200, "{path}");
            assert!(header(&answer, "cache-control").contains("no-store"), "{path}");
        }
        let stranger = visitor.request(Method::GET, path).header("x-forwarded-for", "10.0.0.1");
        assert_eq!(visitor.send(stranger).status(), 404, "{path}");
    }
}

/// Returns the port of the app without caches: the other one on which the process listens.
fn port_beside(site: &Site) -> u16 {
    let files = std::fs::read_dir(format!("/proc/{}/fd", site.pid())).unwrap().flatten();
    let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    let links = links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()));
    let sockets: Vec<String> = links.collect();
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", site.pid())).unwrap();
    let ports = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_listening = fields[3] == "0A" && sockets.iter().any(|socket| socket == fields[9]);
        is_listening.then(|| u16::from_str_radix(fields[1].rsplit(':').next().unwrap(), 16).unwrap())
    });
    let mut others = ports.filter(|port| !site.address.ends_with(&format!(":{port}")));
    others.next().expect("the app without caches listens")
}

#[test]
fn the_app_without_caches_answers_the_toolbar_alone_and_writes_nothing() {
    let site = Site::start();
    let staff = site.staff();
    let form = staff.page("/admin/objects/1/change/").form();
    let beside = format!("http://127.0.0.1:{}", port_beside(&site));
    let client = reqwest::blocking::Client::new();
    assert_eq!(client.get(format!("{beside}/")).send().unwrap().status(), 404);
    let post = client.post(format!("{beside}/admin/objects/1/change/")).header("cookie", staff.cookie());
    let post = post.body(serde_html_form::to_string(&form).unwrap());
    assert_eq!(post.send().unwrap().status(), 404);
    assert!(!staff.page("/__toolbar/").all("tbody th a").is_empty());
    staff.page("/__toolbar/compare/?url=/objects/");
    let asked = staff.page("/__toolbar/").all("tbody th a");
    assert!(!asked.iter().any(|one| one == "GET /objects/"), "its own requests are those of no visitor: {asked:?}");
}
