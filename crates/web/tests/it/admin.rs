//! The admin: who gets in, what forms do, and that nothing of it is cached.

use std::collections::BTreeMap;

use larder_models::{Group, Link, Model, NewGroup, NewObject, NewUser, Object, Password, User, UserGroup};

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
fn whoever_guesses_passwords_must_wait() {
    let site = Site::start();
    let visitor = site.visitor();
    let sign_in = |username: &str, password: &str| {
        visitor.submit("/admin/login/", &[("username", username), ("password", password)])
    };
    for _ in 0..5 {
        assert_eq!(sign_in("admin", "a guess").status(), 401);
    }
    let answer = sign_in("admin", &site.password);
    assert_eq!(answer.status(), 429, "the right password comes too early, too");
    let seconds: u64 = header(&answer, "retry-after").parse().unwrap();
    assert!((1..=6).contains(&seconds), "{seconds}");
    assert!(answer.text().unwrap().contains("Try again in"));
    assert_eq!(sign_in("nobody", "a guess").status(), 401, "others need not wait");
    std::thread::sleep(std::time::Duration::from_secs(seconds));
    assert_eq!(sign_in("admin", &site.password).status(), 303);
    assert!(site.log().contains("the password of \"admin\" from 127.0.0.1 was wrong"), "{}", site.log());
}

#[test]
fn guesses_that_are_sent_at_once_are_counted_too() {
    let site = Site::start();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let guess = |_| {
            scope.spawn(|| {
                let visitor = site.visitor();
                visitor.submit("/admin/login/", &[("username", "admin"), ("password", "a guess")]).status().as_u16()
            })
        };
        let guesses: Vec<_> = (0..16).map(guess).collect();
        guesses.into_iter().map(|guess| guess.join().unwrap()).collect()
    });
    let looked_at = statuses.iter().filter(|status| **status == 401).count();
    assert_eq!((looked_at, statuses.len()), (5, 16), "{statuses:?}");
}

