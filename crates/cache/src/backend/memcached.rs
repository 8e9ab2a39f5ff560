//! One or more memcached servers as one store.
//!
//! A value is an item under its final key. A key lives on the server that rendezvous hashing picks by the servers'
//! addresses as configured, so every process that lists the same servers finds it, in whatever order, and taking a
//! server away moves that server's keys only. Each server has a circuit breaker and a journal of failed invalidations
//! of its own: a dead one makes its keys missing, the others go on.
//!
//! | | |
//! | --- | --- |
//! | shared | by all processes that reach the servers |
//! | survives a restart | of the application, not of memcached |
//! | atomic `add`, `replace`, `incr` | yes, by the server, unless it runs with `-C` |
//! | eviction | by the server, least recently used first, when its memory is full |
//! | key limit | 250 bytes, no white space, no control characters |
//! | value limit | 1 MiB with key and item header, unless memcached runs with `-I` |
//! | finest timeout | one second, rounded up; memcached's clock ticks once a second, so an entry may go up to a second early |
//!
//! # Drivers
//! | | [`Driver::Meta`] | `Driver::R2d2` |
//! | --- | --- | --- |
//! | protocol, memcached | meta, 1.6 and later | binary, any |
//! | round trips | one for each method, however many keys; to replace two | one; `set_many`, `add_many`, `delete_many` one for each key, `touch` and `incr` two, to replace two and one for each further key |
//! | transports | TCP | TCP, Unix sockets, TLS, user and password |
//!
//! All processes of a cache use the same driver: `touch` keeps the expiry in different places.
//!
//! # Counters
//! memcached counts unsigned and stops at zero, so an `i64` is stored as the decimal of its distance from `i64::MIN`,
//! and a client flag says that it is a counter. Counting wraps at 2^64 on the server and is additive, which makes a
//! count that left the range visible in its result and exactly reversible by the opposite count.

mod meta;
#[cfg(feature = "memcached-r2d2")]
mod r2d2;

use std::{borrow::Cow, fmt, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Backend, Capabilities, Changed, Entry, Replacement, Sharing, Stats, Value, guarded::Guarded};
use crate::{
    clock::{Clock, Timestamp},
    error::{Error, Result},
    events::Journal,
    timeout::Expiry,
};

/// memcached, doc/protocol.txt, "Keys".
pub const MAX_KEY_BYTES: usize = 250;

/// The port that IANA gave memcached.
pub const DEFAULT_PORT: u16 = 11211;

/// How long a connection and an exchange may each take. A healthy answer takes less than a millisecond.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(250);

/// memcached's `-I`, the limit of an item, as it comes.
const ITEM_BYTES: usize = 1_048_576;

/// What an item needs besides its value: header 48, CAS 8, flags 4, key with its end 251, line end 2 (memcached.h,
/// `struct _stritem`), rounded up.
const ITEM_OVERHEAD_BYTES: usize = 512;

/// How many connections a process keeps to a server.
const DEFAULT_CONNECTIONS: u32 = 64;

/// memcached, doc/protocol.txt, "Expiration times": a larger number is a moment, not a duration.
const MAX_RELATIVE_SECS: u64 = 60 * 60 * 24 * 30;

/// A moment that has passed on every server: the end of January 1970.
#[cfg(feature = "memcached-r2d2")]
const PASSED: u32 = 60 * 60 * 24 * 30 + 1;

/// Why a server that runs with `-C` cannot replace: without numbers for compare-and-swap it would replace whatever is
/// there.
const WITHOUT_CAS: &str = "it runs without compare-and-swap; start memcached without -C";

/// The last moment that memcached's parser takes: it reads the number as `int32_t`.
const MAX_MOMENT_SECS: u64 = i32::MAX as u64;

/// The statistics that are shown, in this order.
const STATS: [&str; 6] = ["version", "curr_items", "bytes", "get_hits", "get_misses", "evictions"];

/// Client flag: the item is a counter.
const COUNTER: u32 = 1;

/// Client flag: the value stands behind one more byte, because memcached would have taken it for a number.
const QUOTED: u32 = 2;

/// The byte before a quoted value. memcached reads no number behind it.
const QUOTE: u8 = b'\'';

