//! The driver for Unix sockets, TLS and credentials, over `r2d2_memcache`, hardened.
//!
//! As it comes, that client waits thirty seconds for a server that is down, hands one caller's late answer to the next,
//! and asks `version` twice before each operation. Here:
//! - The pool is ours. A connection is a client with one socket; whatever goes wrong on it other than a refusal of the
//!   server breaks it for good, and a broken one is never used again.
//! - Every socket has a timeout, those of Unix sockets too, and connecting is tried first where it can be bounded.
//! - A connection that cannot be made is handed out as a failed one, so that the caller learns why at once; r2d2 would
//!   keep it waiting. If nobody takes it any more, it is thrown away.
//! - The protocol is the binary one. In the classic text one the client cannot tell whether `add` stored, and its keys
//!   are not checked. The client's `incr` makes counters that are missing, so counting is compare-and-swap.
//!
//! The protocol does not tell how long an item has left, so its expiry is in its client flags as well, and `touch`
//! rewrites the item.

use std::{
    collections::HashMap,
    fmt, io,
    net::{TcpStream, ToSocketAddrs},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use r2d2_memcache::{
    memcache::{Client, CommandError, ConnectionManager, MemcacheError, ToMemcacheValue, Url},
    r2d2::{ManageConnection, NopErrorHandler, Pool, PooledConnection},
};
use scheduled_thread_pool::ScheduledThreadPool;

use super::{
    Address, Backend, COUNTER, Capabilities, Entry, Expiry, PASSED, QUOTED, Replacement, STATS, Settings, Stats, Value,
    WITHOUT_CAS, capabilities, decode, encode, exptime, label, too_large,
};
use crate::{
    backend::unless_too_large,
    clock::{Clock, Timestamp},
    error::{Error, Result, Source},
};

/// How many keys are asked for in one exchange; see the other driver.
const BATCH_KEYS: usize = 100;

/// How often a value that others write at the same time is read again. Each time, one of them came through.
const MAX_ATTEMPTS: usize = 1000;

/// An idle connection is closed after this, before a firewall forgets it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// The client flags below the expiry.
const KIND_FLAGS: u32 = COUNTER | QUOTED;
const KIND_BITS: u32 = 2;

/// 2020-01-01T00:00:00Z, where the expiries in the client flags start; they reach to 2054.
const EPOCH_SECS: u64 = 1_577_836_800;
const MAX_FLAG_SECS: u64 = (1 << (u32::BITS - KIND_BITS)) - 1;

/// What the server holds: payload, client flags and the number for compare-and-swap.
type Item = (Vec<u8>, u32, Option<u64>);

/// One memcached server.
pub(super) struct Server {
    label: String,
    pool: Pool<Manager>,
    max_connections: u32,
    max_value_bytes: usize,
    clock: Clock,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("r2d2::Server").field("label", &self.label).finish_non_exhaustive()
    }
}

/// Makes connections, and knows when one must not be used again.
struct Manager {
    url: Url,
    probe: Probe,
    timeout: Duration,
    /// The client's own pools need threads; three each if nobody gives them any.
    threads: Arc<ScheduledThreadPool>,
}

/// Where to see first whether anybody listens: the client's own connecting has no timeout.
enum Probe {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

struct Connection {
    client: Result<Client, MemcacheError>,
    made: Instant,
    is_broken: bool,
}

/// How an operation ended that did not succeed.
enum Failure {
    /// The server understood and refused; the connection is fine.
    Refused(CommandError),
    /// Anything else.
    Outage(Source),
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = io::Error;

    fn connect(&self) -> io::Result<Connection> {
        Ok(Connection { client: self.client(), made: Instant::now(), is_broken: false })
    }

