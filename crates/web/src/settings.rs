//! What the app is told: `larder.toml`, and the environment on top of it.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use larder_cache::{
    Caches, CachesBuilder,
    settings::{AliasSettings, Problem, Section, SettingsError, overlay_address, read_aliases},
};
use toml::{Table, Value};

/// Read if it is there and no other file is named.
pub const DEFAULT_FILE: &str = "larder.toml";

/// Environment variables that start like this are settings: `LARDER__SERVER__BIND`.
const PREFIX: &str = "LARDER__";

/// The longest delay that the built-in API takes, as httpbin's.
pub const MAX_DELAY_SECONDS: u64 = 10;

/// All settings of the app.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[server]`.
    pub server: Server,
    /// `[database] url`.
    pub database_url: String,
    /// `[upstream]`.
    pub upstream: Upstream,
    /// `[site_cache]`, if it is enabled.
    pub site_cache: Option<SiteCache>,
    /// `[caches.…]` by alias.
    pub caches: BTreeMap<String, AliasSettings>,
}

/// `[server]`: where and how the app answers.
#[derive(Debug, Clone)]
pub struct Server {
    /// Address and port; port 0 takes a free one.
    pub bind: String,
    /// Threads that answer requests; 0 for one a core.
    pub workers: usize,
    /// Whether this is a machine for development: reasons in `Cache-Status`, cookies without HTTPS.
    pub debug: bool,
    /// The hosts that the app answers for; empty for any.
    pub allowed_hosts: Vec<String>,
    /// The proxies that are believed when they say for whom they ask.
    pub trusted_proxies: Vec<IpAddr>,
    /// The addresses that `/metrics` answers; empty for none.
    pub metrics_allow: Vec<IpAddr>,
    /// The addresses that see the debug toolbar; empty for none, and always so without `debug`.
    pub toolbar_allow: Vec<IpAddr>,
    /// The folder of the templates.
    pub templates: PathBuf,
    /// The folder of the static files.
    pub static_files: PathBuf,
}

/// `[upstream]`: the slow API of the home page.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Where the API is; `None` for the one that is built in.
    pub base_url: Option<String>,
    /// How long the API shall take, in seconds.
    pub delay_seconds: u64,
    /// How long the app waits for it.
    pub timeout: Duration,
}

/// `[site_cache]`: the per-site cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteCache {
    /// How long pages last that do not say.
    pub seconds: u64,
    /// The cache that holds them.
    pub alias: String,
    /// Keeps sites apart that share a store.
    pub key_prefix: String,
}

impl Settings {
    /// Reads a file, or `larder.toml` if none is named and it is there, and the environment of the process.
    ///
    /// # Errors
    /// Every problem there is, by the name of its setting.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        let text = match file {
            Some(file) => fs::read_to_string(file).map_err(|error| unreadable(file, &error))?,
            None => match fs::read_to_string(DEFAULT_FILE) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
                text => text.map_err(|error| unreadable(Path::new(DEFAULT_FILE), &error))?,
            },
        };
        // What is no text cannot be one of ours; what is ours and no text is a bad value like any other.
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        Self::read(&text, std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))))
    }

    /// Reads the text of a settings file and environment variables.
    ///
    /// # Errors
    /// As [`load`](Settings::load).
    pub fn read(text: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, SettingsError> {
        let mut table: Table =
            text.parse().map_err(|error: toml::de::Error| vec![Problem::new(DEFAULT_FILE, error.to_string())])?;
        let mut problems = overlay(&mut table, environment);
        let mut top = Section::new("", &table);
        let server = read_section(&mut top, "server", &mut problems, read_server);
        let database_url = read_section(&mut top, "database", &mut problems, |section| {
            section.text("url").unwrap_or_else(|| "sqlite://var/larder.sqlite3".to_owned())
        });
        let upstream = read_section(&mut top, "upstream", &mut problems, read_upstream);
        let site_cache = read_section(&mut top, "site_cache", &mut problems, read_site_cache);
        let aliases =
            top.table("caches").unwrap_or_else(|| Table::from_iter([("default".into(), Table::new().into())]));
        let caches = read_aliases("caches", &aliases).unwrap_or_else(|error| {
            problems.extend(error.problems);
            BTreeMap::new()
        });
        if let Some(site) = site_cache.as_ref().filter(|site| !aliases.contains_key(&site.alias)) {
            problems.push(Problem::new("site_cache.alias", format!("there is no [caches.{}]", site.alias)));
        }
        problems.extend(top.finish().err().into_iter().flat_map(|error| error.problems));
        if problems.is_empty() {
            Ok(Settings { server, database_url, upstream, site_cache, caches })
        } else {
            Err(problems.into())
        }
    }

    /// Returns what the caches are opened with.
    pub fn caches_builder(&self) -> CachesBuilder {
        Caches::builder().aliases(self.caches.clone()).database_url(&self.database_url)
    }

    /// Opens the caches.
    ///
    /// # Errors
    /// Every problem with what a cache points to, such as a folder that cannot be made.
    pub fn open_caches(&self) -> Result<Caches, SettingsError> {
        self.caches_builder().build()
    }
}