/// How a [`Memcached`] talks to its servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Driver {
    /// The meta protocol: one round trip a method.
    #[default]
    Meta,
    /// `r2d2_memcache` with the binary protocol: for Unix sockets, TLS and credentials.
    #[cfg(feature = "memcached-r2d2")]
    R2d2,
}

/// What a [`Memcached`] is made from.
///
/// A server is `host`, `host:port`, `[::1]:11211`, or, with the feature `memcached-r2d2`, `unix:/path` or `/path`.
///
/// # Examples
/// ```
/// use larder_cache::backend::memcached::Settings;
/// use std::time::Duration;
///
/// let settings = Settings::new(["cache1", "cache2:11212"]).timeout(Duration::from_millis(100));
/// ```
#[derive(Debug, Clone)]
pub struct Settings {
    servers: Vec<String>,
    driver: Option<Driver>,
    timeout: Duration,
    max_value_bytes: usize,
    max_connections: u32,
    #[cfg(feature = "memcached-r2d2")]
    credentials: Option<Credentials>,
    #[cfg(feature = "memcached-r2d2")]
    tls: Option<Tls>,
    clock: Clock,
    reports: Option<Arc<Journal>>,
}

#[cfg(feature = "memcached-r2d2")]
#[derive(Clone)]
struct Credentials {
    user: String,
    password: String,
}

#[cfg(feature = "memcached-r2d2")]
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(feature = "memcached-r2d2")]
#[derive(Debug, Clone, Default)]
struct Tls {
    ca_file: Option<PathBuf>,
}

impl Settings {
    /// Starts with the list of servers and the default of everything else.
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Self {
        Settings {
            servers: servers.into_iter().map(Into::into).collect(),
            driver: None,
            timeout: DEFAULT_TIMEOUT,
            max_value_bytes: ITEM_BYTES - ITEM_OVERHEAD_BYTES,
            max_connections: DEFAULT_CONNECTIONS,
            #[cfg(feature = "memcached-r2d2")]
            credentials: None,
            #[cfg(feature = "memcached-r2d2")]
            tls: None,
            clock: Clock::system(),
            reports: None,
        }
    }

    /// Says who is told of outages.
    pub(crate) fn reporting(mut self, reports: Arc<Journal>) -> Self {
        self.reports = Some(reports);
        self
    }

    /// Chooses the driver. Left alone, it is [`Driver::Meta`] unless the servers need the other one.
    #[must_use]
    pub fn driver(mut self, driver: Driver) -> Self {
        self.driver = Some(driver);
        self
    }

