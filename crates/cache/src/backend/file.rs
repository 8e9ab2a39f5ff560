//! A directory with one file for each key.
//!
//! `{directory}/{first two digits}/{SHA-256 of the key}.larder`, in 256 folders. A file is written beside its place
//! and renamed into it, so a reader sees the old entry or the new one and needs no lock. Writers of one folder take
//! turns, by a lock within the process and one on the file `lock` between processes. Nothing is flushed to the disk:
//! what a crash tears is found by its checksum and counts as missing. Files that the store did not make are left alone.
//!
//! | | |
//! | --- | --- |
//! | shared | by all processes on the machine; not over a network file system |
//! | survives a restart | yes |
//! | atomic `add`, `replace`, `incr` | yes, by the lock of the folder |
//! | eviction | at `max_entries`: what has expired, then the oldest of the rest, one in `cull_frequency` |
//! | key limit | 65,535 bytes |
//! | value limit | the disk |
//! | finest timeout | one millisecond |
//!
//! # Layout of a file
//! All numbers are big-endian.
//!
//! | bytes | |
//! | --- | --- |
//! | 4 | `LRDF` |
//! | 1 | format, 1 |
//! | 1 | kind of value: 0 bytes, 1 counter (8 bytes, two's complement) |
//! | 2 | length of the key |
//! | 8 | expiry in milliseconds since 1970, 0 for never |
//! | 8 | length of the value |
//! | 4 | CRC-32 of all that stands before and behind it |
//! | | key, value |

use std::{
    fmt::{self, Display, Write as _},
    fs, io,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use fs4::{FileExt, TryLockError};
use log::Level;
use sha2::{Digest, Sha256};

use super::{Backend, Capabilities, Entry, Options, Sharing, Stats, Value};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    events,
    timeout::Expiry,
};

const MAGIC: [u8; 4] = *b"LRDF";
const FORMAT: u8 = 1;
const KIND_BYTES: u8 = 0;
const KIND_COUNTER: u8 = 1;
const HEADER_BYTES: usize = 28;
const CHECKSUM_AT: usize = 24;
const SHARDS: usize = 256;
const EXTENSION: &str = "larder";
const TEMPORARY_PREFIX: &str = ".tmp-";

/// How long a writer waits for the processes before it. Each holds the lock for one small file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// After how many new entries the files are counted, because other processes make and remove some too.
const MIN_RECOUNT: usize = 64;

/// A temporary file this old belongs to a process that died.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// A directory with one file for each key.
///
/// Cheap to clone.
///
/// # Examples
/// ```
/// use larder_cache::{Expiry, backend::{Backend, Options, Value, file::File}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let directory = tempfile::tempdir()?;
/// let store = File::open(directory.path().join("cache"), Options::new())?;
/// store.set("answer", &Value::Integer(42), Expiry::Never)?;
/// assert_eq!(store.incr("answer", -2)?, Some(40));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct File(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    options: Options,
    shards: Vec<Mutex<()>>,
    /// How many entries there are, as far as this process knows.
    entries: AtomicUsize,
    /// How many entries may be made before they are counted again; 0 at the start.
    until_recount: AtomicUsize,
    culling: Mutex<()>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("directory", &self.directory)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Where a key lives.
struct Place {
    shard: usize,
    folder: PathBuf,
    path: PathBuf,
}

/// The turn of a writer in a folder; the file's lock ends when it is closed.
struct Turn<'a> {
    _within: MutexGuard<'a, ()>,
    _between: fs::File,
}

impl File {
    /// Opens a store, making the directory and its parents, which nobody else may read.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the directory cannot be made.
    pub fn open(directory: impl Into<PathBuf>, options: Options) -> Result<Self> {
        let inner = Inner {
            directory: directory.into(),
            options,
            shards: (0..SHARDS).map(|_| Mutex::new(())).collect(),
            entries: AtomicUsize::new(0),
            until_recount: AtomicUsize::new(0),
            culling: Mutex::new(()),
        };
        let store = File(Arc::new(inner));
        make_private_folder(&store.0.directory).map_err(|error| store.failed(error))?;
        Ok(store)
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::unavailable(format!("file {}", self.0.directory.display()), error)
    }

