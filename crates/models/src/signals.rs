//! Signals: what others want to know about the saves and deletes of a model.
//!
//! Receivers before a write run inside its transaction and may refuse it. Receivers after a write run once the
//! outermost transaction is committed, so they never hear of a write that did not happen, and they cannot break one
//! that did.

use std::{
    any::{Any, TypeId},
    borrow::Cow,
    collections::HashMap,
    fmt,
    marker::PhantomData,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    db::{Db, panic_text},
    error::{Error, Result, Source, chain},
    link::Link,
    log_entry::Action,
    model::{Change, Model},
};

/// Runs inside the transaction, may change the event and refuse it.
type Changing<E> = Arc<dyn Fn(&mut Db, &mut E) -> Result<(), Source> + Send + Sync>;
/// Runs inside the transaction and may refuse it.
type Strict<E> = Arc<dyn Fn(&mut Db, &E) -> Result<(), Source> + Send + Sync>;
/// Runs after the commit.
type Robust<E> = Arc<dyn Fn(&E) -> Result<(), Source> + Send + Sync>;

/// Something that receivers hear of.
pub(crate) trait Event: Send + 'static {
    /// Names it for log lines.
    fn cause(&self) -> String;
}

/// An object is about to be stored; `pre_save` receivers may still change it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Saving<M> {
    /// The object as it will be stored. Its primary key is 0 if it is new; changes to the key are ignored.
    pub object: M,
    /// Whether it is new.
    pub created: bool,
}

/// An object was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Saved<M> {
    /// The object as it was stored.
    pub object: M,
    /// Whether it is new.
    pub created: bool,
    /// The fields that differ from the row before. Those that are not null if the object is new, none if it was saved unchanged.
    pub changed: Vec<Change>,
}

/// An object is about to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deleting<M> {
    /// The object as it is stored.
    pub object: M,
}

/// An object was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deleted<M> {
    /// The object as it was stored.
    pub object: M,
}

/// Several rows were written at once: by [`Model::bulk_insert`], [`Model::bulk_update`], [`Model::update_where`],
/// [`Model::delete_where`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BulkChanged<M> {
    /// What was done.
    pub action: Action,
    /// The primary keys of the rows.
    pub pks: Vec<i64>,
    pub(crate) model: PhantomData<M>,
}

/// The links of an object were changed; see [`Link`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinksChanged<L> {
    /// The pairs of primary keys that are linked now, left and right.
    pub added: Vec<(i64, i64)>,
    /// The pairs that no longer are.
    pub removed: Vec<(i64, i64)>,
    pub(crate) link: PhantomData<L>,
}

impl<M: Model> Saving<M> {
    /// Names the event for log lines: `pre_save Object#7`, or `pre_save Object` if it has no key yet.
    pub fn cause(&self) -> String {
        if self.created { format!("pre_save {}", M::NAME) } else { cause("pre_save", &self.object) }
    }
}

impl<M: Model> Saved<M> {
    /// Names the event for log lines: `post_save Object#7`.
    pub fn cause(&self) -> String {
        cause("post_save", &self.object)
    }

    /// Tells whether a field was changed.
    pub fn has_changed(&self, field: &str) -> bool {
        self.changed.iter().any(|change| change.field == field)
    }
}

impl<M: Model> Deleting<M> {
    /// Names the event for log lines: `pre_delete Object#7`.
    pub fn cause(&self) -> String {
        cause("pre_delete", &self.object)
    }
}

impl<M: Model> Deleted<M> {
    /// Names the event for log lines: `post_delete Object#7`.
    pub fn cause(&self) -> String {
        cause("post_delete", &self.object)
    }
}

impl<M: Model> BulkChanged<M> {
    /// Names the event for log lines: `bulk_changed Object (12 rows)`.
    pub fn cause(&self) -> String {
        format!("bulk_changed {} ({} rows)", M::NAME, self.pks.len())
    }
}

