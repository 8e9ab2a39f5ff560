//! The store as one process of a run sees it: with a pause around each operation, over a line that breaks.

use std::{fmt, io, sync::Arc, thread};

use super::{
    Opener,
    call::{Answer, Call},
    history::What,
    world::{Fate, World},
};
use crate::{
    backend::{Backend, Capabilities, Entry, Value, guarded::Guarded},
    error::{Error, Result},
    timeout::Expiry,
};

/// Connects a process with the store, as it would be with a store of these capabilities.
pub(super) fn connect(
    world: &Arc<World>,
    process: usize,
    capabilities: &Capabilities,
    open: &Opener,
) -> Box<dyn Backend> {
    let line =
        |part| Line { world: Arc::clone(world), process, part, capabilities: capabilities.clone(), store: open() };
    if !capabilities.blocking {
        return Box::new(line(0));
    }
    let guarded = |part| Guarded::new(format!("part {part}"), Box::new(line(part)), world.clock(process));
    match world.weather.parts {
        1 => Box::new(guarded(0)),
        parts => Box::new(Spread { world: Arc::clone(world), parts: (0..parts).map(guarded).collect() }),
    }
}

/// The line to one part of the store.
struct Line {
    world: Arc<World>,
    process: usize,
    part: usize,
    capabilities: Capabilities,
    store: Box<dyn Backend>,
}

impl Line {
    fn ask(&self, call: Call) -> Result<Answer> {
        let (world, process) = (&self.world, self.process);
        if world.is_dead(process) {
            return Err(failed(io::ErrorKind::BrokenPipe));
        }
        // A loader panicked, and its guards clean up: they must not be interrupted by another panic.
        let cleans_up = thread::panicking();
        // The maintenance releases abandoned tickets in the order of a hash table, which does not repeat.
        let releases = matches!(call, Call::Replace { .. }) && world.is_maintaining(process);
        if cleans_up || releases {
            return self.make(&call);
        }
        world.pause(process);
        let fate = world.fate(process, self.part, &call);
        let (answer, why) = match fate {
            Fate::Done => (self.make(&call), "failed"),
            Fate::Refused => (Err(failed(io::ErrorKind::ConnectionRefused)), "refused"),
            Fate::Lost => (Err(failed(io::ErrorKind::TimedOut)), "lost"),
            Fate::Unanswered => (self.make(&call).and(Err(failed(io::ErrorKind::TimedOut))), "done, but not answered"),
            Fate::Late => (Err(failed(io::ErrorKind::TimedOut)), "under way"),
        };
        let noted = answer.as_ref().map(Answer::clone).map_err(|_| why);
        world.record().note(Some(process), What::Asked(call, noted));
        world.pause(process);
        answer
    }

    fn make(&self, call: &Call) -> Result<Answer> {
        match call {
            Call::Clear => self.world.clear(self.part).map(|()| Answer::Done),
            call => call.make(&*self.store),
        }
    }

    /// Asks for several keys: at once, or one after the other in any order, since a batch is atomic for each key only.
    fn ask_many(&self, keys: Vec<String>, call: fn(Vec<String>) -> Call) -> Result<Vec<(Vec<usize>, Answer)>> {
        let all: Vec<usize> = (0..keys.len()).collect();
        if keys.len() < 2 || self.world.is_dead(self.process) || !self.world.one_in(self.world.weather.split) {
            return Ok(vec![(all, self.ask(call(keys))?)]);
        }
        let mut left = all;
        let mut answers = Vec::new();
        while !left.is_empty() {
            let position = left.swap_remove(self.world.below(left.len()));
            answers.push((vec![position], self.ask(call(vec![keys[position].clone()]))?));
        }
        Ok(answers)
    }
}

