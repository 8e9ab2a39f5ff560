//! The live view, and the pages of the caches.

use super::{Browser, look::assert_accessible};
use crate::site::Site;

#[test]
fn the_live_view_shows_what_an_edit_throws_out() {
    let site = Site::start();
    let (watcher, editor) = (Browser::staff(&site), Browser::staff(&site));
    site.visitor().page("/objects/1/");
    watcher.go("/admin/live/");
    watcher.wait_for_text("[data-count]", "Nothing happened yet.");
    editor.go("/admin/objects/1/change/");
    editor.fill("[name=title]", "Watched");
    editor.click("[name=_save]");
    editor.wait_for_text(".message", "“Watched” was saved.");
    watcher.wait_for_text(".lines .invalidation", "object:1");
    watcher.wait_for_text(".lines .invalidation", "cause=\"post_save Object#1");
    watcher.wait_for_text(".lines .invalidation:not(.minor)", "removed=");
    editor.go("/objects/1/");
    watcher.wait_for_text(".lines .miss", "/objects/1/");
    assert_accessible(&watcher, "the live view with lines");
    watcher.screenshot("live");

    watcher.js("const one = document.querySelector('[name=outcome]'); one.value = 'invalidation'; \
                one.dispatchEvent(new Event('input', { bubbles: true }))");
    let shown = "return [...document.querySelectorAll('.lines li')].filter((one) => !one.hidden) \
                 .every((one) => one.classList.contains('invalidation'))";
    assert_eq!(watcher.js(shown), true);
    watcher.click("[data-pause]");
    editor.go("/objects/2/");
    watcher
        .wait_until("waiting lines", "return /Paused; [1-9]/.test(document.querySelector('[data-count]').textContent)");
    assert!(!watcher.text(".lines").contains("/objects/2/"));
    watcher.fill("[name=text]", "/objects/2/");
    watcher.js("const one = document.querySelector('[name=outcome]'); one.value = ''; \
                one.dispatchEvent(new Event('input', { bubbles: true }))");
    watcher.click("[data-pause]");
    watcher.wait_for_text(".lines .miss:not([hidden])", "/objects/2/");
}

#[test]
fn the_lines_of_a_save_stand_beside_its_form() {
    let site = Site::start();
    let browser = Browser::staff(&site);
    for path in ["/objects/", "/objects/1/"] {
        site.visitor().page(path);
    }
    browser.go("/admin/objects/1/change/");
    browser.click(".watch > summary");
    browser.wait_for_text("[data-count]", "Nothing happened yet.");
    browser.fill("[name=title]", "Cause and effect");
    browser.click("[name=_continue]");
    browser.wait_for_text(".message", "was saved");
    browser.wait_for_text(".lines .invalidation", "object:1");
    browser.screenshot("edit");

    // Folded and unfolded it goes on where it was.
    let count = "return document.querySelectorAll('.lines li').length";
    let before = browser.js(count);
    browser.click(".watch > summary");
    browser.click(".watch > summary");
    browser.wait_for_text("[data-status]", "Connected.");
    site.staff().submit("/admin/labels/1/change/", &[("name", "Once more")]);
    browser.wait_for_text(".lines .invalidation", "label:1");
    let twice = "const lines = [...document.querySelectorAll('.lines li')].map((one) => one.textContent); \
                 return lines.length - new Set(lines).size";
    assert_eq!(browser.js(twice), 0, "{before}");
    browser.fill("[name=cause]", "Label#1");
    let shown = "return [...document.querySelectorAll('.lines li')].filter((one) => !one.hidden) \
                 .every((one) => one.textContent.includes('post_save Label#1'))";
    assert_eq!(browser.js(shown), true);
}

#[test]
fn caches_are_looked_into_and_thrown_out() {
    let site = Site::start();
    let browser = Browser::staff(&site);
    // Pages are kept for those who are not signed in.
    let visitor = site.visitor();
    for _ in 0..3 {
        visitor.page("/objects/1/");
    }
    browser.go("/admin/caches/");
    browser.wait_for_text("td", "answers");
    browser.click("tbody th a");
    browser.wait_for_text("h1", "Cache default");
    browser.wait_for_text(".seen", "/objects/1/");
    assert_accessible(&browser, "a cache with keys");
    browser.screenshot("cache");
    browser.fill("#find", "/objects/1/");
    browser.click("#find + button");
    browser.wait_for("#find[value]");
    browser.click(".seen th a");
    browser.wait_for_text(".lead", "A look-up hits.");
    browser.wait_for_text("td, th", "object:1");
    assert_accessible(&browser, "a key that hits");
    browser.screenshot("key");
    browser.click("button[value=delete]");
    browser.wait_for_text(".message", "was deleted");
    browser.wait_for_text(".lead", "A look-up misses.");

    visitor.page("/objects/1/");
    browser.go("/admin/caches/default/");
    browser.fill("#url", "/objects/1/");
    browser.click("#url + button");
    browser.wait_for_text(".message", "Purged ");
    browser.fill("#tags", "object:2");
    browser.click("#tags + button");
    browser.wait_for_text(".message", "Invalidated object:2.");
    browser.click("a[href$='clear/']");
    browser.wait_for_text("h1", "Clear the whole store of default?");
    browser.click(".button.danger");
    browser.wait_for_text(".message", "Cleared default.");
}