    fn is_valid(&self, _: &mut Connection) -> io::Result<()> {
        Ok(())
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.is_broken || connection.client.is_err()
    }
}

impl Manager {
    fn client(&self) -> Result<Client, MemcacheError> {
        self.probe.connect(self.timeout)?;
        let pool = Pool::builder()
            .max_size(1)
            .min_idle(Some(0))
            .max_lifetime(None)
            .idle_timeout(None)
            .test_on_check_out(false)
            .connection_timeout(self.timeout)
            .error_handler(Box::new(NopErrorHandler))
            .thread_pool(Arc::clone(&self.threads))
            .build_unchecked(ConnectionManager::new(self.url.clone()));
        let client = Client::with_pool(pool)?;
        // This connects. The timeout in the address is for TCP only, so it is set here for all.
        client.set_read_timeout(Some(self.timeout))?;
        client.set_write_timeout(Some(self.timeout))?;
        Ok(client)
    }
}

impl Probe {
    fn connect(&self, timeout: Duration) -> io::Result<()> {
        let addresses = match self {
            // The host may be known later than this process is started, and it may move.
            Probe::Tcp { host, port } => (host.as_str(), *port).to_socket_addrs()?,
            #[cfg(unix)]
            Probe::Unix(path) => return std::os::unix::net::UnixStream::connect(path).map(drop),
            #[cfg(not(unix))]
            Probe::Unix(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        let mut connected = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        for address in addresses {
            connected = TcpStream::connect_timeout(&address, timeout).map(drop);
            if connected.is_ok() {
                break;
            }
        }
        connected
    }
}

impl Server {
    pub(super) fn new(address: &Address, settings: &Settings) -> Result<Self> {
        let label = label(address);
        let url = url(address, settings).map_err(|why| Error::unavailable(&label, why))?;
        let probe = match address {
            Address::Tcp { host, port } => Probe::Tcp { host: host.clone(), port: *port },
            Address::Unix(path) => Probe::Unix(path.clone()),
        };
        let threads = |name: &str| {
            Arc::new(
                ScheduledThreadPool::builder()
                    .num_threads(1)
                    .thread_name_pattern(&format!("larder-{name}-{{}}"))
                    .build(),
            )
        };
        let manager = Manager { url, probe, timeout: settings.timeout, threads: threads("dial") };
        let pool = Pool::builder()
            .max_size(settings.max_connections)
            .min_idle(Some(0))
            .max_lifetime(None)
            .idle_timeout(Some(IDLE_TIMEOUT))
            .test_on_check_out(false)
            // Trying and connecting take one timeout each. Less, and the reason of a failure would not be heard.
            .connection_timeout(2 * settings.timeout)
            .error_handler(Box::new(NopErrorHandler))
            // Not the threads of the manager: connecting waits for those.
            .thread_pool(threads("pool"))
            .build_unchecked(manager);
        Ok(Server {
            label,
            pool,
            max_connections: settings.max_connections,
            max_value_bytes: settings.max_value_bytes,
            clock: settings.clock.clone(),
        })
    }

    /// Runs an operation that does the same when it is done twice, and does it again if a connection turns out to have
    /// been closed before.
    fn repeatable<T>(&self, operation: impl Fn(&Client) -> Result<T, MemcacheError>) -> Result<T, Failure> {
        for _ in 0..self.max_connections {
            match self.try_once(&operation) {
                Err((_, true)) => {}
                Err((failure, false)) => return Err(failure),
                Ok(value) => return Ok(value),
            }
        }
        self.once(operation)
    }

    fn once<T>(&self, operation: impl FnOnce(&Client) -> Result<T, MemcacheError>) -> Result<T, Failure> {
        self.try_once(operation).map_err(|(failure, _)| failure)
    }

    /// Runs an operation; with a failure tells whether the connection was an old one that had been closed.
    fn try_once<T>(&self, operation: impl FnOnce(&Client) -> Result<T, MemcacheError>) -> Result<T, (Failure, bool)> {
        let asked = Instant::now();
        let mut connection = self.connection(asked).map_err(|failure| (failure, false))?;
        let is_old = connection.made < asked;
        let connection = &mut *connection;
        let result = match &mut connection.client {
            Ok(client) => operation(client),
            // What remains in its place is thrown away with the connection.
            Err(error) => Err(std::mem::replace(error, MemcacheError::BadURL(String::new()))),
        };
        result.map_err(|error| match error {
            MemcacheError::CommandError(refusal) if is_harmless(&refusal) => (Failure::Refused(refusal), false),
            error => {
                connection.is_broken = true;
                let was_closed = is_old && is_closed(&error);
                let source: Source = match error {
                    // The client's error hides the kind that the breaker looks for.
                    MemcacheError::IOError(error) => error.into(),
                    error => error.to_string().into(),
                };
                (Failure::Outage(source), was_closed)
            }
        })
    }

    /// Takes a connection out of the pool. One that could not be made for somebody who has given up since says nothing
    /// about now.
    fn connection(&self, asked: Instant) -> Result<PooledConnection<Manager>, Failure> {
        loop {
            let connection = self.pool.get().map_err(|error| Failure::Outage(error.into()))?;
            if connection.client.is_ok() || connection.made >= asked {
                return Ok(connection);
            }
        }
    }

    fn failed(&self, failure: Failure) -> Error {
        match failure {
            Failure::Refused(refusal) => Error::unavailable(&self.label, refusal.to_string()),
            Failure::Outage(source) => Error::unavailable(&self.label, source),
        }
    }

    fn item(&self, key: &str) -> Result<Option<Item>> {
        self.repeatable(|client| client.get::<Item>(key)).map_err(|failure| self.failed(failure))
    }

    fn entry(&self, (payload, flags, _): Item) -> Option<Entry> {
        let expiry = expiry_in(flags);
        let value = decode(payload, flags & KIND_FLAGS);
        (!expiry.has_passed(self.clock.now())).then_some(Entry { value, expiry })
    }

    /// Replaces an item that nobody changed meanwhile; tells whether it did.
    fn swap(&self, key: &str, value: &Value, expiry: Expiry, cas: Option<u64>) -> Result<bool> {
        let exptime = exptime(expiry, self.clock.now()).unwrap_or(PASSED);
        let Some(cas) = cas.filter(|cas| *cas != 0) else {
            return Err(Error::unavailable(&self.label, WITHOUT_CAS));
        };
        match self.once(|client| client.cas(key, Payload::new(value, expiry), exptime, cas)) {
            Err(Failure::Refused(CommandError::ValueTooLarge)) => Err(too_large(key, value, self.max_value_bytes)),
            swapped => swapped.map_err(|failure| self.failed(failure)),
        }
    }

    /// Replaces an item if it holds this value.
    fn swap_if(&self, found: Option<Item>, item: &Replacement<'_>) -> Result<bool> {
        let Some(found) = found else { return Ok(false) };
        let cas = found.2;
        let is_same = self.entry(found).is_some_and(|entry| entry.value == *item.old);
        if is_same { self.swap(item.key, item.new, item.expiry, cas) } else { Ok(false) }
    }

    fn too_many_writers(&self) -> Error {
        Error::unavailable(&self.label, "others changed the value each time it was read")
    }

    /// Turns the refusal of a value into the error of the caller, and removes what the value should have replaced.
    fn refused(&self, key: &str, value: &Value) -> Error {
        match self.delete(key) {
            Ok(_) => too_large(key, value, self.max_value_bytes),
            Err(error) => error,
        }
    }

    fn items(&self, keys: &[&str]) -> Result<HashMap<String, Item>> {
        self.repeatable(|client| client.gets::<Item>(keys)).map_err(|failure| self.failed(failure))
    }
}

impl Backend for Server {
    fn capabilities(&self) -> Capabilities {
        capabilities(self.max_value_bytes)
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        Ok(self.item(key)?.and_then(|item| self.entry(item)))
    }

    fn set(&self, key: &str, value: &Value, expiry: Expiry) -> Result<()> {
        let Some(exptime) = exptime(expiry, self.clock.now()) else { return self.delete(key).map(drop) };
        match self.repeatable(|client| client.set(key, Payload::new(value, expiry), exptime)) {
            Err(Failure::Refused(CommandError::ValueTooLarge)) => Err(self.refused(key, value)),
            result => result.map_err(|failure| self.failed(failure)),
        }
    }

    fn add(&self, key: &str, value: &Value, expiry: Expiry) -> Result<bool> {
        let Some(exptime) = exptime(expiry, self.clock.now()) else { return Ok(self.get(key)?.is_none()) };
        match self.once(|client| client.add(key, Payload::new(value, expiry), exptime)) {
            Ok(()) => Ok(true),
            Err(Failure::Refused(CommandError::KeyExists)) => Ok(false),
            Err(Failure::Refused(CommandError::ValueTooLarge)) => Err(self.refused(key, value)),
            Err(failure) => Err(self.failed(failure)),
        }
    }

    fn replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> Result<bool> {
        self.swap_if(self.item(key)?, &Replacement { key, old, new, expiry })
    }

    fn touch(&self, key: &str, expiry: Expiry) -> Result<bool> {
        for _ in 0..MAX_ATTEMPTS {
            let Some(item) = self.item(key)? else { return Ok(false) };
            let cas = item.2;
            let Some(entry) = self.entry(item) else { return Ok(false) };
            if self.swap(key, &entry.value, expiry, cas)? {
                return Ok(true);
            }
        }
        Err(self.too_many_writers())
    }

    fn delete(&self, key: &str) -> Result<bool> {
        self.repeatable(|client| client.delete(key)).map_err(|failure| self.failed(failure))
    }

    fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>> {
        let not_a_counter = |reason| Error::NotACounter { key: key.to_owned(), reason };
        for _ in 0..MAX_ATTEMPTS {
            let Some(item) = self.item(key)? else { return Ok(None) };
            let cas = item.2;
            let Some(entry) = self.entry(item) else { return Ok(None) };
            let Value::Integer(number) = entry.value else {
                return Err(not_a_counter("its value is not an integer"));
            };
            let sum = number.checked_add(delta).ok_or_else(|| not_a_counter("the sum leaves the range of 64 bits"))?;
            if self.swap(key, &Value::Integer(sum), entry.expiry, cas)? {
                return Ok(Some(sum));
            }
        }
        Err(self.too_many_writers())
    }

    fn clear(&self) -> Result<()> {
        self.repeatable(Client::flush).map_err(|failure| self.failed(failure))
    }

    fn get_many(&self, keys: &[&str]) -> Result<Vec<Option<Entry>>> {
        let mut entries = Vec::with_capacity(keys.len());
        for keys in keys.chunks(BATCH_KEYS) {
            let mut found = self.items(keys)?;
            for (position, key) in keys.iter().enumerate() {
                // A key that comes again later is still needed.
                let item =
                    if keys[position + 1..].contains(key) { found.get(*key).cloned() } else { found.remove(*key) };
                entries.push(item.and_then(|item| self.entry(item)));
            }
        }
        Ok(entries)
    }

    fn set_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<usize>> {
        let Some(exptime) = exptime(expiry, self.clock.now()) else {
            let keys: Vec<&str> = items.iter().map(|(key, _)| *key).collect();
            return self.delete_many(&keys).map(|_| Vec::new());
        };
        let too_large = self.repeatable(|client| {
            let mut too_large = Vec::new();
            for (position, (key, value)) in items.iter().enumerate() {
                match client.set(key, Payload::new(value, expiry), exptime) {
                    Err(MemcacheError::CommandError(CommandError::ValueTooLarge)) => too_large.push(position),
                    result => result?,
                }
            }
            Ok(too_large)
        });
        let too_large = too_large.map_err(|failure| self.failed(failure))?;
        let keys: Vec<&str> = too_large.iter().map(|position| items[*position].0).collect();
        self.delete_many(&keys)?;
        Ok(too_large)
    }

    fn replace_many(&self, items: &[Replacement<'_>]) -> Result<Vec<bool>> {
        let mut replaced = Vec::with_capacity(items.len());
        for items in items.chunks(BATCH_KEYS) {
            let keys: Vec<&str> = items.iter().map(|item| item.key).collect();
            let mut found = self.items(&keys)?;
            for item in items {
                replaced.push(unless_too_large(self.swap_if(found.remove(item.key), item))?);
            }
        }
        Ok(replaced)
    }

    fn delete_many(&self, keys: &[&str]) -> Result<usize> {
        let deleted = self
            .repeatable(|client| keys.iter().try_fold(0, |count, key| Ok(count + usize::from(client.delete(key)?))));
        deleted.map_err(|failure| self.failed(failure))
    }

    fn stats(&self) -> Result<Stats> {
        let mut numbers = self.repeatable(Client::stats).map_err(|failure| self.failed(failure))?;
        let numbers = numbers.pop().map(|(_, numbers)| numbers).unwrap_or_default();
        Ok(STATS.iter().filter_map(|name| Some(((*name).to_owned(), numbers.get(*name)?.clone()))).collect())
    }
}

/// A value on its way to the server.
struct Payload<'a> {
    bytes: std::borrow::Cow<'a, [u8]>,
    flags: u32,
}

impl<'a> Payload<'a> {
    fn new(value: &'a Value, expiry: Expiry) -> Self {
        let (bytes, kind) = encode(value);
        Payload { bytes, flags: kind | expiry_flags(expiry) }
    }
}

impl<W: io::Write> ToMemcacheValue<W> for Payload<'_> {
    fn get_flags(&self) -> u32 {
        self.flags
    }

    fn get_length(&self) -> usize {
        self.bytes.len()
    }

    fn write_to(&self, stream: &mut W) -> io::Result<()> {
        stream.write_all(&self.bytes)
    }
}

/// Writes an expiry into client flags: seconds since 2020, rounded up, 0 for never.
fn expiry_flags(expiry: Expiry) -> u32 {
    let Expiry::At(moment) = expiry else { return 0 };
    let seconds = moment.as_millis().div_ceil(1000).saturating_sub(EPOCH_SECS).clamp(1, MAX_FLAG_SECS);
    u32::try_from(seconds << KIND_BITS).unwrap_or(!KIND_FLAGS)
}

fn expiry_in(flags: u32) -> Expiry {
    match u64::from(flags >> KIND_BITS) {
        0 => Expiry::Never,
        seconds => Expiry::At(Timestamp::from_millis((EPOCH_SECS + seconds) * 1000)),
    }
}

/// Writes the address as the client reads it.
fn url(address: &Address, settings: &Settings) -> Result<Url, String> {
    let scheme = match (address, &settings.tls) {
        (Address::Tcp { .. }, None) => "memcache+tcp",
        (Address::Tcp { .. }, Some(_)) => "memcache+tls",
        (Address::Unix(_), None) => "memcache+unix",
        (Address::Unix(_), Some(_)) => return Err("a Unix socket is not encrypted".to_owned()),
    };
    let place = match address {
        Address::Tcp { .. } => address.to_string(),
        Address::Unix(path) => path.to_string_lossy().into_owned(),
    };
    let mut url = Url::parse(&format!("{scheme}://{place}")).map_err(|error| error.to_string())?;
    if let Address::Unix(path) = address
        && url.path() != path.to_string_lossy()
    {
        return Err("the path holds characters that the client would change".to_owned());
    }
    if let Some(credentials) = &settings.credentials {
        let set = url.set_username(&credentials.user).and_then(|()| url.set_password(Some(&credentials.password)));
        set.map_err(|()| "a Unix socket takes no credentials".to_owned())?;
        // The client sends them as they stand in the address.
        if url.username() != credentials.user || url.password() != Some(&credentials.password) {
            return Err("user or password hold characters that the client would change".to_owned());
        }
    }
    let mut query = url.query_pairs_mut();
    query.append_pair("timeout", &settings.timeout.as_secs_f64().to_string());
    if let Some(ca_file) = settings.tls.as_ref().and_then(|tls| tls.ca_file.as_ref()) {
        query.append_pair("ca_path", &ca_file.to_string_lossy());
    }
    drop(query);
    Ok(url)
}

/// Tells whether the server only refused: what it says to such a command it says in whole.
fn is_harmless(refusal: &CommandError) -> bool {
    matches!(
        refusal,
        CommandError::KeyExists
            | CommandError::KeyNotFound
            | CommandError::ValueTooLarge
            | CommandError::InvalidArguments
    )
}

/// Tells whether the far side had closed the connection.
fn is_closed(error: &MemcacheError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error,
        MemcacheError::IOError(error)
            if matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A memcached on a Unix socket, ended when it is dropped.
    #[cfg(unix)]
    struct SocketServer(std::process::Child);

    #[cfg(unix)]
    impl SocketServer {
        fn start(path: &std::path::Path) -> Self {
            let mut command = std::process::Command::new("memcached");
            // The user is taken only from root, and memcached refuses to be root without being told.
            command.arg("-s").arg(path).args(["-u", "root"]);
            let child = command.spawn().expect("memcached is not installed; run: apt-get install memcached");
            let server = SocketServer(child);
            let limit = std::time::Instant::now() + Duration::from_secs(10);
            while std::os::unix::net::UnixStream::connect(path).is_err() {
                assert!(std::time::Instant::now() < limit, "memcached does not listen on {}", path.display());
                std::thread::sleep(Duration::from_millis(5));
            }
            server
        }

        fn signal(&self, signal: &str) {
            let mut kill = std::process::Command::new("kill");
            assert!(kill.arg(signal).arg(self.0.id().to_string()).status().unwrap().success());
        }
    }

    #[cfg(unix)]
    impl Drop for SocketServer {
        fn drop(&mut self) {
            // It may have ended already.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_unix_socket_chooses_this_driver_and_has_timeouts_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memcached.sock");
        let server = SocketServer::start(&path);
        let store = super::super::Memcached::connect(Settings::new([format!("unix:{}", path.display())])).unwrap();
        store.set("k", &Value::Integer(1), Expiry::Never).unwrap();
        assert_eq!(store.incr("k", 1).unwrap(), Some(2));
        server.signal("-STOP");
        // Its threads may go on for a moment.
        std::thread::sleep(Duration::from_millis(100));
        let begun = std::time::Instant::now();
        assert!(store.get("k").unwrap_err().is_outage());
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        server.signal("-CONT");
        assert_eq!(store.incr("k", 1).unwrap(), Some(3));
    }

    #[test]
    fn the_failures_of_an_outage_are_not_handed_out_after_it() {
        let mut memcached = crate::conformance::server::MemcachedServer::start();
        let address = Address::parse(&memcached.address()).unwrap();
        let server = Server::new(&address, &Settings::new(["unused"])).unwrap();
        for _ in 0..10 {
            std::thread::scope(|scope| {
                for _ in 0..32 {
                    scope.spawn(|| while server.get("k").is_ok() {});
                }
                std::thread::sleep(Duration::from_millis(20));
                memcached.stop();
            });
            memcached.restart();
            server.get("k").unwrap();
        }
    }

    #[test]
    fn expiries_survive_the_client_flags() {
        let now = Clock::system().now();
        for seconds in [1, 60, 60 * 60 * 24 * 365] {
            let expiry = Expiry::At(Timestamp::from_millis((now.as_secs() + seconds) * 1000));
            assert_eq!(expiry_in(expiry_flags(expiry)), expiry);
            assert_eq!(expiry_in(expiry_flags(expiry) | COUNTER | QUOTED), expiry);
            assert_eq!(expiry_flags(expiry) & KIND_FLAGS, 0);
        }
        assert_eq!(expiry_in(expiry_flags(Expiry::Never)), Expiry::Never);
        assert_ne!(expiry_in(expiry_flags(Expiry::At(Timestamp::from_millis(u64::MAX)))), Expiry::Never);
        assert_ne!(expiry_in(expiry_flags(Expiry::At(Timestamp::from_millis(1)))), Expiry::Never);
        let odd = Expiry::At(Timestamp::from_millis(now.as_secs() * 1000 + 1));
        assert!(expiry_in(expiry_flags(odd)).to_millis() > odd.to_millis(), "rounded up");
    }

    #[test]
    fn addresses_become_what_the_client_reads() {
        let of = |server: &str, settings: &Settings| url(&Address::parse(server).unwrap(), settings);
        let plain = Settings::new(["unused"]);
        assert_eq!(of("[::1]:1", &plain).unwrap().as_str(), "memcache+tcp://[::1]:1?timeout=0.25");
        assert_eq!(of("/run/m.sock", &plain).unwrap().as_str(), "memcache+unix:///run/m.sock?timeout=0.25");
        let secure = plain.clone().tls(Some("/etc/ca.pem".into())).credentials("larder", "secret");
        assert_eq!(
            of("host", &secure).unwrap().as_str(),
            "memcache+tls://larder:secret@host:11211?timeout=0.25&ca_path=%2Fetc%2Fca.pem"
        );
        assert!(of("/run/m.sock", &secure).is_err());
        assert!(of("/run/m.sock", &plain.clone().credentials("larder", "secret")).is_err());
        assert!(of("/run/a b", &plain).is_err());
        assert!(of("host", &plain.credentials("larder", "a@b")).is_err());
    }
}