    /// Sets how long connecting, and each exchange after it, may take; 250 ms by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// Sets the largest value that is sent; by default what a memcached without `-I` takes.
    #[must_use]
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.max_value_bytes = bytes;
        self
    }

    /// Sets how many connections there are to a server at most; 64 by default. One more caller waits for the timeout.
    #[must_use]
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections.max(1);
        self
    }

    /// Logs in with SASL.
    #[cfg(feature = "memcached-r2d2")]
    #[must_use]
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some(Credentials { user: user.into(), password: password.into() });
        self
    }

    /// Encrypts the connections and checks the server's certificate against the system's authorities, or against
    /// those of a file in PEM.
    #[cfg(feature = "memcached-r2d2")]
    #[must_use]
    pub fn tls(mut self, ca_file: Option<PathBuf>) -> Self {
        self.tls = Some(Tls { ca_file });
        self
    }

    /// Sets the clock that expiries are measured on. The servers have their own, which never stands still.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    #[cfg(feature = "memcached-r2d2")]
    fn driver_for(&self, addresses: &[Address]) -> Driver {
        let has_socket = addresses.iter().any(|address| matches!(address, Address::Unix(_)));
        let needs_r2d2 = has_socket || self.credentials.is_some() || self.tls.is_some();
        if needs_r2d2 { Driver::R2d2 } else { self.driver.unwrap_or_default() }
    }

    #[cfg(not(feature = "memcached-r2d2"))]
    fn driver_for(&self, _: &[Address]) -> Driver {
        self.driver.unwrap_or_default()
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Address {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix:").or_else(|| text.starts_with('/').then_some(text)) {
            return if path.is_empty() {
                Err("the path of the socket is missing")
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or("a colon and the port follow the ]")?)),
                None => return Err("the ] of the IPv6 address is missing"),
            },
            None => match text.split_once(':') {
                Some((_, port)) if port.contains(':') => return Err("an IPv6 address is written [::1]:11211"),
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || "/?#@".contains(c)) {
            return Err("it is not host:port");
        }
        let port = port.map_or(Ok(DEFAULT_PORT), |port| port.parse().map_err(|_| "its port is not a number"))?;
        Ok(Address::Tcp { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One or more memcached servers as one store.
///
/// Cheap to clone; clones share the connections, breakers and journals.
///
/// # Examples
/// Making one needs no server: connections are made when they are needed.
/// ```
/// use larder_cache::{Expiry, backend::{Backend, Value, memcached::{Memcached, Settings}}};
///
/// # fn main() -> larder_cache::Result<()> {
/// let store = Memcached::connect(Settings::new(["127.0.0.1:1"]))?;
/// let error = store.set("answer", &Value::Integer(42), Expiry::Never).unwrap_err();
/// assert_eq!(error.to_string(), "memcached 127.0.0.1:1 is not available");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Memcached {
    servers: Arc<[Server]>,
    max_value_bytes: usize,
    clock: Clock,
}

#[derive(Debug)]
struct Server {
    address: String,
    seed: u64,
    guarded: Guarded<dyn Backend>,
}

impl Memcached {
    /// Makes the store. The servers need not be up, and host names need not be known yet.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if an address cannot be read, names no server, or needs the feature `memcached-r2d2`.
    pub fn connect(settings: Settings) -> Result<Self> {
        let read = |text: &String| Address::parse(text).map_err(|why| Error::unavailable(label(text), why));
        let addresses = settings.servers.iter().map(read).collect::<Result<Vec<_>>>()?;
        if addresses.is_empty() {
            return Err(Error::unavailable("memcached", "its list of servers is empty"));
        }
        let driver = settings.driver_for(&addresses);
        let server = |address: &Address| -> Result<Server> {
            let inner: Box<dyn Backend> = match driver {
                Driver::Meta => Box::new(meta::Server::new(address, &settings)?),
                #[cfg(feature = "memcached-r2d2")]
                Driver::R2d2 => Box::new(r2d2::Server::new(address, &settings)?),
            };
            let address = address.to_string();
            let guarded = Guarded::new(label(&address), inner, settings.clock.clone());
            let guarded = guarded.reporting(settings.reports.clone());
            Ok(Server { seed: mix(fnv1a(address.as_bytes())), address, guarded })
        };
        let servers = addresses.iter().map(server).collect::<Result<Arc<[_]>>>()?;
        Ok(Memcached { servers, max_value_bytes: settings.max_value_bytes, clock: settings.clock })
    }

    fn server_for(&self, key: &str) -> &Guarded<dyn Backend> {
        &self.servers[self.position_for(key)].guarded
    }

    fn position_for(&self, key: &str) -> usize {
        rendezvous(key, self.servers.iter().map(|server| server.seed))
    }

    /// Groups the positions of some keys by server, leaving out servers that have none.
    fn partition<'a>(&self, keys: impl Iterator<Item = &'a str>) -> Vec<(&Guarded<dyn Backend>, Vec<usize>)> {
        let mut groups: Vec<_> = self.servers.iter().map(|server| (&server.guarded, Vec::new())).collect();
        for (position, key) in keys.enumerate() {
            groups[self.position_for(key)].1.push(position);
        }
        groups.retain(|(_, positions)| !positions.is_empty());
        groups
    }

    /// Asks each server for those of the items that fit and belong to it, and tells for which items it says yes.
    fn each_group<T: Clone>(
        &self,
        items: &[T],
        key_of: impl Fn(&T) -> &str,
        fits: impl Fn(&T) -> bool,
        ask: impl Fn(&Guarded<dyn Backend>, &[T]) -> Result<Vec<bool>>,
    ) -> Result<Vec<bool>> {
        let mut done = vec![false; items.len()];
        let mut outcome = Outcome::default();
        for (server, mut positions) in self.partition(items.iter().map(key_of)) {
            positions.retain(|position| fits(&items[*position]));
            if positions.is_empty() {
                continue;
            }
            let group: Vec<T> = positions.iter().map(|position| items[*position].clone()).collect();
            for (position, yes) in positions.into_iter().zip(outcome.of(ask(server, &group)).unwrap_or_default()) {
                done[position] = yes;
            }
        }
        outcome.unless_all_failed(done)
    }

    /// Refuses a value that memcached would refuse, before it is sent.
    fn check_size(&self, key: &str, value: &Value) -> Result<()> {
        let bytes = value.len() + usize::from(encode(value).1 & QUOTED != 0);
        if bytes <= self.max_value_bytes {
            return Ok(());
        }
        Err(Error::ValueTooLarge { key: key.to_owned(), bytes, limit: self.max_value_bytes })
    }
}

