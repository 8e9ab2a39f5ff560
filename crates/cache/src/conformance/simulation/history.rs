//! The history of a run, for people to read and for runs to be compared by.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
};

use super::{
    call::{Answer, Call},
    value::Id,
};
use crate::{
    backend::{Entry, Value},
    envelope::Envelope,
};

/// A moment in a run: a number that no other moment has.
pub(super) type Moment = u64;

/// One thing that happened.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) moment: Moment,
    /// How much time had passed, by the clock of the store.
    pub(super) millis: u128,
    /// Which process, and in which of its lives; nobody if it befell the store.
    pub(super) process: Option<(usize, usize)>,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Said(String),
    /// An operation on the store, and what came back, or why nothing did.
    Asked(Call, Result<Answer, &'static str>),
}

/// All that happened in a run, in order.
///
/// Two runs of one seed print the same: random numbers are numbered as they appear. A line has the moment, the time that
/// had passed, the process with its life, and what it did; what it asked of the store stands indented below.
#[derive(Debug, Default)]
pub struct History {
    pub(super) events: Vec<Event>,
}

impl History {
    /// Returns the lines that name one of these things, and those about the store as a whole.
    pub(super) fn about(&self, names: &[String]) -> String {
        let all = self.to_string();
        let concerned = self.events.iter().zip(all.lines()).filter(|(event, line)| {
            let is_general = event.process.is_none() && matches!(event.what, What::Said(_));
            is_general || names.iter().any(|name| line.contains(name))
        });
        concerned.fold(String::new(), |text, (_, line)| text + line + "\n")
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbers = Numbers::default();
        for Event { moment, millis, process, what } in &self.events {
            match process {
                Some((process, life)) => write!(f, "{moment:>6} {millis:>7} ms  {process}.{life}  ")?,
                None => write!(f, "{moment:>6} {millis:>7} ms       ")?,
            }
            match what {
                What::Said(text) => writeln!(f, "{text}")?,
                What::Asked(call, Ok(answer)) => {
                    writeln!(f, "    {} -> {}", numbers.call(call), numbers.answer(answer))?;
                }
                What::Asked(call, Err(why)) => writeln!(f, "    {} -> {why}", numbers.call(call))?,
            }
        }
        Ok(())
    }
}

/// Gives short names to random numbers.
#[derive(Debug, Default)]
struct Numbers(HashMap<u64, usize>);

impl Numbers {
    fn of(&mut self, random: u64) -> usize {
        let next = self.0.len() + 1;
        *self.0.entry(random).or_insert(next)
    }

    fn call(&mut self, call: &Call) -> String {
        match call {
            Call::Get(keys) => format!("get {}", keys.join(" ")),
            Call::Set(key, value, _) => format!("set {key} {}", self.value(value)),
            Call::Add(key, value, _) => format!("add {key} {}", self.value(value)),
            Call::Replace { key, old, new, .. } => format!("replace {key} {} by {}", self.value(old), self.value(new)),
            Call::Touch(key, _) => format!("touch {key}"),
            Call::Delete(keys) => format!("delete {}", keys.join(" ")),
            Call::Incr(key, delta) => format!("incr {key} {delta}"),
            Call::Clear => "clear".to_owned(),
        }
    }

    fn answer(&mut self, answer: &Answer) -> String {
        match answer {
            Answer::Done => "done".to_owned(),
            Answer::Entries(entries) => {
                let text = |entry: &Option<Entry>| entry.as_ref().map_or("none".to_owned(), |e| self.value(&e.value));
                entries.iter().map(text).collect::<Vec<_>>().join(", ")
            }
            Answer::Is(yes) => yes.to_string(),
            Answer::Count(count) => count.to_string(),
            Answer::Sum(sum) => format!("{sum:?}"),
        }
    }

    fn value(&mut self, value: &Value) -> String {
        let bytes = match (value, Id::of(value)) {
            (Value::Bytes(bytes), _) => bytes,
            (Value::Integer(_), Some(id)) => return id.to_string(),
            (Value::Integer(number), None) => return format!("v{}", self.of(number.cast_unsigned())),
        };
        let Ok(envelope) = Envelope::decode(bytes, false) else { return "unreadable".to_owned() };
        let mut text = Id::inside(&envelope).map(|id| id.to_string()).unwrap_or_default();
        // Writing to a String does not fail.
        for (name, version) in envelope.tags.iter() {
            let _ = write!(text, "+{name}:v{}", self.of(version));
        }
        if envelope.expired {
            text.push_str("+expired");
        }
        match envelope.ticket {
            Some(ticket) => {
                let _ = write!(text, "+ticket{}", self.of(ticket.token));
            }
            None if text.is_empty() => text.push_str("released"),
            None => {}
        }
        text
    }
}
