//! The table of caches: one [`Cache`] per alias, built from the settings.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use crate::{
    alias::Alias,
    backend::{
        Backend, Capabilities, Options, Sharing,
        dummy::Dummy,
        file::File,
        guarded::Guarded,
        locmem::{DEFAULT_MAX_BYTES, Locmem},
        near::{Announcing, Near},
    },
    cache::Cache,
    chance::Chance,
    clock::Clock,
    error::{Causes, Error, Result},
    events::{self, Journal, Observer, Observers},
    generation::Generations,
    key::KeySpace,
    settings::{AliasSettings, DEFAULT_ALIAS, Problem, Section, SettingsError},
};

/// How often stores are given the time for what nobody waits for.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// What a backend is made from.
#[derive(Debug)]
pub struct BackendContext<'a> {
    /// What problems call the alias: `caches.default`.
    pub name: &'a str,
    /// The settings of the alias.
    pub settings: &'a AliasSettings,
    /// The clock that expiry is measured by.
    pub clock: Clock,
    #[cfg_attr(not(feature = "database"), expect(dead_code, reason = "only that store has use for it"))]
    database_url: Option<&'a str>,
    journal: &'a Arc<Journal>,
}

impl BackendContext<'_> {
    /// Starts to read the options of the alias; finish it, so that unknown ones are reported.
    pub fn options(&self) -> Section<'_> {
        Section::new(format!("{}.options", self.name), &self.settings.options)
    }

    /// Returns the one location there is, or the problem with it.
    ///
    /// # Errors
    /// None or several.
    pub fn one_location(&self, what: &str) -> Result<&str, SettingsError> {
        match self.settings.location.as_slice() {
            [one] => Ok(one),
            _ => Err(self.problem("location", format!("must be {what}"))),
        }
    }

    /// Returns a problem with a setting of the alias.
    pub fn problem(&self, setting: &str, message: impl Into<String>) -> SettingsError {
        vec![Problem::new(format!("{}.{setting}", self.name), message)].into()
    }
}

type Factory = Box<dyn Fn(&BackendContext<'_>) -> Result<Box<dyn Backend>, SettingsError>>;

/// All caches of an application, by alias. Cheap to clone.
///
/// # Examples
/// ```
/// use larder_cache::{Caches, settings::AliasSettings};
///
/// let caches = Caches::builder()
///     .alias("default", AliasSettings::from_address("default", "locmem://?timeout=60")?)
///     .alias("tests", AliasSettings::from_address("tests", "dummy://")?)
///     .build()?;
/// assert_eq!(caches.get("tests")?.alias(), "tests");
/// assert!(caches.get("nowhere").is_err());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Caches(Arc<Table>);

impl Caches {
    /// Starts to build the table.
    pub fn builder() -> CachesBuilder {
        CachesBuilder::default()
    }

    /// Returns a table with a store of its own in this process's memory under `default`, for tests and first steps.
    pub fn local() -> Self {
        let settings = AliasSettings::default();
        let store = Locmem::new(Options::new(), DEFAULT_MAX_BYTES);
        let journal = Arc::new(Journal::new(DEFAULT_ALIAS, Clock::system(), Vec::new().into()));
        let cache = cache(&settings, Box::new(store), Clock::system(), journal);
        Caches(Arc::new(BTreeMap::from([(DEFAULT_ALIAS.to_owned(), (settings, cache))])))
    }

    /// Returns the cache of an alias.
    ///
    /// # Errors
    /// [`Error::UnknownAlias`].
    pub fn get(&self, alias: &str) -> Result<Cache> {
        let unknown = || Error::UnknownAlias { alias: alias.to_owned(), known: self.0.keys().cloned().collect() };
        self.0.get(alias).map(|(_, cache)| cache.clone()).ok_or_else(unknown)
    }

    /// Returns the cache of the alias `default`, which is always there.
    pub fn default_cache(&self) -> Cache {
        self.0[DEFAULT_ALIAS].1.clone()
    }

    /// Returns what this process has counted, by alias and key group, in the text format of Prometheus (version 0.0.4).
    ///
    /// # Examples
    /// ```
    /// use larder_cache::Caches;
    ///
    /// let caches = Caches::local();
    /// caches.default_cache().blocking().get::<String>("object:7")?;
    /// let line = r#"larder_cache_misses_total{alias="default",kind="key",group="object:*",reason="absent"} 1"#;
    /// assert!(caches.prometheus().lines().any(|is| is == line));
    /// # Ok::<_, larder_cache::Error>(())
    /// ```
    pub fn prometheus(&self) -> String {
        let counted: Vec<_> = self.0.values().map(|(_, cache)| cache.counted()).collect();
        events::render(&counted)
    }

    /// Returns all aliases with their settings and caches, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &AliasSettings, &Cache)> {
        self.0.iter().map(|(alias, (settings, cache))| (alias.as_str(), settings, cache))
    }
}