/// A refusal by a server. memcached does not say what it takes, only that this is more.
fn too_large(key: &str, value: &Value, max_value_bytes: usize) -> Error {
    let bytes = value.len();
    Error::ValueTooLarge { key: key.to_owned(), bytes, limit: bytes.saturating_sub(1).min(max_value_bytes) }
}

/// What holds for all servers, whichever driver asks them.
fn capabilities(max_value_bytes: usize) -> Capabilities {
    Capabilities { sharing: Sharing::Network, blocking: true, stores: true, max_value_bytes: Some(max_value_bytes) }
}

impl Backend for Memcached {
    fn capabilities(&self) -> Capabilities {
        capabilities(self.max_value_bytes)
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        check_key(key)?;
        self.server_for(key).get(key)
    }

    fn get_changed(&self, key: &str, stamp: Option<u64>) -> Result<Changed> {
        check_key(key)?;
        self.server_for(key).get_changed(key, stamp)
    }

    fn set(&self, key: &str, value: &Value, expiry: Expiry) -> Result<()> {
        check_key(key)?;
        let server = self.server_for(key);
        if let Err(error) = self.check_size(key, value) {
            server.delete(key)?;
            return Err(error);
        }
        if expiry.has_passed(self.clock.now()) {
            return server.delete(key).map(drop);
        }
        server.set(key, value, expiry)
    }

    fn add(&self, key: &str, value: &Value, expiry: Expiry) -> Result<bool> {
        check_key(key)?;
        self.check_size(key, value)?;
        let server = self.server_for(key);
        if expiry.has_passed(self.clock.now()) {
            return Ok(server.get(key)?.is_none());
        }
        server.add(key, value, expiry)
    }

    /// A server that takes less than the settings say drops the old value with the one that it refuses.
    fn replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> Result<bool> {
        check_key(key)?;
        self.check_size(key, new)?;
        self.server_for(key).replace(key, old, new, expiry)
    }

    fn touch(&self, key: &str, expiry: Expiry) -> Result<bool> {
        check_key(key)?;
        let server = self.server_for(key);
        if expiry.has_passed(self.clock.now()) { server.delete(key) } else { server.touch(key, expiry) }
    }

    fn delete(&self, key: &str) -> Result<bool> {
        check_key(key)?;
        self.server_for(key).delete(key)
    }

    fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>> {
        check_key(key)?;
        self.server_for(key).incr(key, delta)
    }

    /// Empties every server: other applications' values go too.
    fn clear(&self) -> Result<()> {
        // All are tried, whatever becomes of the first: each keeps its own failure in its journal.
        let results: Vec<_> = self.servers.iter().map(|server| server.guarded.clear()).collect();
        results.into_iter().collect()
    }

    /// Keys of a server that is down are missing; it is an error if all servers asked are.
    fn get_many(&self, keys: &[&str]) -> Result<Vec<Option<Entry>>> {
        keys.iter().try_for_each(|key| check_key(key))?;
        let mut entries = vec![None; keys.len()];
        let mut outcome = Outcome::default();
        for (server, positions) in self.partition(keys.iter().copied()) {
            let keys: Vec<&str> = positions.iter().map(|position| keys[*position]).collect();
            if let Some(found) = outcome.of(server.get_many(&keys)) {
                for (position, entry) in positions.into_iter().zip(found) {
                    entries[position] = entry;
                }
            }
        }
        outcome.unless_all_failed(entries)
    }

