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
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    db::{Db, panic_text},
    error::{Error, Result, Source, chain},
    model::{Change, Model},
};

type PreSave<M> = Arc<dyn Fn(&mut Db, &mut Saving<M>) -> Result<(), Source> + Send + Sync>;
type PostSave<M> = Arc<dyn Fn(&Saved<M>) -> Result<(), Source> + Send + Sync>;
type PreDelete<M> = Arc<dyn Fn(&mut Db, &Deleting<M>) -> Result<(), Source> + Send + Sync>;
type PostDelete<M> = Arc<dyn Fn(&Deleted<M>) -> Result<(), Source> + Send + Sync>;

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
    /// The fields that differ from the row before. All of them if the object is new, none if it was saved unchanged.
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

/// Who wants to know what. Cheap to clone; clones share the receivers.
///
/// A receiver is connected under an id, once: connecting the same id to the same signal of the same model again
/// changes nothing and returns false. Receivers run in the order they were connected. A receiver may connect and
/// disconnect receivers, that counts from the next event on.
///
/// # Differences from Django
/// `post_save` and `post_delete` come after the commit instead of inside the transaction, their errors never reach
/// the caller of the save, and receivers are kept until they are disconnected, as if Django's `weak` were false.
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
    receivers: RwLock<HashMap<(TypeId, Kind), Vec<Receiver>>>,
    failures: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    PreSave,
    PostSave,
    PreDelete,
    PostDelete,
}

struct Receiver {
    uid: Cow<'static, str>,
    /// One of the four function types above, as its kind says.
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
        self.connect::<M, PreSave<M>>(Kind::PreSave, uid.into(), Arc::new(receiver))
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
        self.connect::<M, PostSave<M>>(Kind::PostSave, uid.into(), Arc::new(receiver))
    }

    /// Connects a receiver that runs inside the transaction before each delete of a model, and may refuse it.
    ///
    /// The rules are those of [`Signals::pre_save`].
    pub fn pre_delete<M: Model>(
        &self,
        uid: impl Into<Cow<'static, str>>,
        receiver: impl Fn(&mut Db, &Deleting<M>) -> Result<(), Source> + Send + Sync + 'static,
    ) -> bool {
        self.connect::<M, PreDelete<M>>(Kind::PreDelete, uid.into(), Arc::new(receiver))
    }

    /// Connects a receiver that runs after the commit of each delete of a model.
    ///
    /// The rules are those of [`Signals::post_save`].
    pub fn post_delete<M: Model>(
        &self,
        uid: impl Into<Cow<'static, str>>,
        receiver: impl Fn(&Deleted<M>) -> Result<(), Source> + Send + Sync + 'static,
    ) -> bool {
        self.connect::<M, PostDelete<M>>(Kind::PostDelete, uid.into(), Arc::new(receiver))
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

    pub(crate) fn send_pre_save<M: Model>(&self, db: &mut Db, event: &mut Saving<M>) -> Result<()> {
        for (uid, receiver) in self.receivers::<M, PreSave<M>>(Kind::PreSave) {
            receiver(db, event).map_err(|error| refused(event.cause(), &uid, error))?;
        }
        Ok(())
    }

    pub(crate) fn send_post_save<M: Model>(&self, event: &Saved<M>) {
        for (uid, receiver) in self.receivers::<M, PostSave<M>>(Kind::PostSave) {
            self.guard(|| event.cause(), &uid, || receiver(event));
        }
    }

    pub(crate) fn send_pre_delete<M: Model>(&self, db: &mut Db, event: &Deleting<M>) -> Result<()> {
        for (uid, receiver) in self.receivers::<M, PreDelete<M>>(Kind::PreDelete) {
            receiver(db, event).map_err(|error| refused(event.cause(), &uid, error))?;
        }
        Ok(())
    }

    pub(crate) fn send_post_delete<M: Model>(&self, event: &Deleted<M>) {
        for (uid, receiver) in self.receivers::<M, PostDelete<M>>(Kind::PostDelete) {
            self.guard(|| event.cause(), &uid, || receiver(event));
        }
    }

    fn connect<M: Model, F: Send + Sync + 'static>(&self, kind: Kind, uid: Cow<'static, str>, receiver: F) -> bool {
        let mut receivers = self.inner.receivers.write().unwrap_or_else(PoisonError::into_inner);
        let list = receivers.entry((TypeId::of::<M>(), kind)).or_default();
        if list.iter().any(|connected| connected.uid == uid) {
            return false;
        }
        list.push(Receiver { uid, call: Box::new(receiver) });
        true
    }

    /// Returns a copy of the list, so that no lock is held while receivers run.
    fn receivers<M: Model, F: Clone + 'static>(&self, kind: Kind) -> Vec<(Cow<'static, str>, F)> {
        let receivers = self.inner.receivers.read().unwrap_or_else(PoisonError::into_inner);
        let list = receivers.get(&(TypeId::of::<M>(), kind)).map_or(&[][..], Vec::as_slice);
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
        let uids: Vec<_> =
            receivers.iter().flat_map(|((_, kind), list)| list.iter().map(move |one| (kind, &one.uid))).collect();
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
