//! The world of a run: whose turn it is, what time it is, and what goes wrong.
//!
//! Each process is a thread, and one of them runs at a time. At every pause the seed decides who goes on. So a run is a
//! sequence of steps that repeats with its seed, although the code in it is the real one.

use std::{
    any::Any,
    collections::BTreeSet,
    fmt,
    panic::resume_unwind,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    Lost, Summary,
    call::Call,
    history::What,
    record::{Floors, Record},
    time::Time,
    value::Id,
    weather::{Dice, Weather},
};
use crate::{backend::Backend, clock::Clock, error::Result};

/// What the keys of generations have in common, and no others.
const GENERATION: &str = "/alias/generation/";

/// A run with more pauses does not end by itself.
const MAX_PAUSES: usize = 1_000_000;

/// How often an operation that is late arrives: once in so many pauses.
const ARRIVAL: usize = 10;

/// For how many operations a process is cut off from a part of the store at most.
const LONGEST_OUTAGE: usize = 20;

/// Through how many pauses of others a process sleeps at most.
const LONGEST_STALL: usize = 100;

/// By how much time passes: within a load, over the timeouts of values, over that of a ticket.
const STEPS_IN_TIME: [Duration; 6] = [
    Duration::from_millis(1),
    Duration::from_millis(30),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(11),
];

/// Why a process leaves what it was doing: what is thrown through the code of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// It died, and will be started again.
    Crashed,
    /// The run is over.
    Over,
    /// A loader panicked.
    LoaderPanicked,
}

/// What becomes of an operation on the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    /// It is refused at once.
    Refused,
    /// It does not arrive.
    Lost,
    /// It is done, and the answer does not arrive.
    Unanswered,
    /// It arrives after its caller gave up.
    Late,
}

pub(super) struct World {
    pub(super) weather: Weather,
    seed: u64,
    time: Time,
    /// The store as nobody's process sees it.
    store: Box<dyn Backend>,
    state: Mutex<State>,
    turns: Vec<Condvar>,
    record: Mutex<Record>,
}

struct State {
    dice: Dice,
    turn: usize,
    pauses: usize,
    processes: Vec<Process>,
    known_keys: BTreeSet<String>,
    generation_keys: BTreeSet<String>,
    late: Vec<Call>,
    ended: Option<Ended>,
}

/// Why a run ended before its time.
enum Ended {
    Lost(Box<Lost>),
    Panicked(Box<dyn Any + Send>),
}

/// A process as the others see it.
#[derive(Debug, Clone, Default)]
struct Process {
    has_ended: bool,
    is_dead: bool,
    is_maintaining: bool,
    /// How many more pauses of others it sleeps through.
    asleep: usize,
    /// How many more of its operations on each part of the store fail.
    cut_off: Vec<usize>,
}

impl World {
    pub(super) fn new(seed: u64, dice: Dice, weather: Weather, time: Time, store: Box<dyn Backend>) -> Arc<Self> {
        let process = Process { cut_off: vec![0; weather.parts], ..Process::default() };
        let state = State {
            dice,
            turn: 0,
            pauses: 0,
            processes: vec![process; weather.processes],
            known_keys: BTreeSet::new(),
            generation_keys: BTreeSet::new(),
            late: Vec::new(),
            ended: None,
        };
        let world = Arc::new(World {
            seed,
            record: Mutex::new(Record::new(time.of_store().clone(), weather.processes, weather.keys, weather.tags)),
            turns: (0..weather.processes).map(|_| Condvar::new()).collect(),
            state: Mutex::new(state),
            weather,
            time,
            store,
        });
        let sleeping = Arc::downgrade(&world);
        world.time.on_sleep(move |duration| {
            if let Some(world) = sleeping.upgrade() {
                world.sleep(duration);
            }
        });
        world
    }

