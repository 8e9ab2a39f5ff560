//! Where in the code something was asked for.

use std::{backtrace::Backtrace, fmt};

/// Whose code is shown; what is between it and the caches is not.
const OURS: &str = "larder_web::";
const FOLDER: &str = "crates/web/";
const WATCHERS: [&str; 4] = ["larder_web::toolbar", "larder_web::observe", "larder_web::state", "larder_web::app"];

/// A place, which is found out when somebody asks: that takes far longer than noting it.
pub(super) struct Place(Backtrace);

impl Place {
    /// Notes where this is called.
    pub(super) fn here() -> Self {
        Place(Backtrace::force_capture())
    }

    /// Returns the line of this app that asked: `src/pages/objects.rs:45`; `None` if it is not known.
    pub(super) fn line(&self) -> Option<String> {
        find(&self.0.to_string())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

/// Finds the innermost line that is ours in a backtrace as it is written out.
fn find(backtrace: &str) -> Option<String> {
    let mut lines = backtrace.lines().map(str::trim).peekable();
    while let Some(frame) = lines.next() {
        let name = frame.split_once(": ").map_or("", |(_, name)| name).trim_start_matches('<');
        let is_ours = name.starts_with(OURS) && !WATCHERS.iter().any(|watcher| name.starts_with(watcher));
        if !is_ours {
            continue;
        }
        return match lines.peek().and_then(|line| line.strip_prefix("at ")) {
            Some(place) => {
                // Without the column, and without the folder that it was built in.
                let place = place.rsplit_once(':').map_or(place, |(place, _)| place);
                let start = place.find(FOLDER).unwrap_or(0);
                Some(place[start..].to_owned())
            }
            // Without debug information there are names alone.
            None => Some(name.to_owned()),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_line_of_ours_is_found() {
        let backtrace = "   0: larder_web::toolbar::place::Place::here\n             at ./crates/web/src/toolbar/place.rs:16:15\n   \
                         1: larder_cache::cache::get\n             at ./crates/cache/src/cache.rs:1:2\n   \
                         2: larder_web::pages::objects::list::{{closure}}\n             at /home/anna/larder/crates/web/src/pages/objects.rs:45:20\n   \
                         3: larder_web::main\n             at ./crates/web/src/main.rs:3:1";
        assert_eq!(find(backtrace).as_deref(), Some("crates/web/src/pages/objects.rs:45"));
        assert_eq!(find("   2: larder_web::pages::home\n   3: main").as_deref(), Some("larder_web::pages::home"));
        assert_eq!(find("   0: main"), None);
    }
}
