//! The decisions of the caches as they are made, for those who watch: the lines of the log, kept for a while, so that
//! whoever was cut off misses nothing.
//!
//! While nobody watches nothing is kept, and a decision costs one atomic load.

use std::{
    collections::VecDeque,
    fmt,
    num::ParseIntError,
    str::FromStr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use larder_cache::events::{Event, Observer, What};
use serde::Serialize;
use tokio::sync::watch;

use super::lock;
use crate::{logging, state::now_millis, text::cut};

/// How many lines are kept.
const MAX_LINES: usize = 2000;

/// How much of a line is kept. What visitors send shall not fill the memory.
const MAX_CHARS: usize = 1000;

/// How long they are kept after the last one who watched has left: he may come back.
const PATIENCE: Duration = Duration::from_secs(120);

/// The lines.
#[derive(Debug, Clone, Default)]
pub struct Feed(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_on: AtomicBool,
    watchers: AtomicUsize,
    kept: Mutex<Kept>,
    /// Where the last line is.
    last: watch::Sender<Position>,
    is_over: AtomicBool,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Line>,
    last: Position,
    /// When somebody was here last.
    visited: Option<Instant>,
}

/// Where somebody is who reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Since when lines are kept, in unix milliseconds: those before are not, nor are those of an earlier run.
    pub since: i64,
    /// The number of the line that was read last.
    pub line: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.since, self.line)
    }
}

impl FromStr for Position {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (since, line) = text.split_once('-').unwrap_or((text, ""));
        Ok(Position { since: since.parse()?, line: line.parse()? })
    }
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its number.
    pub id: u64,
    /// When it was, in unix milliseconds.
    pub at: i64,
    /// `hit`, `miss`, `load`, `store`, `invalidation` or `failure`.
    pub outcome: &'static str,
    /// Whether it is of little interest, as what nobody had cached: the level is `debug`.
    pub is_minor: bool,
    /// `invalidated`.
    pub message: &'static str,
    /// The fields, as the log writes them: `tag=object:7 alias=default cause="post_save Object#7"`.
    pub fields: String,
    /// The alias of the cache.
    pub alias: String,
    /// Who did it and why.
    pub cause: Option<String>,
}

/// What somebody reads who watches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct News {
    /// The lines since he read last.
    pub lines: Vec<Line>,
    /// How many he missed that are not kept any more.
    pub missed: u64,
    /// Whether lines were not kept for a while since then, as while nobody watched or the server was not there.
    pub is_torn: bool,
}

/// Somebody who watches.
#[derive(Debug)]
pub struct Watcher {
    feed: Feed,
    read: Position,
    last: watch::Receiver<Position>,
}

impl Feed {
    /// Returns where the last line is, and keeps lines from now on: somebody is about to watch.
    pub fn expect(&self) -> Position {
        let mut kept = lock(&self.0.kept);
        kept.visited = Some(Instant::now());
        if !self.0.is_on.swap(true, Ordering::Relaxed) {
            // Later than before, whatever the clock says.
            kept.last = Position { since: now_millis().max(kept.last.since + 1), line: 0 };
        }
        kept.last
    }

    /// Watches, beginning after a line; of nowhere, with the next one.
    pub fn watch(&self, after: Option<Position>) -> Watcher {
        self.0.watchers.fetch_add(1, Ordering::Relaxed);
        let last = self.expect();
        Watcher { feed: self.clone(), read: after.unwrap_or(last), last: self.0.last.subscribe() }
    }

    /// Keeps nothing any more if nobody watches.
    pub fn rest(&self) {
        let mut kept = lock(&self.0.kept);
        let is_alone = self.0.watchers.load(Ordering::Relaxed) == 0;
        if is_alone && kept.visited.is_none_or(|visited| visited.elapsed() > PATIENCE) {
            self.0.is_on.store(false, Ordering::Relaxed);
            kept.lines.clear();
        }
    }

    /// Lets everybody go: the server stops.
    pub fn close(&self) {
        self.0.is_over.store(true, Ordering::Relaxed);
        self.0.last.send_modify(|_| {});
    }
}

impl Observer for Feed {
    fn wants_look_ups(&self) -> bool {
        self.0.is_on.load(Ordering::Relaxed)
    }

    fn observe(&self, event: &Event<'_>) {
        if !self.0.is_on.load(Ordering::Relaxed) {
            return;
        }
        let fields = event.fields();
        let mut line = Line {
            id: 0,
            at: now_millis(),
            outcome: outcome(&event.what),
            is_minor: event.level() == log::Level::Debug,
            message: event.message(),
            cause: fields
                .iter()
                .find(|(name, _)| *name == "cause")
                .map(|(_, cause)| cut(cause, MAX_CHARS).into_owned()),
            fields: cut(&logging::fields(&fields), MAX_CHARS).into_owned(),
            alias: event.alias.to_owned(),
        };
        let mut kept = lock(&self.0.kept);
        kept.last.line += 1;
        line.id = kept.last.line;
        kept.lines.push_back(line);
        if kept.lines.len() > MAX_LINES {
            kept.lines.pop_front();
        }
        let last = kept.last;
        drop(kept);
        self.0.last.send_replace(last);
    }
}