impl<L: Link> LinksChanged<L> {
    /// Names the event for log lines: `links_changed ObjectLabel (2 added, 1 removed)`.
    pub fn cause(&self) -> String {
        format!("links_changed {} ({} added, {} removed)", L::NAME, self.added.len(), self.removed.len())
    }
}

macro_rules! events {
    ($($event:ident of $what:ident),*) => {
        $(impl<T: $what> Event for $event<T> {
            fn cause(&self) -> String {
                $event::cause(self)
            }
        })*
    };
}

events!(Saving of Model, Saved of Model, Deleting of Model, Deleted of Model, BulkChanged of Model, LinksChanged of Link);

/// Who wants to know what. Cheap to clone; clones share the receivers.
///
/// A receiver is connected under an id, once: connecting the same id to the same signal of the same model again
/// changes nothing and returns false. Receivers run in the order they were connected. A receiver may connect and
/// disconnect receivers, that counts from the next event on.
///
/// # Differences from Django
/// What comes after a write comes after the commit instead of inside the transaction, and its errors never reach the
/// caller of the write; the receivers of the names with `_strict` run inside the transaction, as Django's do, and their
/// errors roll it back. Writes of several rows at once have a signal too. Receivers are kept until they are disconnected, as
/// if Django's `weak` were false.
///
/// # Examples
/// ```
/// use larder_models::{Database, Model, NewObject, Object, Signals};
///
/// let signals = Signals::new();
/// let (heard, news) = std::sync::mpsc::channel();
/// signals.post_save::<Object>("news", move |event| Ok(heard.send(event.cause())?));
///
/// let database = Database::open("sqlite::memory:", signals)?;
/// database.migrate()?;
/// database.write(|db| Object::insert(db, NewObject { title: "Jam pan".into(), ..Default::default() }))?;
/// assert_eq!(news.try_recv().unwrap(), "post_save Object#1");
/// # Ok::<(), larder_models::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Signals {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By the type of the receiver, which says which event it wants and when.
    receivers: RwLock<HashMap<TypeId, Vec<Receiver>>>,
    failures: AtomicU64,
}

struct Receiver {
    uid: Cow<'static, str>,
    /// The signal it was connected to.
    signal: &'static str,
    /// One of the three function types above.
    call: Box<dyn Any + Send + Sync>,
}

impl Signals {
    /// Makes a registry without receivers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects a receiver that runs inside the transaction before each insert and update of a model.
    ///
    /// It may write through the `Db`, change the object, and refuse: its error rolls back the save and reaches the
    /// caller as [`Error::Refused`], or as itself if it is an [`Error`]. Returns false if the id is connected already.
    pub fn pre_save<M: Model>(
        &self,
        uid: impl Into<Cow<'static, str>>,
        receiver: impl Fn(&mut Db, &mut Saving<M>) -> Result<(), Source> + Send + Sync + 'static,
    ) -> bool {
        self.connect::<Changing<Saving<M>>>("pre_save", uid.into(), Arc::new(receiver))
    }

    /// Connects a receiver that runs after the commit of each insert and update of a model.
    ///
    /// If it fails or panics, that is logged and counted, and the other receivers still run. Returns false if the id
    /// is connected already.
    pub fn post_save<M: Model>(
        &self,
        uid: impl Into<Cow<'static, str>>,
        receiver: impl Fn(&Saved<M>) -> Result<(), Source> + Send + Sync + 'static,
    ) -> bool {
        self.connect::<Robust<Saved<M>>>("post_save", uid.into(), Arc::new(receiver))
    }

    /// Connects a receiver that runs inside the transaction after each insert and update of a model, and may refuse it.
    ///
    /// The rules are those of [`Signals::pre_save`].
    pub fn post_save_strict<M: Model>(
        &self,
        uid: impl Into<Cow<'static, str>>,
        receiver: impl Fn(&mut Db, &Saved<M>) -> Result<(), Source> + Send + Sync + 'static,
    ) -> bool {
        self.connect::<Strict<Saved<M>>>("post_save_strict", uid.into(), Arc::new(receiver))
    }

