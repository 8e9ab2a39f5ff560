//! The driver for memcached's meta protocol, over `memcache::exp`.
//!
//! One exchange a method, under one deadline. A connection that failed in the middle of an exchange is thrown away, so
//! no answer is ever taken for another's. `flush_all` and `stats` have no meta command: they go over a connection of
//! their own, which is closed after the answer.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use memcache::exp::{
    Arithmetic, Delete, Error as MetaError, Get, GetResult, Meta, MetaClient, MutationStatus, Op, OpResult, Set,
};

use super::{
    Address, Backend, Capabilities, Changed, Entry, Expiry, Replacement, STATS, Settings, Stats, Value, WITHOUT_CAS,
    capabilities, decode, decode_counter, encode, exptime, label, too_large,
};
use crate::{
    backend::unless_too_large,
    clock::Clock,
    error::{Error, Result},
};

/// How many keys are sent in one exchange. All are written before the first answer is read, so the requests, at most
/// 270 bytes each, must fit the buffers between us and a server that waits for us to read.
const BATCH_KEYS: usize = 100;

/// How many bytes of values are sent in one exchange before their answers are read.
const BATCH_BYTES: usize = 1 << 20;

/// How often a counter is read and replaced before it is given up, because others were faster each time.
const MAX_ATTEMPTS: usize = 1000;

const TOO_LARGE_SUM: &str = "the sum leaves the range of 64 bits";

/// The longest answer to `stats` or `flush_all` that is read, in lines. memcached 1.6 sends about eighty.
const MAX_REPLY_LINES: usize = 1000;

/// One memcached server.
pub(super) struct Server {
    label: String,
    host: String,
    port: u16,
    connected: Mutex<Option<Arc<Connected>>>,
    connections: usize,
    timeout: Duration,
    max_value_bytes: usize,
    clock: Clock,
}

/// What is there once the host was found.
struct Connected {
    client: MetaClient,
    addresses: Vec<SocketAddr>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("meta::Server").field("label", &self.label).finish_non_exhaustive()
    }
}

impl Server {
    pub(super) fn new(address: &Address, settings: &Settings) -> Result<Self> {
        let label = label(address);
        let Address::Tcp { host, port } = address else {
            return Err(Error::unavailable(label, "a Unix socket needs the cargo feature memcached-r2d2"));
        };
        Ok(Server {
            label,
            host: host.clone(),
            port: *port,
            connected: Mutex::new(None),
            connections: usize::try_from(settings.max_connections).unwrap_or(usize::MAX),
            timeout: settings.timeout,
            max_value_bytes: settings.max_value_bytes,
            clock: settings.clock.clone(),
        })
    }

