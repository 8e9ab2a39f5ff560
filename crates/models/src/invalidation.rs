//! What a save or a delete throws out of the caches: the receivers that connect models and cache.
//!
//! They run after the commit. For an [`Object`] goes, in every cache, the value `objects` and all that carries the tag
//! `object`, which stands for any object, or `object:7`, which stands for this one. What shows a list carries the
//! first, what shows one object the second.

use larder_cache::Caches;

use crate::{
    error::Source,
    model::Model,
    object::Object,
    signals::{Deleted, Saved, Signals},
};

/// The key of the low-level value that holds the list of objects.
pub const OBJECTS_KEY: &str = "objects";

/// Carried by everything that shows several objects.
pub const ANY_OBJECT_TAG: &str = "object";

/// Returns the tag of everything that shows this object.
pub fn object_tag(id: i64) -> String {
    format!("{ANY_OBJECT_TAG}:{id}")
}

/// Connects the receivers that invalidate what showed an object. Connecting twice changes nothing.
///
/// # Examples
/// ```
/// use larder_cache::Caches;
/// use larder_models::{Database, Model, NewObject, Object, Signals, invalidation};
///
/// let caches = Caches::local();
/// let signals = Signals::new();
/// invalidation::connect(&signals, &caches);
/// let database = Database::open("sqlite::memory:", signals)?;
/// database.migrate()?;
///
/// let cache = caches.default_cache().blocking();
/// cache.set("objects", &["a list of before"], 300)?;
/// database.write(|db| Object::insert(db, NewObject { title: "Crock".into(), ..NewObject::default() }))?;
/// assert!(!cache.has_key("objects")?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn connect(signals: &Signals, caches: &Caches) {
    let on_save = caches.clone();
    signals.post_save::<Object>("invalidate", move |event: &Saved<Object>| {
        report(invalidate_objects(&on_save, [event.object.pk()], &event.cause()))
    });
    let on_delete = caches.clone();
    signals.post_delete::<Object>("invalidate", move |event: &Deleted<Object>| {
        report(invalidate_objects(&on_delete, [event.object.pk()], &event.cause()))
    });
}

/// An invalidation that a store missed is kept, and the cache has said so: nobody has to act.
fn report(result: larder_cache::Result<()>) -> Result<(), Source> {
    match result {
        Err(error) if !error.is_outage() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Makes stale, in every cache, whatever shows one of these objects or a list of them. The receivers call it; call it
/// yourself after a write that sends no signals.
///
/// Tries everything even if something fails: what failed is kept by the cache and delivered when its store answers.
///
/// # Errors
/// The last failure.
pub fn invalidate_objects(
    caches: &Caches,
    ids: impl IntoIterator<Item = i64>,
    cause: &str,
) -> larder_cache::Result<()> {
    let tags: Vec<String> = std::iter::once(ANY_OBJECT_TAG.to_owned()).chain(ids.into_iter().map(object_tag)).collect();
    let mut result = Ok(());
    for (_, _, cache) in caches.iter() {
        let cache = cache.blocking().because(cause);
        result = cache.delete(OBJECTS_KEY).map(drop).and(result);
        result = cache.invalidate_tags(tags.clone()).and(result);
    }
    result
}
