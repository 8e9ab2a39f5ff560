//! How the pages look and read: for everybody, on every window, light and dark.

use std::{fs, sync::OnceLock};

use serde_json::Value;

use super::{Browser, driver::target};
use crate::site::Site;

/// The pages of the site that anybody sees, and those of the admin.
const PUBLIC: [&str; 9] = [
    "/",
    "/objects/",
    "/objects/1/",
    "/categories/1/",
    "/levels/",
    "/levels/site/",
    "/levels/view/",
    "/admin/login/",
    "/nothing/",
];
const ADMIN: [&str; 19] = [
    "/admin/",
    "/admin/objects/",
    "/admin/objects/?q=nothing+like+it",
    "/admin/objects/add/",
    "/admin/objects/1/change/",
    "/admin/objects/1/delete/",
    "/admin/objects/1/history/",
    "/admin/categories/",
    "/admin/labels/1/change/",
    "/admin/users/",
    "/admin/users/1/change/",
    "/admin/groups/add/",
    "/admin/history/",
    "/admin/password/",
    "/admin/caches/",
    "/admin/caches/default/",
    "/admin/caches/default/key/?key=objects",
    "/admin/caches/default/clear/",
    "/admin/live/",
];

/// The pages of the toolbar.
const TOOLBAR: [&str; 3] = [
    "/__toolbar/",
    "/__toolbar/compare/?url=%2F",
    "/__toolbar/compare/?url=%2Fobjects%2F%3Fpage%3D1%26with%3Da_very_long_query_that_nobody_would_write_by_hand_but_a_program_would",
];

/// What a page may weigh with all that it needs, without compression.
const MAX_PAGE_BYTES: u64 = 60_000;

fn axe() -> &'static str {
    static AXE: OnceLock<String> = OnceLock::new();
    AXE.get_or_init(|| {
        let file = target().join("axe.min.js");
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}; run: just test", file.display()))
    })
}

/// Fails if axe-core finds something on the page that keeps people out.
pub(super) fn assert_accessible(browser: &Browser, what: &str) {
    browser.js(axe());
    let run = "const done = arguments[arguments.length - 1]; \
               axe.run(document).then(({ passes, violations }) => done([passes.length, violations.map((one) => \
               `${one.id}: ${one.help}: ${one.nodes.map((node) => node.html + ' ' + node.failureSummary).join(' | ')}`)]), \
               (error) => done([0, [String(error)]]))";
    let found = browser.js_async(run, Vec::new());
    assert!(found[0].as_u64() > Some(5), "{what}: {found}");
    assert_eq!(found[1], Value::Array(Vec::new()), "{what}");
}

#[test]
fn nobody_is_kept_out_and_pages_are_light() {
    let site = Site::start();
    let browser = Browser::staff(&site);
    for path in PUBLIC.iter().chain(&ADMIN).chain(&TOOLBAR) {
        for dark in [false, true] {
            browser.prefer_dark(dark);
            browser.go(path);
            assert_accessible(&browser, &format!("{path}, dark: {dark}"));
        }
        let weight = "return performance.getEntries().filter((one) => 'decodedBodySize' in one) \
                      .reduce((sum, one) => sum + one.decodedBodySize, 0)";
        let bytes = browser.js(weight).as_u64().unwrap();
        assert!((1_000..MAX_PAGE_BYTES).contains(&bytes), "{path} weighs {bytes} bytes");
        let foreign = "return performance.getEntriesByType('resource').filter((one) => !one.name.startsWith(location.origin)).length";
        assert_eq!(browser.js(foreign), 0, "{path} asks other hosts");
    }
}

#[test]
fn nothing_is_cut_off_on_narrow_and_wide_windows() {
    let site = Site::start();
    let browser = Browser::staff(&site);
    for (width, height) in [(360, 740), (768, 1024), (1280, 900), (2560, 1440)] {
        browser.resize(width, height);
        for path in PUBLIC.iter().chain(&ADMIN).chain(&TOOLBAR) {
            browser.go(path);
            let inside = browser.js("return document.documentElement.scrollWidth <= innerWidth");
            assert_eq!(inside, true, "{path} is wider than {width} pixels");
            let name = path.replace(|letter: char| !letter.is_alphanumeric(), "_");
            browser.screenshot(&format!("{width}{name}"));
        }
    }
}

#[test]
fn an_object_is_edited_without_script() {
    let site = Site::start();
    let browser = Browser::staff(&site);
    browser.allow_script(false);
    browser.go("/admin/objects/1/change/");
    browser.fill("[name=title]", "Without script");
    browser.click("[name=_save]");
    browser.wait_for_text(".message", "“Without script” was saved.");
    browser.go("/admin/live/");
    assert!(browser.text(".live").contains("This view needs script."));
}