    /// Connects a receiver that runs inside the transaction before each delete of a model, and may refuse it.
    ///
    /// The rules are those of [`Signals::pre_save`].
    pub fn pre_delete<M: Model>(
        &self,
        uid: impl Into<Cow<'static, str>>,
        receiver: impl Fn(&mut Db, &Deleting<M>) -> Result<(), Source> + Send + Sync + 'static,
    ) -> bool {
        self.connect::<Strict<Deleting<M>>>("pre_delete", uid.into(), Arc::new(receiver))
    }

    /// Connects a receiver that runs after the commit of each delete of a model.
    ///
    /// The rules are those of [`Signals::post_save`].
    pub fn post_delete<M: Model>(
        &self,
        uid: impl Into<Cow<'static, str>>,
        receiver: impl Fn(&Deleted<M>) -> Result<(), Source> + Send + Sync + 'static,
    ) -> bool {
        self.connect::<Robust<Deleted<M>>>("post_delete", uid.into(), Arc::new(receiver))
    }

    /// Connects a receiver that runs inside the transaction after each delete of a model, and may refuse it.
    ///
    /// The rules are those of [`Signals::pre_save`].
    pub fn post_delete_strict<M: Model>(
        &self,
        uid: impl Into<Cow<'static, str>>,
        receiver: impl Fn(&mut Db, &Deleted<M>) -> Result<(), Source> + Send + Sync + 'static,
    ) -> bool {
        self.connect::<Strict<Deleted<M>>>("post_delete_strict", uid.into(), Arc::new(receiver))
    }

    /// Connects a receiver that runs after the commit of each write of several rows of a model at once, which sends none of
    /// the signals above.
    ///
    /// The rules are those of [`Signals::post_save`].
    pub fn bulk_changed<M: Model>(
        &self,
        uid: impl Into<Cow<'static, str>>,
        receiver: impl Fn(&BulkChanged<M>) -> Result<(), Source> + Send + Sync + 'static,
    ) -> bool {
        self.connect::<Robust<BulkChanged<M>>>("bulk_changed", uid.into(), Arc::new(receiver))
    }

    /// Connects a receiver that runs inside the transaction after each write of several rows of a model at once, and may
    /// refuse it.
    ///
    /// The rules are those of [`Signals::pre_save`].
    pub fn bulk_changed_strict<M: Model>(
        &self,
        uid: impl Into<Cow<'static, str>>,
        receiver: impl Fn(&mut Db, &BulkChanged<M>) -> Result<(), Source> + Send + Sync + 'static,
    ) -> bool {
        self.connect::<Strict<BulkChanged<M>>>("bulk_changed_strict", uid.into(), Arc::new(receiver))
    }

    /// Connects a receiver that runs after the commit of each change of many-to-many links.
    ///
    /// The rules are those of [`Signals::post_save`].
    pub fn links_changed<L: Link>(
        &self,
        uid: impl Into<Cow<'static, str>>,
        receiver: impl Fn(&LinksChanged<L>) -> Result<(), Source> + Send + Sync + 'static,
    ) -> bool {
        self.connect::<Robust<LinksChanged<L>>>("links_changed", uid.into(), Arc::new(receiver))
    }

    /// Connects a receiver that runs inside the transaction after each change of many-to-many links, and may refuse it.
    ///
    /// The rules are those of [`Signals::pre_save`].
    pub fn links_changed_strict<L: Link>(
        &self,
        uid: impl Into<Cow<'static, str>>,
        receiver: impl Fn(&mut Db, &LinksChanged<L>) -> Result<(), Source> + Send + Sync + 'static,
    ) -> bool {
        self.connect::<Strict<LinksChanged<L>>>("links_changed_strict", uid.into(), Arc::new(receiver))
    }