/// Builds [`Caches`].
#[derive(Default)]
pub struct CachesBuilder {
    aliases: BTreeMap<String, AliasSettings>,
    factories: BTreeMap<String, Factory>,
    clock: Clock,
    database_url: Option<String>,
    observers: Vec<Box<dyn Observer>>,
    takes_stores_as_given: bool,
}

impl CachesBuilder {
    /// Adds an alias, or replaces it.
    #[must_use]
    pub fn alias(mut self, alias: impl Into<String>, settings: AliasSettings) -> Self {
        self.aliases.insert(alias.into(), settings);
        self
    }

    /// Adds all aliases of a table that [`read_aliases`](crate::settings::read_aliases) read.
    #[must_use]
    pub fn aliases(mut self, aliases: BTreeMap<String, AliasSettings>) -> Self {
        self.aliases.extend(aliases);
        self
    }

    /// Registers a backend of your own under a name that settings can use.
    #[must_use]
    pub fn backend(
        mut self,
        name: impl Into<String>,
        make: impl Fn(&BackendContext<'_>) -> Result<Box<dyn Backend>, SettingsError> + 'static,
    ) -> Self {
        self.factories.insert(name.into(), Box::new(make));
        self
    }

    /// Says where the tables of `database` aliases are that have no option `url`.
    #[must_use]
    pub fn database_url(mut self, url: impl Into<String>) -> Self {
        self.database_url = Some(url.into());
        self
    }

    /// Adds somebody who is told of every decision of every alias.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// Measures time by this clock. Stores outside this process keep their own.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Puts nothing before the stores, and leaves their maintenance to the caller: for simulations, in which nothing
    /// happens by itself.
    #[cfg(feature = "conformance")]
    pub(crate) fn stores_as_given(mut self) -> Self {
        self.takes_stores_as_given = true;
        self
    }

    /// Builds the table. Does not need the stores to answer: a site starts while its memcached is down.
    ///
    /// # Errors
    /// Every problem of every alias.
    pub fn build(mut self) -> Result<Caches, SettingsError> {
        let mut problems = Vec::new();
        let mut table = BTreeMap::new();
        let observers: Observers = std::mem::take(&mut self.observers).into();
        for (alias, settings) in &self.aliases {
            let name = format!("caches.{alias}");
            let database_url = self.database_url.as_deref();
            let journal = Arc::new(Journal::new(alias, self.clock.clone(), Arc::clone(&observers)));
            let clock = self.clock.clone();
            let context = BackendContext { name: &name, settings, clock, database_url, journal: &journal };
            match self.store(&context) {
                Ok(store) => {
                    let cache = cache(settings, store, self.clock.clone(), journal);
                    table.insert(alias.clone(), (settings.clone(), cache));
                }
                Err(error) => problems.extend(error.problems),
            }
        }
        if !self.aliases.contains_key(DEFAULT_ALIAS) {
            problems.push(Problem::new("caches.default", "is missing; one alias must have this name"));
        }
        if !problems.is_empty() {
            return Err(problems.into());
        }
        let table = Arc::new(table);
        let needs_care =
            |capabilities: &Capabilities| capabilities.blocking || capabilities.sharing != Sharing::Process;
        if !self.takes_stores_as_given {
            let needing_care = table.values().filter(|(_, cache)| needs_care(cache.capabilities()));
            needing_care.for_each(|(_, cache)| keep_maintained(cache.alias(), cache.alias_handle()));
        }
        Ok(Caches(table))
    }

    fn store(&self, context: &BackendContext<'_>) -> Result<Box<dyn Backend>, SettingsError> {
        if let Some(make) = self.factories.get(&context.settings.backend) {
            let store = make(context)?;
            let needs_guard = store.capabilities().blocking && !self.takes_stores_as_given;
            return Ok(if needs_guard { guarded(context, store) } else { store });
        }
        match context.settings.backend.as_str() {
            "locmem" => locmem(context),
            "file" => file(context),
            #[cfg(feature = "memcached")]
            "memcached" => memcached(context),
            #[cfg(feature = "database")]
            "database" => database(context),
            "dummy" => {
                context.options().finish()?;
                Ok(Box::new(Dummy))
            }
            other => Err(context.problem("backend", self.unknown_backend(other))),
        }
    }

    fn unknown_backend(&self, name: &str) -> String {
        let built_in = [
            Some("locmem"),
            Some("file"),
            Some("dummy"),
            cfg!(feature = "memcached").then_some("memcached"),
            cfg!(feature = "database").then_some("database"),
        ];
        let known: Vec<&str> =
            built_in.into_iter().flatten().chain(self.factories.keys().map(String::as_str)).collect();
        match name {
            "memcached" | "database" => {
                format!("{name:?} is not compiled in; add the feature {name:?} of larder-cache")
            }
            _ => match crate::settings::nearest(name, known.iter().copied()) {
                Some(near) => format!("there is no backend {name:?}; did you mean {near:?}?"),
                None => format!("there is no backend {name:?}; there is {}", known.join(", ")),
            },
        }
    }
}

impl fmt::Debug for CachesBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachesBuilder")
            .field("aliases", &self.aliases)
            .field("backends", &self.factories.keys())
            .finish_non_exhaustive()
    }
}

