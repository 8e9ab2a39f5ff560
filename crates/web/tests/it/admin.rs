//! The admin: who gets in, what forms do, and that nothing of it is cached.

use std::collections::BTreeMap;

use crate::site::{Page, Site, header, location, run};

#[test]
fn strangers_are_sent_to_the_sign_in_page_and_back() {
    let site = Site::start();
    let stranger = site.visitor();
    for path in ["/admin/", "/admin/objects/", "/admin/objects/1/change/", "/admin/nothing/"] {
        let answer = stranger.get(path);
        assert_eq!(answer.status(), 303, "{path}");
        assert!(location(&answer).starts_with("/admin/login/?next=%2Fadmin%2F"), "{path}");
    }
    let answer = stranger.get("/admin/objects/?q=jam");
    let login = location(&answer).to_owned();
    let answer = stranger.submit(&login, &[("username", "admin"), ("password", &site.password)]);
    assert_eq!(location(&answer), "/admin/objects/?q=jam");
    assert_eq!(stranger.get("/admin/nothing/").status(), 404);
}

#[test]
fn a_wrong_password_says_neither_more_nor_less() {
    let site = Site::start();
    let wrong = |username: &str, password: &str| {
        let answer = site.visitor().submit("/admin/login/", &[("username", username), ("password", password)]);
        assert_eq!(answer.status(), 401);
        Page(answer.text().unwrap()).one("main [role=alert], main .errors")
    };
    assert_eq!(wrong("admin", "wrong password"), wrong("nobody", "wrong password"));
}