    /// Items for a server that is down are among those that failed; it is an error if all servers asked are.
    fn set_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<usize>> {
        items.iter().try_for_each(|(key, _)| check_key(key))?;
        if expiry.has_passed(self.clock.now()) {
            let keys: Vec<&str> = items.iter().map(|(key, _)| *key).collect();
            return self.delete_many(&keys).map(|_| Vec::new());
        }
        let mut failed = Vec::new();
        let mut outcome = Outcome::default();
        for (server, positions) in self.partition(items.iter().map(|(key, _)| *key)) {
            let fits = |position: &usize| self.check_size(items[*position].0, &items[*position].1).is_ok();
            let (positions, too_large): (Vec<_>, Vec<_>) = positions.into_iter().partition(fits);
            if !too_large.is_empty() {
                let keys: Vec<&str> = too_large.iter().map(|position| items[*position].0).collect();
                outcome.of(server.delete_many(&keys));
                failed.extend(too_large);
            }
            let group: Vec<_> = positions.iter().map(|position| items[*position].clone()).collect();
            match outcome.of(server.set_many(&group, expiry)) {
                Some(within) => failed.extend(within.into_iter().filter_map(|index| positions.get(index).copied())),
                None => failed.extend(positions),
            }
        }
        failed.sort_unstable();
        outcome.unless_all_failed(failed)
    }

    /// What belongs to a server that is down is not added; it is an error if all servers asked are down.
    fn add_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<bool>> {
        items.iter().try_for_each(|(key, _)| check_key(key))?;
        if expiry.has_passed(self.clock.now()) {
            let keys: Vec<&str> = items.iter().map(|(key, _)| *key).collect();
            return Ok(self.get_many(&keys)?.iter().map(Option::is_none).collect());
        }
        let fits = |(key, value): &(&str, Value)| self.check_size(key, value).is_ok();
        self.each_group(items, |(key, _)| key, fits, |server, items| server.add_many(items, expiry))
    }

    /// What belongs to a server that is down is not replaced; it is an error if all servers asked are down.
    fn replace_many(&self, items: &[Replacement<'_>]) -> Result<Vec<bool>> {
        items.iter().try_for_each(|item| check_key(item.key))?;
        let fits = |item: &Replacement<'_>| self.check_size(item.key, item.new).is_ok();
        self.each_group(items, |item| item.key, fits, |server, items| server.replace_many(items))
    }

    fn delete_many(&self, keys: &[&str]) -> Result<usize> {
        keys.iter().try_for_each(|key| check_key(key))?;
        let mut results = Vec::new();
        for (server, positions) in self.partition(keys.iter().copied()) {
            let keys: Vec<&str> = positions.into_iter().map(|position| keys[position]).collect();
            results.push(server.delete_many(&keys));
        }
        results.into_iter().sum()
    }

    /// Each server is a part.
    fn parts(&self) -> usize {
        self.servers.len()
    }

    fn part_of(&self, key: &str) -> usize {
        self.position_for(key)
    }

    fn maintain(&self) {
        self.servers.iter().for_each(|server| server.guarded.maintain());
    }

    /// Returns what each server counts; the names start with its address if there are several.
    fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::new();
        let mut outcome = Outcome::default();
        for server in &*self.servers {
            let prefix = if self.servers.len() > 1 { format!("{} ", server.address) } else { String::new() };
            match outcome.of(server.guarded.stats()) {
                Some(numbers) => stats.extend(numbers.into_iter().map(|(name, value)| (prefix.clone() + &name, value))),
                None => stats.push((prefix + "state", "not available".to_owned())),
            }
        }
        outcome.unless_all_failed(stats)
    }
}

/// How an operation on several servers went.
#[derive(Default)]
struct Outcome {
    answered: bool,
    error: Option<Error>,
}

impl Outcome {
    fn of<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.answered = true;
                Some(value)
            }
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }

    fn unless_all_failed<T>(self, value: T) -> Result<T> {
        match self.error {
            Some(error) if !self.answered => Err(error),
            _ => Ok(value),
        }
    }
}

/// The name of a server in errors and log lines.
fn label(address: impl fmt::Display) -> String {
    format!("memcached {address}")
}

/// Refuses a key that could not be sent, or would end its command and start another.
fn check_key(key: &str) -> Result<()> {
    let reason = match key {
        "" => "memcached takes no empty key".to_owned(),
        _ if key.len() > MAX_KEY_BYTES => {
            format!("it has {} bytes, memcached allows {MAX_KEY_BYTES}; shorten it", key.len())
        }
        _ if key.bytes().any(|byte| byte <= b' ' || byte == 0x7f) => {
            "memcached allows no white space and no control characters; leave them out".to_owned()
        }
        _ => return Ok(()),
    };
    Err(Error::InvalidKey { key: key.to_owned(), reason })
}