    fn now(&self) -> Timestamp {
        self.0.options.clock.now()
    }

    fn place(&self, key: &str) -> Place {
        let digest = Sha256::digest(key.as_bytes());
        let mut name = String::with_capacity(2 * digest.len() + 1 + EXTENSION.len());
        for byte in &digest {
            // Writing to a string cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        let folder = self.0.directory.join(&name[..2]);
        let path = folder.join(&name).with_extension(EXTENSION);
        Place { shard: usize::from(digest[0]), folder, path }
    }

    /// Waits for the turn to write in a folder, making the folder if need be.
    fn turn(&self, shard: usize, folder: &Path) -> io::Result<Turn<'_>> {
        let within = self.0.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        let path = folder.join("lock");
        let file = match private_file().open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_private_folder(folder)?;
                private_file().open(&path)?
            }
            file => file?,
        };
        let limit = Instant::now() + LOCK_TIMEOUT;
        let mut pause = Duration::from_micros(50);
        loop {
            match FileExt::try_lock(&file) {
                Ok(()) => return Ok(Turn { _within: within, _between: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < limit => {
                    thread::sleep(pause);
                    pause = (2 * pause).min(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::TimedOut.into()),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Reads the live entry of a key, and removes the file if it is of no use to anybody.
    fn read(&self, key: &str, place: &Place) -> io::Result<Option<Entry>> {
        match self.look(key, place)? {
            Found::Live(entry) => return Ok(Some(entry)),
            Found::Nothing => return Ok(None),
            Found::Expired | Found::Damaged(_) => {}
        }
        // Looked at again in turn: somebody may have written meanwhile.
        let turn = self.turn(place.shard, &place.folder)?;
        let found = self.look(key, place)?;
        self.sweep(found, place, &turn)
    }

    /// Reads the live entry of a key in the turn of the caller.
    fn read_in_turn(&self, key: &str, place: &Place, turn: &Turn<'_>) -> io::Result<Option<Entry>> {
        let found = self.look(key, place)?;
        self.sweep(found, place, turn)
    }

    fn sweep(&self, found: Found, place: &Place, turn: &Turn<'_>) -> io::Result<Option<Entry>> {
        match found {
            Found::Live(entry) => return Ok(Some(entry)),
            Found::Nothing => return Ok(None),
            Found::Expired => {}
            Found::Damaged(reason) => {
                let fields: [(&str, &dyn Display); 2] = [("path", &place.path.display()), ("reason", &reason)];
                events::line(Level::Debug, "removed damaged entry", &fields);
            }
        }
        self.remove(place, turn)?;
        Ok(None)
    }

    fn look(&self, key: &str, place: &Place) -> io::Result<Found> {
        match fs::read(&place.path) {
            Ok(bytes) => Ok(match decode(Bytes::from(bytes), key) {
                Ok(entry) if entry.expiry.has_passed(self.now()) => Found::Expired,
                Ok(entry) => Found::Live(entry),
                Err(reason) => Found::Damaged(reason),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Writes an entry; if that fails, the old one is gone.
    fn write(&self, key: &str, place: &Place, value: &Value, expiry: Expiry, turn: &Turn<'_>) -> io::Result<()> {
        let is_new = !place.path.try_exists()?;
        let write = || -> io::Result<()> {
            let bytes = encode(key, value, expiry)?;
            let mut builder = tempfile::Builder::new();
            builder.prefix(TEMPORARY_PREFIX);
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600));
            let mut file = builder.tempfile_in(&place.folder)?;
            file.write_all(&bytes)?;
            file.persist(&place.path)?;
            Ok(())
        };
        if let Err(error) = write() {
            self.remove(place, turn)?;
            return Err(error);
        }
        if is_new {
            self.0.entries.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn remove(&self, place: &Place, _: &Turn<'_>) -> io::Result<bool> {
        let removed = remove_if_there(&place.path)?;
        if removed {
            self.forget(1);
        }
        Ok(removed)
    }

    fn forget(&self, entries: usize) {
        let less = |known: usize| Some(known.saturating_sub(entries));
        // The closure always answers, so this always succeeds.
        let _ = self.0.entries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Makes room before a new entry is made. The directory is listed only when it seems full, or now and then.
    fn make_room(&self, place: &Place) -> io::Result<()> {
        if place.path.try_exists()? {
            return Ok(());
        }
        let Options { max_entries, cull_frequency, .. } = self.0.options;
        let Ok(_culling) = self.0.culling.try_lock() else { return Ok(()) };
        if self.0.until_recount.load(Ordering::Relaxed) == 0 {
            let mut count = 0;
            self.each_file(|_| {
                count += 1;
                Ok(())
            })?;
            self.0.entries.store(count, Ordering::Relaxed);
            self.0.until_recount.store((max_entries / 4).max(MIN_RECOUNT), Ordering::Relaxed);
        } else {
            self.0.until_recount.fetch_sub(1, Ordering::Relaxed);
        }
        if self.0.entries.load(Ordering::Relaxed) >= max_entries {
            self.cull(max_entries, cull_frequency)?;
        }
        Ok(())
    }

    /// Drops what has expired, then, if that was not enough, the oldest of the rest.
    ///
    /// Without a turn: an entry that is replaced at the same moment may go too, as any entry of a full store may.
    fn cull(&self, max_entries: usize, cull_frequency: usize) -> io::Result<()> {
        let now = self.now();
        // Entries that never expire go last: tags among them, whose loss makes everything stale that carries them.
        let mut live: Vec<(bool, SystemTime, PathBuf)> = Vec::new();
        self.each_file(|path| match age_and_expiry(path) {
            Ok((modified, expiry)) if cull_frequency > 0 && !expiry.has_passed(now) => {
                live.push((expiry == Expiry::Never, modified, path.to_owned()));
                Ok(())
            }
            _ => remove_if_there(path).map(drop),
        })?;
        let mut left = live.len();
        if left >= max_entries && left > 0 {
            live.sort();
            let surplus = (left / cull_frequency.max(1)).max(1);
            for (.., path) in live.iter().take(surplus) {
                remove_if_there(path)?;
            }
            left -= surplus;
        }
        self.0.entries.store(left, Ordering::Relaxed);
        Ok(())
    }

    /// Visits the files of all entries, and removes what writers that died left behind.
    fn each_file(&self, mut visit: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
        for shard in 0..SHARDS {
            let Some(folder) = if_there(fs::read_dir(self.folder(shard)))? else { continue };
            for file in folder {
                let path = file?.path();
                if path.extension().is_some_and(|extension| extension == EXTENSION) {
                    visit(&path)?;
                } else if is_abandoned(&path) {
                    remove_if_there(&path)?;
                }
            }
        }
        Ok(())
    }

    fn folder(&self, shard: usize) -> PathBuf {
        self.0.directory.join(format!("{shard:02x}"))
    }

    fn try_set(&self, key: &str, value: &Value, expiry: Expiry) -> io::Result<()> {
        let place = self.place(key);
        if expiry.has_passed(self.now()) {
            return self.try_delete(key).map(drop);
        }
        self.make_room(&place)?;
        let turn = self.turn(place.shard, &place.folder)?;
        self.write(key, &place, value, expiry, &turn)
    }

    fn try_add(&self, key: &str, value: &Value, expiry: Expiry) -> io::Result<bool> {
        let place = self.place(key);
        self.make_room(&place)?;
        let turn = self.turn(place.shard, &place.folder)?;
        if self.read_in_turn(key, &place, &turn)?.is_some() {
            return Ok(false);
        }
        if !expiry.has_passed(self.now()) {
            self.write(key, &place, value, expiry, &turn)?;
        }
        Ok(true)
    }

    fn try_replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> io::Result<bool> {
        let place = self.place(key);
        if !place.path.try_exists()? {
            return Ok(false);
        }
        let turn = self.turn(place.shard, &place.folder)?;
        let found = self.read_in_turn(key, &place, &turn)?;
        if found.is_none_or(|entry| entry.value != *old) {
            return Ok(false);
        }
        if expiry.has_passed(self.now()) {
            self.remove(&place, &turn)?;
        } else {
            self.write(key, &place, new, expiry, &turn)?;
        }
        Ok(true)
    }

    fn try_touch(&self, key: &str, expiry: Expiry) -> io::Result<bool> {
        let place = self.place(key);
        if !place.path.try_exists()? {
            return Ok(false);
        }
        let turn = self.turn(place.shard, &place.folder)?;
        let Some(entry) = self.read_in_turn(key, &place, &turn)? else { return Ok(false) };
        if expiry.has_passed(self.now()) {
            self.remove(&place, &turn)?;
        } else {
            self.write(key, &place, &entry.value, expiry, &turn)?;
        }
        Ok(true)
    }

    fn try_delete(&self, key: &str) -> io::Result<bool> {
        let place = self.place(key);
        if !place.path.try_exists()? {
            return Ok(false);
        }
        let turn = self.turn(place.shard, &place.folder)?;
        let found = self.read_in_turn(key, &place, &turn);
        // A file that cannot be read is removed all the same.
        let removed = self.remove(&place, &turn)?;
        Ok(removed && found.is_ok_and(|entry| entry.is_some()))
    }

    fn try_incr(&self, key: &str, delta: i64) -> io::Result<Result<Option<i64>, &'static str>> {
        let place = self.place(key);
        if !place.path.try_exists()? {
            return Ok(Ok(None));
        }
        let turn = self.turn(place.shard, &place.folder)?;
        let Some(entry) = self.read_in_turn(key, &place, &turn)? else { return Ok(Ok(None)) };
        let Value::Integer(number) = entry.value else { return Ok(Err("its value is not an integer")) };
        let Some(sum) = number.checked_add(delta) else { return Ok(Err("the sum leaves the range of 64 bits")) };
        self.write(key, &place, &Value::Integer(sum), entry.expiry, &turn)?;
        Ok(Ok(Some(sum)))
    }

    fn try_clear(&self) -> io::Result<()> {
        for shard in 0..SHARDS {
            let path = self.folder(shard);
            if !path.try_exists()? {
                continue;
            }
            // In turn, so that no counter that was read before comes back after.
            let _turn = self.turn(shard, &path)?;
            for file in fs::read_dir(&path)? {
                let path = file?.path();
                if path.extension().is_some_and(|extension| extension == EXTENSION) && remove_if_there(&path)? {
                    self.forget(1);
                }
            }
        }
        Ok(())
    }
}

impl Backend for File {
    fn capabilities(&self) -> Capabilities {
        Capabilities { sharing: Sharing::Machine, blocking: true, stores: true, max_value_bytes: None }
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.read(key, &self.place(key)).map_err(|error| self.failed(error))
    }

    fn set(&self, key: &str, value: &Value, expiry: Expiry) -> Result<()> {
        self.try_set(key, value, expiry).map_err(|error| self.failed(error))
    }

    fn add(&self, key: &str, value: &Value, expiry: Expiry) -> Result<bool> {
        self.try_add(key, value, expiry).map_err(|error| self.failed(error))
    }

    fn replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> Result<bool> {
        self.try_replace(key, old, new, expiry).map_err(|error| self.failed(error))
    }

    fn touch(&self, key: &str, expiry: Expiry) -> Result<bool> {
        self.try_touch(key, expiry).map_err(|error| self.failed(error))
    }

    fn delete(&self, key: &str) -> Result<bool> {
        self.try_delete(key).map_err(|error| self.failed(error))
    }

    fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>> {
        let counted = self.try_incr(key, delta).map_err(|error| self.failed(error))?;
        counted.map_err(|reason| Error::NotACounter { key: key.to_owned(), reason })
    }

    /// Removes all entries; files that the store did not make, and the folders, stay.
    fn clear(&self) -> Result<()> {
        self.try_clear().map_err(|error| self.failed(error))
    }

    fn set_many(&self, items: &[(&str, Value)], expiry: Expiry) -> Result<Vec<usize>> {
        items.iter().try_for_each(|(key, value)| self.set(key, value, expiry)).map(|()| Vec::new())
    }

    /// Counts the files and their bytes by listing the directory.
    fn stats(&self) -> Result<Stats> {
        let (mut entries, mut bytes) = (0_u64, 0);
        let visited = self.each_file(|path| {
            if let Some(metadata) = if_there(fs::metadata(path))? {
                entries += 1;
                bytes += metadata.len();
            }
            Ok(())
        });
        visited.map_err(|error| self.failed(error))?;
        Ok(vec![("entries".to_owned(), entries.to_string()), ("bytes".to_owned(), bytes.to_string())])
    }
}

/// What a look at the file of a key found.
enum Found {
    Nothing,
    Live(Entry),
    Expired,
    Damaged(&'static str),
}

fn encode(key: &str, value: &Value, expiry: Expiry) -> io::Result<Vec<u8>> {
    let (kind, counter);
    let payload: &[u8] = match value {
        Value::Integer(number) => {
            (kind, counter) = (KIND_COUNTER, number.to_be_bytes());
            &counter
        }
        Value::Bytes(bytes) => {
            kind = KIND_BYTES;
            bytes
        }
    };
    let key_length = u16::try_from(key.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + key.len() + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[FORMAT, kind]);
    bytes.extend_from_slice(&key_length.to_be_bytes());
    bytes.extend_from_slice(&expiry.to_millis().to_be_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    bytes.extend_from_slice(&[0; HEADER_BYTES - CHECKSUM_AT]);
    bytes.extend_from_slice(key.as_bytes());
    bytes.extend_from_slice(payload);
    let checksum = checksum(&bytes);
    bytes[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());
    Ok(bytes)
}

/// Reads what [`encode`] wrote for this key, or says what is wrong with it. Lengths are checked before the checksum.
fn decode(bytes: Bytes, key: &str) -> Result<Entry, &'static str> {
    let number = |at: usize| field(&bytes, at).map(u64::from_be_bytes);
    if field(&bytes, 0) != Some(MAGIC) || bytes.get(4) != Some(&FORMAT) {
        return Err("not an entry of this format");
    }
    let key_length = usize::from(field(&bytes, 6).map(u16::from_be_bytes).ok_or("too short")?);
    let expiry = number(8).ok_or("too short")?;
    let length = number(16).ok_or("too short")?;
    let stored = field(&bytes, CHECKSUM_AT).map(u32::from_be_bytes).ok_or("too short")?;
    let payload_at = HEADER_BYTES + key_length;
    if bytes.len().checked_sub(payload_at).is_none_or(|payload| payload as u64 != length) {
        return Err("not of the length that it says");
    }
    if stored != checksum(&bytes) {
        return Err("its checksum does not match");
    }
    if &bytes[HEADER_BYTES..payload_at] != key.as_bytes() {
        return Err("the entry of another key");
    }
    let payload = bytes.slice(payload_at..);
    let value = match bytes[5] {
        KIND_BYTES => Value::Bytes(payload),
        KIND_COUNTER => {
            let number = <[u8; 8]>::try_from(&payload[..]).map_err(|_| "a counter that is no number")?;
            Value::Integer(i64::from_be_bytes(number))
        }
        _ => return Err("a kind of value that is not known"),
    };
    Ok(Entry { value, expiry: Expiry::from_millis(expiry) })
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The checksum of a file that has at least a header.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CHECKSUM_AT]);
    hasher.update(&bytes[HEADER_BYTES..]);
    hasher.finalize()
}

/// Reads what culling must know, without the value.
fn age_and_expiry(path: &Path) -> io::Result<(SystemTime, Expiry)> {
    let mut file = fs::File::open(path)?;
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header)?;
    let expiry = field(&header, 8).map(u64::from_be_bytes).filter(|_| header.starts_with(&MAGIC));
    let expiry = expiry.ok_or(io::ErrorKind::InvalidData)?;
    Ok((file.metadata()?.modified()?, Expiry::from_millis(expiry)))
}

fn is_abandoned(path: &Path) -> bool {
    let is_temporary =
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()));
    let modified = || fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    is_temporary && modified().and_then(|at| at.elapsed().ok()).is_some_and(|age| age > ABANDONED_AFTER)
}

fn remove_if_there(path: &Path) -> io::Result<bool> {
    if_there(fs::remove_file(path)).map(|removed| removed.is_some())
}

fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn private_file() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a folder and its missing parents, open to their owner only. The mode is set, not left to the umask, which
/// another thread may change (CVE-2026-25674 was this in Django). Folders that exist keep their mode.
fn make_private_folder(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_private_folder(parent)?;
    }
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        created => created?,
    }
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Clock;

    const ONE: Value = Value::Integer(1);

    fn store(options: Options) -> (tempfile::TempDir, File) {
        let directory = tempfile::tempdir().unwrap();
        let store = File::open(directory.path().join("a/cache"), options).unwrap();
        (directory, store)
    }

    fn text(text: &str) -> Value {
        Value::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn value(store: &File, key: &str) -> Option<Value> {
        store.get(key).unwrap().map(|entry| entry.value)
    }

    fn count(store: &File) -> usize {
        store.stats().unwrap()[0].1.parse().unwrap()
    }

    #[test]
    fn every_verb_does_what_it_says() {
        let (clock, hand) = Clock::manual();
        let (_directory, store) = store(Options::new().clock(clock.clone()));
        let after = |millis| Expiry::At(clock.now().saturating_add(Duration::from_millis(millis)));
        assert_eq!(store.get("k").unwrap(), None);
        assert!(!store.delete("k").unwrap());
        assert!(!store.touch("k", Expiry::Never).unwrap());
        assert_eq!(store.incr("k", 1).unwrap(), None);
        store.set("k", &text(""), after(500)).unwrap();
        assert!(!store.add("k", &ONE, Expiry::Never).unwrap());
        assert_eq!(store.get("k").unwrap(), Some(Entry { value: text(""), expiry: after(500) }));
        assert!(store.touch("k", after(1000)).unwrap());
        hand.advance(Duration::from_millis(999));
        assert_eq!(value(&store, "k"), Some(text("")));
        hand.advance(Duration::from_millis(1));
        assert!(!store.touch("k", Expiry::Never).unwrap(), "an expired entry does not come back");
        assert!(store.add("k", &ONE, after(1000)).unwrap());
        let expiry = store.get("k").unwrap().unwrap().expiry;
        assert_eq!(store.incr("k", -3).unwrap(), Some(-2));
        assert_eq!(store.get("k").unwrap().unwrap().expiry, expiry, "a counter keeps its expiry");
        assert!(store.delete("k").unwrap());
        assert_eq!(value(&store, "k"), None);
        assert_eq!(count(&store), 0);
    }

    #[test]
    fn a_count_that_leaves_the_range_changes_nothing() {
        let (_directory, store) = store(Options::new());
        store.set("n", &Value::Integer(i64::MAX), Expiry::Never).unwrap();
        assert!(matches!(store.incr("n", 1), Err(Error::NotACounter { .. })));
        assert_eq!(value(&store, "n"), Some(Value::Integer(i64::MAX)));
        store.set("t", &text("5"), Expiry::Never).unwrap();
        assert!(matches!(store.incr("t", 1), Err(Error::NotACounter { .. })));
    }

    #[test]
    fn an_expiry_that_has_passed_removes_the_value() {
        let (_directory, store) = store(Options::new());
        let past = Expiry::At(Timestamp::from_millis(1));
        assert!(store.add("k", &ONE, past).unwrap());
        store.set("k", &ONE, Expiry::Never).unwrap();
        assert!(!store.add("k", &ONE, past).unwrap());
        assert!(store.touch("k", past).unwrap());
        assert_eq!(count(&store), 0);
        store.set("k", &ONE, Expiry::Never).unwrap();
        store.set("k", &ONE, past).unwrap();
        assert_eq!(count(&store), 0);
    }

    #[test]
    fn damaged_files_are_missing_and_removed() {
        let (_directory, store) = store(Options::new());
        let path = store.place("k").path;
        store.set("k", &text("a value"), Expiry::Never).unwrap();
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let foreign = encode("another key", &ONE, Expiry::Never).unwrap();
        for bytes in [&[][..], b"LRDF", b"hello", &good[..good.len() - 1], &flipped, &foreign] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(store.get("k").unwrap(), None);
            assert!(!path.exists());
            fs::write(&path, bytes).unwrap();
            assert!(store.add("k", &ONE, Expiry::Never).unwrap());
        }
    }

    proptest! {
        #[test]
        fn files_that_were_changed_anywhere_are_found_out(
            bytes: Vec<u8>, at: prop::sample::Index, change in 1_u8..
        ) {
            let mut file = encode("key", &Value::Bytes(bytes.into()), Expiry::from_millis(7)).unwrap();
            let at = at.index(file.len());
            file[at] ^= change;
            prop_assert!(decode(file.into(), "key").is_err());
        }

        #[test]
        fn reading_garbage_never_panics(mut bytes: Vec<u8>) {
            let _ = decode(bytes.clone().into(), "key");
            bytes.splice(0..0, [b'L', b'R', b'D', b'F', FORMAT]);
            let _ = decode(bytes.into(), "key");
        }
    }

    #[test]
    fn a_full_store_culls_as_django_counts() {
        for (frequency, left) in [(3, 29), (0, 19)] {
            let (_directory, store) = store(Options::new().max_entries(30).cull_frequency(frequency));
            for n in 0..49 {
                store.set(&format!("k{n}"), &ONE, Expiry::Never).unwrap();
                assert_eq!(value(&store, &format!("k{n}")), Some(ONE), "the new entry stays");
            }
            assert_eq!(count(&store), left, "frequency {frequency}");
        }
    }

    #[test]
    fn expired_entries_go_first_and_overwriting_culls_nothing() {
        let (clock, hand) = Clock::manual();
        let (_directory, store) = store(Options::new().max_entries(10).clock(clock.clone()));
        for n in 0..5 {
            let expiry = Expiry::At(clock.now().saturating_add(Duration::from_secs(1)));
            store.set(&format!("short{n}"), &ONE, expiry).unwrap();
            store.set(&format!("long{n}"), &ONE, Expiry::Never).unwrap();
        }
        store.set("long0", &ONE, Expiry::Never).unwrap();
        assert_eq!(count(&store), 10);
        hand.advance(Duration::from_secs(1));
        store.set("new", &ONE, Expiry::Never).unwrap();
        assert_eq!(count(&store), 6);
        assert!((0..5).all(|n| value(&store, &format!("long{n}")).is_some()));
    }

    #[test]
    fn a_store_without_room_still_keeps_the_newest() {
        let (_directory, store) = store(Options::new().max_entries(0));
        for n in 0..5 {
            store.set(&format!("k{n}"), &ONE, Expiry::Never).unwrap();
        }
        assert_eq!(count(&store), 1);
        assert_eq!(value(&store, "k4"), Some(ONE));
    }

    #[test]
    fn entries_that_another_process_made_are_counted_now_and_then() {
        let (_directory, first) = store(Options::new().max_entries(20));
        first.set("own", &ONE, Expiry::Never).unwrap();
        let second = File::open(&first.0.directory, Options::new()).unwrap();
        for n in 0..200 {
            second.set(&format!("other{n}"), &ONE, Expiry::Never).unwrap();
        }
        for n in 0..=MIN_RECOUNT {
            first.set(&format!("own{n}"), &ONE, Expiry::Never).unwrap();
        }
        assert!(count(&first) < 200, "{}", count(&first));
    }

    #[test]
    fn clear_leaves_foreign_files_and_the_directory() {
        let (_directory, store) = store(Options::new());
        store.set("k", &ONE, Expiry::Never).unwrap();
        let foreign = store.place("k").folder.join("notes.txt");
        fs::write(&foreign, "mine").unwrap();
        store.clear().unwrap();
        assert_eq!(value(&store, "k"), None);
        assert!(foreign.exists());
    }

    #[test]
    fn a_directory_that_was_removed_is_made_again() {
        let (_directory, store) = store(Options::new());
        store.set("k", &ONE, Expiry::Never).unwrap();
        fs::remove_dir_all(&store.0.directory).unwrap();
        assert_eq!(store.get("k").unwrap(), None);
        assert!(!store.delete("k").unwrap());
        store.clear().unwrap();
        store.set("k", &ONE, Expiry::Never).unwrap();
        assert_eq!(value(&store, "k"), Some(ONE));
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read_what_the_store_made() {
        use std::os::unix::fs::PermissionsExt;

        let (directory, store) = store(Options::new());
        store.set("k", &ONE, Expiry::Never).unwrap();
        let place = store.place("k");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for folder in [&directory.path().join("a"), &store.0.directory, &place.folder] {
            assert_eq!(mode(folder), 0o700, "{folder:?}");
        }
        assert_eq!(mode(&place.path), 0o600);
        assert_eq!(mode(&place.folder.join("lock")), 0o600);
    }

    #[test]
    fn a_set_that_fails_leaves_no_old_value() {
        let (_directory, store) = store(Options::new());
        let key = "k".repeat(usize::from(u16::MAX) + 1);
        let place = store.place(&key);
        make_private_folder(&place.folder).unwrap();
        fs::write(&place.path, "old").unwrap();
        assert!(store.set(&key, &ONE, Expiry::Never).unwrap_err().is_outage());
        assert!(!place.path.exists());
    }

    #[test]
    fn a_lock_that_cannot_be_taken_is_an_outage() {
        let (_directory, store) = store(Options::new());
        fs::create_dir_all(store.place("k").folder.join("lock")).unwrap();
        assert!(store.set("k", &ONE, Expiry::Never).unwrap_err().is_outage());
    }

    #[test]
    fn many_writers_lose_no_count_and_agree_on_one_winner() {
        let (_directory, first) = store(Options::new());
        let second = File::open(&first.0.directory, Options::new()).unwrap();
        first.set("n", &Value::Integer(0), Expiry::Never).unwrap();
        let wins = thread::scope(|scope| {
            let work = |store: &File| {
                (0..50).for_each(|_| assert!(store.incr("n", 1).unwrap().is_some()));
                usize::from(store.add("lock", &ONE, Expiry::Never).unwrap())
            };
            let threads: Vec<_> =
                [&first, &second, &first, &second].map(|store| scope.spawn(move || work(store))).into();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(wins, 1);
        assert_eq!(value(&first, "n"), Some(Value::Integer(200)));
    }

    #[test]
    fn readers_never_see_half_an_entry() {
        let (_directory, store) = store(Options::new());
        let values = [b'a', b'b'].map(|byte| Value::Bytes(vec![byte; 50_000].into()));
        store.set("k", &values[0], Expiry::Never).unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(|| (0..200).for_each(|n| store.set("k", &values[n % 2], Expiry::Never).unwrap()));
            while !writer.is_finished() {
                assert!(values.contains(&value(&store, "k").unwrap()));
            }
        });
    }
}