/// The generation is read when a second of real time is over. That must not change the course of a run, so it happens
/// aside, without a pause.
impl Backend for Line {
    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        if self.world.is_generation(key) {
            return self.store.get(key);
        }
        Ok(self.ask(Call::Get(vec![key.to_owned()]))?.entries().pop().flatten())
    }

    fn set(&self, key: &str, value: &Value, expiry: Expiry) -> Result<()> {
        self.ask(Call::Set(key.to_owned(), value.clone(), expiry)).map(drop)
    }

    fn add(&self, key: &str, value: &Value, expiry: Expiry) -> Result<bool> {
        if self.world.is_generation(key) {
            return self.store.add(key, value, expiry);
        }
        Ok(self.ask(Call::Add(key.to_owned(), value.clone(), expiry))?.is_yes())
    }

    fn replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> Result<bool> {
        let call = Call::Replace { key: key.to_owned(), old: old.clone(), new: new.clone(), expiry };
        Ok(self.ask(call)?.is_yes())
    }

    fn touch(&self, key: &str, expiry: Expiry) -> Result<bool> {
        Ok(self.ask(Call::Touch(key.to_owned(), expiry))?.is_yes())
    }

    fn delete(&self, key: &str) -> Result<bool> {
        Ok(self.ask(Call::Delete(vec![key.to_owned()]))?.is_yes())
    }

    fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>> {
        Ok(self.ask(Call::Incr(key.to_owned(), delta))?.sum())
    }

    fn clear(&self) -> Result<()> {
        self.ask(Call::Clear).map(drop)
    }

    fn get_many(&self, keys: &[&str]) -> Result<Vec<Option<Entry>>> {
        let mut entries = vec![None; keys.len()];
        let (aside, asked): (Vec<usize>, Vec<usize>) =
            (0..keys.len()).partition(|position| self.world.is_generation(keys[*position]));
        let names = asked.iter().map(|position| keys[*position].to_owned()).collect();
        for (positions, answer) in self.ask_many(names, Call::Get)? {
            for (position, entry) in positions.into_iter().zip(answer.entries()) {
                entries[asked[position]] = entry;
            }
        }
        for position in aside {
            entries[position] = self.store.get(keys[position])?;
        }
        Ok(entries)
    }

    fn delete_many(&self, keys: &[&str]) -> Result<usize> {
        // What is pending comes in the order of a hash table, which does not repeat.
        let mut keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        keys.sort();
        Ok(self.ask_many(keys, Call::Delete)?.iter().map(|(_, answer)| answer.count()).sum())
    }

    fn maintain(&self) {
        self.store.maintain();
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("process", &self.process).field("store", &self.store).finish_non_exhaustive()
    }
}

/// A store over several parts that fail each for itself, as several servers do.
#[derive(Debug)]
struct Spread {
    world: Arc<World>,
    parts: Vec<Guarded<Line>>,
}

impl Spread {
    fn of(&self, key: &str) -> &Guarded<Line> {
        &self.parts[self.part_of(key)]
    }

    /// Asks each part for its own of these keys; returns their positions with its answer.
    fn each<T>(
        &self,
        keys: &[&str],
        ask: impl Fn(&Guarded<Line>, &[&str]) -> Result<T>,
    ) -> Vec<(Vec<usize>, Result<T>)> {
        let positions = |part| (0..keys.len()).filter(|at| self.part_of(keys[*at]) == part).collect::<Vec<_>>();
        let groups = (0..self.parts.len()).map(|part| (part, positions(part))).filter(|(_, group)| !group.is_empty());
        let asked = groups.map(|(part, group)| {
            let keys: Vec<&str> = group.iter().map(|position| keys[*position]).collect();
            (group, ask(&self.parts[part], &keys))
        });
        asked.collect()
    }
}

impl Backend for Spread {
    fn capabilities(&self) -> Capabilities {
        self.parts[0].capabilities()
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.of(key).get(key)
    }

    fn set(&self, key: &str, value: &Value, expiry: Expiry) -> Result<()> {
        self.of(key).set(key, value, expiry)
    }

    fn add(&self, key: &str, value: &Value, expiry: Expiry) -> Result<bool> {
        self.of(key).add(key, value, expiry)
    }

    fn replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> Result<bool> {
        self.of(key).replace(key, old, new, expiry)
    }

    fn touch(&self, key: &str, expiry: Expiry) -> Result<bool> {
        self.of(key).touch(key, expiry)
    }

    fn delete(&self, key: &str) -> Result<bool> {
        self.of(key).delete(key)
    }

    fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>> {
        self.of(key).incr(key, delta)
    }

    fn clear(&self) -> Result<()> {
        let cleared: Vec<Result<()>> = self.parts.iter().map(Backend::clear).collect();
        cleared.into_iter().collect()
    }

    /// As memcached does: the keys of a part that does not answer are missing, unless none does.
    fn get_many(&self, keys: &[&str]) -> Result<Vec<Option<Entry>>> {
        let mut entries = vec![None; keys.len()];
        let (answers, errors): (Vec<_>, Vec<_>) =
            self.each(keys, |part, keys| part.get_many(keys)).into_iter().partition(|(_, answer)| answer.is_ok());
        if answers.is_empty()
            && let Some((_, error)) = errors.into_iter().next()
        {
            return error;
        }
        for (group, answer) in answers {
            group.into_iter().zip(answer?).for_each(|(position, entry)| entries[position] = entry);
        }
        Ok(entries)
    }

    fn delete_many(&self, keys: &[&str]) -> Result<usize> {
        self.each(keys, |part, keys| part.delete_many(keys)).into_iter().map(|(_, count)| count).sum()
    }

    fn parts(&self) -> usize {
        self.parts.len()
    }

    fn part_of(&self, key: &str) -> usize {
        self.world.part_of(key)
    }

    fn maintain(&self) {
        self.parts.iter().for_each(Backend::maintain);
    }
}

fn failed(kind: io::ErrorKind) -> Error {
    Error::unavailable("simulated store", io::Error::from(kind))
}
