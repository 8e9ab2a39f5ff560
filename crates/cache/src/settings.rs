//! The table of caches as an operator writes it: aliases with backend, location, timeout, key prefix and options.
//!
//! Read from TOML tables or from one-line addresses such as `memcached://127.0.0.1:11211?timeout=60`. Every problem
//! names its setting, and all of them are reported at once: a typing error stops the start, never a page.

mod address;
mod section;

use std::{collections::BTreeMap, error, fmt, time::Duration};

use toml::Table;

pub(crate) use self::section::nearest;
pub use self::{address::plain_value, section::Section};
use crate::{
    backend::{DEFAULT_MAX_ENTRIES, near},
    key::{self, InvalidKeys},
    load::LoadOptions,
    timeout::{DEFAULT_TIMEOUT, Timeout},
};

/// The alias that must be there.
pub const DEFAULT_ALIAS: &str = "default";

/// One thing that is wrong in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting, as it is written: `caches.default.timeout`.
    pub setting: String,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

impl Problem {
    /// Makes a problem.
    pub fn new(setting: impl Into<String>, message: impl Into<String>) -> Self {
        Problem { setting: setting.into(), message: message.into() }
    }
}

/// Everything that is wrong in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// The problems, in the order in which they were found. Never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings cannot be used")?;
        self.problems.iter().try_for_each(|Problem { setting, message }| write!(f, "\n  {setting}: {message}"))
    }
}

impl error::Error for SettingsError {}

impl From<Vec<Problem>> for SettingsError {
    fn from(problems: Vec<Problem>) -> Self {
        SettingsError { problems }
    }
}

/// The settings of one alias.
///
/// # Examples
/// ```
/// use larder_cache::{Timeout, settings::AliasSettings};
///
/// let alias = AliasSettings::from_address("caches.default", "memcached://10.0.0.1,10.0.0.2:11212?timeout=60")?;
/// assert_eq!(alias.backend, "memcached");
/// assert_eq!(alias.location, ["10.0.0.1", "10.0.0.2:11212"]);
/// assert_eq!(alias.timeout, Timeout::from(60));
/// # Ok::<_, larder_cache::settings::SettingsError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct AliasSettings {
    /// `locmem`, `memcached`, `database`, `file`, `dummy`, or a name registered with
    /// [`CachesBuilder::backend`](crate::CachesBuilder::backend).
    pub backend: String,
    /// What the backend works on: a name, servers, a table, a folder. May be empty.
    pub location: Vec<String>,
    /// How long entries last that do not say; 300 seconds unless set.
    pub timeout: Timeout,
    /// Stands in front of every key, so that several sites can share a store.
    pub key_prefix: String,
    /// The version of every key that does not say.
    pub version: i64,
    /// What happens to keys that are too long or hold odd bytes.
    pub invalid_keys: InvalidKeys,
    /// How long values are kept beyond their timeout and how they are loaded again.
    pub load: LoadOptions,
    /// Copies in this process's memory of what lies in the store; `None` for none.
    pub near: Option<NearSettings>,
    /// Values longer than this are compressed, in bytes; `None` for never.
    pub compress_above: Option<usize>,
    /// How long async code waits for a store that blocks before it goes on without; two seconds unless set. An
    /// invalidation waits to its end.
    pub deadline: Duration,
    /// What the backend alone understands.
    pub options: Table,
}

/// The near cache of an alias: copies of hot entries in the memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NearSettings {
    /// For how long a copy is served without asking the store: so long may this process not see what others change. With
    /// zero the store is asked each time whether the value is still the same, which memcached answers without sending it;
    /// other stores, and memcached over `r2d2`, send it.
    pub stale_for: Duration,
    /// How many copies there are at most.
    pub max_entries: usize,
    /// How many bytes they take at most.
    pub max_bytes: usize,
}

/// How long async code waits for a store that blocks. Memcached has a shorter limit of its own; this one is for a disk
/// or a database that hangs.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(2);

/// Above this length a value is compressed by default, in bytes, in stores that do not lie in this process's memory:
/// there it saves more time on the way than it takes.
pub const DEFAULT_COMPRESS_ABOVE: usize = 4096;