#[test]
fn signing_in_changes_the_session_and_signing_out_ends_it() {
    let site = Site::start();
    let visitor = site.visitor();
    let cookie = |answer: &reqwest::blocking::Response| header(answer, "set-cookie").to_owned();
    let before = cookie(&visitor.get("/admin/login/"));
    assert!(before.contains("HttpOnly") && before.contains("SameSite=Lax"), "{before}");
    let after = cookie(&visitor.submit("/admin/login/", &[("username", "admin"), ("password", &site.password)]));
    assert_ne!(before.split(';').next(), after.split(';').next());

    let stolen = after.split(';').next().unwrap().to_owned();
    let page = visitor.get("/admin/").text().unwrap();
    let token =
        Page(page).0.split("name=\"csrf_token\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let answer = visitor.post("/admin/logout/", &BTreeMap::from([("csrf_token".to_owned(), token)]));
    assert_eq!(answer.status(), 303);
    let thief = site.visitor();
    let answer = thief.send(thief.request(reqwest::Method::GET, "/admin/").header("cookie", stolen));
    assert_eq!(answer.status(), 303, "the session is gone from the server");
}

#[test]
fn forms_from_elsewhere_are_refused() {
    let site = Site::start();
    let staff = site.staff();
    let form = staff.page("/admin/objects/1/change/").form();
    let mut without = form.clone();
    without.insert("csrf_token".to_owned(), "0".repeat(64));
    for path in ["/admin/objects/1/change/", "/admin/objects/add/", "/admin/objects/1/delete/", "/admin/logout/"] {
        assert_eq!(staff.post(path, &without).status(), 403, "{path}");
    }
    let body = serde_html_form::to_string(&form).unwrap();
    let request =
        staff.request(reqwest::Method::POST, "/admin/objects/1/change/").header("origin", "https://evil.test");
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
    assert_eq!(staff.send(request).status(), 403);
}

#[test]
fn nothing_of_it_is_cached() {
    let site = Site::start();
    let staff = site.staff();
    for path in
        ["/admin/", "/admin/objects/", "/admin/objects/1/change/", "/admin/objects/add/", "/admin/objects/1/delete/"]
    {
        let answer = staff.get(path);
        assert_eq!(answer.status(), 200, "{path}");
        assert!(header(&answer, "cache-control").contains("no-store"), "{path}");
    }
    assert!(header(&site.visitor().get("/admin/login/"), "cache-control").contains("no-store"));
}

#[test]
fn the_list_searches_orders_and_turns_pages() {
    let site = Site::start();
    let staff = site.staff();
    let titles = |path: &str| staff.page(path).all("tbody tr a");
    let all: Vec<String> = [titles("/admin/objects/"), titles("/admin/objects/?p=2")].concat();
    assert_eq!(all.len(), 24);
    let by_title: Vec<String> = [titles("/admin/objects/?o=title"), titles("/admin/objects/?o=title&p=2")].concat();
    let reversed: Vec<String> = [titles("/admin/objects/?o=-title"), titles("/admin/objects/?o=-title&p=2")].concat();
    assert_eq!(by_title.iter().rev().collect::<Vec<_>>(), reversed.iter().collect::<Vec<_>>());
    let word = all[0].split(' ').next().unwrap();
    assert!(titles(&format!("/admin/objects/?q={word}")).contains(&all[0]));
    assert!(titles("/admin/objects/?q=no-such-word-anywhere").is_empty());
    assert_eq!(titles("/admin/objects/?o=nonsense&p=nonsense").len(), 20);
    assert_eq!(staff.get("/admin/objects/?q=%25&p=99999999999").status(), 200);
}

#[test]
fn a_form_with_errors_keeps_what_was_entered() {
    let site = Site::start();
    let staff = site.staff();
    for path in ["/admin/objects/add/", "/admin/objects/1/change/"] {
        let answer = staff.submit(path, &[("title", "   "), ("body", "Kept <b>text</b>")]);
        assert_eq!(answer.status(), 422, "{path}");
        let page = Page(answer.text().unwrap());
        assert_eq!(page.form()["body"].trim(), "Kept <b>text</b>");
        assert!(!page.all("#title-errors, [id^=title] .error, .errors").is_empty(), "{}", page.0);
    }
    let long = "x".repeat(201);
    let answer = staff.submit("/admin/objects/add/", &[("title", &long)]);
    assert_eq!(answer.status(), 422);
    assert_eq!(Page(answer.text().unwrap()).form()["title"], long);
}

#[test]
fn the_buttons_lead_where_they_say() {
    let site = Site::start();
    let staff = site.staff();
    let after = |button: &str| {
        let answer = staff.submit("/admin/objects/1/change/", &[("title", button), (button, "1")]);
        location(&answer).to_owned()
    };
    assert_eq!(after("_save"), "/admin/objects/");
    assert_eq!(after("_continue"), "/admin/objects/1/change/");
    assert_eq!(after("_addanother"), "/admin/objects/add/");
    assert!(staff.page("/admin/objects/").0.contains("“_addanother” was saved."));
    assert!(!staff.page("/admin/objects/").0.contains("“_addanother” was saved."), "a message is shown once");
}

#[test]
fn of_two_editors_the_second_is_told() {
    let site = Site::start();
    let (first, second) = (site.staff(), site.staff());
    let mut theirs = second.page("/admin/objects/1/change/").form();
    assert_eq!(first.submit("/admin/objects/1/change/", &[("title", "First")]).status(), 303);
    theirs.insert("title".to_owned(), "Second".to_owned());
    let answer = second.post("/admin/objects/1/change/", &theirs);
    assert_eq!(answer.status(), 409);
    let page = Page(answer.text().unwrap());
    assert!(page.0.contains("Somebody else saved this object"));
    assert_eq!(site.visitor().page("/objects/1/").one("h1"), "First");
    assert_eq!(second.post("/admin/objects/1/change/", &page.form()).status(), 303);
    assert_eq!(site.visitor().page("/objects/1/").one("h1"), "Second");
}

#[test]
fn an_object_that_is_gone_leads_back_to_the_list() {
    let site = Site::start();
    let staff = site.staff();
    let delete = staff.page("/admin/objects/1/delete/").form();
    assert_eq!(staff.post("/admin/objects/1/delete/", &delete).status(), 303);
    for path in ["/admin/objects/1/change/", "/admin/objects/1/delete/", "/admin/objects/99999999999999999999/change/"]
    {
        let answer = staff.get(path);
        assert_eq!((answer.status().as_u16(), location(&answer)), (303, "/admin/objects/"), "{path}");
    }
    assert_eq!(staff.post("/admin/objects/1/delete/", &delete).status(), 303);
    assert!(staff.page("/admin/").0.contains("deleted"), "the history says so");
}

#[test]
fn a_form_that_is_too_large_is_refused() {
    let site = Site::start();
    let staff = site.staff();
    let answer = staff.submit("/admin/objects/add/", &[("title", "Large"), ("body", &"x".repeat(400_000))]);
    assert_eq!(answer.status(), 413);
    let answer = staff.submit("/admin/objects/add/", &[("title", "Long"), ("body", &"x".repeat(20_001))]);
    assert_eq!(answer.status(), 422);
}

#[test]
fn a_new_password_ends_all_sessions() {
    let site = Site::start();
    let staff = site.staff();
    assert_eq!(staff.get("/admin/").status(), 200);
    let output = run(site.folder.path(), &["createsuperuser"], &[("LARDER_SUPERUSER_PASSWORD", "another password")]);
    assert!(output.status.success());
    assert_eq!(staff.get("/admin/").status(), 303);
}

#[test]
fn what_was_sent_without_a_session_is_said_to_be_lost() {
    let site = Site::start();
    let form = site.staff().page("/admin/objects/1/change/").form();
    let stranger = site.visitor();
    let answer = stranger.post("/admin/objects/1/change/", &form);
    assert_eq!(answer.status(), 303);
    assert!(stranger.page(location(&answer)).0.contains("was not saved"));
}

#[test]
fn saving_without_a_change_changes_nothing() {
    let site = Site::start();
    let staff = site.staff();
    let before = staff.page("/admin/objects/1/change/").form()["version"].clone();
    assert_eq!(staff.submit("/admin/objects/1/change/", &[]).status(), 303);
    assert!(staff.page("/admin/objects/").0.contains("Nothing was changed."));
    assert_eq!(staff.page("/admin/objects/1/change/").form()["version"], before);
}

#[test]
fn titles_that_nobody_can_see_are_refused() {
    let site = Site::start();
    let staff = site.staff();
    for title in ["\u{200b}", "\u{202e}", "a\u{7}b", "nul\0"] {
        assert_eq!(staff.submit("/admin/objects/add/", &[("title", title)]).status(), 422, "{title:?}");
    }
    assert_eq!(staff.submit("/admin/objects/add/", &[("title", "❤")]).status(), 303);
}
