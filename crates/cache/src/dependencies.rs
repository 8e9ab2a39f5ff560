//! What depends on what: while a value, a fragment or a page is made, whatever it is made of is noted for it.
//!
//! Whoever reads a row says so with [`depends_on`], and all that is being made there carries the tag, from the innermost
//! value to the page: an invalidation of the tag then makes each of them stale. An entry that is found in a cache hands on
//! what it depends on in the same way, and beside its tags how long it is fresh, that it is one visitor's
//! ([`mark_private`]), and which fields of the request it was made for ([`vary_on_headers`]).
//!
//! What is being made is known to the task or thread that makes it. Closures for other threads take it along with
//! [`carry`], futures for other tasks with [`carry_async`].
//!
//! # Examples
//! ```
//! use larder_cache::{Caches, dependencies::depends_on};
//!
//! let cache = Caches::local().default_cache().blocking();
//! let title = || {
//!     depends_on(["object:7"]);
//!     Ok::<_, std::io::Error>("Crock".to_owned())
//! };
//! let page = || cache.get_or_set("title", 300, title).map(|title| format!("<h1>{title}</h1>"));
//! assert_eq!(cache.get_or_set("page", 300, page)?, "<h1>Crock</h1>");
//!
//! cache.invalidate_tags(["object:7"])?;
//! assert!(!cache.has_key("title")? && !cache.has_key("page")?);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

use std::{
    cell::RefCell,
    collections::BTreeSet,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{backend::Sharing, clock::Timestamp, envelope::Remark, timeout::Expiry};

/// What one entry in the making depends on, as far as it is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes {
    noted: Arc<Mutex<Noted>>,
    /// Who will see the entry.
    sharing: Sharing,
}

/// What was noted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Noted {
    pub(crate) tags: BTreeSet<String>,
    /// The earliest end of what it is made of.
    pub(crate) fresh_until: Option<Timestamp>,
    pub(crate) is_private: bool,
    /// The fields of the request that it was made for, in lower case.
    pub(crate) vary: BTreeSet<String>,
}

impl Notes {
    /// Makes an empty one for an entry that these will see.
    pub(crate) fn seen_by(sharing: Sharing) -> Self {
        Notes { noted: Arc::default(), sharing }
    }

    /// Returns what was noted so far.
    pub(crate) fn get(&self) -> Noted {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noted {
    /// Returns the tags, and what else goes into the entry in the place of tags.
    pub(crate) fn into_names(self) -> Vec<String> {
        let remarks = self.is_private.then_some(Remark::Private).into_iter();
        let remarks = remarks.chain(self.vary.into_iter().map(Remark::Vary));
        self.tags.into_iter().chain(remarks.map(|remark| remark.name())).collect()
    }
}

/// What a task or thread is doing, the outermost first.
#[derive(Debug, Clone)]
pub(crate) enum Level {
    /// It makes what is stored under this key.
    Making { key: Arc<str>, notes: Notes },
    /// What it reads is nobody's business.
    Untracked,
    /// It works for the request of this number.
    Traced(u64),
}

tokio::task_local! {
    static LEVELS: Vec<Level>;
}

thread_local! {
    /// The same for a thread that works by itself.
    static HERE: RefCell<LevelsHere> = const { RefCell::new(LevelsHere { last: 0, levels: Vec::new() }) };
}

#[derive(Debug)]
struct LevelsHere {
    /// The number of the last [`Here`].
    last: u64,
    levels: Vec<(u64, Level)>,
}

/// Says that what is being made here depends on these tags. Call it before reading what they stand for.
///
/// Does nothing where nothing is being made. An invalidation that comes while it is made wins.
///
/// # Examples
/// See the [module](self).
pub fn depends_on<T: Into<String>>(tags: impl IntoIterator<Item = T>) {
    if is_tracking() {
        let tags: Vec<String> = tags.into_iter().map(Into::into).collect();
        note(|noted| noted.tags.extend(tags.iter().cloned()));
    }
}

/// Says that what is being made here is for one visitor: a page that it becomes part of is not stored for others. Values
/// and fragments are, so their keys must tell visitors apart.
///
/// # Examples
/// ```
/// use larder_cache::dependencies::mark_private;
///
/// fn greeting(name: &str) -> String {
///     mark_private();
///     format!("Hello {name}")
/// }
/// ```
pub fn mark_private() {
    note(|noted| noted.is_private = true);
}

/// Says that what is being made here was made for these fields of the request: a page that it becomes part of varies by
/// them. The keys of values and fragments must tell them apart.
///
/// # Examples
/// ```
/// use larder_cache::dependencies::vary_on_headers;
///
/// vary_on_headers(["Accept-Language"]);
/// ```
pub fn vary_on_headers<'n>(names: impl IntoIterator<Item = &'n str>) {
    let names: Vec<String> = names.into_iter().map(str::to_ascii_lowercase).collect();
    note(|noted| noted.vary.extend(names.iter().cloned()));
}

/// Reads something that what is being made here shall not depend on: a counter of visits, the version of a schema.
///
/// # Examples
/// ```
/// use larder_cache::{Caches, dependencies::{depends_on, untracked}};
///
/// let cache = Caches::local().default_cache().blocking();
/// let load = || {
///     untracked(|| depends_on(["visits"]));
///     Ok::<_, std::io::Error>(1)
/// };
/// cache.get_or_set("value", 60, load)?;
/// cache.invalidate_tags(["visits"])?;
/// assert!(cache.has_key("value")?);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub fn untracked<T>(read: impl FnOnce() -> T) -> T {
    let _here = Here::enter([Level::Untracked]);
    read()
}

