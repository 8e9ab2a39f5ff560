//! Looking an entry up in this process's memory in such a way that it need not be looked up again until something
//! changes.

use std::time::Duration;

use super::{Alias, Copies, Found, Hit};
use crate::{backend::watch::Watch, clock::Tick, error::Result, key::Key, timeout::Expiry};

/// How long an entry is used at most before it is looked up again: a store that drops what was used least recently
/// shall know that it is used.
const LONGEST: Duration = Duration::from_secs(5);

/// A fresh entry, found in this process's memory.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) found: Found,
    pub(crate) grounds: Grounds,
    /// When it, or the first of the copies that were read for it, is too old.
    pub(crate) until: Expiry,
}

/// What the finding of an entry rests on.
#[derive(Debug)]
pub(crate) struct Grounds {
    watch: Watch,
    /// Until when the generation of the entry is believed, and the entry not looked up again.
    believed_until: Tick,
}

impl Grounds {
    /// Tells whether the entry would be found again as it was, if its time has not come.
    pub(crate) fn hold(&self) -> bool {
        self.watch.is_unchanged() && Tick::now() < self.believed_until
    }
}

impl Alias {
    /// Finds a fresh entry, and tells what that rests on; `None` if there is none, or only the store can tell.
    pub(crate) fn find_watched(&self, key: &Key<'_>, version: i64) -> Result<Option<Watched>> {
        if self.capabilities.blocking && self.near.is_none() {
            return Ok(None);
        }
        let final_key = self.keys.final_key(key, version)?;
        let part = self.store.part_of(&final_key);
        let watch = match &self.near {
            Some(near) => near.watch(),
            None => self.store.watch(),
        };
        let Some(mut watch) = watch else { return Ok(None) };
        watch.add(&final_key);
        watch.add(self.generations.key(part));
        let mut believed_until = Tick::now().after(LONGEST);
        match self.near {
            Some(_) => believed_until = believed_until.min(self.generations.believed_until(part)),
            // It is watched, so it is enough to know it now.
            None => drop(self.generations.read(&*self.store, part)?),
        }
        let Some(mut found) = self.find_here(key, version)? else { return Ok(None) };
        let tags = found.seen.as_ref().and_then(|seen| self.envelope(seen)).map(|envelope| envelope.tags);
        let tag_keys = self.tag_keys(tags.iter().flat_map(|tags| tags.iter()).map(|(name, _)| name))?;
        if !tag_keys.is_empty() {
            tag_keys.iter().for_each(|key| watch.add(key));
            // Which tags there are was known too late to watch them from the beginning.
            match self.find_here(key, version)? {
                Some(again) if again.seen == found.seen => found = again,
                _ => return Ok(None),
            }
        }
        let Some(mut until) = found.fresh().map(Hit::fresh_end) else { return Ok(None) };
        if let Some(near) = &self.near {
            for key in tag_keys.iter().map(String::as_str).chain([&*final_key]) {
                let Some(copy) = near.get(key) else { return Ok(None) };
                until = until.or_earlier(copy.expiry);
            }
        }
        Ok(Some(Watched { found, grounds: Grounds { watch, believed_until }, until }))
    }

    fn find_here(&self, key: &Key<'_>, version: i64) -> Result<Option<Found>> {
        match self.near {
            Some(_) => self.find_copy(key, version),
            None => self.find(key, version, &[], Copies::Will).map(Some),
        }
    }
}
