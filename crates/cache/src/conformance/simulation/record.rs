//! What has happened in a run, and what must not be served any more.

use super::{
    Counts, Lost,
    history::{Event, History, Moment, What},
    value::{Id, key_name, tag_name},
};
use crate::clock::{Clock, Timestamp};

/// A value that a process computed from what it read, or set.
#[derive(Debug)]
struct Made {
    key: usize,
    /// Who set it; nobody if it was loaded.
    set_by: Option<usize>,
    /// When the data were read that it was computed from. A value that is set counts as read when `set` has returned,
    /// because an invalidation that runs beside it may come before it.
    read: Moment,
    tags: Vec<usize>,
}

/// Not read yet: a value that is being set.
const UNDER_WAY: Moment = Moment::MAX;

/// What an invalidation concerns.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    Key(usize),
    /// A key whose value may still be served as stale.
    Softly(usize),
    Tag(usize),
    Everything,
}

/// The moments before which a value must have been read to be gone.
///
/// An invalidation raises them when it has returned, to the moment when it began: what was read while it ran may or may
/// not survive it.
#[derive(Debug, Clone)]
pub(super) struct Floors {
    keys: Vec<Moment>,
    soft: Vec<Moment>,
    tags: Vec<Moment>,
}

/// All that is known of a run.
pub(super) struct Record {
    clock: Clock,
    begun: Timestamp,
    moment: Moment,
    made: Vec<Made>,
    floors: Floors,
    processes: Vec<Own>,
    pub(super) history: History,
    pub(super) counts: Counts,
}

/// What is known of a process.
struct Own {
    life: usize,
    /// What it invalidated in vain: until that is delivered, it does not serve it either.
    floors: Floors,
}

impl Floors {
    fn new(keys: usize, tags: usize) -> Self {
        Floors { keys: vec![0; keys], soft: vec![0; keys], tags: vec![0; tags] }
    }

    fn raise(&mut self, target: Target, began: Moment) {
        let raise = |floor: &mut Moment| *floor = began.max(*floor);
        match target {
            Target::Key(key) => raise(&mut self.keys[key]),
            Target::Softly(key) => raise(&mut self.soft[key]),
            Target::Tag(tag) => raise(&mut self.tags[tag]),
            Target::Everything => self.keys.iter_mut().for_each(raise),
        }
    }

    /// Returns the floors for one who has to obey both.
    fn with(&self, others: &Floors) -> Floors {
        let higher = |a: &[Moment], b: &[Moment]| a.iter().zip(b).map(|(a, b)| *a.max(b)).collect();
        Floors {
            keys: higher(&self.keys, &others.keys),
            soft: higher(&self.soft, &others.soft),
            tags: higher(&self.tags, &others.tags),
        }
    }

    /// Returns when the invalidation began that a value has survived against the rule, if there is one.
    fn forbid(&self, made: &Made, may_be_stale: bool) -> Option<Moment> {
        let by_tags = made.tags.iter().map(|tag| self.tags[*tag]);
        let soft = if may_be_stale { 0 } else { self.soft[made.key] };
        by_tags.chain([self.keys[made.key], soft]).filter(|floor| made.read < *floor).max()
    }
}

impl Record {
    pub(super) fn new(clock: Clock, processes: usize, keys: usize, tags: usize) -> Self {
        let floors = Floors::new(keys, tags);
        Record {
            begun: clock.now(),
            clock,
            moment: 0,
            made: Vec::new(),
            processes: (0..processes).map(|_| Own { life: 0, floors: floors.clone() }).collect(),
            floors,
            history: History::default(),
            counts: Counts::default(),
        }
    }

    /// Takes note of something that a process did, or that befell the store.
    pub(super) fn note(&mut self, process: Option<usize>, what: What) {
        let moment = self.next_moment();
        let millis = self.clock.now().saturating_since(self.begun).as_millis();
        let process = process.map(|process| (process, self.processes[process].life));
        self.history.events.push(Event { moment, millis, process, what });
    }

    /// Begins something that a process does; returns when that is, and what it must not be served.
    pub(super) fn begin(&mut self, process: usize) -> (Moment, Floors) {
        (self.next_moment(), self.floors.with(&self.processes[process].floors))
    }

    /// Makes a value of what is in the database now.
    pub(super) fn read_database(&mut self, key: usize, tags: &[usize]) -> Id {
        self.counts.loads += 1;
        let read = self.next_moment();
        self.make(Made { key, set_by: None, read, tags: tags.to_vec() })
    }

    /// Makes a value that is about to be set.
    pub(super) fn begin_set(&mut self, process: usize, key: usize, tags: &[usize]) -> Id {
        self.make(Made { key, set_by: Some(process), read: UNDER_WAY, tags: tags.to_vec() })
    }

    /// Ends what a process was setting.
    pub(super) fn end_set(&mut self, process: usize) {
        let now = self.next_moment();
        let under_way = |made: &&mut Made| made.set_by == Some(process) && made.read == UNDER_WAY;
        self.made.iter_mut().filter(under_way).for_each(|made| made.read = now);
    }

    /// Adds the tags of a value that were found out while it was loaded.
    pub(super) fn discover(&mut self, id: Id, tags: &[usize]) {
        self.made[id.index()].tags.extend(tags);
    }

    /// Takes note of an invalidation that has returned: with `Ok` it counts for all, otherwise for its own process.
    pub(super) fn invalidated(&mut self, process: usize, target: Target, began: Moment, is_ok: bool) {
        self.next_moment();
        self.counts.invalidations += 1;
        let floors = if is_ok { &mut self.floors } else { &mut self.processes[process].floors };
        floors.raise(target, began);
    }

    /// Begins the next life of a process, which knows nothing of those before.
    pub(super) fn die(&mut self, process: usize) {
        self.counts.crashes += 1;
        self.note(Some(process), What::Said("crashed".to_owned()));
        self.end_set(process);
        let floors = Floors::new(self.floors.keys.len(), self.floors.tags.len());
        self.processes[process] = Own { life: self.processes[process].life + 1, floors };
    }

    /// Checks a value that was served.
    pub(super) fn serve(
        &mut self,
        process: usize,
        (key, id): (usize, Id),
        floors: &Floors,
        may_be_stale: bool,
    ) -> Result<(), Box<Lost>> {
        self.counts.hits += 1;
        let made = &self.made[id.index()];
        assert_eq!(made.key, key, "{id} was served under another key");
        let Some(floor) = floors.forbid(made, may_be_stale) else { return Ok(()) };
        let what = format!("was served {id}, read at {}, after an invalidation that began at {floor}", made.read);
        let key = key_name(key);
        let mut names: Vec<String> = made.tags.iter().map(|tag| tag_name(*tag)).collect();
        if !names.is_empty() {
            names.push("any_tag".to_owned());
        }
        names.push(key.clone());
        self.note(Some(process), What::Said(format!("{key} {what}")));
        Err(Box::new(Lost { seed: 0, history: self.history.about(&names), key, what }))
    }

    fn make(&mut self, made: Made) -> Id {
        let id = Id::new(made.key, self.made.len());
        self.made.push(made);
        id
    }

    fn next_moment(&mut self) -> Moment {
        self.moment += 1;
        self.moment
    }
}
