//! The debug toolbar, as a person sees it.

use super::{Browser, look::assert_accessible};
use crate::site::Site;

#[test]
fn it_tells_the_first_load_from_the_second_and_purges() {
    let site = Site::start();
    let browser = Browser::open(&site);
    browser.go("/");
    browser.wait_for_text(".toolbar summary", "made now");
    browser.go("/");
    browser.wait_for_text(".toolbar summary", "from cache, 1,0");
    browser.click(".toolbar summary");
    browser.wait_for_text(".toolbar .calls .hit", "hit");
    browser.screenshot("toolbar");
    assert_accessible(&browser, "the open toolbar");
    browser.click(".toolbar form button");
    browser.wait_for_text(".toolbar summary", "made now");
    assert_eq!(browser.path(), "/");
    browser.click(".toolbar summary");
    browser.click(".toolbar a[href*=compare]");
    browser.wait_for_text("h1", "With and without cache");
    assert_accessible(&browser, "a comparison");
    browser.screenshot("compare");
    browser.go("/objects/");
    browser.click(".toolbar summary");
    browser.click(".toolbar-actions a");
    browser.wait_for_text(".calls", "object_list");
    browser.screenshot("request");
    assert_accessible(&browser, "a request");
    browser.click(".breadcrumbs a");
    browser.wait_for_text("tbody th a", "GET /objects/");
}