/// Returns the payload of an item and its client flags.
fn encode(value: &Value) -> (Cow<'_, [u8]>, u32) {
    match value {
        Value::Integer(number) => (Cow::Owned(encode_counter(*number).to_string().into_bytes()), COUNTER),
        Value::Bytes(bytes) if looks_like_a_number(bytes) => (Cow::Owned([&[QUOTE], &bytes[..]].concat()), QUOTED),
        Value::Bytes(bytes) => (Cow::Borrowed(bytes), 0),
    }
}

/// Reads what [`encode`] wrote. What another program wrote, with flags of its own, is bytes as they are: were it missing,
/// nothing could ever be added in its place.
fn decode(payload: Vec<u8>, flags: u32) -> Value {
    let bytes = Bytes::from(payload);
    let read = match flags & (COUNTER | QUOTED) {
        // memcached keeps the length of a counter that gets shorter, with spaces at its end.
        COUNTER => std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim_end_matches(' ').parse().ok())
            .map(|number| Value::Integer(decode_counter(number))),
        QUOTED => bytes.strip_prefix(&[QUOTE]).map(|rest| Value::Bytes(bytes.slice_ref(rest))),
        _ => None,
    };
    read.unwrap_or(Value::Bytes(bytes))
}

/// Tells whether memcached might count these bytes up: `strtoull` skips white space and takes a sign.
fn looks_like_a_number(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(b'0'..=b'9' | b'+' | b'-' | b' ' | b'\t'..=b'\r'))
}

/// Returns the number as memcached counts it, modulo 2^64: those below zero are the large ones.
fn encode_counter(number: i64) -> u64 {
    number.cast_unsigned()
}

fn decode_counter(stored: u64) -> i64 {
    stored.cast_signed()
}

/// Returns the expiry as memcached takes it: 0 for never, else a duration or a moment; `None` if it has passed.
///
/// The duration is rounded up. A moment is counted on the system's clock, because the server counts on one like it.
fn exptime(expiry: Expiry, now: Timestamp) -> Option<u32> {
    let Some(left) = expiry.remaining(now) else { return Some(0) };
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    let number = match seconds {
        0 => return None,
        1..=MAX_RELATIVE_SECS => seconds,
        _ => Clock::system().now().as_secs().saturating_add(seconds).min(MAX_MOMENT_SECS),
    };
    u32::try_from(number).ok()
}

/// Picks the server with the highest score for a key: only the keys of a server that goes away move.
fn rendezvous(key: &str, seeds: impl Iterator<Item = u64>) -> usize {
    let hash = fnv1a(key.as_bytes());
    let best = seeds.enumerate().max_by_key(|(position, seed)| (mix(hash ^ seed), std::cmp::Reverse(*position)));
    best.map_or(0, |(position, _)| position)
}

