//! The pictures of the README; `just screenshots` puts them there.

use super::Browser;
use crate::site::Site;

#[test]
fn pictures_of_the_readme() {
    let site = Site::start_with(&[("LARDER__UPSTREAM__DELAY_SECONDS", "2")]);
    let browser = Browser::staff(&site);
    browser.resize(1200, 1000);
    for _ in 0..2 {
        for path in ["/objects/", "/objects/1/", "/categories/3/"] {
            site.visitor().page(path);
        }
    }
    browser.go("/admin/objects/1/change/");
    browser.click(".watch > summary");
    browser.wait_for_text("[data-count]", "Nothing happened yet.");
    browser.fill("[name=title]", "Hammered jam pan");
    browser.click("[name=_continue]");
    browser.wait_for_text(".lines .invalidation:not(.minor)", "removed=");
    browser.click(".effects summary");
    browser.js("scrollTo(0, 0)");
    browser.screenshot("readme-edit");

    let browser = Browser::open(&site);
    browser.resize(1200, 760);
    browser.go("/");
    browser.go("/");
    browser.wait_for_text(".toolbar summary", "from cache");
    browser.click(".toolbar summary");
    browser.js("scrollTo(0, 0)");
    browser.screenshot("readme-toolbar");

    browser.go("/objects/");
    browser.click(".toolbar summary");
    browser.click(".toolbar-actions a");
    browser.wait_for_text("h1", "GET /objects/");
    browser.screenshot("readme-request");
}