    /// Returns what the run came to.
    pub(super) fn finish(self) -> Result<Summary, Box<Lost>> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let record = self.record.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.ended {
            Some(Ended::Panicked(panic)) => resume_unwind(panic),
            Some(Ended::Lost(lost)) => Err(lost),
            None => Ok(Summary { counts: record.counts, history: record.history }),
        }
    }

    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a value that was served to a process; if it must not have been, the run is over.
    pub(super) fn serve(&self, process: usize, served: (usize, Id), floors: &Floors, may_be_stale: bool) {
        let checked = self.record().serve(process, served, floors, may_be_stale);
        if let Err(lost) = checked {
            self.state().ended.get_or_insert(Ended::Lost(Box::new(Lost { seed: self.seed, ..*lost })));
            resume_unwind(Box::new(Leave::Over));
        }
    }

    /// Returns the clock of a process.
    pub(super) fn clock(&self, process: usize) -> Clock {
        self.time.of_process(process).clone()
    }

    /// Draws a number below `count`.
    pub(super) fn below(&self, count: usize) -> usize {
        self.state().dice.below(count)
    }

    /// Draws whether something that happens once in so often happens now; 0 is never.
    pub(super) fn one_in(&self, often: usize) -> bool {
        self.state().dice.one_in(often)
    }

    /// Waits until a process has the turn for the first time.
    pub(super) fn enter(&self, process: usize) {
        drop(self.turn_of(process, self.state()));
    }

    /// Lets the others go on, and this one perhaps not: it may be interrupted here.
    pub(super) fn pause(&self, process: usize) {
        let mut state = self.state();
        state.pauses += 1;
        assert!(state.pauses < MAX_PAUSES, "the run does not end by itself");
        self.happen(&mut state);
        let goes_on = state.dice.below(100) < self.weather.goes_on && state.processes[process].asleep == 0;
        if !goes_on {
            self.pass_on(&mut state);
        }
        let mut state = self.turn_of(process, state);
        if state.ended.is_some() {
            drop(state);
            resume_unwind(Box::new(Leave::Over));
        }
        if state.dice.one_in(self.weather.crash) {
            state.processes[process].is_dead = true;
            drop(state);
            resume_unwind(Box::new(Leave::Crashed));
        }
    }

    /// Lets the time pass that the running process waits, or more.
    fn sleep(&self, duration: Duration) {
        let (process, factor) = {
            let mut state = self.state();
            (state.turn, state.dice.below(20) + 1)
        };
        self.time.advance(duration * u32::try_from(factor).unwrap_or(1));
        self.pause(process);
    }

    /// Whether a process may do nothing more: it crashed, or the run is over.
    pub(super) fn is_dead(&self, process: usize) -> bool {
        let state = self.state();
        state.ended.is_some() || state.processes[process].is_dead
    }

    /// Starts a process again that crashed.
    pub(super) fn restart(&self, process: usize) {
        self.record().die(process);
        let mut state = self.state();
        state.processes[process].is_dead = false;
        state.processes[process].is_maintaining = false;
    }

    /// Takes a process out that has done all it was to do.
    pub(super) fn leave(&self, process: usize) {
        let mut state = self.state();
        state.processes[process].has_ended = true;
        self.pass_on(&mut state);
    }

    /// Ends the run because of a panic that was not planned.
    pub(super) fn panicked(&self, panic: Box<dyn Any + Send>) {
        self.state().ended.get_or_insert(Ended::Panicked(panic));
    }

    pub(super) fn maintains(&self, process: usize, whether: bool) {
        self.state().processes[process].is_maintaining = whether;
    }

    pub(super) fn is_maintaining(&self, process: usize) -> bool {
        self.state().processes[process].is_maintaining
    }

    /// Decides what becomes of an operation.
    pub(super) fn fate(&self, process: usize, part: usize, call: &Call) -> Fate {
        let mut state = self.state();
        state.known_keys.extend(call.keys().iter().cloned());
        let left = &mut state.processes[process].cut_off[part];
        let is_cut_off = *left > 0;
        *left = left.saturating_sub(1);
        let fails = is_cut_off || state.dice.one_in(self.weather.failure);
        let fate = match state.dice.below(8) {
            _ if !fails => Fate::Done,
            0 | 1 => Fate::Unanswered,
            2 | 3 if call.may_be_late() => Fate::Late,
            4 => Fate::Refused,
            _ => Fate::Lost,
        };
        if fate == Fate::Late {
            state.late.push(call.clone());
        }
        let counts = &mut self.record().counts;
        counts.operations += 1;
        counts.failures += usize::from(fails);
        fate
    }

    /// Whether the generation of a part stands under this key.
    ///
    /// If it goes, processes that know the old one and those that know the new one do not see each other's values for a
    /// second of real time, which no clock of ours shortens. In most runs it stays, so that they meet.
    pub(super) fn is_generation(&self, key: &str) -> bool {
        let is_one = key.contains(GENERATION);
        if is_one {
            let mut state = self.state();
            let keys = if self.weather.keeps_generation { &mut state.generation_keys } else { &mut state.known_keys };
            keys.insert(key.to_owned());
        }
        is_one
    }

    /// Returns on which part a key lives.
    pub(super) fn part_of(&self, key: &str) -> usize {
        key.bytes().map(usize::from).sum::<usize>() % self.weather.parts
    }

    /// Clears a part of the store.
    pub(super) fn clear(&self, part: usize) -> Result<()> {
        self.clear_part(&self.state(), part)
    }

    fn clear_part(&self, state: &State, part: usize) -> Result<()> {
        if self.weather.parts > 1 {
            let mut within = state.known_keys.iter().filter(|key| self.part_of(key) == part);
            return within.try_for_each(|key| self.store.delete(key).map(drop));
        }
        let generations = state.generation_keys.iter().map(|key| Ok((key, self.store.get(key)?)));
        let generations = generations.collect::<Result<Vec<_>>>()?;
        self.store.clear()?;
        let mut back = generations.into_iter().filter_map(|(key, entry)| Some((key, entry?)));
        back.try_for_each(|(key, entry)| self.store.set(key, &entry.value, entry.expiry))
    }

    /// Lets something happen that is nobody's doing.
    fn happen(&self, state: &mut State) {
        let weather = &self.weather;
        if state.dice.one_in(weather.time) {
            self.time.advance(*state.dice.pick(&STEPS_IN_TIME));
        }
        if !state.late.is_empty() && state.dice.one_in(ARRIVAL) {
            let call = state.late.swap_remove(state.dice.below(state.late.len()));
            let answer = call.make(&*self.store).map_err(|_| "failed");
            let mut record = self.record();
            record.note(None, What::Said("an operation arrived late:".to_owned()));
            record.note(None, What::Asked(call, answer));
        }
        if state.dice.one_in(weather.eviction) && !state.known_keys.is_empty() {
            let position = state.dice.below(state.known_keys.len());
            if let Some(key) = state.known_keys.iter().nth(position)
                && self.store.delete(key).unwrap_or_default()
            {
                self.record().note(None, What::Said(format!("the store evicted {key}")));
            }
        }
        if state.dice.one_in(weather.restart) {
            let part = state.dice.below(weather.parts);
            self.record().note(None, What::Said(format!("part {part} of the store restarted empty")));
            // A store that does not answer keeps what it has.
            let _ = self.clear_part(state, part);
        }
        if state.dice.one_in(weather.outage) {
            let (process, part) = (state.dice.below(weather.processes), state.dice.below(weather.parts));
            state.processes[process].cut_off[part] = state.dice.below(LONGEST_OUTAGE) + 1;
        }
        if state.dice.one_in(weather.stall) {
            let process = state.dice.below(weather.processes);
            state.processes[process].asleep = state.dice.below(LONGEST_STALL) + 1;
        }
    }

    /// Chooses who goes on: one of those who are awake, if anybody is.
    fn pass_on(&self, state: &mut State) {
        let with = |is_wanted: fn(&Process) -> bool| {
            let wanted = state.processes.iter().enumerate().filter(|(_, process)| is_wanted(process));
            wanted.map(|(number, _)| number).collect::<Vec<usize>>()
        };
        let left = with(|process| !process.has_ended);
        let awake = with(|process| !process.has_ended && process.asleep == 0);
        for process in &mut state.processes {
            process.asleep = process.asleep.saturating_sub(1);
        }
        let candidates = if awake.is_empty() { left } else { awake };
        if !candidates.is_empty() {
            state.turn = *state.dice.pick(&candidates);
            self.turns[state.turn].notify_one();
        }
    }

    fn turn_of<'s>(&self, process: usize, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let waiting = self.turns[process].wait_while(state, |state| state.turn != process);
        waiting.unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).field("weather", &self.weather).finish_non_exhaustive()
    }
}
