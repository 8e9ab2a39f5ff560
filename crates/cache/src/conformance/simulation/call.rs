//! Operations on a store as values: to note them, to lose them on the way, and to let them arrive late.

use super::value::Id;
use crate::{
    backend::{Backend, Entry, Value},
    envelope::Envelope,
    error::Result,
    timeout::Expiry,
};

#[derive(Debug, Clone)]
pub(super) enum Call {
    Get(Vec<String>),
    Set(String, Value, Expiry),
    Add(String, Value, Expiry),
    Replace { key: String, old: Value, new: Value, expiry: Expiry },
    Touch(String, Expiry),
    Delete(Vec<String>),
    Incr(String, i64),
    Clear,
}

#[derive(Debug, Clone)]
pub(super) enum Answer {
    Done,
    Entries(Vec<Option<Entry>>),
    Is(bool),
    Count(usize),
    Sum(Option<i64>),
}

impl Call {
    pub(super) fn make(&self, store: &dyn Backend) -> Result<Answer> {
        Ok(match self {
            Call::Get(keys) => match keys.as_slice() {
                [key] => Answer::Entries(vec![store.get(key)?]),
                keys => Answer::Entries(store.get_many(&refs(keys))?),
            },
            Call::Set(key, value, expiry) => {
                store.set(key, value, *expiry)?;
                Answer::Done
            }
            Call::Add(key, value, expiry) => Answer::Is(store.add(key, value, *expiry)?),
            Call::Replace { key, old, new, expiry } => Answer::Is(store.replace(key, old, new, *expiry)?),
            Call::Touch(key, expiry) => Answer::Is(store.touch(key, *expiry)?),
            Call::Delete(keys) => match keys.as_slice() {
                [key] => Answer::Count(usize::from(store.delete(key)?)),
                keys => Answer::Count(store.delete_many(&refs(keys))?),
            },
            Call::Incr(key, delta) => Answer::Sum(store.incr(key, *delta)?),
            Call::Clear => {
                store.clear()?;
                Answer::Done
            }
        })
    }

    pub(super) fn keys(&self) -> &[String] {
        match self {
            Call::Get(keys) | Call::Delete(keys) => keys,
            Call::Set(key, ..)
            | Call::Add(key, ..)
            | Call::Replace { key, .. }
            | Call::Touch(key, _)
            | Call::Incr(key, _) => std::slice::from_ref(key),
            Call::Clear => &[],
        }
    }

    /// Whether it may arrive after its caller gave up. What the cache itself rests on bears that; a value that somebody
    /// sets or adds does not, on any store.
    pub(super) fn may_be_late(&self) -> bool {
        match self {
            Call::Add(_, new, _) => Id::of(new).is_none(),
            Call::Replace { old, new, .. } => has_ticket(old) || Id::of(new).is_none_or(|id| Id::of(old) == Some(id)),
            Call::Delete(_) => true,
            _ => false,
        }
    }
}

impl Answer {
    pub(super) fn entries(self) -> Vec<Option<Entry>> {
        match self {
            Answer::Entries(entries) => entries,
            _ => Vec::new(),
        }
    }

    pub(super) fn is_yes(&self) -> bool {
        matches!(self, Answer::Is(true) | Answer::Count(1..))
    }

    pub(super) fn count(&self) -> usize {
        match self {
            Answer::Count(count) => *count,
            _ => 0,
        }
    }

    pub(super) fn sum(&self) -> Option<i64> {
        match self {
            Answer::Sum(sum) => *sum,
            _ => None,
        }
    }
}

fn has_ticket(value: &Value) -> bool {
    match value {
        Value::Integer(_) => false,
        Value::Bytes(bytes) => Envelope::decode(bytes, false).is_ok_and(|envelope| envelope.ticket.is_some()),
    }
}

fn refs(keys: &[String]) -> Vec<&str> {
    keys.iter().map(String::as_str).collect()
}