#[test]
fn guesses_whose_answer_nobody_awaits_are_counted_too() {
    use std::io::Write;
    let site = Site::start();
    let visitor = site.visitor();
    let form = visitor.page("/admin/login/").form();
    let guess = BTreeMap::from([("username".to_owned(), "admin".to_owned()), ("password".to_owned(), "x".to_owned())]);
    let body = serde_html_form::to_string(form.into_iter().chain(guess).collect::<BTreeMap<_, _>>()).unwrap();
    let (host, cookie, length) = (site.address.strip_prefix("http://").unwrap(), visitor.cookie(), body.len());
    for _ in 0..8 {
        let mut guess = std::net::TcpStream::connect(host).unwrap();
        write!(
            guess,
            "POST /admin/login/ HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\ncontent-length: {length}\r\n\
             content-type: application/x-www-form-urlencoded\r\n\r\n{body}"
        )
        .unwrap();
        // Long enough for the password to be looked at, not for the answer.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let counted = || site.log().matches("the password of \"admin\"").count();
    let asked = std::time::Instant::now();
    while counted() < 5 && asked.elapsed().as_secs() < 20 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let answer = visitor.submit("/admin/login/", &[("username", "admin"), ("password", &site.password)]);
    assert_eq!((answer.status().as_u16(), counted()), (429, 5));
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
    let (staff, other) = (site.staff(), site.staff());
    let form = staff.page("/admin/objects/1/change/").form();
    let with = |token: Option<&str>| {
        let mut form = form.clone();
        form.remove("csrf_token");
        form.extend(token.map(|token| ("csrf_token".to_owned(), token.to_owned())));
        let password = &*site.password;
        let others = [("username", "admin"), ("password", password), ("action", "clear"), ("pk", "1")];
        for (name, value) in others.into_iter().chain(["old", "new", "again"].map(|name| (name, password))) {
            form.insert(name.to_owned(), value.to_owned());
        }
        form
    };
    let (guessed, of_another) = ("0".repeat(64), other.page("/admin/").form_of("form.account")["csrf_token"].clone());
    for path in [
        "/admin/login/",
        "/admin/logout/",
        "/admin/password/",
        "/admin/objects/add/",
        "/admin/objects/action/",
        "/admin/objects/1/change/",
        "/admin/objects/1/delete/",
        "/admin/users/1/change/",
        "/admin/caches/default/",
    ] {
        assert!([400, 403].contains(&staff.post(path, &with(None)).status().as_u16()), "{path}");
        for token in ["", &*guessed, &*of_another] {
            assert_eq!(staff.post(path, &with(Some(token))).status(), 403, "{path} {token:?}");
        }
        let body = serde_html_form::to_string(with(Some(&form["csrf_token"]))).unwrap();
        for (name, value) in [("origin", "https://evil.test"), ("origin", "null")] {
            let request = staff.request(reqwest::Method::POST, path).header(name, value);
            let request = request.header("content-type", "application/x-www-form-urlencoded").body(body.clone());
            assert_eq!(staff.send(request).status(), 403, "{path} {name}: {value}");
        }
    }
    assert_eq!(staff.get("/admin/objects/1/change/").status(), 200, "still signed in");
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
    assert!(page.0.contains("Somebody else saved this meanwhile") && page.0.contains("admin changed it at"));
    assert_eq!(page.all(".version"), ["First", "Second"]);
    assert_eq!(site.visitor().page("/objects/1/").one("h1"), "First");
    let mut choice = page.form();
    assert!(!choice.contains_key("_take_title"), "both have changed it, so nothing is chosen for them");
    assert_eq!(second.post("/admin/objects/1/change/", &choice).status(), 409, "and they must choose");
    choice.insert("_take_title".to_owned(), "mine".to_owned());
    assert_eq!(second.post("/admin/objects/1/change/", &choice).status(), 303);
    assert_eq!(site.visitor().page("/objects/1/").one("h1"), "Second");
}

#[test]
fn what_only_one_of_two_editors_has_changed_is_chosen_for_them() {
    let site = Site::start();
    let (first, second) = (site.staff(), site.staff());
    let path = "/admin/objects/1/change/";
    let mut mine = second.page(path).form();
    assert_eq!(first.submit(path, &[("title", "Their title"), ("category_id", "2")]).status(), 303);
    mine.insert("body".to_owned(), "My text".to_owned());
    mine.remove("published");
    let answer = second.post(path, &mine);
    assert_eq!(answer.status(), 409);
    let choice = Page(answer.text().unwrap()).form();
    let taken = ["title", "category_id", "body", "published"].map(|name| &*choice[&format!("_take_{name}")]);
    assert_eq!(taken, ["theirs", "theirs", "mine", "mine"]);
    assert_eq!(second.post(path, &choice).status(), 303);
    let stored = second.page(path).form();
    assert_eq!((&*stored["title"], &*stored["body"], &*stored["category_id"]), ("Their title", "My text", "2"));
    assert!(!stored.contains_key("published"));
}

#[test]
fn a_conflict_does_not_show_the_new_password() {
    let site = Site::start();
    let (first, second) = (site.staff(), site.staff());
    let new = [("username", "anna"), ("password", "quince jelly"), ("is_active", "on")];
    assert_eq!(first.submit("/admin/users/add/", &new).status(), 303);
    let mut mine = second.page("/admin/users/2/change/").form();
    assert_eq!(first.submit("/admin/users/2/change/", &[("username", "anne")]).status(), 303);
    mine.insert("username".to_owned(), "annette".to_owned());
    mine.insert("password".to_owned(), "medlar cheese".to_owned());
    let answer = second.post("/admin/users/2/change/", &mine);
    assert_eq!(answer.status(), 409);
    let page = answer.text().unwrap();
    assert!(page.contains("enter the new password again") && !page.contains("medlar cheese"), "{page}");
}

#[test]
fn somebody_who_may_do_everything_is_always_left() {
    let site = Site::start();
    let staff = site.staff();
    for field in ["is_active", "is_staff", "is_superuser"] {
        let mut form = staff.page("/admin/users/1/change/").form();
        form.remove(field);
        let answer = staff.post("/admin/users/1/change/", &form);
        assert!(answer.text().unwrap().contains("This is the last active superuser."), "{field}");
    }
    assert_eq!(staff.submit("/admin/users/1/delete/", &[]).status(), 303);
    assert!(staff.page("/admin/users/").one(".message p").contains("This is the last active superuser."));
    let second =
        [("username", "anna"), ("password", "quince jelly"), ("is_active", "on"), ("is_staff", "on")].into_iter();
    let second: Vec<_> = second.chain([("is_superuser", "on")]).collect();
    assert_eq!(staff.submit("/admin/users/add/", &second).status(), 303);
    assert_eq!(staff.submit("/admin/users/1/delete/", &[]).status(), 303);
    assert!(site.database().read(|db| User::find(db, 1)).unwrap().is_none());
}

#[test]
fn whoever_signed_out_is_out_whatever_is_still_on_its_way() {
    use std::io::{Read, Write};
    let site = Site::start();
    let staff = site.staff();
    let body = serde_html_form::to_string(staff.page("/admin/objects/1/change/").form()).unwrap();
    let (host, cookie) = (site.address.strip_prefix("http://").unwrap(), staff.cookie());
    let mut slow = std::net::TcpStream::connect(host).unwrap();
    let kind = "application/x-www-form-urlencoded";
    let length = body.len();
    write!(
        slow,
        "POST /admin/objects/1/change/ HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\ncontent-type: {kind}\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{}",
        &body[..length / 2]
    )
    .unwrap();
    // The session is loaded before the body is read.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let token = staff.page("/admin/").form_of("form[action='/admin/logout/']");
    assert_eq!(staff.post("/admin/logout/", &token).status(), 303);
    slow.write_all(&body.as_bytes()[length / 2..]).unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
    let set = answer.lines().filter_map(|line| line.strip_prefix("set-cookie: ")?.split(';').next());
    for cookie in set.chain([&*cookie]) {
        let thief = site.visitor();
        let answer = thief.send(thief.request(reqwest::Method::GET, "/admin/").header("cookie", cookie));
        assert_eq!(answer.status(), 303, "{cookie}");
        assert!(!thief.page("/admin/login/").0.contains("was saved"), "nor are the messages there for the next one");
    }
}

#[test]
fn a_save_that_a_cache_did_not_hear_of_says_so() {
    let site = Site::start_with(&[("CACHE_URL", "memcached://127.0.0.1:9")]);
    let staff = site.staff();
    assert_eq!(staff.submit("/admin/objects/1/change/", &[("title", "Pan")]).status(), 303);
    let said = staff.page("/admin/objects/").one(".message");
    assert!(said.contains("“Pan” was saved. The caches that do not answer now (default)"), "{said}");
    assert!(!said.contains("Nothing that is cached"), "{said}");
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
    assert_eq!((answer.status().as_u16(), header(&answer, "set-cookie")), (303, ""), "no session for a mere stranger");
    stranger.page("/admin/login/");
    let answer = stranger.post("/admin/objects/1/change/", &form);
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

#[test]
fn a_conflict_is_settled_field_by_field() {
    let site = Site::start();
    let (first, second) = (site.staff(), site.staff());
    let path = "/admin/objects/1/change/";
    let mut mine = second.page(path).form();
    assert_eq!(first.submit(path, &[("title", "Their title"), ("body", "Their text")]).status(), 303);
    mine.insert("title".to_owned(), "My title".to_owned());
    mine.insert("body".to_owned(), "My text".to_owned());
    let page = Page(second.post(path, &mine).text().unwrap());
    let mut choice = page.form();
    choice.insert("_take_title".to_owned(), "theirs".to_owned());
    choice.insert("_take_body".to_owned(), "mine".to_owned());
    assert_eq!(second.post(path, &choice).status(), 303);
    let shown = site.visitor().page("/objects/1/");
    assert_eq!((shown.one("h1"), shown.one(".prose p")), ("Their title".to_owned(), "My text".to_owned()));
}

#[test]
fn a_save_says_what_it_threw_out() {
    let site = Site::start();
    let (visitor, staff) = (site.visitor(), site.staff());
    for path in ["/objects/", "/objects/1/", "/categories/3/", "/objects/", "/objects/1/", "/categories/3/"] {
        visitor.page(path);
    }
    assert_eq!(staff.submit("/admin/categories/3/change/", &[("name", "Pots")]).status(), 303);
    let list = staff.page("/admin/categories/");
    assert_eq!(list.one(".effects summary"), "Invalidated 1 key, 1 fragment and 2 pages");
    let gone = list.all(".effects li");
    let names = ["fragment object_list", "key objects", "page /categories/3/", "page /objects/1/"];
    assert_eq!(gone, names.map(|name| format!("{name} depended on category:3")));
    assert_eq!(visitor.page("/objects/1/").all(".facts a")[0], "Pots");
}

#[test]
fn lists_are_filtered_ordered_exported_and_filters_survive_a_save() {
    let site = Site::start();
    let staff = site.staff();
    let titles = |query: &str| staff.page(&format!("/admin/objects/{query}")).all("tbody th");
    assert_eq!(titles("?published=no").len(), 4);
    assert_eq!(titles("?category=none").len(), 2);
    assert_eq!(
        titles("?category=3&o=title"),
        ["Butter mould, thistle pattern", "Cheese vat, origin unknown", "Copper jam pan"]
    );
    assert_eq!(titles("?category=3&o=-title&q=pan").first().unwrap(), "Copper jam pan");
    for odd in [
        "?published=maybe",
        "?o=password",
        "?o=title;DROP TABLE object",
        "?category=%27%20OR%201",
        "?p=-1",
        "?nothing=1",
    ] {
        assert_eq!(titles(odd).len(), 20, "{odd}");
    }
    let export = staff.get("/admin/objects/export/?category=3&o=title");
    assert!(header(&export, "content-disposition").contains("objects.csv"));
    let export = export.text().unwrap();
    assert_eq!(export.lines().count(), 4);
    assert!(export.starts_with("\"Number\",\"Title\",\"Category\",\"Published\""), "{export}");
    assert!(export.contains("\"Butter mould, thistle pattern\",\"Pans and moulds\",\"yes\""), "{export}");

    let answer = staff.submit("/admin/objects/1/change/?category=3&o=title", &[("title", "Pan")]);
    assert_eq!(location(&answer), "/admin/objects/?o=title&category=3");
    let form = staff.page("/admin/objects/1/change/").form();
    let mut elsewhere = form.clone();
    elsewhere.insert("back".to_owned(), "//evil.test/?q=1".to_owned());
    let answer = staff.post("/admin/objects/1/change/", &elsewhere);
    assert!(location(&answer).starts_with("/admin/objects/"), "{}", location(&answer));
}

#[test]
fn actions_work_on_what_is_ticked_or_on_all_that_is_found() {
    let site = Site::start();
    let (visitor, staff) = (site.visitor(), site.staff());
    let act = |query: &str, fields: &[(&str, &str)]| {
        let token = staff.page("/admin/objects/").form()["csrf_token"].clone();
        let fields = [&[("csrf_token", &*token), ("back", query)], fields].concat();
        let body = serde_html_form::to_string(fields).unwrap();
        let request = staff.request(reqwest::Method::POST, "/admin/objects/action/");
        staff.send(request.header("content-type", "application/x-www-form-urlencoded").body(body))
    };
    visitor.page("/objects/1/");
    assert_eq!(act("", &[("action", "unpublish"), ("pk", "1"), ("pk", "2")]).status(), 303);
    assert!(staff.page("/admin/objects/").one(".message p").contains("2 objects were taken off the site."));
    assert_eq!(visitor.get("/objects/1/").status(), 404);
    assert_eq!(act("published=no", &[("action", "publish"), ("all", "1")]).status(), 303);
    assert_eq!(visitor.page("/objects/").all(".jars h2").len(), 24);
    assert_eq!(location(&act("o=title", &[("action", "publish")])), "/admin/objects/?o=title");
    assert!(staff.page("/admin/objects/").one(".message p").contains("Tick some objects first."));

    let asked = act("", &[("action", "delete"), ("pk", "1"), ("pk", "2")]);
    assert_eq!(asked.status(), 200);
    assert!(asked.text().unwrap().contains("Delete 2 objects?"));
    assert_eq!(act("", &[("action", "delete"), ("pk", "1"), ("pk", "2"), ("confirmed", "1")]).status(), 303);
    assert_eq!(visitor.get("/objects/2/").status(), 404);
    let history = staff.page("/admin/history/?action=deleted").all("tbody td");
    assert_eq!(history.iter().filter(|cell| *cell == "deleted").count(), 2);
    let doomed = staff.page("/admin/categories/1/delete/");
    assert!(doomed.0.contains("These objects will be in no category:") && doomed.0.contains("Bread trough"));
    // Who may not see them is told how many they are.
    let keeper = member(&site, "keeper", "category.change category.delete");
    let doomed = keeper.page("/admin/categories/1/delete/");
    assert!(doomed.0.contains("which you may not see") && !doomed.0.contains("Bread trough"), "{}", doomed.0);
}

#[test]
fn all_that_is_found_is_deleted_and_nothing_else() {
    let site = Site::start();
    let staff = site.staff();
    let confirm = |query: &str| {
        let mut form = staff.page(&format!("/admin/objects/{query}")).form();
        form.insert("action".to_owned(), "delete".to_owned());
        form.insert("all".to_owned(), "1".to_owned());
        let answer = staff.post("/admin/objects/action/", &form);
        assert_eq!(answer.status(), 200);
        Page(answer.text().unwrap())
    };
    let page = confirm("");
    assert_eq!(page.one("h1"), "Delete 24 objects?");
    let form = page.form();
    assert!(!form.contains_key("pk"), "their numbers would be too many");
    assert_eq!(staff.submit("/admin/objects/add/", &[("title", "One more")]).status(), 303);
    let answer = staff.post("/admin/objects/action/", &form);
    assert_eq!(answer.status(), 200, "it is asked again");
    let again = Page(answer.text().unwrap());
    assert!(again.one("h1").contains("25") && again.0.contains("The list has changed meanwhile."), "{}", again.0);
    assert_eq!(staff.post("/admin/objects/action/", &confirm("?published=no").form()).status(), 303);
    assert!(staff.page("/admin/objects/").one("#count").starts_with("21 objects"));
    assert_eq!(staff.post("/admin/objects/action/", &confirm("").form()).status(), 303);
    assert!(staff.page("/admin/objects/").one("#count").starts_with("0 objects"));
}

#[test]
fn lists_of_any_length_are_changed_and_exported() {
    let site = Site::start();
    let staff = site.staff();
    let new = |number: u32| NewObject { title: format!("Jar {number}"), published: false, ..NewObject::default() };
    site.database().write(|db| Object::bulk_insert(db, (0..3_000).map(new))).unwrap();
    let export = staff.get("/admin/objects/export/?published=no&o=title").text().unwrap();
    let numbers: std::collections::BTreeSet<&str> =
        export.lines().skip(1).map(|line| &line[..line.find(',').unwrap()]).collect();
    assert_eq!((export.lines().count(), numbers.len()), (3_005, 3_004));
    let mut form = staff.page("/admin/objects/?q=jar").form();
    form.insert("action".to_owned(), "publish".to_owned());
    form.insert("all".to_owned(), "1".to_owned());
    assert_eq!(staff.post("/admin/objects/action/", &form).status(), 303);
    assert!(staff.page("/admin/objects/?q=jar").one(".message p").starts_with("Success: 3000 objects were published."));
}

#[test]
fn who_may_only_add_is_led_where_he_may_be() {
    let site = Site::start();
    let adder = member(&site, "adder", "label.add");
    let answer = adder.submit("/admin/labels/add/", &[("name", "marzipan")]);
    assert_eq!(location(&answer), "/admin/");
    assert!(adder.page("/admin/").one(".message p").contains("“marzipan” was added."));
    let answer = adder.submit("/admin/labels/add/", &[("name", "nougat"), ("_addanother", "1")]);
    assert_eq!(location(&answer), "/admin/labels/add/");
    let answer = adder.submit("/admin/labels/add/", &[("name", "fudge"), ("_continue", "1")]);
    assert_eq!(location(&answer), "/admin/");
}

/// Makes a user who is in one group, and signs him in.
pub(crate) fn member(site: &Site, name: &str, permissions: &str) -> crate::site::Visitor {
    let database = site.database();
    let password = Password::new("quince jelly").unwrap();
    database
        .write(|db| {
            let group = Group::insert(db, NewGroup { name: name.into(), permissions: permissions.into() })?;
            let new = NewUser { username: name.into(), password, is_staff: true, is_superuser: false };
            let user = User::create(db, new)?;
            UserGroup::set(db, user.id, &[group.id])
        })
        .unwrap();
    let visitor = site.visitor();
    let answer = visitor.submit("/admin/login/", &[("username", name), ("password", "quince jelly")]);
    assert_eq!(answer.status(), 303);
    visitor
}

#[test]
fn each_page_and_action_asks_for_permission() {
    let site = Site::start();
    let viewer = member(&site, "viewer", "object.view");
    let index = viewer.page("/admin/");
    assert_eq!(index.all("#models + table tbody th"), ["Objects"]);
    let staff = site.staff();
    staff.submit("/admin/groups/1/change/", &[("name", "Those who look")]);
    staff.submit("/admin/objects/1/change/", &[("title", "Looked at")]);
    let recent = |visitor: &crate::site::Visitor| visitor.page("/admin/").all(".log strong + *");
    assert_eq!(recent(&viewer), ["Looked at"], "of what they may not see they do not hear either");
    assert_eq!(recent(&staff), ["Looked at", "Those who look"]);
    for (path, status) in [
        ("/admin/objects/", 200),
        ("/admin/objects/export/", 200),
        ("/admin/objects/1/change/", 200),
        ("/admin/objects/add/", 403),
        ("/admin/objects/1/delete/", 403),
        ("/admin/users/", 403),
        ("/admin/users/1/change/", 403),
        ("/admin/groups/", 403),
        ("/admin/history/", 403),
        ("/admin/nothing/", 404),
    ] {
        assert_eq!(viewer.get(path).status(), status, "{path}");
    }
    let form = viewer.page("/admin/objects/1/change/");
    assert!(form.0.contains("You may look at this and not change it.") && !form.0.contains("Save and continue"));
    let mut sent = form.form();
    sent.insert("title".to_owned(), "Mine".to_owned());
    sent.insert("action".to_owned(), "publish".to_owned());
    sent.insert("pk".to_owned(), "1".to_owned());
    for path in
        ["/admin/objects/1/change/", "/admin/objects/add/", "/admin/objects/1/delete/", "/admin/objects/action/"]
    {
        assert_eq!(viewer.post(path, &sent).status(), 403, "{path}");
    }
    let editor = member(&site, "editor", "object.change category.change category.delete");
    assert_eq!(editor.submit("/admin/objects/1/change/", &[("title", "Edited")]).status(), 303);
    assert_eq!(editor.get("/admin/objects/1/delete/").status(), 403);
    assert_eq!(editor.get("/admin/objects/add/").status(), 403);
}

#[test]
fn nobody_gives_himself_more_than_he_has() {
    let site = Site::start();
    let manager = member(&site, "manager", "user.view user.add user.change user.delete staff_group.change");
    // The user of the demo is a superuser.
    assert!(!manager.page("/admin/users/1/change/").0.contains("Save and continue"));
    let mut form = manager.page("/admin/users/add/").form();
    form.insert("username".to_owned(), "admin".to_owned());
    form.insert("password".to_owned(), "stolen password".to_owned());
    assert_eq!(manager.post("/admin/users/1/change/", &form).status(), 403);
    assert_eq!(manager.submit("/admin/users/1/delete/", &[]).status(), 403);
    // Nor is the password of another one of the staff, who may do what he may not.
    member(&site, "editor", "object.change");
    assert_eq!(manager.post("/admin/users/3/change/", &form).status(), 403);
    assert_eq!(manager.submit("/admin/users/3/delete/", &[]).status(), 403);
    // Who is no staff he may change, but not what they may do; nor any field that is not in the form.
    let clerk = [("username", "clerk"), ("password", "quince jelly"), ("is_active", "on")];
    assert_eq!(manager.submit("/admin/users/add/", &clerk).status(), 303);
    let mut form = manager.page("/admin/users/4/change/").form();
    for name in ["is_superuser", "is_staff", "groups", "id", "created"] {
        form.insert(name.to_owned(), "1".to_owned());
    }
    form.insert("username".to_owned(), "boss".to_owned());
    assert_eq!(manager.post("/admin/users/4/change/", &form).status(), 303);
    let (user, groups) = site.database().read(|db| Ok((User::get(db, 4)?, UserGroup::right_pks(db, 4)?))).unwrap();
    assert!(user.username == "boss" && !user.is_superuser && !user.is_staff && user.created > 1_000_000);
    assert!(groups.is_empty(), "{groups:?}");
    assert!(!manager.page("/admin/groups/1/change/").0.contains("Save and continue"));
    assert_eq!(manager.post("/admin/groups/1/change/", &form).status(), 403);
    // Nor does whom he makes have more.
    let mut new = manager.page("/admin/users/add/").form();
    for (name, value) in
        [("username", "puppet"), ("password", "quince jelly"), ("is_superuser", "on"), ("is_staff", "on")]
    {
        new.insert(name.to_owned(), value.to_owned());
    }
    assert_eq!(manager.post("/admin/users/add/", &new).status(), 303);
    let puppet = site.database().read(|db| User::by_username(db, "puppet")).unwrap().unwrap();
    assert!(!puppet.is_superuser && !puppet.is_staff);
}

#[test]
fn what_is_entered_is_shown_as_text() {
    let site = Site::start();
    let staff = site.staff();
    let script = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";
    for (path, field) in
        [("/admin/categories/add/", "name"), ("/admin/labels/add/", "name"), ("/admin/groups/add/", "name")]
    {
        let name = &script[..50];
        assert_eq!(staff.submit(path, &[(field, name)]).status(), 303, "{path}");
    }
    assert_eq!(
        staff.submit("/admin/objects/add/", &[("title", script), ("body", script), ("published", "on")]).status(),
        303
    );
    let query = "q=%3Cscript%3Ealert(1)%3C/script%3E&o=%3Cscript%3E&published=%3Cscript%3E&x=%3Cscript%3E";
    for path in [
        "/admin/",
        "/admin/objects/",
        "/admin/objects/25/change/",
        "/admin/objects/25/delete/",
        "/admin/categories/",
        "/admin/categories/5/change/",
        "/admin/labels/",
        "/admin/groups/",
        "/admin/history/",
        "/objects/",
        "/objects/25/",
        &format!("/admin/objects/?{query}"),
        &format!("/admin/objects/1/change/?{query}"),
        &format!("/admin/objects/add/?{query}"),
    ] {
        let page = staff.page(path).0;
        assert!(!page.contains("<script>alert") && !page.contains("<img src=x"), "{path}");
    }
    let refused = staff.submit("/admin/categories/add/", &[("name", &script.repeat(3))]);
    assert!(refused.status() == 422 && !refused.text().unwrap().contains("<script>alert"));
}

#[test]
fn names_of_users_and_of_what_is_cached_are_shown_as_text() {
    const SCRIPT: &str = "<script>alert(1)</script>";
    const ENCODED: &str = "%3Cscript%3Ealert(1)%3C/script%3E";
    let site = Site::start();
    let staff = site.staff();
    let user = [
        ("username", SCRIPT),
        ("password", "quince jelly"),
        ("is_active", "on"),
        ("is_staff", "on"),
        ("is_superuser", "on"),
    ];
    assert_eq!(staff.submit("/admin/users/add/", &user).status(), 303);
    let odd = site.visitor();
    assert_eq!(odd.submit("/admin/login/", &[("username", SCRIPT), ("password", "quince jelly")]).status(), 303);
    let failed = site.visitor().submit("/admin/login/", &[("username", SCRIPT), ("password", "wrong")]);
    let is_text = |page: &str, what: &str| {
        assert!(!page.contains("<script>alert"), "{what}: {page}");
        page.contains("&lt;script&gt;alert")
    };
    assert!(is_text(&failed.text().unwrap(), "a sign-in that failed"));
    assert_eq!(odd.submit("/admin/objects/1/change/", &[("title", SCRIPT), ("_continue", "1")]).status(), 303);
    for path in ["/admin/", "/admin/users/", "/admin/users/2/change/", "/admin/history/", "/admin/objects/1/history/"] {
        assert!(is_text(&staff.page(path).0, path), "{path} shows it");
    }
    let mut mine = staff.page("/admin/objects/1/change/").form();
    odd.submit("/admin/objects/1/change/", &[("title", &SCRIPT.repeat(2))]);
    mine.insert("title".to_owned(), "Mine".to_owned());
    assert!(is_text(&staff.post("/admin/objects/1/change/", &mine).text().unwrap(), "a conflict"));

    let look = |path: &str| {
        let request = staff.request(reqwest::Method::GET, path).header("accept", "text/html");
        staff.send(request).text().unwrap()
    };
    assert!(is_text(&look(&format!("/objects/?page={ENCODED}")), "the toolbar"));
    look(&format!("/objects/1/?{ENCODED}"));
    look(&format!("/{ENCODED}/"));
    let token = staff.page("/admin/").form_of("form.account")["csrf_token"].clone();
    let address = format!("/{SCRIPT}/");
    for (action, name, value) in [
        ("delete", "key", SCRIPT),
        ("expire", "key", SCRIPT),
        ("invalidate", "what", SCRIPT),
        ("purge", "what", &*address),
    ] {
        let form = [("csrf_token", &*token), ("action", action), (name, value)];
        let form = form.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let answer = staff.post("/admin/caches/default/", &form);
        assert!(is_text(&staff.page(location(&answer)).0, action), "{action} names it");
    }
    for (path, shows) in [
        ("/admin/caches/default/?find=", true),
        ("/admin/caches/default/key/?key=", true),
        ("/admin/live/?alias=", false),
        ("/__toolbar/?x=", false),
        ("/__toolbar/compare/?url=/objects/?", false),
        ("/__toolbar/without-cache/?url=/objects/?", true),
    ] {
        let page = look(&format!("{path}{ENCODED}"));
        assert_eq!(is_text(&page, path), shows, "{path}: {page}");
    }
    let requests = staff.page("/__toolbar/");
    let selector = scraper::Selector::parse("tbody th a").unwrap();
    let document = scraper::Html::parse_document(&requests.0);
    let links: Vec<_> = document.select(&selector).filter_map(|link| link.attr("href")).collect();
    assert!(links.len() > 10, "{links:?}");
    for link in links {
        is_text(&staff.page(link).0, link);
    }
}

#[test]
fn pages_cannot_be_framed_and_run_no_script_but_ours() {
    let site = Site::start();
    let (visitor, staff) = (site.visitor(), site.staff());
    for answer in [staff.get("/admin/objects/1/change/"), visitor.get("/admin/login/"), visitor.get("/nothing/")] {
        assert_eq!(header(&answer, "x-frame-options"), "DENY");
        let policy = header(&answer, "content-security-policy").to_owned();
        assert!(policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        let page = answer.text().unwrap();
        assert!(!page.contains("<script>") && !page.contains(" style=\"") && !page.contains(" onclick"), "{page}");
    }
}

#[test]
fn a_session_that_somebody_else_began_is_not_signed_in() {
    let site = Site::start();
    let attacker = site.visitor();
    let planted = header(&attacker.get("/admin/login/"), "set-cookie").split(';').next().unwrap().to_owned();
    let victim = site.visitor();
    let login = victim.send(victim.request(reqwest::Method::GET, "/admin/login/").header("cookie", &planted));
    let mut form = Page(login.text().unwrap()).form();
    form.insert("username".to_owned(), "admin".to_owned());
    form.insert("password".to_owned(), site.password.clone());
    let body = serde_html_form::to_string(&form).unwrap();
    let request = victim.request(reqwest::Method::POST, "/admin/login/").header("cookie", &planted);
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
    assert_eq!(victim.send(request).status(), 303, "the victim is in");
    assert_eq!(attacker.get("/admin/").status(), 303, "the attacker is not");
    // Nor with a name of his own choice.
    let made_up = site.visitor();
    let request = made_up.request(reqwest::Method::GET, "/admin/").header("cookie", "larder_session=made-up");
    assert_eq!(made_up.send(request).status(), 303);
}

#[test]
fn searches_and_orders_are_never_sql() {
    let site = Site::start();
    let staff = site.staff();
    let all = staff.page("/admin/objects/").one("#count");
    for word in ["'", "\"", "%27%20OR%201=1--", "%27;DROP%20TABLE%20object;--", "%25", "_", "%5C", "%00", "jam%27%29"] {
        let page = staff.page(&format!("/admin/objects/?q={word}"));
        let count = page.one("#count");
        assert!(count.contains("found") && !count.starts_with(&*all), "{word}: {count}");
    }
    let titles = |path: &str| staff.page(path).all("tbody th a");
    let usual = titles("/admin/objects/");
    for order in [
        "id;DROP TABLE object",
        "title,(SELECT password_hash FROM user)",
        "-password_hash",
        "1",
        "CASE WHEN 1=1 THEN title END",
    ] {
        assert_eq!(titles(&format!("/admin/objects/?o={}", order.replace(' ', "%20"))), usual, "{order}");
    }
    for filter in ["published=1%20OR%201=1", "category=1)%20OR%20(1=1", "created='", "password_hash=a"] {
        assert_eq!(staff.get(&format!("/admin/objects/?{filter}")).status(), 200, "{filter}");
    }
    assert_eq!(staff.get("/admin/objects/1%20OR%201=1/change/").status(), 404);
    assert_eq!(staff.page("/admin/objects/").one("#count"), all);
}

#[test]
fn ones_own_password_is_changed_by_whoever_knows_it() {
    let site = Site::start();
    let (staff, elsewhere) = (site.staff(), site.staff());
    let change = |old: &str, new: &str, again: &str| {
        staff.submit("/admin/password/", &[("old", old), ("new", new), ("again", again)])
    };
    for (old, new, again, text) in [
        ("wrong", "quince jelly", "quince jelly", "This is not your password."),
        (&*site.password, "quince jelly", "quince jam", "The two are not the same."),
        (&*site.password, "short", "short", "at least"),
    ] {
        let answer = change(old, new, again);
        assert_eq!(answer.status(), 422, "{text}");
        let page = Page(answer.text().unwrap());
        assert!(page.one(".field-errors").contains(text), "{}", page.0);
        assert!(!page.0.contains("quince jelly"));
    }
    assert_eq!(change(&site.password, "quince jelly", "quince jelly").status(), 303);
    assert!(staff.page("/admin/").one(".message").contains("Your password was changed."));
    assert_eq!(elsewhere.get("/admin/").status(), 303, "other sessions have ended");
    let visitor = site.visitor();
    let sign_in = |password: &str| visitor.submit("/admin/login/", &[("username", "admin"), ("password", password)]);
    assert_eq!((sign_in(&site.password).status().as_u16(), sign_in("quince jelly").status().as_u16()), (401, 303));
}

#[test]
fn the_whole_history_is_there_page_by_page() {
    let site = Site::start();
    let staff = site.staff();
    for number in 0..52 {
        staff.submit("/admin/labels/1/change/", &[("name", &format!("Label {number}"))]);
    }
    assert_eq!(staff.page("/admin/labels/1/change/").all(".log li").len(), 5);
    let first = staff.page("/admin/labels/1/history/");
    assert_eq!((first.all(".log li").len(), first.one(".pages p")), (50, "Page 1 of 2".to_owned()));
    assert!(first.all(".changes ins")[0].contains("Label 51"));
    assert_eq!(staff.page("/admin/labels/1/history/?p=2").all(".log li").len(), 2);
    assert_eq!(staff.get("/admin/labels/999/history/").status(), 404);
    assert_eq!(member(&site, "nobody", "object.view").get("/admin/labels/1/history/").status(), 403);
}

#[test]
fn names_are_taken_once_and_users_need_a_password() {
    let site = Site::start();
    let staff = site.staff();
    let taken = staff.submit("/admin/labels/add/", &[("name", "wood")]);
    assert_eq!(taken.status(), 422);
    assert!(taken.text().unwrap().contains("There is one with this already."));
    let refused = staff.submit("/admin/users/add/", &[("username", "anna")]);
    assert!(refused.status() == 422 && refused.text().unwrap().contains("Enter a password."));
    let short = staff.submit("/admin/users/add/", &[("username", "anna"), ("password", "short")]);
    let short = short.text().unwrap();
    assert!(short.contains("at least 8 characters") && !short.contains("\"short\""), "passwords do not come back");
    let fields = [("username", "anna"), ("password", "quince jelly"), ("is_staff", "on"), ("is_active", "on")];
    assert_eq!(staff.submit("/admin/users/add/", &fields).status(), 303);
    let anna = site.visitor();
    let answer = anna.submit("/admin/login/", &[("username", "anna"), ("password", "quince jelly")]);
    assert_eq!(answer.status(), 303);
    let changes = staff.page("/admin/users/2/change/").0;
    assert!(changes.contains("(hidden)") && !changes.contains("argon2"), "the history knows no passwords");
}
