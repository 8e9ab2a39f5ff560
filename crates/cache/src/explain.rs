//! Why a key hits or misses, for people.

use std::{fmt, time::Duration};

use crate::{
    alias::{Alias, Copies, State},
    clock::Timestamp,
    envelope::Codec,
    error::Result,
    events::{Invalidation, MissReason},
    key::Key,
    timeout::Expiry,
};

/// What a look-up of a key would come to now, and why. Its text is for people, in lines.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Explanation {
    /// The alias of the settings.
    pub alias: String,
    /// The key with its kind: `key=objects`.
    pub key: String,
    /// The key as the store has it.
    pub final_key: String,
    /// What a look-up would come to.
    pub verdict: Verdict,
    /// The entry, if there is one that can be read.
    pub entry: Option<EntryFacts>,
    /// The last invalidation of the key, or of everything, by this process.
    pub invalidated: Option<Invalidation>,
    /// When this process stored the key last, and until when it was to be kept.
    pub stored: Option<(Timestamp, Expiry)>,
    /// The time at which all this holds.
    pub now: Timestamp,
}

/// What a look-up of a key would come to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// A hit.
    Fresh,
    /// A hit for those who may serve it stale; for others a miss.
    Stale,
    /// A miss.
    Missing(MissReason),
    /// A miss, and this process never stored the key.
    NeverStored,
    /// A miss: the time that this process stored it for is over.
    TimeOver,
    /// A miss: this process invalidated it.
    Invalidated,
    /// A miss, though this process stored it and its time is not over: the store or another process removed it.
    Evicted,
}

/// What an entry says of itself.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EntryFacts {
    /// When the value was stored.
    pub created: Timestamp,
    /// When it becomes stale.
    pub fresh_until: Expiry,
    /// When the store forgets it.
    pub kept_until: Expiry,
    /// Whether it was made stale by hand.
    pub expired_by_hand: bool,
    /// What it cost to load, as far as that is known.
    pub cost: Duration,
    /// How it was written: `MessagePack`, `JSON`, `text`, `bytes`.
    pub format: &'static str,
    /// Whether it is compressed.
    pub compressed: bool,
    /// How many bytes it takes in the store, without its header.
    pub bytes: usize,
    /// Until when somebody has the right to load it again, or a failed load is not repeated.
    pub held_until: Option<Timestamp>,
    /// Its tags.
    pub tags: Vec<TagFacts>,
}

impl EntryFacts {
    /// Returns how much the entry holds, for people: `3895 bytes of MessagePack, compressed`.
    #[must_use]
    pub fn size(&self) -> String {
        let of = if self.format == format_name(Codec::Bytes) { String::new() } else { format!(" of {}", self.format) };
        format!("{} bytes{of}{}", self.bytes, if self.compressed { ", compressed" } else { "" })
    }
}

/// What is known of one tag of an entry.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TagFacts {
    /// The tag.
    pub name: String,
    /// Whether it has the version that the entry remembers.
    pub is_current: bool,
    /// Its last invalidation by this process, or by another one, which then stands in the cause: that is known a second or
    /// two later, and only looked for if the tag has changed.
    pub invalidated: Option<Invalidation>,
}

impl Alias {
    pub(crate) fn explain(&self, key: &Key<'_>, version: i64) -> Result<Explanation> {
        let final_key = self.keys.final_key(key, version)?;
        let found = self.find(key, version, &[], Copies::WillNot)?;
        let now = self.clock.now();
        let invalidated = self.journal.last_invalidation(key);
        let stored = self.journal.last_stored(key);
        let verdict = match found.state {
            State::Fresh(_) => Verdict::Fresh,
            State::Stale(_) => Verdict::Stale,
            State::Missing(MissReason::Absent) => why_absent(stored, invalidated.as_ref(), now),
            State::Missing(reason) => Verdict::Missing(reason),
        };
        let envelope = found.seen.as_ref().and_then(|seen| self.envelope(seen));
        let entry = match envelope {
            Some(envelope) => match &envelope.payload {
                Some(payload) => Some(EntryFacts {
                    created: envelope.created,
                    fresh_until: envelope.fresh_until,
                    kept_until: envelope.kept_until,
                    expired_by_hand: envelope.expired,
                    cost: envelope.cost,
                    format: format_name(payload.codec()),
                    compressed: payload.is_compressed(),
                    bytes: payload.stored_bytes(),
                    held_until: envelope.ticket.map(|ticket| ticket.until).filter(|until| *until > now),
                    tags: self.explain_tags(envelope.tags.iter())?,
                }),
                None => None,
            },
            None => None,
        };
        let (alias, key) = (self.name.clone(), key.to_string());
        Ok(Explanation { alias, key, final_key, verdict, entry, invalidated, stored, now })
    }

