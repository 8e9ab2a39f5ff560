//! The command line, as an operator uses it.

use std::{fs, process::Output};

use larder_cache::conformance::server::MemcachedServer;
use tempfile::TempDir;

use crate::site::{Site, header, run};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_second_start_keeps_the_data_and_the_password() {
    let site = Site::start();
    let staff = site.staff();
    assert_eq!(staff.submit("/admin/objects/1/change/", &[("title", "Kept")]).status(), 303);
    let password = site.password.clone();
    let (folder, code) = site.stop();
    assert_eq!(code, Some(0), "Ctrl-C is no error");
    let site = Site::start_in(folder, &[]);
    assert_eq!(site.password, password);
    assert_eq!(site.visitor().page("/objects/1/").one("h1"), "Kept");
    assert_eq!(site.staff().page("/admin/objects/?p=2").all("tbody tr").len(), 4, "no sample was loaded again");
}

#[test]
fn serving_without_migrations_says_what_to_run() {
    let folder = folder();
    let output = run(folder.path(), &["serve"], &[]);
    assert!(!output.status.success());
    assert!(text(&output).contains("run `larder migrate`"), "{}", text(&output));
    assert!(run(folder.path(), &["migrate"], &[]).status.success());
    let again = run(folder.path(), &["migrate"], &[]);
    assert!(text(&again).contains("up to date"));
}

#[test]
fn createsuperuser_takes_the_password_from_the_environment() {
    let folder = folder();
    let too_early = run(folder.path(), &["createsuperuser"], &[("LARDER_SUPERUSER_PASSWORD", "quince jelly")]);
    assert!(text(&too_early).contains("run `larder migrate`"), "{}", text(&too_early));
    run(folder.path(), &["migrate"], &[]);
    let create = |password: &str| {
        let environment = [("LARDER_SUPERUSER_PASSWORD", password)];
        run(folder.path(), &["createsuperuser", "--username", "anna"], &environment)
    };
    assert!(text(&create("short")).contains("8"), "{}", text(&create("short")));
    assert!(text(&create("quince jelly")).contains("anna was created"));
    assert!(text(&create("medlar jelly")).contains("anna has a new password"));
    let asked = run(folder.path(), &["createsuperuser"], &[]);
    assert!(!asked.status.success() && text(&asked).contains("LARDER_SUPERUSER_PASSWORD"), "{}", text(&asked));

    let site = Site::start_in(folder, &[]);
    let answer = site.visitor().submit("/admin/login/", &[("username", "anna"), ("password", "medlar jelly")]);
    assert_eq!(answer.status(), 303);
}

#[test]
fn createcachetable_makes_the_table_once() {
    let folder = folder();
    let environment = [("CACHE_URL", "db://cache_entry")];
    let dry = run(folder.path(), &["createcachetable", "--dry-run"], &environment);
    assert!(text(&dry).contains("CREATE TABLE") && text(&dry).contains("cache_entry"), "{}", text(&dry));
    assert!(!run(folder.path(), &["cache", "set", "key", "1"], &environment).status.success());
    assert!(text(&run(folder.path(), &["createcachetable"], &environment)).contains("created"));
    assert!(text(&run(folder.path(), &["createcachetable"], &environment)).contains("was there already"));
    assert!(run(folder.path(), &["cache", "set", "key", "1"], &environment).status.success());
    assert!(text(&run(folder.path(), &["createcachetable"], &[])).contains("no cache has the database"));
}

fn values_live_from_command_to_command(address: &str) {
    let folder = folder();
    let cache = |arguments: &[&str]| run(folder.path(), &[&["cache"], arguments].concat(), &[("CACHE_URL", address)]);
    assert_eq!(cache(&["get", "key"]).status.code(), Some(1));
    for (value, shown) in [("{\"a\": [1, null]}", "{\"a\":[1,null]}"), ("5", "5"), ("plain text", "\"plain text\"")] {
        assert!(cache(&["set", "key", value]).status.success());
        assert_eq!(String::from_utf8_lossy(&cache(&["get", "key"]).stdout).trim(), shown);
    }
    assert!(cache(&["set", "key", "5", "--timeout", "0"]).status.success());
    assert_eq!(cache(&["get", "key"]).status.code(), Some(1));
    cache(&["set", "key", "5", "--timeout", "never"]);
    assert!(cache(&["delete", "key"]).status.success());
    assert_eq!(cache(&["delete", "key"]).status.code(), Some(1));
    cache(&["set", "key", "5"]);
    assert!(cache(&["clear"]).status.success());
    assert_eq!(cache(&["get", "key"]).status.code(), Some(1));
    cache(&["set", "key", "[1]"]);
    let explained = text(&cache(&["explain", "key"]));
    assert!(explained.contains("key=key in default: hit") && explained.contains("of MessagePack"), "{explained}");
    assert!(cache(&["expire", "key"]).status.success());
    assert_eq!(cache(&["get", "key"]).status.code(), Some(1));
    assert!(text(&cache(&["explain", "key"])).contains("key=key in default: stale"));
    assert_eq!(cache(&["expire", "nothing"]).status.code(), Some(1));
    assert!(cache(&["invalidate", "object", "object:7"]).status.success());
    cache(&["set", "key", "[1]"]);
    assert!(cache(&["clear", "--prefix"]).status.success());
    assert_eq!(cache(&["get", "key"]).status.code(), Some(1));
    assert!(!text(&cache(&["stats"])).is_empty());
    assert_eq!(cache(&["--alias", "nowhere", "stats"]).status.code(), Some(1));
}