fn unreadable(file: &Path, error: &io::Error) -> SettingsError {
    vec![Problem::new(file.display().to_string(), format!("cannot be read: {error}"))].into()
}

/// Lays the environment over what the file says.
fn overlay(table: &mut Table, environment: impl IntoIterator<Item = (String, String)>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut variables: Vec<(String, String)> = environment.into_iter().collect();
    // The short names first, so that what is said in detail goes on top.
    variables.sort();
    for (name, value) in &variables {
        let set = match name.as_str() {
            "DATABASE_URL" => set(table, &["database", "url"], value.as_str().into()),
            "UPSTREAM_BASE_URL" => set(table, &["upstream", "base_url"], value.as_str().into()),
            "CACHE_URL" => set_cache_address(table, value),
            _ => Ok(()),
        };
        problems.extend(set.err().into_iter().map(|message| Problem::new(name, message)));
    }
    for (name, value) in &variables {
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let path = path.to_lowercase();
        let path: Vec<&str> = path.split("__").collect();
        if let Err(message) = set(table, &path, typed(value)) {
            problems.push(Problem::new(name, message));
        }
    }
    problems
}

fn set(table: &mut Table, path: &[&str], value: Value) -> Result<(), String> {
    let (last, sections) = path.split_last().ok_or("names no setting")?;
    let section = sections.iter().try_fold(table, |table, name| section_of(table, name))?;
    section.insert((*last).to_owned(), value);
    Ok(())
}

fn section_of<'t>(table: &'t mut Table, name: &str) -> Result<&'t mut Table, String> {
    let section = table.entry(name).or_insert_with(|| Table::new().into());
    section.as_table_mut().ok_or_else(|| format!("{name} is not a section"))
}

fn set_cache_address(table: &mut Table, address: &str) -> Result<(), String> {
    let alias = section_of(section_of(table, "caches")?, "default")?;
    overlay_address("CACHE_URL", alias, address).map_err(|error| error.problems[0].message.clone())
}

/// Reads a value as the file would have it, `["a", "b"]` or `5`, or else as a text.
fn typed(value: &str) -> Value {
    let parsed: Option<Table> = format!("value = {value}").parse().ok();
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| value.into())
}

fn read_section<T>(
    top: &mut Section<'_>,
    name: &'static str,
    problems: &mut Vec<Problem>,
    read: impl FnOnce(&mut Section<'_>) -> T,
) -> T {
    let table = top.table(name).unwrap_or_default();
    let mut section = Section::new(name, &table);
    let settings = read(&mut section);
    problems.extend(section.finish().err().into_iter().flat_map(|error| error.problems));
    settings
}

fn read_server(section: &mut Section<'_>) -> Server {
    let local = || ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).to_vec();
    let bind = section.text("bind").unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    if !bind.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
        section.problem("bind", format!("must be address:port such as 127.0.0.1:8000, is {bind:?}"));
    }
    let debug = section.boolean("debug").unwrap_or(false);
    let this_machine = || match debug {
        true => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        false => Vec::new(),
    };
    let metrics_allow = read_addresses(section, "metrics_allow").unwrap_or_else(this_machine);
    let toolbar_allow = read_addresses(section, "toolbar_allow").unwrap_or_else(this_machine);
    Server {
        bind,
        workers: section.size("workers").unwrap_or(0),
        debug,
        trusted_proxies: read_addresses(section, "trusted_proxies").unwrap_or_default(),
        metrics_allow,
        toolbar_allow: if debug { toolbar_allow } else { Vec::new() },
        allowed_hosts: section.texts("allowed_hosts").unwrap_or_else(local),
        templates: section.text("templates").unwrap_or_else(|| "templates".to_owned()).into(),
        static_files: section.text("static_files").unwrap_or_else(|| "static".to_owned()).into(),
    }
}

fn read_addresses(section: &mut Section<'_>, name: &'static str) -> Option<Vec<IpAddr>> {
    let texts = section.texts(name)?;
    let addresses: Result<Vec<IpAddr>, String> = texts
        .iter()
        .map(|text| text.parse().map_err(|_| format!("must list IP addresses, {text:?} is none")))
        .collect();
    addresses.map_err(|message| section.problem(name, message)).ok()
}

fn read_upstream(section: &mut Section<'_>) -> Upstream {
    let base_url = section.text("base_url").filter(|url| !url.is_empty());
    if let Some(url) = base_url.as_ref().filter(|url| !is_http_address(url)) {
        section.problem("base_url", format!("must be an address such as https://httpbin.org, is {url:?}"));
    }
    let delay_seconds = section.size("delay_seconds").map_or(2, |seconds| seconds as u64);
    if delay_seconds > MAX_DELAY_SECONDS {
        section.problem("delay_seconds", format!("must be at most {MAX_DELAY_SECONDS}, is {delay_seconds}"));
    }
    let timeout = Duration::from_secs(section.size("timeout_seconds").map_or(5, |seconds| seconds as u64));
    if timeout.as_secs() <= delay_seconds {
        section.problem("timeout_seconds", format!("must be more than delay_seconds, which is {delay_seconds}"));
    }
    Upstream { base_url: base_url.map(|url| url.trim_end_matches('/').to_owned()), delay_seconds, timeout }
}