fn outcome(what: &What<'_>) -> &'static str {
    match what {
        What::Hit { .. } => "hit",
        What::Miss { .. } => "miss",
        What::Waited { .. } | What::Loaded { .. } => "load",
        What::Stored { .. } | What::NotStored { .. } | What::Overtaken { .. } => "store",
        What::Invalidated { .. } | What::Expired { .. } | What::Cleared { .. } => "invalidation",
        _ => "failure",
    }
}

impl Watcher {
    /// Waits for lines; `None` at the end.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            if self.feed.0.is_over.load(Ordering::Relaxed) {
                return None;
            }
            self.last.borrow_and_update();
            if let Some(news) = self.read() {
                return Some(news);
            }
            self.last.changed().await.ok()?;
        }
    }

    /// Returns where the line is that was read last.
    pub fn position(&self) -> Position {
        self.read
    }

    fn read(&mut self) -> Option<News> {
        let kept = lock(&self.feed.0.kept);
        let is_torn = self.read.since != kept.last.since;
        let read = if is_torn { 0 } else { self.read.line };
        let first = kept.lines.front().map_or(kept.last.line + 1, |line| line.id);
        let missed = first.saturating_sub(read + 1);
        let lines: Vec<Line> = kept.lines.iter().filter(|line| line.id > read).cloned().collect();
        self.read = kept.last;
        (is_torn || missed > 0 || !lines.is_empty()).then_some(News { lines, missed, is_torn })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.feed.expect();
        self.feed.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use larder_cache::{Caches, settings::AliasSettings};

    use super::*;

    fn start() -> (Feed, larder_cache::BlockingCache) {
        let feed = Feed::default();
        let settings = AliasSettings::default();
        let caches = Caches::builder().alias("default", settings).observer(feed.clone()).build().unwrap();
        (feed, caches.default_cache().blocking().because("test"))
    }

    fn next(watcher: &mut Watcher) -> Option<News> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let wait = async { tokio::time::timeout(Duration::from_millis(50), watcher.next()).await };
        runtime.block_on(wait).ok().flatten()
    }

    #[test]
    fn whoever_was_cut_off_reads_on_where_he_was() {
        let (feed, cache) = start();
        cache.set("before", "value", 60).unwrap();
        let mut watcher = feed.watch(None);
        assert_eq!(next(&mut watcher), None, "nobody watched yet");
        cache.delete("a").unwrap();
        let news = next(&mut watcher).unwrap();
        let [line] = &*news.lines else { panic!("{news:?}") };
        assert_eq!((line.outcome, line.message), ("invalidation", "invalidated"));
        assert_eq!((news.missed, news.is_torn), (0, false));
        assert_eq!(line.fields, "key=a alias=default cause=test entries=0");
        assert_eq!(line.cause.as_deref(), Some("test"));

        let position = watcher.position();
        assert_eq!(position.to_string().parse(), Ok(position));
        drop(watcher);
        cache.delete("b").unwrap();
        feed.rest();
        let mut back = feed.watch(Some(position));
        assert!(next(&mut back).unwrap().lines[0].fields.starts_with("key=b "));

        for number in 0..MAX_LINES + 5 {
            cache.delete(format!("key {number}")).unwrap();
        }
        let news = next(&mut back).unwrap();
        assert_eq!((news.lines.len(), news.missed), (MAX_LINES, 5));
        feed.close();
        assert_eq!(next(&mut back), None);
    }

    #[test]
    fn whoever_was_somewhere_else_is_told() {
        let (feed, cache) = start();
        let begun = feed.expect();
        let mut after_restart = feed.watch(Some(Position { since: begun.since - 1, line: 1_000_000 }));
        cache.delete("a").unwrap();
        let news = next(&mut after_restart).unwrap();
        assert_eq!((news.lines.len(), news.missed, news.is_torn), (1, 0, true));
        cache.delete("b").unwrap();
        assert!(!next(&mut after_restart).unwrap().is_torn, "once");

        let read = after_restart.position();
        drop(after_restart);
        lock(&feed.0.kept).visited = None;
        feed.rest();
        cache.delete("while nobody watched").unwrap();
        let mut back = feed.watch(Some(read));
        cache.delete("c").unwrap();
        let news = next(&mut back).unwrap();
        assert_eq!((news.lines.len(), news.is_torn), (1, true), "{news:?}");
    }

    #[test]
    fn what_visitors_send_does_not_fill_the_memory() {
        let (feed, cache) = start();
        let mut watcher = feed.watch(None);
        cache.delete("x".repeat(100_000)).unwrap();
        let line = next(&mut watcher).unwrap().lines.remove(0);
        assert_eq!(line.fields.chars().count(), MAX_CHARS + 1);
    }
}
