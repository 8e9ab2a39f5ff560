//! Notes in a shared store of who invalidated a tag, so that another process can explain its misses.
//!
//! The maintenance writes them, so that nobody waits for it. For people only: no decision depends on them.

use std::{
    collections::BTreeMap,
    mem, process,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use super::Alias;
use crate::{
    backend::{Sharing, Value},
    clock::Timestamp,
    events::Invalidation,
    key::Key,
    timeout::Expiry,
};

/// How many notes wait for the maintenance; what comes beyond is not written.
const MAX_WAITING: usize = 1_000;

/// How long a note is kept.
const KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The notes that are still to be written, by tag.
#[derive(Debug, Default)]
pub(crate) struct Notes(Mutex<BTreeMap<String, String>>);

impl Alias {
    /// Has it noted that this process invalidated these tags.
    pub(super) fn note_tags(&self, names: &[String], cause: Option<&str>) {
        if self.capabilities.sharing == Sharing::Process {
            return;
        }
        let note = format!("{} {} {}", self.clock.now().as_millis(), process::id(), cause.unwrap_or_default());
        let mut waiting = self.notes.lock();
        let free = MAX_WAITING.saturating_sub(waiting.len());
        waiting.extend(names.iter().take(free).map(|name| (name.clone(), note.clone())));
    }

    pub(super) fn write_notes(&self) {
        let waiting = mem::take(&mut *self.notes.lock());
        let keys = waiting.keys().map(|name| self.keys.final_key(&Key::note(name), self.version));
        let Ok(keys) = keys.collect::<Result<Vec<String>, _>>() else { return };
        let values = waiting.into_values().map(|note| Value::Bytes(Bytes::from(note)));
        let items: Vec<(&str, Value)> = keys.iter().map(String::as_str).zip(values).collect();
        if !items.is_empty() {
            let _ = self.store.set_many(&items, Expiry::At(self.clock.now().saturating_add(KEPT_FOR)));
        }
    }

    /// Returns what another process noted of the last invalidation of a tag.
    pub(crate) fn noted(&self, name: &str) -> Option<Invalidation> {
        let key = self.keys.final_key(&Key::note(name), self.version).ok()?;
        let Value::Bytes(note) = self.store.get(&key).ok()??.value else { return None };
        let mut words = std::str::from_utf8(&note).ok()?.splitn(3, ' ');
        let at = Timestamp::from_millis(words.next()?.parse().ok()?);
        let process = words.next()?;
        let cause = words.next().filter(|cause| !cause.is_empty()).map(|cause| format!(", {cause}"));
        Some(Invalidation { cause: Some(format!("process {process}{}", cause.unwrap_or_default())), at })
    }
}

impl Notes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