/// Does what [`untracked`] does, for what has to be awaited: `untracked_async(cache.get_or_set(…)).await`.
pub fn untracked_async<F: Future>(read: F) -> impl Future<Output = F::Output> {
    let mut all = levels();
    all.push(Level::Untracked);
    LEVELS.scope(all, read)
}

/// Takes along to another thread what is being made here: for `web::block` and its like.
///
/// # Examples
/// ```
/// # actix_web::rt::System::new().block_on(async {
/// use actix_web::web;
/// use larder_cache::{Caches, dependencies::{carry, depends_on}};
///
/// let cache = Caches::local().default_cache();
/// let load = || web::block(carry(|| depends_on(["object:7"])));
/// cache.get_or_set("value", 60, load).await.unwrap();
/// cache.invalidate_tags(["object:7"]).await.unwrap();
/// assert!(!cache.has_key("value").await.unwrap());
/// # });
/// ```
pub fn carry<T>(run: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let levels = levels();
    move || {
        let _there = There::enter(levels);
        run()
    }
}

/// Takes along to another task what is being made here: for `tokio::spawn` and its like.
///
/// # Examples
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use larder_cache::dependencies::carry_async;
///
/// let answer = tokio::spawn(carry_async(async { 42 }));
/// # assert_eq!(answer.await.unwrap(), 42);
/// # });
/// ```
pub fn carry_async<F: Future>(future: F) -> impl Future<Output = F::Output> {
    LEVELS.scope(levels(), future)
}

/// Gives a task a number, which goes along wherever what is being made goes along: to loaders, and with [`carry`] to threads.
/// An [`Observer`](crate::events::Observer) reads it with [`trace`] and so knows which request a decision was made for.
///
/// # Examples
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use larder_cache::dependencies::{trace, traced};
///
/// assert_eq!(traced(7, async { trace() }).await, Some(7));
/// assert_eq!(trace(), None);
/// # });
/// ```
pub fn traced<F: Future>(number: u64, run: F) -> impl Future<Output = F::Output> {
    let mut all = levels();
    all.push(Level::Traced(number));
    LEVELS.scope(all, run)
}

/// Returns the number of the task or thread that asks, the innermost one.
///
/// # Examples
/// See [`traced`].
pub fn trace() -> Option<u64> {
    let number = |level: &Level| match level {
        Level::Traced(number) => Some(*number),
        _ => None,
    };
    let here = HERE.with_borrow(|here| here.levels.iter().rev().find_map(|(_, level)| number(level)));
    here.or_else(|| LEVELS.try_with(|levels| levels.iter().rev().find_map(number)).ok().flatten())
}

/// Hands on what an entry depends on that was found and is used.
pub(crate) fn hand_on<'n>(tags: impl Iterator<Item = &'n str>, remarks: impl Iterator<Item = Remark>, fresh: Expiry) {
    if !is_tracking() {
        return;
    }
    let tags: Vec<String> = tags.map(str::to_owned).collect();
    let remarks: Vec<Remark> = remarks.collect();
    note(|noted| {
        noted.tags.extend(tags.iter().cloned());
        if let Expiry::At(end) = fresh {
            noted.fresh_until = Some(noted.fresh_until.map_or(end, |until| until.min(end)));
        }
        for remark in &remarks {
            match remark {
                Remark::Private => noted.is_private = true,
                Remark::Vary(name) => drop(noted.vary.insert(name.clone())),
            }
        }
    });
}

