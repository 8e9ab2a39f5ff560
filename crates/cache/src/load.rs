//! Loading: how long what was loaded is fresh and how long it is kept, what a loader may choose, and how it can fail.

use std::{
    error, fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{clock::Timestamp, dependencies::Noted, timeout::Timeout};

/// How long a failed refresh is not tried again, unless the options say otherwise.
pub const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(30);

/// How long a caller waits for another one who loads the same key, unless the options say otherwise.
pub const DEFAULT_MAX_WAIT: Duration = Duration::from_secs(30);

/// How entries are kept beyond their timeout and how they are loaded again.
///
/// Nothing is on by default: an entry is fresh for its timeout and then gone. Given to a handle with
/// [`Cache::load_options`](crate::Cache::load_options), or to a whole alias in the settings, under the same names.
/// Durations are those of [`Timeout`]: seconds or a [`Duration`].
///
/// # Examples
/// ```
/// use larder_cache::LoadOptions;
///
/// let options = LoadOptions::new().stale_while_revalidate(60).stale_if_error(3600).jitter(0.1);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LoadOptions {
    pub(crate) stale_while_revalidate: Duration,
    pub(crate) stale_if_error: Duration,
    pub(crate) retry_after: Duration,
    pub(crate) early_refresh: Option<f64>,
    pub(crate) early_beta: f64,
    pub(crate) jitter: f64,
    pub(crate) absent_timeout: Option<Timeout>,
    pub(crate) soft_limit: Option<Duration>,
    pub(crate) hard_limit: Option<Duration>,
    pub(crate) max_wait: Duration,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            retry_after: DEFAULT_RETRY_AFTER,
            early_refresh: None,
            early_beta: 0.0,
            jitter: 0.0,
            absent_timeout: None,
            soft_limit: None,
            hard_limit: None,
            max_wait: DEFAULT_MAX_WAIT,
        }
    }
}

impl LoadOptions {
    /// Starts with nothing beyond the timeout.
    pub fn new() -> Self {
        LoadOptions::default()
    }

    /// Serves an entry for so long after its timeout, while one caller has it loaded again in the background
    /// (RFC 5861, section 3).
    #[must_use]
    pub fn stale_while_revalidate(mut self, window: impl Into<Span>) -> Self {
        self.stale_while_revalidate = window.into().0;
        self
    }

    /// Serves an entry for so long after its timeout if loading it again fails (RFC 5861, section 4).
    #[must_use]
    pub fn stale_if_error(mut self, window: impl Into<Span>) -> Self {
        self.stale_if_error = window.into().0;
        self
    }

    /// Leaves a loader alone for so long after it failed, while there is a stale value to serve; 30 seconds by default.
    #[must_use]
    pub fn retry_after(mut self, pause: impl Into<Span>) -> Self {
        self.retry_after = pause.into().0;
        self
    }

    /// Loads an entry again in the background when this fraction of its lifetime has passed and somebody asks for it.
    /// Between 0 and 1, at best 0.8 or more; anything else turns it off.
    #[must_use]
    pub fn early_refresh(mut self, fraction: f64) -> Self {
        self.early_refresh = (fraction > 0.0 && fraction < 1.0).then_some(fraction);
        self
    }

    /// Loads an entry again in the background by chance, the more likely the nearer its end and the longer it took to
    /// load (XFetch: Vattani, Chierichetti, Lowenstein, VLDB 2015). 1 is the paper's optimum; 0, the default, is off.
    #[must_use]
    pub fn early_beta(mut self, beta: f64) -> Self {
        self.early_beta = if beta.is_finite() && beta > 0.0 { beta } else { 0.0 };
        self
    }

    /// Lengthens each timeout by up to this fraction of it, by chance, so that what was stored together does not expire
    /// together.
    #[must_use]
    pub fn jitter(mut self, fraction: f64) -> Self {
        self.jitter = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
        self
    }

    /// Gives a loaded `None` a timeout of its own; mostly a shorter one.
    #[must_use]
    pub fn absent_timeout(mut self, timeout: impl Into<Timeout>) -> Self {
        self.absent_timeout = Some(timeout.into());
        self
    }

    /// Returns the stale value, if there is one, when loading takes longer than this. The load goes on and is kept.
    /// For the async handle; a blocking loader holds its own thread and cannot be left.
    #[must_use]
    pub fn soft_limit(mut self, limit: impl Into<Span>) -> Self {
        self.soft_limit = Some(limit.into().0);
        self
    }

    /// Gives up with [`LoadError::TimedOut`] when loading takes longer than this and there is no stale value. The load
    /// goes on and is kept. For the async handle.
    #[must_use]
    pub fn hard_limit(mut self, limit: impl Into<Span>) -> Self {
        self.hard_limit = Some(limit.into().0);
        self
    }

    /// Waits so long for another caller who loads the same key, here or in another process, and then loads alone
    /// without keeping the value; 30 seconds by default.
    #[must_use]
    pub fn max_wait(mut self, limit: impl Into<Span>) -> Self {
        self.max_wait = limit.into().0;
        self
    }

    /// How long after its timeout an entry is kept.
    pub(crate) fn stale_window(&self) -> Duration {
        self.stale_while_revalidate.max(self.stale_if_error)
    }
}

/// A length of time: whole or fractional seconds, or a [`Duration`]. Negative numbers are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(Duration);

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Span(duration)
    }
}

impl From<u64> for Span {
    fn from(seconds: u64) -> Self {
        Span(Duration::from_secs(seconds))
    }
}