impl Default for AliasSettings {
    /// A [`Locmem`](crate::backend::locmem::Locmem) store named `default`.
    fn default() -> Self {
        AliasSettings {
            backend: "locmem".to_owned(),
            location: vec![DEFAULT_ALIAS.to_owned()],
            timeout: Timeout::After(DEFAULT_TIMEOUT),
            key_prefix: String::new(),
            version: 1,
            invalid_keys: InvalidKeys::Digest,
            load: LoadOptions::new(),
            near: None,
            compress_above: None,
            deadline: DEFAULT_DEADLINE,
            options: Table::new(),
        }
    }
}

impl AliasSettings {
    /// Reads a table such as `[caches.default]`; `name` is what problems call it.
    ///
    /// # Errors
    /// Every unknown key and bad value.
    pub fn from_table(name: &str, table: &Table) -> Result<Self, SettingsError> {
        let mut section = Section::new(name, table);
        let settings = Self::read(&mut section);
        section.finish()?;
        Ok(settings)
    }

    /// Reads a one-line address: `locmem://name`, `memcached://host:port,host:port`, `file:///folder`, `db://table`,
    /// `dummy://`, each with `?setting=value&…`; `name` is what problems call it.
    ///
    /// # Errors
    /// As [`from_table`](AliasSettings::from_table), and an address that is none.
    pub fn from_address(name: &str, address: &str) -> Result<Self, SettingsError> {
        let table = address::to_table(address).map_err(|message| vec![Problem::new(name, message)])?;
        Self::from_table(name, &table)
    }

    fn read(section: &mut Section<'_>) -> Self {
        let default = AliasSettings::default();
        let backend = section.text("backend").unwrap_or(default.backend);
        let location = section.texts("location").unwrap_or_else(|| match backend.as_str() {
            "locmem" => default.location,
            _ => Vec::new(),
        });
        let timeout = section.timeout("timeout").unwrap_or(default.timeout);
        let key_prefix = section.text("key_prefix").unwrap_or_default();
        if let Some(trouble) = key::check_prefix(&key_prefix) {
            section.problem("key_prefix", trouble);
        }
        let version = section.integer("version").unwrap_or(default.version);
        let invalid_keys =
            section.choice("invalid_keys", &[("digest", InvalidKeys::Digest), ("refuse", InvalidKeys::Refuse)]);
        let options = section.table("options").unwrap_or_default();
        let invalid_keys = invalid_keys.unwrap_or_default();
        let in_memory = matches!(backend.as_str(), "locmem" | "dummy");
        let compress_above = match section.size("compress_above") {
            Some(0) => None,
            Some(bytes) => Some(bytes),
            None => (!in_memory).then_some(DEFAULT_COMPRESS_ABOVE),
        };
        let load = section.section("load", read_load_options).unwrap_or_default();
        let near = section.section("near", read_near).flatten();
        let deadline = section.millis("deadline_ms").unwrap_or(default.deadline);
        AliasSettings {
            backend,
            location,
            timeout,
            key_prefix,
            version,
            invalid_keys,
            load,
            near,
            compress_above,
            deadline,
            options,
        }
    }

    /// Returns the address of the alias for people: `memcached://10.0.0.1,10.0.0.2`, without options and passwords.
    pub fn address(&self) -> String {
        let scheme = if self.backend == "database" { "db" } else { &self.backend };
        let locations: Vec<String> = self.location.iter().map(|location| redacted(location)).collect();
        format!("{scheme}://{}", locations.join(","))
    }
}

/// Blanks out what may be a password in an address, so that it can be shown: between the user and the last `@`, and
/// everything after a `?`. A path stays as it is.
///
/// A raw `@` or `/` in a password makes it hide more of the url, never less.
pub fn redacted(url: &str) -> String {
    if url.starts_with('/') {
        return url.to_owned();
    }
    let (url, options) = match url.split_once('?') {
        // An "@" behind the "?" means that the "?" belongs to the password.
        Some((_, options)) if options.contains('@') => (url, ""),
        Some((url, _)) => (url, "?***"),
        None => (url, ""),
    };
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    let Some((login, host)) = rest.rsplit_once('@') else { return format!("{scheme}{rest}{options}") };
    let user = login.split_once(':').map_or(login, |(user, _)| user);
    let host = host.split_once('?').map_or(host, |(host, _)| host);
    format!("{scheme}{user}:***@{host}{options}")
}

