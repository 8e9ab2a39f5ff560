//! The decisions of the caches as they are made, for those who watch: the lines of the log, kept for a while, so that
//! whoever was cut off misses nothing.
//!
//! While nobody watches nothing is kept, and a decision costs one atomic load.

use std::{
    collections::VecDeque,
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
use crate::{logging, state::now_millis};

/// How many lines are kept.
const MAX_LINES: usize = 2000;

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
    /// The number of the last line.
    last: watch::Sender<u64>,
    is_over: AtomicBool,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Line>,
    last: u64,
    /// When somebody was here last.
    visited: Option<Instant>,
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
    /// What it was about: `tag object:7`.
    pub about: Option<String>,
    /// Who did it and why.
    pub cause: Option<String>,
}

/// What somebody reads who watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The lines since he read last.
    pub lines: Vec<Line>,
    /// How many he missed: they are not kept any more.
    pub missed: u64,
}

/// Somebody who watches.
#[derive(Debug)]
pub struct Watcher {
    feed: Feed,
    /// The number of the line that he read last.
    read: u64,
    last: watch::Receiver<u64>,
}

impl Feed {
    /// Returns the number of the last line, and keeps lines from now on: somebody is about to watch.
    pub fn expect(&self) -> u64 {
        let mut kept = lock(&self.0.kept);
        kept.visited = Some(Instant::now());
        self.0.is_on.store(true, Ordering::Relaxed);
        kept.last
    }

    /// Watches, beginning after a line.
    pub fn watch(&self, after: u64) -> Watcher {
        self.0.watchers.fetch_add(1, Ordering::Relaxed);
        let last = self.expect();
        // A number from before a restart says nothing here.
        let read = if after > last { 0 } else { after };
        Watcher { feed: self.clone(), read, last: self.0.last.subscribe() }
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
            cause: fields.iter().find(|(name, _)| *name == "cause").map(|(_, cause)| cause.clone()),
            fields: logging::fields(&fields),
            alias: event.alias.to_owned(),
            about: event.key.map(ToString::to_string),
        };
        let mut kept = lock(&self.0.kept);
        kept.last += 1;
        line.id = kept.last;
        kept.lines.push_back(line);
        if kept.lines.len() > MAX_LINES {
            kept.lines.pop_front();
        }
        let last = kept.last;
        drop(kept);
        self.0.last.send_modify(|sent| *sent = last.max(*sent));
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

    /// Returns the number of the line that was read last.
    pub fn position(&self) -> u64 {
        self.read
    }

    fn read(&mut self) -> Option<News> {
        let kept = lock(&self.feed.0.kept);
        let first = kept.lines.front().map_or(kept.last + 1, |line| line.id);
        let missed = first.saturating_sub(self.read + 1);
        let lines: Vec<Line> = kept.lines.iter().filter(|line| line.id > self.read).cloned().collect();
        self.read = kept.last;
        (missed > 0 || !lines.is_empty()).then_some(News { lines, missed })
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
        let mut watcher = feed.watch(0);
        assert_eq!(next(&mut watcher), None, "nobody watched yet");
        cache.delete("a").unwrap();
        let news = next(&mut watcher).unwrap();
        let [line] = &*news.lines else { panic!("{news:?}") };
        assert_eq!((line.outcome, line.message, news.missed), ("invalidation", "invalidated", 0));
        assert_eq!(line.fields, "key=a alias=default cause=test entries=0");
        assert_eq!(line.about.as_deref(), Some("key=a"));

        let position = watcher.position();
        drop(watcher);
        cache.delete("b").unwrap();
        feed.rest();
        let mut back = feed.watch(position);
        assert_eq!(next(&mut back).unwrap().lines[0].about.as_deref(), Some("key=b"));

        for number in 0..MAX_LINES + 5 {
            cache.delete(format!("key {number}")).unwrap();
        }
        let news = next(&mut back).unwrap();
        assert_eq!((news.lines.len(), news.missed), (MAX_LINES, 5));
        let mut after_restart = feed.watch(1_000_000);
        assert_eq!(next(&mut after_restart).unwrap().lines.len(), MAX_LINES);
        feed.close();
        assert_eq!(next(&mut back), None);
    }
}