impl From<i32> for Span {
    fn from(seconds: i32) -> Self {
        Span(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }
}

impl From<f64> for Span {
    fn from(seconds: f64) -> Self {
        Span(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
    }
}

/// What a loader is given: what was there before, and a say in how its value is kept.
///
/// # Examples
/// A loader that asks its source only for what changed, and learns while loading what its value depends on.
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use larder_cache::{Caches, Load};
///
/// let cache = Caches::local().default_cache();
/// let load = |load: Load<String>| async move {
///     load.tags(["object:7"]);
///     load.timeout(3600);
///     // A source that answers "304 Not Modified" lets the old value live on.
///     Ok::<_, std::io::Error>(load.not_modified().unwrap_or_else(|| "Crock".to_owned()))
/// };
/// assert_eq!(cache.get_or_load("title", 60, load).await?, "Crock");
/// cache.invalidate_tags(["object:7"]).await?;
/// assert_eq!(cache.get::<String>("title").await?, None);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Load<T> {
    old: Option<(T, Timestamp)>,
    choices: Choices,
}

impl<T> Load<T> {
    pub(crate) fn new(old: Option<(T, Timestamp)>, choices: Choices) -> Self {
        Load { old, choices }
    }

    /// Returns the stale value that is about to be replaced, if there is one.
    pub fn old(&self) -> Option<&T> {
        self.old.as_ref().map(|(value, _)| value)
    }

    /// Returns when the stale value was stored.
    pub fn old_since(&self) -> Option<Timestamp> {
        self.old.as_ref().map(|(_, since)| *since)
    }

    /// Returns the stale value for the loader to return: its source says that it has not changed. It keeps its tags.
    pub fn not_modified(self) -> Option<T> {
        self.choices.lock().is_unchanged = self.old.is_some();
        self.old.map(|(value, _)| value)
    }

    /// Adds tags that were found out while loading. An invalidation of one of them during the load wins: if it cannot be
    /// told that there was none, the value is returned and not stored, and the next load notes the tags beforehand.
    pub fn tags<S: Into<String>>(&self, tags: impl IntoIterator<Item = S>) {
        self.choices.lock().tags.extend(tags.into_iter().map(Into::into));
    }

    /// Chooses another timeout than the caller's.
    pub fn timeout(&self, timeout: impl Into<Timeout>) {
        self.choices.lock().timeout = Some(timeout.into());
    }

    /// Chooses other options than the caller's for how long the value is kept beyond its timeout.
    pub fn options(&self, options: LoadOptions) {
        self.choices.lock().options = Some(options);
    }

    /// Has the value returned and not stored.
    pub fn do_not_store(&self) {
        self.choices.lock().do_not_store = true;
    }
}

/// What a loader chose; shared between it and whoever keeps its value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choices(Arc<Mutex<Chosen>>);

#[derive(Debug, Clone, Default)]
pub(crate) struct Chosen {
    pub(crate) tags: Vec<String>,
    pub(crate) timeout: Option<Timeout>,
    pub(crate) options: Option<LoadOptions>,
    pub(crate) do_not_store: bool,
    /// Whether the value is the old one.
    pub(crate) is_unchanged: bool,
    /// What the value turned out to be made of.
    pub(crate) noted: Noted,
}

impl Choices {
    fn lock(&self) -> MutexGuard<'_, Chosen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns them with what else was noted while the value was loaded.
    pub(crate) fn take(&self, noted: Noted) -> Chosen {
        Chosen { noted, ..std::mem::take(&mut *self.lock()) }
    }
}

/// Why there is no value: the cache is never the reason, the loader is.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadError<E> {
    /// The loader failed. Callers who waited for the same load share its error.
    Failed(Arc<E>),
    /// The loader took longer than [`LoadOptions::hard_limit`].
    TimedOut {
        /// The key, with its kind.
        key: String,
        /// The limit.
        limit: Duration,
    },
    /// The loader asked for the key that it is loading.
    Recursive {
        /// The key, with its kind.
        key: String,
    },
}

impl<E> LoadError<E> {
    /// Returns the loader's error, if that is what it is.
    pub fn loader_error(&self) -> Option<&E> {
        match self {
            LoadError::Failed(error) => Some(error),
            _ => None,
        }
    }
}

impl<E> Clone for LoadError<E> {
    fn clone(&self) -> Self {
        match self {
            LoadError::Failed(error) => LoadError::Failed(Arc::clone(error)),
            LoadError::TimedOut { key, limit } => LoadError::TimedOut { key: key.clone(), limit: *limit },
            LoadError::Recursive { key } => LoadError::Recursive { key: key.clone() },
        }
    }
}

impl<E: fmt::Display> fmt::Display for LoadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Failed(error) => error.fmt(f),
            LoadError::TimedOut { key, limit } => {
                write!(f, "loading {key} took longer than {} ms; it goes on, try again", limit.as_millis())
            }
            LoadError::Recursive { key } => {
                write!(f, "the loader of {key} asked for that same key; give the inner value a key of its own")
            }
        }
    }
}

/// Stands for the loader's error, so its source is that error's source.
impl<E: error::Error> error::Error for LoadError<E> {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.loader_error().and_then(error::Error::source)
    }
}

/// The loader's own answer; 504 for a load over its limit (RFC 9110, section 15.6.5).
#[cfg(feature = "page")]
impl<E: actix_web::ResponseError> actix_web::ResponseError for LoadError<E> {
    fn status_code(&self) -> actix_web::http::StatusCode {
        match self {
            LoadError::Failed(error) => error.status_code(),
            LoadError::TimedOut { .. } => actix_web::http::StatusCode::GATEWAY_TIMEOUT,
            LoadError::Recursive { .. } => actix_web::http::StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> actix_web::HttpResponse {
        match self {
            LoadError::Failed(error) => error.error_response(),
            _ => actix_web::HttpResponse::new(self.status_code()),
        }
    }
}