fn read_load_options(section: &mut Section<'_>) -> LoadOptions {
    let mut options = LoadOptions::new();
    if let Some(window) = section.seconds("stale_while_revalidate") {
        options = options.stale_while_revalidate(window);
    }
    if let Some(window) = section.seconds("stale_if_error") {
        options = options.stale_if_error(window);
    }
    if let Some(pause) = section.seconds("retry_after") {
        options = options.retry_after(pause);
    }
    if let Some(fraction) = section.number("early_refresh", 0.0, 1.0) {
        options = options.early_refresh(fraction);
    }
    if let Some(beta) = section.number("early_beta", 0.0, 100.0) {
        options = options.early_beta(beta);
    }
    if let Some(fraction) = section.number("jitter", 0.0, 1.0) {
        options = options.jitter(fraction);
    }
    if let Some(timeout) = section.timeout("absent_timeout") {
        options = options.absent_timeout(timeout);
    }
    if let Some(limit) = section.seconds("soft_limit") {
        options = options.soft_limit(limit);
    }
    if let Some(limit) = section.seconds("hard_limit") {
        options = options.hard_limit(limit);
    }
    if let Some(limit) = section.seconds("max_wait") {
        options = options.max_wait(limit);
    }
    options
}

fn read_near(section: &mut Section<'_>) -> Option<NearSettings> {
    let stale_for = section.seconds("stale_for");
    if stale_for.is_none() {
        section.problem("stale_for", "is missing; say for how many seconds a copy may be old, as in 0.5");
    }
    let max_entries = section.size("max_entries").unwrap_or(DEFAULT_MAX_ENTRIES);
    let max_bytes = section.size("max_bytes").unwrap_or(near::DEFAULT_MAX_BYTES);
    Some(NearSettings { stale_for: stale_for?, max_entries, max_bytes })
}

/// Lets a one-line address replace backend, location and options in the table of an alias; what else the table says
/// stays, unless the address says it too.
///
/// # Errors
/// An address that is none; `name` is what the problem calls it.
pub fn overlay_address(name: &str, table: &mut Table, address: &str) -> Result<(), SettingsError> {
    let overlay = address::to_table(address).map_err(|message| vec![Problem::new(name, message)])?;
    ["backend", "location", "options"].iter().for_each(|replaced| drop(table.remove(*replaced)));
    table.extend(overlay);
    Ok(())
}