    /// Removes an id from all signals of all models, and tells whether it was connected to any.
    pub fn disconnect(&self, uid: &str) -> bool {
        let mut receivers = self.inner.receivers.write().unwrap_or_else(PoisonError::into_inner);
        let count = |receivers: &HashMap<_, Vec<Receiver>>| receivers.values().map(Vec::len).sum::<usize>();
        let before = count(&receivers);
        receivers.values_mut().for_each(|list| list.retain(|receiver| receiver.uid != uid));
        count(&receivers) < before
    }

    /// Returns how many calls of receivers after a commit failed or panicked so far.
    pub fn failures(&self) -> u64 {
        self.inner.failures.load(Ordering::Relaxed)
    }

    /// Asks the receivers that may change an event.
    pub(crate) fn prepare<E: Event>(&self, db: &mut Db, event: &mut E) -> Result<()> {
        for (uid, receiver) in self.receivers::<Changing<E>>() {
            receiver(db, event).map_err(|error| refused(event.cause(), &uid, error))?;
        }
        Ok(())
    }

    /// Asks the receivers that may refuse an event.
    pub(crate) fn ask<E: Event>(&self, db: &mut Db, event: &E) -> Result<()> {
        for (uid, receiver) in self.receivers::<Strict<E>>() {
            receiver(db, event).map_err(|error| refused(event.cause(), &uid, error))?;
        }
        Ok(())
    }

    /// Tells the receivers after the commit of an event.
    pub(crate) fn tell<E: Event>(&self, event: &E) {
        for (uid, receiver) in self.receivers::<Robust<E>>() {
            self.guard(|| event.cause(), &uid, || receiver(event));
        }
    }

    fn connect<F: Send + Sync + 'static>(&self, signal: &'static str, uid: Cow<'static, str>, receiver: F) -> bool {
        let mut receivers = self.inner.receivers.write().unwrap_or_else(PoisonError::into_inner);
        let list = receivers.entry(TypeId::of::<F>()).or_default();
        if list.iter().any(|connected| connected.uid == uid) {
            return false;
        }
        list.push(Receiver { uid, signal, call: Box::new(receiver) });
        true
    }

    /// Returns a copy of the list, so that no lock is held while receivers run.
    fn receivers<F: Clone + 'static>(&self) -> Vec<(Cow<'static, str>, F)> {
        let receivers = self.inner.receivers.read().unwrap_or_else(PoisonError::into_inner);
        let list = receivers.get(&TypeId::of::<F>()).map_or(&[][..], Vec::as_slice);
        let typed = |receiver: &Receiver| Some((receiver.uid.clone(), receiver.call.downcast_ref::<F>()?.clone()));
        list.iter().filter_map(typed).collect()
    }

    fn guard(&self, cause: impl Fn() -> String, uid: &str, call: impl FnOnce() -> Result<(), Source>) {
        let error = match panic::catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => chain(&*error),
            Err(payload) => format!("panicked: {}", panic_text(&*payload)),
        };
        self.inner.failures.fetch_add(1, Ordering::Relaxed);
        log::error!(target: "larder_models", cause:% = cause(), receiver = uid, error:% = error;
            "a signal receiver failed, the write stands");
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let receivers = self.inner.receivers.read().unwrap_or_else(PoisonError::into_inner);
        let uids: Vec<_> = receivers.values().flatten().map(|receiver| (receiver.signal, &receiver.uid)).collect();
        f.debug_struct("Signals").field("receivers", &uids).field("failures", &self.failures()).finish()
    }
}

fn cause<M: Model>(signal: &str, object: &M) -> String {
    format!("{signal} {}#{}", M::NAME, object.pk())
}

fn refused(cause: String, receiver: &str, error: Source) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => *own,
        Err(source) => Error::Refused { cause, receiver: receiver.to_owned(), source },
    }
}