/// FNV-1a. Fixed for ever: two builds that disagree would miss each other's invalidations.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The finaliser of SplitMix64: FNV alone leaves the high bits of short keys alike.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
#[cfg(feature = "conformance")]
mod live_tests;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seeds(addresses: &[String]) -> impl Iterator<Item = u64> {
        addresses.iter().map(|address| mix(fnv1a(address.as_bytes())))
    }

    proptest! {
        #[test]
        fn taking_a_server_away_moves_its_keys_only(
            key in "[!-~]{1,250}", count in 2_usize..12, gone in any::<prop::sample::Index>()
        ) {
            let servers: Vec<String> = (0..count).map(|n| format!("10.0.0.{n}:11211")).collect();
            let gone = gone.index(count);
            let mut left = servers.clone();
            left.remove(gone);
            left.reverse();
            let before = &servers[rendezvous(&key, seeds(&servers))];
            let after = &left[rendezvous(&key, seeds(&left))];
            prop_assert!(before == after || *before == servers[gone]);
        }

        #[test]
        fn values_read_back_as_they_were_written(bytes: Vec<u8>, number: i64) {
            for value in [Value::Bytes(bytes.into()), Value::Integer(number)] {
                let (payload, flags) = encode(&value);
                prop_assert_eq!(decode(payload.into_owned(), flags), value);
            }
        }

        #[test]
        fn damaged_items_never_panic(payload: Vec<u8>, flags: u32) {
            decode(payload, flags);
        }

        #[test]
        fn counters_count_as_memcached_does(number: i64, delta: i64) {
            let stored = encode_counter(number).wrapping_add(delta.cast_unsigned());
            prop_assert_eq!(decode_counter(stored), number.wrapping_add(delta));
            prop_assert_eq!(decode_counter(stored).checked_sub(delta).is_some(), number.checked_add(delta).is_some());
            let undone = stored.wrapping_add(delta.wrapping_neg().cast_unsigned());
            prop_assert_eq!(decode_counter(undone), number);
        }

        #[test]
        fn addresses_never_panic_and_read_back_as_they_are_shown(text: String) {
            if let Ok(address) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
            }
        }
    }

    #[test]
    fn keys_are_spread_evenly() {
        let servers: Vec<String> = (1..=4).map(|n| format!("cache{n}:11211")).collect();
        let mut counts = [0; 4];
        for n in 0..10_000 {
            counts[rendezvous(&format!("larder:1:object:{n}"), seeds(&servers))] += 1;
        }
        assert!(counts.iter().all(|count| (2300..2700).contains(count)), "{counts:?}");
    }

    #[test]
    fn placement_is_fixed_for_ever() {
        let servers: Vec<String> = (1..=4).map(|n| format!("cache{n}:11211")).collect();
        let places: Vec<usize> =
            ["objects", "page:/", "tag:object:7", "清"].iter().map(|key| rendezvous(key, seeds(&servers))).collect();
        assert_eq!(places, PLACES, "a build that places keys elsewhere misses the invalidations of the others");
    }

    const PLACES: [usize; 4] = [0, 3, 1, 3];

    #[test]
    fn addresses_are_read_in_all_their_forms() {
        for (text, shown) in [
            ("localhost", "localhost:11211"),
            (" Cache1:11212 ", "cache1:11212"),
            ("[::1]", "[::1]:11211"),
            ("[::1]:1", "[::1]:1"),
            ("unix:/run/memcached.sock", "unix:/run/memcached.sock"),
            ("/run/memcached.sock", "unix:/run/memcached.sock"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), shown);
        }
        for text in
            ["", ":11211", "::1", "host:", "host:port", "host:70000", "[::1", "[::1]1", "unix:", "http://host:1"]
        {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn expiries_become_seconds_rounded_up_and_moments_above_thirty_days() {
        let now = Clock::system().now();
        let after = |millis| exptime(Expiry::At(now.saturating_add(Duration::from_millis(millis))), now);
        assert_eq!(exptime(Expiry::Never, now), Some(0));
        assert_eq!(after(0), None);
        assert_eq!(after(1), Some(1));
        assert_eq!(after(1001), Some(2));
        assert_eq!(after(2_592_000_000), Some(2_592_000));
        let moment = u64::from(after(2_592_001_000).unwrap());
        assert!(moment.abs_diff(now.as_secs() + 2_592_001) <= 1);
        assert_eq!(after(u64::MAX), Some(i32::MAX.unsigned_abs()));
    }

    #[cfg(feature = "memcached-r2d2")]
    #[test]
    fn passwords_stay_out_of_debug_output() {
        let settings = Settings::new(["localhost"]).credentials("larder", "secret");
        assert!(!format!("{settings:?}").contains("secret"));
    }

    #[test]
    fn keys_that_would_inject_commands_are_refused() {
        let store = Memcached::connect(Settings::new(["127.0.0.1:1"])).unwrap();
        for key in ["", "a b", "x\r\nset victim 0 0 4\r\nevil", "\u{7f}", &"k".repeat(251)] {
            assert!(matches!(store.get(key), Err(Error::InvalidKey { .. })), "{key:?}");
        }
    }

    #[test]
    fn a_list_that_cannot_be_used_names_the_server() {
        let error = Memcached::connect(Settings::new(["a:b"])).unwrap_err();
        assert_eq!(error.to_string(), "memcached a:b is not available");
        assert!(Memcached::connect(Settings::new(Vec::<String>::new())).is_err());
    }
}
