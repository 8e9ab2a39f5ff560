//! Fragments in the table of caches: the store behind the block.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Begin, Fragment, FragmentStore, Ticket, Vary, fragment_key};
use crate::{
    BlockingCache, Caches,
    alias::Basis,
    cache::{Loading, Patience, Queue, Step, Use, into_bytes},
    codec::Content,
    dependencies::{self, Here, Notes},
    envelope::Codec,
    error::Result,
    settings::DEFAULT_ALIAS,
};

/// The alias that fragments go to, if the settings have it. The name is Django's.
pub(super) const FRAGMENT_ALIAS: &str = "template_fragments";

/// How long a fragment waits for another one who renders it. The thread that waits serves nobody else meanwhile.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// What is known before the body runs.
struct Opened {
    loading: Loading,
    basis: Basis,
    started: Instant,
    notes: Notes,
    _here: Here,
}

impl FragmentStore for Caches {
    fn has_alias(&self, alias: &str) -> bool {
        self.get(alias).is_ok()
    }

    fn begin(&self, fragment: &Fragment<'_>) -> Begin {
        let Some(cache) = cache(self, fragment).map(|cache| cache.tags(fragment.tags.iter().cloned())) else {
            return Begin::Miss(Ticket::empty());
        };
        let unpack = |content: &Content| {
            let stored = into_bytes(content)?;
            fragment.unpack(std::str::from_utf8(&stored).ok()?).map(str::to_owned)
        };
        let mut queue: Option<Queue> = None;
        let mut has_waited = false;
        loop {
            let opened = cache.final_key(fragment.key).and_then(|key| Ok((key, cache.find(fragment.key)?)));
            let (final_key, found) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    log::error!("fragment {} was not cached: {error}", fragment.name);
                    return Begin::Miss(Ticket::empty());
                }
            };
            let usage = cache.use_of(&found, cache.load_options_or_default());
            let usable = match usage {
                Use::Serve(hit) | Use::Renew(hit) => unpack(&hit.content).map(|html| (html, hit)),
                Use::Fallback(_) | Use::Nothing => None,
            };
            let is_loading = dependencies::is_making(&final_key);
            let queue = queue.get_or_insert_with(|| Queue::new(final_key.clone(), MAX_WAIT));
            if let (Some(_), Use::Renew(_), false) = (&usable, usage, is_loading) {
                // One renders it anew, and the others are served meanwhile.
                if let Step::Load(loading) = cache.take_turn(queue, fragment.key, &found, Patience::Hurries) {
                    cache.count(fragment.key, &found, None, has_waited);
                    return begun(*loading, &final_key, fragment);
                }
            }
            cache.count(fragment.key, &found, usable.as_ref().map(|(_, hit)| *hit), has_waited);
            has_waited = true;
            if let Some((html, hit)) = usable {
                hit.hand_on();
                queue.leave();
                return Begin::Hit(html);
            }
            // A fragment inside of itself is rendered, and the outer one stored.
            if is_loading {
                return Begin::Miss(Ticket::empty());
            }
            match cache.take_turn(queue, fragment.key, &found, Patience::Waits) {
                Step::Look => {}
                Step::Load(loading) => return begun(*loading, &final_key, fragment),
                Step::Held | Step::Alone | Step::Failed(_) => return Begin::Miss(Ticket::empty()),
            }
        }
    }

    fn finish(&self, fragment: &Fragment<'_>, ticket: Ticket, html: &str) {
        if let Some(cache) = cache(self, fragment) {
            cache.hand_on(fragment.tags.iter().map(String::as_str), fragment.timeout);
        }
        let Some(Opened { loading, basis, started, notes, _here }) = ticket.open() else { return };
        let noted = notes.get();
        let content = Content::Payload(Codec::Text, Bytes::from(fragment.pack(html)));
        let keep = loading.keep_for(fragment.timeout, &noted, started.elapsed());
        // Why it was not stored is in the log already, and the page has its markup.
        let _ = loading.keep(&content, keep, basis, noted.into_names());
    }
}

impl Caches {
    /// Removes a fragment with these values, wherever it stands; tells whether it was there. Looks where the block
    /// puts it that has no `using=`: under `template_fragments` if there is such an alias, else under `default`.
    ///
    /// # Errors
    /// As [`BlockingCache::delete`].
    ///
    /// # Examples
    /// ```
    /// use larder_cache::{Caches, template::{Context, Templates}};
    ///
    /// let caches = Caches::local();
    /// let templates =
    ///     Templates::builder().template("a.html", "{% cache 60 hello name %}…{% endcache %}").build(caches.clone())?;
    /// let mut context = Context::new();
    /// context.insert("name", "Ann");
    /// templates.render("a.html", &context)?;
    /// assert!(caches.invalidate_fragment("hello", &["Ann".into()])?);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn invalidate_fragment(&self, name: &str, vary: &[Vary]) -> Result<bool> {
        let cache = self.get(FRAGMENT_ALIAS).unwrap_or_else(|_| self.default_cache());
        cache.blocking().delete(fragment_key(name, vary))
    }
}

/// Has a fragment rendered that this caller may store.
fn begun(loading: Loading, final_key: &str, fragment: &Fragment<'_>) -> Begin {
    let Ok(basis) = loading.basis(fragment.tags) else { return Begin::Miss(Ticket::empty()) };
    let notes = Notes::seen_by(loading.sharing());
    let _here = Here::making([final_key.to_owned()], &notes);
    Begin::Miss(Ticket::new(Opened { loading, basis, started: Instant::now(), notes, _here }))
}

fn cache(caches: &Caches, fragment: &Fragment<'_>) -> Option<BlockingCache> {
    let cache = caches.get(fragment.alias).or_else(|_| caches.get(DEFAULT_ALIAS));
    cache.ok().map(|cache| cache.blocking())
}