type Table = BTreeMap<String, (AliasSettings, Cache)>;

/// Maintains an alias until the last handle on it is gone. On a thread of its own: a store that hangs must not let the
/// tickets of another one run out.
fn keep_maintained(name: &str, alias: Weak<Alias>) {
    let maintain = move || {
        loop {
            thread::sleep(MAINTENANCE_INTERVAL);
            let Some(alias) = alias.upgrade() else { return };
            alias.maintain();
        }
    };
    if let Err(error) = thread::Builder::new().name(format!("larder-{name}")).spawn(maintain) {
        log::error!("cannot start the thread that maintains the cache {name}: {error}");
    }
}

fn cache(settings: &AliasSettings, store: Box<dyn Backend>, clock: Clock, journal: Arc<Journal>) -> Cache {
    let alias = journal.alias();
    let keys = KeySpace::new(&settings.key_prefix, settings.invalid_keys);
    let is_shared = store.capabilities().sharing != Sharing::Process;
    if settings.near.is_some() && !is_shared {
        log::warn!("caches.{alias}.near does nothing: the store lies in this process's memory already");
    }
    let near = settings.near.filter(|_| is_shared).map(|near| {
        let bounds = Options::new().clock(clock.clone()).max_entries(near.max_entries);
        Near::new(near.stale_for, bounds, near.max_bytes)
    });
    let store = match &near {
        Some(near) => Box::new(Announcing::new(store, near.clone())),
        None => store,
    };
    Cache::new(Alias {
        name: alias.to_owned(),
        capabilities: store.capabilities(),
        generations: Generations::new(&*store, &keys),
        store,
        near,
        keys,
        version: settings.version,
        timeout: settings.timeout,
        load_options: settings.load.clone(),
        compress_above: settings.compress_above,
        deadline: settings.deadline,
        journal,
        clock,
        chance: Chance::new(),
        remembered: Default::default(),
        tickets: Default::default(),
        half_told: Default::default(),
        hears_late: Default::default(),
        notes: Default::default(),
    })
}

fn guarded(context: &BackendContext<'_>, store: Box<dyn Backend>) -> Box<dyn Backend> {
    let guarded = Guarded::new(context.settings.address(), store, context.clock.clone());
    Box::new(guarded.reporting(Some(Arc::clone(context.journal))))
}

