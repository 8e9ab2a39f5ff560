//! What belongs to one render: lazy values, and fragments whose body is running.
//!
//! Rendering is synchronous and stays on one thread, and Tera's values are plain data, so this lives in a
//! thread-local stack: one scope per render, the innermost on top. No borrow of it is held while code of others
//! runs, because a lazy value may render another template.

use std::{borrow::Cow, cell::RefCell, collections::BTreeMap, error::Error, fmt, rc::Rc};

use serde::Serialize;
use tera::Value;

use super::{
    Fragment, FragmentStore, Ticket,
    holes::{self, Cut, Hole, Part, Secret},
};
use crate::{Key, Timeout, error::Source, tags};

type Query = Box<dyn FnOnce() -> Result<Value, Source> + Send>;

thread_local! {
    static SCOPES: RefCell<Vec<Scope>> = const { RefCell::new(Vec::new()) };
}

/// Values that a template asks for with `lazy(name="…")`, computed when it does and at most once per render.
///
/// On a hit the body of the fragment does not run, so neither does the query.
///
/// Read in the closure, not before it: a fragment notes the versions of its tags before its body runs, so an
/// invalidation that comes while the closure reads wins. What was read before the render may be old already, and would
/// be kept as new.
///
/// # Examples
/// ```
/// use larder_cache::template::Lazy;
///
/// let lazy = Lazy::new()
///     .value("objects", || Ok::<_, std::io::Error>(vec!["chair", "table"]))
///     .value("count", || std::fs::read_to_string("count.txt"));
/// # let _ = lazy;
/// ```
#[derive(Default)]
pub struct Lazy(BTreeMap<String, State>);

enum State {
    Waiting(Query),
    Running,
    Ready(Value),
}

impl Lazy {
    /// Returns an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value under a name; a second one under the same name replaces the first.
    ///
    /// An error of `query` becomes the error of the render, with the query's as its source.
    #[must_use]
    pub fn value<T, E>(mut self, name: impl Into<String>, query: impl FnOnce() -> Result<T, E> + Send + 'static) -> Self
    where
        T: Serialize,
        E: Into<Source>,
    {
        let query = move || {
            let value = query().map_err(Into::into)?;
            Value::try_from_serializable(&value).map_err(Source::from)
        };
        self.0.insert(name.into(), State::Waiting(Box::new(query)));
        self
    }
}

impl fmt::Debug for Lazy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[derive(Default)]
struct Scope {
    lazy: BTreeMap<String, State>,
    open: Vec<Option<OpenFragment>>,
    failure: Option<Source>,
    /// What the markers of holes begin with, once there is one.
    secret: Option<Rc<Secret>>,
    holes: Vec<Hole>,
    /// Whether markup was escaped where the hole stands that is being filled.
    escapes: Option<bool>,
}

/// A fragment whose body is running.
pub(super) struct OpenFragment {
    pub(super) alias: String,
    pub(super) name: String,
    pub(super) key: Key<'static>,
    pub(super) template: String,
    pub(super) digest: String,
    pub(super) timeout: Timeout,
    pub(super) tags: Vec<String>,
    pub(super) ticket: Ticket,
}

impl OpenFragment {
    /// Hands what the body rendered to over to the store.
    pub(super) fn finish(self, store: &dyn FragmentStore, html: &str) {
        let fragment = Fragment {
            alias: &self.alias,
            name: &self.name,
            key: &self.key,
            template: &self.template,
            digest: &self.digest,
            timeout: self.timeout,
            tags: &self.tags,
        };
        store.finish(&fragment, self.ticket, html);
    }
}

/// One render. Dropping it ends the scope, on a panic too.
#[derive(Debug)]
pub(super) struct Render {
    /// A scope belongs to the thread that opened it.
    _thread: std::marker::PhantomData<Rc<()>>,
}

impl Render {
    pub(super) fn begin(lazy: Lazy) -> Self {
        SCOPES.with_borrow_mut(|scopes| scopes.push(Scope { lazy: lazy.0, ..Scope::default() }));
        Render { _thread: std::marker::PhantomData }
    }