/// Tells whether a key is being made by the task or thread that asks.
pub(crate) fn is_making(key: &str) -> bool {
    any_level(|level| matches!(level, Level::Making { key: made, .. } if **made == *key))
}

/// Tells whether the task or thread that asks is making anything.
pub(crate) fn is_making_any() -> bool {
    any_level(|level| matches!(level, Level::Making { .. }))
}

/// Tells whether something is being made here that more will see than these.
pub(crate) fn is_making_for_more_than(sharing: Sharing) -> bool {
    any_level(|level| matches!(level, Level::Making { notes, .. } if notes.sharing > sharing))
}

/// Makes a task know what it makes, beside what the task knows that started it.
pub(crate) fn making<F: Future, K: IntoIterator<Item = String>>(
    make: F,
    keys: K,
    notes: &Notes,
) -> impl Future<Output = F::Output> + use<F, K> {
    let mut all = levels();
    all.extend(keys.into_iter().map(|key| Level::Making { key: key.into(), notes: notes.clone() }));
    LEVELS.scope(all, make)
}

/// What this thread is doing until it is dropped. Several may end in another order than they began in.
#[derive(Debug)]
pub(crate) struct Here(u64);

impl Here {
    /// Makes this thread know what it makes.
    pub(crate) fn making(keys: impl IntoIterator<Item = String>, notes: &Notes) -> Self {
        Here::enter(keys.into_iter().map(|key| Level::Making { key: key.into(), notes: notes.clone() }))
    }

    fn enter(levels: impl IntoIterator<Item = Level>) -> Self {
        HERE.with_borrow_mut(|here| {
            here.last += 1;
            let entered = here.last;
            here.levels.extend(levels.into_iter().map(|level| (entered, level)));
            Here(entered)
        })
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let ended = HERE.with_borrow_mut(|here| {
            let (ended, left) = mem::take(&mut here.levels).into_iter().partition(|(entered, _)| *entered == self.0);
            here.levels = left;
            ended
        });
        // After the borrow: what was noted may be anything.
        let _: Vec<(u64, Level)> = ended;
    }
}

/// The levels of another thread, which stand on this one until it is dropped.
pub(crate) struct There(Vec<(u64, Level)>);

impl There {
    pub(crate) fn enter(levels: Vec<Level>) -> Self {
        let levels = levels.into_iter().map(|level| (0, level)).collect();
        There(HERE.with_borrow_mut(|here| mem::replace(&mut here.levels, levels)))
    }
}

impl Drop for There {
    fn drop(&mut self) {
        let before = mem::take(&mut self.0);
        drop(HERE.with_borrow_mut(|here| mem::replace(&mut here.levels, before)));
    }
}

/// Returns the levels of this task and thread.
pub(crate) fn levels() -> Vec<Level> {
    let mut all = LEVELS.try_with(Clone::clone).unwrap_or_default();
    HERE.with_borrow(|here| all.extend(here.levels.iter().map(|(_, level)| level.clone())));
    all
}

fn any_level(mut is_it: impl FnMut(&Level) -> bool) -> bool {
    HERE.with_borrow(|here| here.levels.iter().any(|(_, level)| is_it(level)))
        || LEVELS.try_with(|levels| levels.iter().any(is_it)).unwrap_or(false)
}

/// Notes something for all that is being made here, up to where nothing is tracked.
fn note(mut note: impl FnMut(&mut Noted)) {
    each_tracked(|notes| note(&mut notes.lock()));
}

fn is_tracking() -> bool {
    let mut is_tracking = false;
    each_tracked(|_| is_tracking = true);
    is_tracking
}