/// Reads a table of aliases such as `[caches]`.
///
/// # Errors
/// Every problem of every alias, and a table without the alias `default`.
pub fn read_aliases(name: &str, table: &Table) -> Result<BTreeMap<String, AliasSettings>, SettingsError> {
    let mut problems = Vec::new();
    let mut aliases = BTreeMap::new();
    for (alias, value) in table {
        let name = format!("{name}.{alias}");
        let read = match value {
            toml::Value::Table(table) => AliasSettings::from_table(&name, table),
            toml::Value::String(address) => AliasSettings::from_address(&name, address),
            _ => Err(vec![Problem::new(&name, "must be a table or an address such as \"locmem://name\"")].into()),
        };
        match read {
            Ok(settings) => drop(aliases.insert(alias.clone(), settings)),
            Err(error) => problems.extend(error.problems),
        }
    }
    if !table.contains_key(DEFAULT_ALIAS) {
        let message = format!("is missing; add [{name}.{DEFAULT_ALIAS}] with backend = \"locmem\"");
        problems.push(Problem::new(format!("{name}.{DEFAULT_ALIAS}"), message));
    }
    if problems.is_empty() { Ok(aliases) } else { Err(problems.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(toml: &str) -> Vec<String> {
        let table: Table = toml.parse().unwrap();
        let error = read_aliases("caches", &table).unwrap_err();
        error.problems.into_iter().map(|problem| format!("{}: {}", problem.setting, problem.message)).collect()
    }

    #[test]
    fn an_empty_alias_is_django_s_default() {
        let table = "[default]".parse().unwrap();
        assert_eq!(read_aliases("caches", &table).unwrap()["default"], AliasSettings::default());
    }

    #[test]
    fn every_setting_is_read() {
        let table = r#"
            [default]
            backend = "database"
            location = "cache_entry"
            timeout = "never"
            key_prefix = "site"
            version = 2
            invalid_keys = "refuse"
            compress_above = 0
            load = { stale_while_revalidate = 60, jitter = 0.1, hard_limit = 2.5 }
            near = { stale_for = 0.5, max_entries = 100 }
            deadline_ms = 500
            options = { max_entries = 5 }
        "#;
        let settings = &read_aliases("caches", &table.parse().unwrap()).unwrap()["default"];
        let expected = AliasSettings {
            backend: "database".into(),
            location: vec!["cache_entry".into()],
            timeout: Timeout::Never,
            key_prefix: "site".into(),
            version: 2,
            invalid_keys: InvalidKeys::Refuse,
            load: LoadOptions::new().stale_while_revalidate(60).jitter(0.1).hard_limit(2.5),
            near: Some(NearSettings {
                stale_for: Duration::from_millis(500),
                max_entries: 100,
                max_bytes: near::DEFAULT_MAX_BYTES,
            }),
            compress_above: None,
            deadline: Duration::from_millis(500),
            options: "max_entries = 5".parse().unwrap(),
        };
        assert_eq!(settings, &expected);
    }

    #[test]
    fn all_problems_are_named_at_once_with_a_suggestion() {
        let found = problems(
            "[default]\ntimout = 5\nversion = \"one\"\nkey_prefix = \"a b\"\n[other]\ntimeout = \"soon\"\ninvalid_keys = \"digests\"",
        );
        let expected = [
            "caches.default.timout: is not a setting; did you mean timeout?",
            "caches.default.version: must be a whole number, is \"one\"",
            "caches.default.key_prefix: holds ' '; use visible ASCII characters",
            "caches.other.timeout: must be a number of seconds or \"never\", is \"soon\"",
            "caches.other.invalid_keys: must be \"digest\" or \"refuse\", is \"digests\"",
        ];
        for line in expected {
            assert!(found.iter().any(|problem| problem == line), "{line} is not in {found:#?}");
        }
        assert_eq!(found.len(), expected.len());
    }

    #[test]
    fn the_default_alias_must_be_there() {
        assert_eq!(problems("[other]"), ["caches.default: is missing; add [caches.default] with backend = \"locmem\""]);
    }

    #[test]
    fn addresses_stand_for_tables() {
        let read = |address: &str| AliasSettings::from_address("CACHE_URL", address).unwrap();
        assert_eq!(read("locmem://"), AliasSettings::default());
        assert_eq!(read("locmem://pages").location, ["pages"]);
        assert_eq!(read("dummy://").backend, "dummy");
        assert_eq!(read("file:///var/cache/site").location, ["/var/cache/site"]);
        assert_eq!(
            (&*read("db://cache_entry").backend, &*read("db://cache_entry").location[0]),
            ("database", "cache_entry")
        );
        let many =
            read("memcached://a:1,[::1]:2,unix:/run/m.sock?timeout=none&key_prefix=x%20y".trim_end_matches("%20y"));
        assert_eq!(many.location, ["a:1", "[::1]:2", "unix:/run/m.sock"]);
        assert_eq!((many.timeout, &*many.key_prefix), (Timeout::Never, "x"));
        let options = read("locmem://?max_entries=20&cull_frequency=0").options;
        assert_eq!(options, "max_entries = 20\ncull_frequency = 0".parse().unwrap());
    }

    #[test]
    fn an_address_that_is_none_says_what_one_looks_like() {
        for address in ["", "localhost:11211", "mem cached://x"] {
            let error = AliasSettings::from_address("CACHE_URL", address).unwrap_err().to_string();
            assert!(error.contains("CACHE_URL") && error.contains("locmem://"), "{error}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        for (url, shown) in [
            ("postgres://larder:s3cret@db:5432/larder", "postgres://larder:***@db:5432/larder"),
            ("postgres://larder:s3/c@r?et@db/larder", "postgres://larder:***@db/larder"),
            ("postgres://db/larder?user=x&password=s3cret", "postgres://db/larder?***"),
            ("larder:s3cret@db", "larder:***@db"),
            ("sqlite://var/larder.db", "sqlite://var/larder.db"),
            ("/run/@cache.sock", "/run/@cache.sock"),
            ("cache-1:11211", "cache-1:11211"),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }
}