/// Reads the options that the stores have in common that bound themselves.
fn bounds(context: &BackendContext<'_>, options: &mut Section<'_>) -> Options {
    let mut bounds = Options::new().clock(context.clock.clone());
    if let Some(entries) = options.size("max_entries") {
        bounds = bounds.max_entries(entries);
    }
    if let Some(frequency) = options.size("cull_frequency") {
        bounds = bounds.cull_frequency(frequency);
    }
    bounds
}

fn locmem(context: &BackendContext<'_>) -> Result<Box<dyn Backend>, SettingsError> {
    let name = context.one_location("one name")?;
    let mut options = context.options();
    let bounds = bounds(context, &mut options);
    let max_bytes = options.size("max_bytes").unwrap_or(DEFAULT_MAX_BYTES);
    options.finish()?;
    Ok(Box::new(Locmem::named(name, bounds, max_bytes)))
}

fn file(context: &BackendContext<'_>) -> Result<Box<dyn Backend>, SettingsError> {
    let directory = context.one_location("one folder, as in file:///var/cache/site")?;
    let mut options = context.options();
    let bounds = bounds(context, &mut options);
    options.finish()?;
    let opened = File::open(directory, bounds).map_err(|error| context.problem("location", with_causes(&error)))?;
    Ok(guarded(context, Box::new(opened)))
}

#[cfg(feature = "memcached")]
fn memcached(context: &BackendContext<'_>) -> Result<Box<dyn Backend>, SettingsError> {
    use crate::backend::memcached::{Driver, Memcached, Settings};

    if context.settings.location.is_empty() {
        return Err(context.problem("location", "must list servers, as in memcached://127.0.0.1:11211"));
    }
    let settings = Settings::new(context.settings.location.clone()).clock(context.clock.clone());
    let mut settings = settings.reporting(Arc::clone(context.journal));
    let mut options = context.options();
    let drivers = [
        ("meta", Driver::Meta),
        #[cfg(feature = "memcached-r2d2")]
        ("r2d2", Driver::R2d2),
    ];
    if let Some(driver) = options.choice("driver", &drivers) {
        settings = settings.driver(driver);
    }
    if let Some(timeout) = options.millis("timeout_ms") {
        settings = settings.timeout(timeout);
    }
    if let Some(bytes) = options.size("max_value_bytes") {
        settings = settings.max_value_bytes(bytes);
    }
    if let Some(connections) = options.size("max_connections") {
        settings = settings.max_connections(u32::try_from(connections).unwrap_or(u32::MAX));
    }
    #[cfg(feature = "memcached-r2d2")]
    {
        let (user, password) = (options.text("user"), options.text("password"));
        if let (Some(user), Some(password)) = (&user, &password) {
            settings = settings.credentials(user, password);
        } else if user.is_some() != password.is_some() {
            options.problem("user", "needs a password beside it, and a password needs a user");
        }
        let tls = options.boolean("tls").unwrap_or_default();
        if let Some(file) = options.text("tls_ca_file") {
            settings = settings.tls(Some(file.into()));
        } else if tls {
            settings = settings.tls(None);
        }
    }
    options.finish()?;
    let connected = Memcached::connect(settings).map_err(|error| context.problem("location", with_causes(&error)))?;
    Ok(Box::new(connected))
}

#[cfg(feature = "database")]
fn database(context: &BackendContext<'_>) -> Result<Box<dyn Backend>, SettingsError> {
    use crate::backend::database::Database;

    let table = context.one_location("one table, as in db://cache_entry")?;
    let mut options = context.options();
    let bounds = bounds(context, &mut options);
    let url = options.text("url");
    options.finish()?;
    let url = url.as_deref().or(context.database_url);
    let url = url.ok_or_else(|| {
        context.problem("options.url", "is missing; say which database, as in sqlite://cache.sqlite3")
    })?;
    let opened =
        Database::open(url, table, bounds).map_err(|error| context.problem("location", with_causes(&error)))?;
    Ok(guarded(context, Box::new(opened)))
}

fn with_causes(error: &Error) -> String {
    Causes(error).to_string()
}