fn each_tracked(mut visit: impl FnMut(&Notes)) {
    let mut visit_until = |level: &Level| match level {
        Level::Making { notes, .. } => {
            visit(notes);
            false
        }
        Level::Untracked => true,
        Level::Traced(_) => false,
    };
    let is_ended = HERE.with_borrow(|here| here.levels.iter().rev().any(|(_, level)| visit_until(level)));
    if !is_ended {
        let _ = LEVELS.try_with(|levels| levels.iter().rev().any(visit_until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted_by(run: impl FnOnce()) -> Noted {
        let notes = Notes::default();
        let here = Here::making(["key".to_owned()], &notes);
        run();
        drop(here);
        notes.get()
    }

    fn tags(noted: &Noted) -> Vec<&str> {
        noted.tags.iter().map(String::as_str).collect()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn the_outer_depends_on_what_the_inner_does_and_not_the_other_way() {
        let inner = Notes::default();
        let outer = noted_by(|| {
            depends_on(["before"]);
            let here = Here::making(["inner".to_owned()], &inner);
            depends_on(["within"]);
            drop(here);
            depends_on(["after"]);
        });
        assert_eq!(tags(&outer), ["after", "before", "within"]);
        assert_eq!(tags(&inner.get()), ["within"]);
    }

    #[test]
    fn levels_may_end_in_any_order() {
        let (one, two) = (Notes::default(), Notes::default());
        let first = Here::making(["one".to_owned()], &one);
        let second = Here::making(["two".to_owned()], &two);
        drop(first);
        assert!(!is_making("one") && is_making("two"));
        depends_on(["a"]);
        drop(second);
        assert!(!is_making_any());
        assert!(one.get().tags.is_empty());
        assert_eq!(tags(&two.get()), ["a"]);
    }

    #[test]
    fn what_is_untracked_reaches_only_what_is_made_within() {
        let inner = Notes::default();
        let outer = noted_by(|| {
            untracked(|| {
                depends_on(["nobody's"]);
                let _here = Here::making(["inner".to_owned()], &inner);
                depends_on(["inner's"]);
            });
            depends_on(["outer's"]);
        });
        assert_eq!(tags(&outer), ["outer's"]);
        assert_eq!(tags(&inner.get()), ["inner's"]);
    }

    #[test]
    fn a_number_goes_along_and_tracks_nothing() {
        let notes = Notes::default();
        let run = async {
            assert!(!is_making_any() && !is_tracking());
            let there = tokio::task::spawn_blocking(carry(trace)).await.unwrap();
            (there, traced(8, async { trace() }).await, making(async { trace() }, ["key".to_owned()], &notes).await)
        };
        assert_eq!(block_on(traced(7, run)), (Some(7), Some(8), Some(7)));
        let read = || {
            depends_on(["a"]);
            trace()
        };
        let noted = noted_by(|| assert_eq!(block_on(traced(9, async { read() })), Some(9)));
        assert_eq!(tags(&noted), ["a"]);
    }

    #[test]
    fn tasks_and_threads_note_for_those_who_started_them() {
        let notes = Notes::default();
        let make = async {
            depends_on(["a"]);
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            tokio::spawn(carry_async(async { depends_on(["b"]) })).await.unwrap();
            tokio::task::spawn_blocking(carry(|| depends_on(["c"]))).await.unwrap();
            tokio::task::spawn_blocking(|| depends_on(["not carried"])).await.unwrap();
            assert!(is_making("key"));
        };
        block_on(making(make, ["key".to_owned()], &notes));
        assert_eq!(tags(&notes.get()), ["a", "b", "c"]);
        assert!(!is_making_any());
    }

    #[test]
    fn a_closure_that_was_carried_leaves_nothing_behind() {
        let notes = Notes::default();
        let here = Here::making(["key".to_owned()], &notes);
        let carried = carry(|| assert!(is_making("key")));
        drop(here);
        carried();
        assert!(!is_making_any());
    }

    #[test]
    fn what_is_found_hands_on_more_than_tags() {
        let early = Timestamp::from_millis(1);
        let noted = noted_by(|| {
            let vary = Remark::Vary("accept-language".to_owned());
            hand_on(["a"].into_iter(), [vary].into_iter(), Expiry::At(Timestamp::from_millis(2)));
            hand_on(["b"].into_iter(), [].into_iter(), Expiry::At(early));
            hand_on(["b"].into_iter(), [Remark::Private].into_iter(), Expiry::Never);
        });
        assert_eq!((noted.fresh_until, noted.is_private), (Some(early), true));
        let names = noted.into_names();
        assert_eq!(names[..2], ["a", "b"]);
        let remarks: Vec<Remark> = names[2..].iter().filter_map(|name| Remark::of(name)).collect();
        assert_eq!(remarks, [Remark::Private, Remark::Vary("accept-language".to_owned())]);
    }
}
