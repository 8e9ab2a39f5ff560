//! Fragments in the table of caches: the store behind the block.

use std::time::Instant;

use bytes::Bytes;

use super::{Begin, Fragment, FragmentStore, Ticket, Vary, fragment_key};
use crate::{
    BlockingCache, Caches,
    cache::into_bytes,
    codec::Content,
    envelope::{Codec, TagVersion},
    error::Result,
    settings::DEFAULT_ALIAS,
};

/// The alias that fragments go to, if the settings have it. The name is Django's.
pub(super) const FRAGMENT_ALIAS: &str = "template_fragments";

/// What is known before the body runs.
struct Opened {
    tags: Result<Vec<TagVersion>>,
    started: Instant,
}

impl FragmentStore for Caches {
    fn has_alias(&self, alias: &str) -> bool {
        self.get(alias).is_ok()
    }

    fn begin(&self, fragment: &Fragment<'_>) -> Begin {
        let Some(cache) = cache(self, fragment) else { return Begin::Miss(Ticket::empty()) };
        let lookup = match cache.look_up(fragment.key) {
            Ok(lookup) => lookup,
            Err(error) => {
                log::error!("fragment {} was not cached: {error}", fragment.name);
                return Begin::Miss(Ticket::empty());
            }
        };
        let unpack = |content: &Content| {
            let stored = into_bytes(content)?;
            fragment.unpack(std::str::from_utf8(&stored).ok()?).map(str::to_owned)
        };
        match cache.finish_get(fragment.key, lookup, unpack) {
            Some(html) => Begin::Hit(html),
            None => {
                Begin::Miss(Ticket::new(Opened { tags: cache.tag_versions(fragment.tags), started: Instant::now() }))
            }
        }
    }

    fn finish(&self, fragment: &Fragment<'_>, ticket: Ticket, html: &str) {
        let (Some(cache), Some(opened)) = (cache(self, fragment), ticket.open::<Opened>()) else { return };
        let Ok(tags) = opened.tags else { return };
        let content = Content::Payload(Codec::Text, Bytes::from(fragment.pack(html)));
        // Why it was not stored is in the log already, and the page has its markup.
        let _ = cache.keep(fragment.key, &content, fragment.timeout, tags, opened.started.elapsed());
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

fn cache(caches: &Caches, fragment: &Fragment<'_>) -> Option<BlockingCache> {
    let cache = caches.get(fragment.alias).or_else(|_| caches.get(DEFAULT_ALIAS));
    cache.ok().map(|cache| cache.blocking())
}