fn is_http_address(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

fn read_site_cache(section: &mut Section<'_>) -> Option<SiteCache> {
    let enabled = section.boolean("enabled").unwrap_or(false);
    let site = SiteCache {
        seconds: section.size("seconds").map_or(600, |seconds| seconds as u64),
        alias: section.text("alias").unwrap_or_else(|| "default".to_owned()),
        key_prefix: section.text("key_prefix").unwrap_or_default(),
    };
    enabled.then_some(site)
}

#[cfg(test)]
mod tests {
    use larder_cache::{
        Timeout,
        backend::{DEFAULT_CULL_FREQUENCY, DEFAULT_MAX_ENTRIES, locmem::DEFAULT_MAX_BYTES},
    };

    use super::*;

    fn read(text: &str, environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::read(text, environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn the_file_in_the_repository_says_what_holds_without_it() {
        let mut file = read(include_str!("../../../larder.toml"), &[]).unwrap();
        // A checkout is for development, an installation without a file is not.
        let installed = read("", &[]).unwrap().server;
        assert!(file.server.debug && !installed.debug && installed.metrics_allow.is_empty());
        let without = read("", &[("LARDER__SERVER__DEBUG", "true")]).unwrap();
        let options = std::mem::take(&mut file.caches.get_mut("default").unwrap().options);
        let expected = [
            ("cull_frequency", DEFAULT_CULL_FREQUENCY),
            ("max_bytes", DEFAULT_MAX_BYTES),
            ("max_entries", DEFAULT_MAX_ENTRIES),
        ];
        assert_eq!(
            options,
            expected.map(|(name, value)| (name.to_owned(), Value::from(value as i64))).into_iter().collect()
        );
        assert_eq!(format!("{file:?}"), format!("{without:?}"));
    }

    #[test]
    fn the_environment_goes_before_the_file() {
        let text =
            "[server]\nbind = \"127.0.0.1:1\"\n[caches.default]\nkey_prefix = \"site\"\noptions = {max_entries = 5}";
        let environment = [
            ("LARDER__SERVER__BIND", "127.0.0.1:8123"),
            ("LARDER__SERVER__ALLOWED_HOSTS", "[\"a\", \"b\"]"),
            ("LARDER__CACHES__DEFAULT__TIMEOUT", "60"),
            ("CACHE_URL", "memcached://10.0.0.1:11211,10.0.0.2:11211"),
            ("DATABASE_URL", "sqlite://elsewhere"),
            ("UPSTREAM_BASE_URL", "https://httpbin.org/"),
            ("HOME", "/root"),
        ];
        let settings = read(text, &environment).unwrap();
        assert_eq!(settings.server.bind, "127.0.0.1:8123");
        assert_eq!(settings.server.allowed_hosts, ["a", "b"]);
        assert_eq!(settings.database_url, "sqlite://elsewhere");
        assert_eq!(settings.upstream.base_url.as_deref(), Some("https://httpbin.org"));
        let cache = &settings.caches["default"];
        assert_eq!((&*cache.backend, cache.timeout, &*cache.key_prefix), ("memcached", Timeout::from(60), "site"));
        assert!(cache.options.is_empty(), "options of another backend do not stay");
    }

    #[test]
    fn every_problem_is_named_with_a_way_out() {
        let text = "[server]\nbnd = \"x\"\nworkers = -1\n[upstream]\nbase_url = \"httpbin\"\n[sit_cache]\n";
        let environment = [
            ("CACHE_URL", "localhost:11211"),
            ("LARDER__SERVER__DEBUG", "maybe"),
            ("LARDER__SITE_CACHE__ENABLED", "true"),
            ("LARDER__SITE_CACHE__ALIAS", "pages"),
        ];
        let error = read(text, &environment).unwrap_err().to_string();
        for expected in [
            "server.bnd: is not a setting; did you mean bind?",
            "server.workers: must be a whole number from 0 up, is -1",
            "server.debug: must be true or false, is \"maybe\"",
            "upstream.base_url: must be an address such as https://httpbin.org, is \"httpbin\"",
            "sit_cache: is not a setting; did you mean site_cache?",
            "CACHE_URL: \"localhost:11211\" is no address",
            "site_cache.alias: there is no [caches.pages]",
        ] {
            assert!(error.contains(expected), "{expected} is not in {error}");
        }
    }

    #[test]
    fn a_file_that_is_no_toml_shows_the_line() {
        let error = read("[server\n", &[]).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn the_settings_in_the_documentation_can_be_used() {
        let readme = include_str!("../../../README.md");
        let guide = include_str!("../../../docs/guide.md");
        for (page, text) in [("README.md", readme), ("docs/guide.md", guide)] {
            let blocks: Vec<&str> =
                text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
            assert!(!blocks.is_empty(), "{page} shows no settings");
            for block in blocks {
                let settings = read(block, &[]).unwrap_or_else(|error| panic!("{page}: {error}\n{block}"));
                settings.open_caches().unwrap_or_else(|error| panic!("{page}: {error}\n{block}"));
            }
        }
    }
}