#[test]
fn cache_commands_work_on_memcached() {
    let server = MemcachedServer::start();
    values_live_from_command_to_command(&format!("memcached://{}", server.address()));
}

#[test]
fn cache_commands_work_on_files() {
    let folder = folder();
    values_live_from_command_to_command(&format!("file://{}", folder.path().display()));
}

#[test]
fn a_store_that_is_down_is_an_error_on_the_command_line() {
    let mut server = MemcachedServer::start();
    let address = format!("memcached://{}", server.address());
    server.stop();
    let folder = folder();
    for arguments in
        [&["cache", "get", "key"][..], &["cache", "set", "key", "1"], &["cache", "delete", "key"], &["cache", "stats"]]
    {
        let output = run(folder.path(), arguments, &[("CACHE_URL", &address)]);
        assert!(
            !output.status.success() && text(&output).contains("is not available"),
            "{arguments:?} {}",
            text(&output)
        );
    }
}

#[test]
fn check_names_every_problem() {
    let folder = folder();
    let check = |environment: &[(&str, &str)]| run(folder.path(), &["check"], environment);
    assert!(text(&check(&[])).contains("run `larder migrate`"));
    run(folder.path(), &["migrate"], &[]);
    let fine = check(&[]);
    assert!(fine.status.success() && text(&fine).contains("no problems"), "{}", text(&fine));

    for (name, value, expected) in [
        ("CACHE_URL", "memcachd://localhost", "did you mean \"memcached\"?"),
        ("CACHE_URL", "locmem://?max_entires=5", "did you mean max_entries?"),
        ("CACHE_URL", "file://relative/folder", "must be an absolute folder"),
        ("CACHE_URL", "db://no-such-table!", "caches.default.location"),
        ("LARDER__SERVER__BND", "x", "server.bnd: is not a setting; did you mean bind?"),
        ("LARDER__SERVER__BIND", "0.0.0.0:80", "server.debug: must be false"),
        ("LARDER__SERVER__METRICS_ALLOW", "[\"localhost\"]", "must list IP addresses, \"localhost\" is none"),
        ("LARDER__CACHES__DEFAULT__LOAD__JITTER", "2", "caches.default.load.jitter: must be a number from 0 to 1"),
        ("LARDER__CACHES__DEFAULT__NEAR__MAX_BYTES", "1", "caches.default.near.stale_for: is missing"),
        ("LARDER__UPSTREAM__TIMEOUT_SECONDS", "1", "must be more than delay_seconds"),
        ("DATABASE_URL", "mysql://localhost/larder", "write sqlite://path/to/file or postgres://"),
        ("DATABASE_URL", "postgres://larder:secret@127.0.0.1:1/larder", "check that the server runs"),
    ] {
        let output = check(&[(name, value)]);
        assert!(!output.status.success() && text(&output).contains(expected), "{name}={value}: {}", text(&output));
    }
}

#[test]
fn a_typing_error_in_the_file_stops_the_start() {
    let folder = folder();
    fs::write(folder.path().join("larder.toml"), "[caches.default]\ntimeout = \"soon\"\n").unwrap();
    let output = run(folder.path(), &["serve", "--demo"], &[]);
    assert!(!output.status.success());
    assert!(text(&output).contains("caches.default.timeout: must be a number of seconds"), "{}", text(&output));
}

#[test]
fn an_environment_that_is_no_text_is_no_reason_to_fail() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    let folder = folder();
    let output = crate::site::larder(folder.path()).arg("migrate").env("ODD", OsStr::from_bytes(b"\xff")).output();
    assert!(output.unwrap().status.success());
}

