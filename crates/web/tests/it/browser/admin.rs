//! What editors do.

use fantoccini::key::Key;

use super::{Browser, look::assert_accessible};
use crate::site::Site;

#[test]
fn an_object_is_added_edited_and_deleted() {
    let site = Site::start();
    let browser = Browser::staff(&site);
    browser.go("/admin/objects/?q=jar");
    browser.click(".page-head .button");
    browser.fill("[name=title]", "   ");
    browser.click("[name=_save]");
    browser.wait_for(".error-summary");
    assert_accessible(&browser, "a form with errors");
    browser.fill("[name=title]", "Browser jar");
    browser.fill("[name=body]", "Made by hand.");
    browser.click("[name=_save]");
    browser.wait_for_text(".message", "“Browser jar” was added.");
    assert_eq!(browser.path(), "/admin/objects/?q=jar", "the search outlives the save");

    browser.go("/objects/");
    browser.go("/admin/objects/?q=jar");
    browser.click("tbody th a");
    browser.wait_for("[name=title]");
    browser.fill("[name=title]", "Browser jug");
    browser.click("[name=_continue]");
    browser.wait_for_text(".message", "“Browser jug” was saved.");
    browser.wait_for_text(".changes del", "Browser jar");
    browser.wait_for_text(".effects summary", "Invalidated");
    browser.click(".effects summary");
    assert_accessible(&browser, "what a save invalidated");

    browser.click(".actions .danger");
    browser.wait_for_text("h1", "Delete “Browser jug”?");
    browser.click(".button.danger");
    browser.wait_for_text(".message", "“Browser jug” was deleted.");
}

#[test]
fn two_editors_choose_whose_words_stay() {
    let site = Site::start();
    let (one, two) = (Browser::staff(&site), Browser::staff(&site));
    for browser in [&one, &two] {
        browser.go("/admin/objects/1/change/");
    }
    one.fill("[name=title]", "Of the first");
    one.click("[name=_continue]");
    one.wait_for_text(".message", "was saved");
    two.fill("[name=title]", "Of the second");
    two.click("[name=_save]");
    two.wait_for(".versions");
    two.wait_for_text(".versions", "Of the first");
    assert_accessible(&two, "a conflict");
    two.screenshot("conflict");
    two.click(".versions label:nth-of-type(2)");
    two.click("main .button[type=submit]");
    two.wait_for_text(".message", "“Of the second” was saved.");
}

#[test]
fn leaving_a_changed_form_asks_first() {
    let site = Site::start();
    let browser = Browser::staff(&site);
    browser.go("/admin/objects/1/change/");
    // The driver answers the question itself that a browser would ask, so this asks the page.
    let asks = "const leave = new Event('beforeunload', { cancelable: true }); return !dispatchEvent(leave)";
    assert_eq!(browser.js(asks), false);
    browser.fill("[name=title]", "Not saved");
    assert_eq!(browser.js(asks), true);
    browser.click("[name=_continue]");
    browser.wait_for_text(".message", "was saved");
    assert_eq!(browser.js(asks), false);
}

#[test]
fn a_list_is_filtered_and_several_rows_are_changed() {
    let site = Site::start();
    let browser = Browser::staff(&site);
    browser.go("/admin/objects/");
    browser.click(".filters a[href*='published=']:not([aria-current])");
    browser.wait_for_text("#count", "found");
    browser.click("th.tick input");
    let ticked = browser.js("return document.querySelectorAll('tbody .tick input:checked').length");
    assert!(ticked.as_u64() > Some(0), "{ticked}");
    browser.js("document.querySelector('#action').value = 'delete'");
    browser.click(".bulk button");
    browser.wait_for(".confirm");
    assert_accessible(&browser, "the question before a deletion of several");
    browser.click(".button.quiet");
    browser.wait_for_text("#count", "found");
}

#[test]
fn everything_can_be_done_with_the_keyboard() {
    let site = Site::start();
    let title = site.visitor().page("/objects/1/").one("h1");
    let browser = Browser::open(&site);
    browser.go("/admin/login/");
    browser.tab_to("#id_username");
    browser.press("nobody");
    browser.press(&Key::Tab.to_string());
    browser.press("wrong");
    browser.press(&Key::Enter.to_string());
    browser.wait_for("main [role=alert]");
    assert_accessible(&browser, "a sign-in that failed");
    browser.go("/admin/login/");
    browser.tab_to("#id_username");
    browser.press("admin");
    browser.press(&Key::Tab.to_string());
    browser.press(&site.password);
    browser.press(&Key::Enter.to_string());
    browser.wait_for("form.account");
    browser.press(&Key::Tab.to_string());
    browser.tab_to("a.skip, main a[href='/admin/objects/']");
    browser.tab_to("main a[href='/admin/objects/']");
    browser.press(&Key::Enter.to_string());
    browser.wait_for("#q");
    browser.tab_to("#q");
    browser.press(&title);
    browser.press(&Key::Enter.to_string());
    browser.wait_for_text("#count", "found");
    browser.tab_to("tbody th a");
    browser.press(&Key::Enter.to_string());
    browser.wait_for("[name=title]");
    browser.tab_to("[name=title]");
    browser.press(" by keyboard");
    browser.tab_to("[name=_save]");
    browser.press(&Key::Enter.to_string());
    browser.wait_for_text(".message", "by keyboard");
    browser.tab_to(".effects summary");
    browser.press(&Key::Enter.to_string());
    browser.wait_until("the list of effects", "return document.querySelector('.effects').open");
}