    /// Returns the error of the lazy value that failed, if one did.
    pub(super) fn failure(&self) -> Option<Source> {
        top(|scope| scope.failure.take()).flatten()
    }
}

impl Drop for Render {
    fn drop(&mut self) {
        // Tickets and queries that were not used are dropped here, after the borrow has ended.
        drop(SCOPES.with_borrow_mut(Vec::pop));
    }
}

/// Keeps an open fragment and returns the number to ask for it; `None` outside of a render.
pub(super) fn keep(fragment: OpenFragment) -> Option<u64> {
    top(|scope| {
        scope.open.push(Some(fragment));
        scope.open.len() as u64 - 1
    })
}

/// Takes an open fragment back.
pub(super) fn take(number: u64) -> Option<OpenFragment> {
    top(|scope| scope.open.get_mut(usize::try_from(number).ok()?)?.take()).flatten()
}

/// Returns a lazy value, computing it if this is the first time.
pub(super) fn lazy(name: &str) -> Result<Value, String> {
    let state = top(|scope| scope.lazy.get_mut(name).map(|state| std::mem::replace(state, State::Running))).flatten();
    let result = match state {
        Some(State::Ready(value)) => Ok(value),
        Some(State::Waiting(query)) => query(),
        Some(State::Running) => return Err(format!("the lazy value `{name}` is being computed already")),
        None => return Err(unknown(name)),
    };
    match result {
        Ok(value) => {
            top(|scope| scope.lazy.insert(name.to_owned(), State::Ready(value.clone())));
            Ok(value)
        }
        Err(error) => {
            let message = format!("the lazy value `{name}` could not be computed: {}", causes(&*error));
            top(|scope| scope.failure = Some(error));
            Err(message)
        }
    }
}

/// Notes a hole and returns its marker; `None` outside of a render.
pub(super) fn mark(hole: Hole) -> Option<String> {
    top(|scope| {
        let secret = match &scope.secret {
            Some(secret) => secret,
            None => scope.secret.insert(Rc::new(Secret::new(tags::random().ok()?))),
        };
        scope.holes.push(hole);
        Some(secret.marker(scope.holes.len() - 1))
    })
    .flatten()
}

/// Returns markup as it is stored: with its holes, and without markers.
pub(super) fn detach(markup: &str) -> Result<Cow<'_, str>, Cut> {
    top(|scope| match &scope.secret {
        None if !holes::is_detached(markup) => Ok(Cow::Borrowed(markup)),
        None => holes::detach(&[Part::Text(markup)], &[]).map(Cow::Owned),
        Some(secret) => holes::detach(&secret.split(markup)?, &scope.holes).map(Cow::Owned),
    })
    .unwrap_or(Ok(Cow::Borrowed(markup)))
}

/// Returns stored markup with the markers of this render; `None` if it cannot be read.
pub(super) fn attach(stored: String) -> Option<String> {
    if holes::is_detached(&stored) {
        holes::attach(&stored, |hole| mark(hole).unwrap_or_default())
    } else {
        Some(stored)
    }
}

/// Tells whether this render has met any hole.
pub(super) fn has_met_holes() -> bool {
    top(|scope| scope.secret.is_some()).unwrap_or(false)
}

/// Tells whether a text has a marker of this render in it.
pub(super) fn has_marker(text: &str) -> bool {
    top(|scope| scope.secret.as_ref().is_some_and(|secret| secret.is_in(text))).unwrap_or(false)
}

/// A piece of markup that may have holes.
pub(super) enum Piece<'m> {
    Text(&'m str),
    Hole(Hole),
}

/// Takes markup apart; `None` if this render has met no hole.
pub(super) fn pieces(markup: &str) -> Result<Option<Vec<Piece<'_>>>, Cut> {
    let Some(secret) = top(|scope| scope.secret.clone()).flatten() else { return Ok(None) };
    let piece = |part| match part {
        Part::Text(text) => Ok(Piece::Text(text)),
        Part::Hole(index) => top(|scope| scope.holes.get(index).cloned()).flatten().map(Piece::Hole).ok_or(Cut),
    };
    secret.split(markup)?.into_iter().map(piece).collect::<Result<_, _>>().map(Some)
}

/// Notes whether the hole that is filled from now on stands where markup is escaped; returns what held before.
pub(super) fn set_escapes(escapes: Option<bool>) -> Option<bool> {
    top(|scope| std::mem::replace(&mut scope.escapes, escapes)).flatten()
}

/// Tells whether markup was escaped where the hole stands that is being filled.
pub(super) fn escapes() -> Option<bool> {
    top(|scope| scope.escapes).flatten()
}

fn unknown(name: &str) -> String {
    let known = top(|scope| scope.lazy.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>()).unwrap_or_default();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    format!("there is no lazy value `{name}`; registered for this render: {known}")
}

fn causes(error: &(dyn Error + 'static)) -> String {
    crate::error::Causes(error).to_string()
}

fn top<T>(with: impl FnOnce(&mut Scope) -> T) -> Option<T> {
    SCOPES.with_borrow_mut(|scopes| scopes.last_mut().map(with))
}