#[test]
fn pages_are_purged_by_their_address() {
    let folder = folder();
    let store = format!("file://{}", folder.path().join("cache").display());
    let environment = [("CACHE_URL", store.as_str())];
    let site = Site::start_with(&environment);
    let status = |path: &str| header(&site.visitor().get(path), "cache-status").to_owned();
    for path in ["/objects/1/", "/objects/2/"] {
        status(path);
        assert!(status(path).starts_with("larder; hit"));
    }
    let purge = |url: &str| run(folder.path(), &["cache", "purge", url], &environment);
    let address = site.visitor().get("/").url().to_string();
    assert!(text(&purge(&format!("{address}objects/1/"))).contains("removed 1 entries"));
    assert!(status("/objects/1/").contains("stored") && status("/objects/2/").starts_with("larder; hit"));
    assert!(!purge(&format!("{address}nowhere/")).status.success());
    assert!(text(&purge("/objects/1/")).contains("write http://"), "{}", text(&purge("/objects/1/")));
}

#[test]
fn migrations_go_up_and_down_and_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let migrate = |arguments: &[&str]| {
        let output = run(folder.path(), &[&["migrate"], arguments].concat(), &[]);
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let status = migrate(&["status"]);
    assert!(status.lines().all(|line| line.starts_with("missing 2026-")), "{status}");
    let count = status.lines().count();
    assert_eq!(migrate(&["up"]).lines().filter(|line| line.starts_with("applied migration")).count(), count);
    assert!(migrate(&[]).contains("up to date"));
    assert!(migrate(&["down"]).contains("reverted migration"));
    let status = migrate(&["status"]);
    assert!(status.lines().last().unwrap().starts_with("missing") && status.starts_with("applied"), "{status}");
    let all = migrate(&["down", "--steps", "99"]);
    assert_eq!(all.lines().filter(|line| line.starts_with("reverted")).count(), count - 1, "{all}");
    assert!(all.ends_with("no migration is applied\n"), "{all}");
    migrate(&["up"]);
}

#[test]
fn data_is_carried_from_one_database_to_the_next_and_shown_at_once() {
    let site = Site::start();
    let visitor = site.visitor();
    let folder = site.folder.path();
    let dumped = run(folder, &["dumpdata", "--output", "all.json"], &[]);
    assert!(dumped.status.success(), "{}", text(&dumped));
    let all = std::fs::read_to_string(folder.join("all.json")).unwrap();
    let categories = text(&run(folder, &["dumpdata", "category"], &[]));
    assert!(all.len() > categories.len() && categories.contains("\"name\": \"Jars and bins\""), "{categories}");

    // Another database holds the same afterwards.
    let elsewhere = tempfile::tempdir().unwrap();
    run(elsewhere.path(), &["migrate"], &[]);
    std::fs::write(elsewhere.path().join("all.json"), &all).unwrap();
    let loaded = run(elsewhere.path(), &["loaddata", "all.json"], &[]);
    assert!(text(&loaded).contains("loaded "), "{}", text(&loaded));
    assert_eq!(text(&run(elsewhere.path(), &["dumpdata"], &[])), all);

    // A running app shows what was loaded.
    assert_eq!(visitor.page("/objects/1/").all(".facts a")[0], "Pans and moulds");
    std::fs::write(folder.join("new.json"), categories.replace("Pans and moulds", "Copper & brass")).unwrap();
    let loaded = run(folder, &["loaddata", "new.json"], &[]);
    assert!(loaded.status.success(), "{}", text(&loaded));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(visitor.page("/objects/1/").all(".facts a")[0], "Copper & brass");
    assert_eq!(visitor.page("/categories/3/").one("h1"), "Copper & brass");

    // What cannot be taken is named, and nothing of it is stored.
    for (bad, why) in [
        ("{}", "is no list of"),
        ("[{\"model\": \"shelf\", \"pk\": 1, \"fields\": {}}]", "there are category, label, object, object_label"),
        ("[{\"model\": \"label\", \"fields\": {\"name\": \"a\", \"version\": 1}}]", "a row has no pk"),
        ("[{\"model\": \"label\", \"pk\": 90, \"fields\": {\"version\": 1}}]", "label 90: missing field `name`"),
        ("[{\"model\": \"label\", \"pk\": 90, \"fields\": {\"name\": \" \", \"version\": 1}}]", "Enter a name."),
        ("[{\"model\": \"object_label\", \"fields\": {\"object_id\": 1}}]", "lacks object_id or label_id"),
        (
            "[{\"model\": \"object_label\", \"fields\": {\"object_id\": 1, \"label_id\": 99}}]",
            "cannot take object_label",
        ),
    ] {
        std::fs::write(folder.join("bad.json"), bad).unwrap();
        let refused = run(folder, &["loaddata", "bad.json"], &[]);
        assert!(!refused.status.success() && text(&refused).contains(why), "{bad}: {}", text(&refused));
    }
    let unknown = run(folder, &["dumpdata", "shelf"], &[]);
    assert!(!unknown.status.success() && text(&unknown).contains("there are category"), "{}", text(&unknown));
    assert!(text(&run(folder, &["loaddata", "nothing.json"], &[])).contains("cannot read nothing.json"));
}
