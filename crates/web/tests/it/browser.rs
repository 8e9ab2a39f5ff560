//! The app in a real browser: headless Chromium, driven by chromedriver.

mod admin;
mod driver;
mod live;
mod look;
mod pictures;
mod toolbar;

use self::driver::Browser;