    fn explain_tags<'t>(&self, tags: impl Iterator<Item = (&'t str, u64)>) -> Result<Vec<TagFacts>> {
        let tags: Vec<(&str, u64)> = tags.collect();
        let current = self.current_versions(tags.iter().map(|(name, _)| *name))?;
        let facts = tags.into_iter().zip(current).map(|((name, version), current)| {
            let is_current = current == Some(version);
            let here = self.journal.last_invalidation(&Key::tag(name));
            let elsewhere = if is_current { None } else { self.noted(name) };
            let invalidated = here.into_iter().chain(elsewhere).max_by_key(|invalidation| invalidation.at);
            TagFacts { name: name.to_owned(), is_current, invalidated }
        });
        Ok(facts.collect())
    }
}

fn why_absent(stored: Option<(Timestamp, Expiry)>, invalidated: Option<&Invalidation>, now: Timestamp) -> Verdict {
    match (stored, invalidated) {
        (Some((at, _)), Some(invalidation)) if invalidation.at >= at => Verdict::Invalidated,
        (None, Some(_)) => Verdict::Invalidated,
        (Some((_, until)), _) if until.has_passed(now) => Verdict::TimeOver,
        (Some(_), _) => Verdict::Evicted,
        (None, None) => Verdict::NeverStored,
    }
}

fn format_name(codec: Codec) -> &'static str {
    match codec {
        Codec::Bytes => "bytes",
        Codec::Text => "text",
        Codec::MessagePack => "MessagePack",
        Codec::Json => "JSON",
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = |at: Timestamp| Ago(self.now.saturating_since(at));
        write!(f, "{} in {}: ", self.key, self.alias)?;
        match &self.verdict {
            Verdict::Fresh => f.write_str("hit")?,
            Verdict::Stale => f.write_str("stale")?,
            Verdict::Missing(reason) => write!(f, "miss, {reason}")?,
            Verdict::NeverStored => f.write_str("miss, this process never stored it")?,
            Verdict::TimeOver => f.write_str("miss, its time is over")?,
            Verdict::Invalidated => f.write_str("miss, it was invalidated")?,
            Verdict::Evicted => f.write_str("miss, the store or another process removed it")?,
        }
        write!(f, "\n  stored as {}", self.final_key)?;
        if let Some(entry) = &self.entry {
            write!(f, "\n  made {}", ago(entry.created))?;
            if !entry.cost.is_zero() {
                write!(f, " in {}", Length(entry.cost))?;
            }
            write!(f, "; {}", entry.size())?;
            if let Expiry::At(end) = entry.fresh_until {
                let by_hand = if entry.expired_by_hand { " by hand" } else { "" };
                match end.saturating_since(self.now) {
                    Duration::ZERO => write!(f, "\n  stale{by_hand} since {}", Length(self.now.saturating_since(end)))?,
                    left => write!(f, "\n  fresh for {}", Length(left))?,
                }
            }
            match entry.kept_until {
                Expiry::At(end) => write!(f, "\n  kept for {}", Length(end.saturating_since(self.now)))?,
                Expiry::Never => f.write_str("\n  kept for ever")?,
            }
            if let Some(until) = entry.held_until {
                let left = Length(until.saturating_since(self.now));
                write!(f, "\n  somebody loads it, or failed to; held for {left}")?;
            }
            for tag in &entry.tags {
                write!(f, "\n  tag {}: {}", tag.name, if tag.is_current { "unchanged" } else { "changed" })?;
                if let (false, Some(invalidation)) = (tag.is_current, &tag.invalidated) {
                    write!(f, ", invalidated {}", ago(invalidation.at))?;
                    invalidation.cause.iter().try_for_each(|cause| write!(f, " by {cause}"))?;
                } else if !tag.is_current {
                    f.write_str(" by another process, or lost by the store")?;
                }
            }
        } else if let Some((at, _)) = self.stored {
            write!(f, "\n  this process stored it {}", ago(at))?;
        }
        if let Some(invalidation) = &self.invalidated {
            write!(f, "\n  this process invalidated it {}", ago(invalidation.at))?;
            invalidation.cause.iter().try_for_each(|cause| write!(f, " by {cause}"))?;
        }
        Ok(())
    }
}

/// A length of time for people: `2.0 s`, `150 ms`.
struct Length(Duration);

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            0..1_000 => write!(f, "{} ms", self.0.as_millis()),
            1_000..120_000 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            _ => write!(f, "{} min", self.0.as_secs() / 60),
        }
    }
}

struct Ago(Duration);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ago", Length(self.0))
    }
}