    /// Returns the client. Looks the host up if that was not done since the last failure: it may be known later than
    /// this process is started, and it may move.
    fn connected(&self) -> Result<Arc<Connected>> {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connected) = &*connected {
            return Ok(Arc::clone(connected));
        }
        let made = Arc::new(self.connect()?);
        *connected = Some(Arc::clone(&made));
        Ok(made)
    }

    fn connect(&self) -> Result<Connected> {
        let unavailable = |error: io::Error| Error::unavailable(&self.label, error);
        let addresses: Vec<SocketAddr> =
            (self.host.as_str(), self.port).to_socket_addrs().map_err(unavailable)?.collect();
        if addresses.is_empty() {
            return Err(unavailable(io::Error::other("the host name has no address")));
        }
        let client = MetaClient::builder()
            .connect_timeout(Some(self.timeout))
            .io_timeout(Some(self.timeout))
            .max_connections(Some(self.connections))
            .max_idle(self.connections)
            .connect((self.host.as_str(), self.port))
            .map_err(|error| Error::unavailable(&self.label, error))?;
        Ok(Connected { client, addresses })
    }

    fn failed(&self, error: MetaError) -> Error {
        *self.connected.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Error::unavailable(&self.label, error)
    }

    fn read(&self, key: &str) -> Get {
        Get::new(key).meta(Meta::NONE.ttl())
    }

    fn entry(&self, found: GetResult) -> Option<Entry> {
        if !found.hit() || found.is_stale() {
            return None;
        }
        let value = decode(found.value?, found.client_flags.unwrap_or(0));
        let expiry = match found.item.ttl.and_then(|seconds| u64::try_from(seconds).ok()) {
            Some(seconds) => Expiry::At(self.clock.now().saturating_add(Duration::from_secs(seconds))),
            None => Expiry::Never,
        };
        Some(Entry { value, expiry })
    }

    /// Returns the command that stores a value; `None` if it has expired already.
    fn store(&self, key: &str, value: &Value, expiry: Expiry) -> Option<Set> {
        let (payload, flags) = encode(value);
        let exptime = exptime(expiry, self.clock.now())?;
        Some(Set::new(key, payload).client_flags(flags).ttl_raw(exptime))
    }

    /// Returns the number for compare-and-swap of an item if it holds this value.
    fn cas_of(&self, found: GetResult, value: &Value) -> Result<Option<u64>> {
        if !found.hit() || found.is_stale() {
            return Ok(None);
        }
        let stored = found.value.map(|payload| decode(payload, found.client_flags.unwrap_or(0)));
        match found.item.cas {
            _ if stored.as_ref() != Some(value) => Ok(None),
            None | Some(0) => Err(Error::unavailable(&self.label, WITHOUT_CAS)),
            cas => Ok(cas),
        }
    }

    /// Reads all items in one exchange, and replaces those that are as they were in another.
    fn swap(&self, items: &[Replacement<'_>]) -> Result<Vec<Result<bool, MetaError>>> {
        let client = &self.connected()?.client;
        let reads = items.iter().map(|item| Get::new(item.key).meta(Meta::NONE.cas()));
        let found = client.run_many(reads).map_err(|error| self.failed(error))?;
        let mut replaced: Vec<_> = items.iter().map(|_| Ok(false)).collect();
        let (mut positions, mut commands) = (Vec::new(), Vec::new());
        for (position, (item, found)) in items.iter().zip(found).enumerate() {
            let Some(cas) = self.cas_of(found.map_err(|error| self.failed(error))?, item.old)? else { continue };
            positions.push(position);
            commands.push(match self.store(item.key, item.new, item.expiry) {
                Some(set) => Op::from(set.compare_cas(cas)),
                None => Op::from(Delete::new(item.key).compare_cas(cas)),
            });
        }
        let results = client.run_batch(commands).map_err(|error| self.failed(error))?;
        let applied = |result: OpResult| result.as_mutation().is_some_and(|mutation| mutation.applied());
        for (position, result) in positions.into_iter().zip(results) {
            replaced[position] = result.map(applied);
        }
        Ok(replaced)
    }

    /// Has the server count, modulo 2^64.
    fn count(&self, key: &str, delta: i64) -> Result<Counted> {
        let counted = match self.connected()?.client.run(Arithmetic::new(key).delta(delta.cast_unsigned())) {
            Ok(counted) => counted,
            Err(error) if is_not_a_number(&error) => return Ok(Counted::Refused),
            Err(error) => return Err(self.failed(error)),
        };
        match (counted.status, counted.value) {
            (MutationStatus::Applied, Some(stored)) => Ok(Counted::Number(decode_counter(stored))),
            (MutationStatus::NotFound, _) => Ok(Counted::Missing),
            _ => Err(self.failed(MetaError::Protocol("the answer to a count has no number".to_owned()))),
        }
    }

    /// Counts by reading and replacing what was read, because the server may be wrong about numbers of 2^63 and more, which
    /// are those below zero: memcached 1.6.18 looks for a sign beyond the end of the number, at what was in its memory before.
    fn count_by_replacing(&self, key: &str, sum: impl Fn(i64) -> Option<i64>) -> Result<Option<i64>> {
        let not_a_counter = |reason| Error::NotACounter { key: key.to_owned(), reason };
        for _ in 0..MAX_ATTEMPTS {
            let Some(entry) = self.get(key)? else { return Ok(None) };
            let Value::Integer(number) = entry.value else {
                return Err(not_a_counter("its value is not an integer"));
            };
            let sum = sum(number).ok_or_else(|| not_a_counter(TOO_LARGE_SUM))?;
            if self.replace(key, &entry.value, &Value::Integer(sum), entry.expiry)? {
                return Ok(Some(sum));
            }
        }
        Err(Error::unavailable(&self.label, "others changed the value each time it was read"))
    }

    /// Reads the answer to one command of a batch.
    ///
    /// The client gives the refusal of one value to all that came after it, so those are sent `again`. What did get
    /// there the first time then counts as not done.
    fn done(&self, answer: Result<bool, MetaError>, again: impl FnOnce() -> Result<bool>) -> Result<bool> {
        match answer {
            Ok(done) => Ok(done),
            Err(error) if is_too_large(&error) => unless_too_large(again()),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Turns the refusal of a value into the error of the caller, and removes what the value should have replaced.
    fn refused(&self, key: &str, value: &Value, error: MetaError) -> Error {
        if !is_too_large(&error) {
            return self.failed(error);
        }
        match self.delete(key) {
            Ok(_) => too_large(key, value, self.max_value_bytes),
            Err(error) => error,
        }
    }

    /// Sends a command that the meta protocol does not have, and returns the lines of its answer without the last.
    fn classic(&self, command: &str, is_last: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
        let deadline = Instant::now() + self.timeout;
        let left = || match deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
            left => Ok(left),
        };
        let mut connected = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        let known = self.connected().map_err(io::Error::other)?;
        for address in &known.addresses {
            connected = TcpStream::connect_timeout(address, left()?);
            if connected.is_ok() {
                break;
            }
        }
        let mut stream = connected?;
        stream.set_write_timeout(Some(left()?))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut reader = BufReader::new(io::Read::take(stream, 1 << 20));
        let mut lines = Vec::new();
        while lines.len() < MAX_REPLY_LINES {
            reader.get_ref().get_ref().set_read_timeout(Some(left()?))?;
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if is_last(line) {
                return Ok(lines);
            }
            if line.contains("ERROR") {
                return Err(io::Error::other(line.to_owned()));
            }
            lines.push(line.to_owned());
        }
        Err(io::ErrorKind::InvalidData.into())
    }
}

impl Backend for Server {
    fn capabilities(&self) -> Capabilities {
        capabilities(self.max_value_bytes)
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        let found = self.connected()?.client.run(self.read(key)).map_err(|error| self.failed(error))?;
        Ok(self.entry(found))
    }

    /// The stamp is the number for compare-and-swap. A server that was restarted counts from one again: the caller reads
    /// the generation of its entries after it, which went with that server's memory.
    fn get_changed(&self, key: &str, stamp: Option<u64>) -> Result<Changed> {
        let client = &self.connected()?.client;
        if stamp.is_some() {
            let found = client.run(Get::new(key).without_value().meta(Meta::NONE.cas()));
            let found = found.map_err(|error| self.failed(error))?;
            if !found.hit() {
                return Ok(Changed::Missing);
            }
            if !found.is_stale() && found.item.cas.filter(|cas| *cas != 0) == stamp {
                return Ok(Changed::No);
            }
        }
        let found = client.run(Get::new(key).meta(Meta::NONE.ttl().cas())).map_err(|error| self.failed(error))?;
        let cas = found.item.cas.filter(|cas| *cas != 0);
        Ok(self.entry(found).map_or(Changed::Missing, |entry| Changed::Yes(entry, cas)))
    }

    fn set(&self, key: &str, value: &Value, expiry: Expiry) -> Result<()> {
        let Some(set) = self.store(key, value, expiry) else { return self.delete(key).map(drop) };
        self.connected()?.client.run(set).map(drop).map_err(|error| self.refused(key, value, error))
    }

    fn add(&self, key: &str, value: &Value, expiry: Expiry) -> Result<bool> {
        let Some(set) = self.store(key, value, expiry) else { return Ok(self.get(key)?.is_none()) };
        match self.connected()?.client.run(set.add()) {
            Ok(added) => Ok(added.applied()),
            Err(error) => Err(self.refused(key, value, error)),
        }
    }

    fn replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> Result<bool> {
        match self.swap(&[Replacement { key, old, new, expiry }])?.pop() {
            Some(Err(error)) if is_too_large(&error) => Err(too_large(key, new, self.max_value_bytes)),
            Some(replaced) => replaced.map_err(|error| self.failed(error)),
            None => Ok(false),
        }
    }

    fn touch(&self, key: &str, expiry: Expiry) -> Result<bool> {
        let Some(exptime) = exptime(expiry, self.clock.now()) else { return self.delete(key) };
        let touched = self.connected()?.client.run(Get::new(key).without_value().touch_raw(exptime));
        touched.map(|found| found.hit()).map_err(|error| self.failed(error))
    }

    fn delete(&self, key: &str) -> Result<bool> {
        let deleted = self.connected()?.client.run(Delete::new(key));
        deleted.map(|result| result.applied()).map_err(|error| self.failed(error))
    }

    /// Counts modulo 2^64, downwards too: memcached's own `decr` stops at zero and forgets by how much it was missed.
    ///
    /// A count that left the range is taken back by the opposite one. Both only add, so whatever others count in
    /// between stays in; such a caller may be told a number from the far end, a moment before the range is left anyway.
    fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>> {
        let number = match self.count(key, delta)? {
            Counted::Number(number) => number,
            Counted::Missing => return Ok(None),
            Counted::Refused => return self.count_by_replacing(key, |number| number.checked_add(delta)),
        };
        if number.checked_sub(delta).is_some() {
            return Ok(Some(number));
        }
        if self.count(key, delta.wrapping_neg())? == Counted::Refused {
            self.count_by_replacing(key, |number| Some(number.wrapping_sub(delta)))?;
        }
        Err(Error::NotACounter { key: key.to_owned(), reason: TOO_LARGE_SUM })
    }

    fn clear(&self) -> Result<()> {
        self.classic("flush_all", |line| line == "OK").map(drop).map_err(|error| Error::unavailable(&self.label, error))
    }

    fn get_many(&self, keys: &[&str]) -> Result<Vec<Option<Entry>>> {
        let mut entries = Vec::with_capacity(keys.len());
        for keys in keys.chunks(BATCH_KEYS) {
            let results = self.connected()?.client.run_many(keys.iter().map(|key| self.read(key)));
            for found in results.map_err(|error| self.failed(error))? {
                entries.push(self.entry(found.map_err(|error| self.failed(error))?));
            }
        }
        Ok(entries)
    }

    fn set_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<usize>> {
        let mut failed = Vec::new();
        let mut start = 0;
        while start < items.len() {
            let batch = batch_of(&items[start..], |(_, value)| value.len());
            let sets: Option<Vec<Set>> = batch.iter().map(|(key, value)| self.store(key, value, expiry)).collect();
            let Some(sets) = sets else {
                let keys: Vec<&str> = items.iter().map(|(key, _)| *key).collect();
                return self.delete_many(&keys).map(|_| failed);
            };
            let results = self.connected()?.client.run_many(sets).map_err(|error| self.failed(error))?;
            for (position, result) in results.into_iter().enumerate() {
                let Err(error) = result else { continue };
                if !is_too_large(&error) {
                    return Err(self.failed(error));
                }
                // The client gives the refusal of one value to all that came after it.
                match self.set(batch[position].0, &batch[position].1, expiry) {
                    Ok(()) => {}
                    Err(Error::ValueTooLarge { .. }) => failed.push(start + position),
                    Err(error) => return Err(error),
                }
            }
            start += batch.len();
        }
        Ok(failed)
    }

    fn add_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<bool>> {
        let mut added = Vec::with_capacity(items.len());
        while added.len() < items.len() {
            let batch = batch_of(&items[added.len()..], |(_, value)| value.len());
            let adds: Option<Vec<Set>> =
                batch.iter().map(|(key, value)| Some(self.store(key, value, expiry)?.add())).collect();
            let Some(adds) = adds else {
                let keys: Vec<&str> = items[added.len()..].iter().map(|(key, _)| *key).collect();
                added.extend(self.get_many(&keys)?.iter().map(Option::is_none));
                break;
            };
            let results = self.connected()?.client.run_many(adds).map_err(|error| self.failed(error))?;
            for ((key, value), result) in batch.iter().zip(results) {
                let answer = result.map(|result| result.applied());
                added.push(self.done(answer, || self.add(key, value, expiry))?);
            }
        }
        Ok(added)
    }

    fn replace_many(&self, items: &[Replacement<'_>]) -> Result<Vec<bool>> {
        let mut replaced = Vec::with_capacity(items.len());
        while replaced.len() < items.len() {
            let batch = batch_of(&items[replaced.len()..], |item| item.old.len().max(item.new.len()));
            for (item, answer) in batch.iter().zip(self.swap(batch)?) {
                replaced.push(self.done(answer, || self.replace(item.key, item.old, item.new, item.expiry))?);
            }
        }
        Ok(replaced)
    }

    fn delete_many(&self, keys: &[&str]) -> Result<usize> {
        let mut count = 0;
        for keys in keys.chunks(BATCH_KEYS) {
            let results =
                self.connected()?.client.run_many(keys.iter().map(Delete::new)).map_err(|error| self.failed(error))?;
            for deleted in results {
                count += usize::from(deleted.map_err(|error| self.failed(error))?.applied());
            }
        }
        Ok(count)
    }

    fn stats(&self) -> Result<Stats> {
        let lines = self.classic("stats", |line| line == "END");
        let lines = lines.map_err(|error| Error::unavailable(&self.label, error))?;
        let value_of = |name: &str| {
            let of_line =
                |line: &String| line.strip_prefix("STAT ")?.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
            lines.iter().find_map(of_line)
        };
        Ok(STATS.iter().filter_map(|name| Some(((*name).to_owned(), value_of(name)?))).collect())
    }
}

/// Returns the first of the items, as many as go into one exchange: at least one.
fn batch_of<T>(items: &[T], bytes_of: impl Fn(&T) -> usize) -> &[T] {
    let mut bytes = 0;
    let fitting = items.iter().take(BATCH_KEYS).take_while(|item| {
        bytes += bytes_of(item);
        bytes <= BATCH_BYTES
    });
    &items[..fitting.count().max(1)]
}

/// What the server answered to a count.
#[derive(Debug, PartialEq, Eq)]
enum Counted {
    Number(i64),
    Missing,
    /// It says that the value is no number.
    Refused,
}

fn is_too_large(error: &MetaError) -> bool {
    matches!(answer(error), MetaError::Server(message) if message.contains("too large"))
}

fn is_not_a_number(error: &MetaError) -> bool {
    matches!(answer(error), MetaError::Rejected(message) if message.contains("non-numeric"))
}

/// Returns what the server said: where it refuses, the client calls the outcome ambiguous, which it is not.
fn answer(error: &MetaError) -> &MetaError {
    match error {
        MetaError::Ambiguous { source, .. } => answer(source),
        error => error,
    }
}
