//! A simulation that looks for lost invalidations: several processes over one store, interleaved as a seed decides.
//!
//! What must hold: a value that was computed from data read before an invalidation is not served after that invalidation
//! has returned `Ok`; and where it returned an error, not by the process that was told so. It concerns `delete`,
//! `invalidate_tags`, `expire`, `clear`, and whatever else takes the place of a value.
//!
//! The cache in it is the real one, over the store under test, by a clock that only the simulation moves. At each
//! operation on the store, and in the middle of loaders, the seed decides which process goes on, how much time passes, and
//! what goes wrong: operations that fail before or after they took effect, or arrive late; processes that stall, crash and
//! start again; a store that evicts, or restarts empty. A run repeats with its seed.
//!
//! It stands in for neither threads within a process nor the async handle, and leaves out `clear_prefix`, which waits by
//! the real clock, and `incr_version`, which is not atomic.

mod call;
mod history;
mod process;
mod record;
mod store;
mod time;
mod value;
mod weather;
mod world;

pub use history::History;

use std::{error, fmt, ops::AddAssign, sync::Arc, thread};

use self::{
    process::live,
    time::Time,
    weather::{Dice, Weather},
    world::World,
};
use crate::{
    backend::{Backend, Capabilities},
    clock::Clock,
};

/// How many verbs each process calls, unless the setup says otherwise.
const DEFAULT_VERBS: usize = 50;

type Opener = Box<dyn Fn() -> Box<dyn Backend> + Send + Sync>;

/// What a run is made of: the store under test, and how much is done with it.
///
/// # Examples
/// ```
/// use larder_cache::{
///     backend::{Backend, Options, locmem::Locmem},
///     conformance::simulation::{self, Setup},
/// };
///
/// let setup = Setup::new(|clock| {
///     let store = Locmem::new(Options::new().clock(clock), 1_000_000);
///     move || -> Box<dyn Backend> { Box::new(store.clone()) }
/// });
/// for seed in 0..20 {
///     simulation::run(seed, &setup)?;
/// }
/// # Ok::<_, Box<simulation::Lost>>(())
/// ```
pub struct Setup {
    make: Box<dyn Fn(Clock) -> Opener + Send + Sync>,
    capabilities: Option<Capabilities>,
    verbs: usize,
}

impl Setup {
    /// Takes a function that is called once a run: it makes an empty store, which measures expiry by this clock, and
    /// returns what opens it for each process.
    ///
    /// Only a store whose capabilities say that it may block fails in a run, and only one that is shared beyond a process
    /// has processes that crash.
    pub fn new<O>(make: impl Fn(Clock) -> O + Send + Sync + 'static) -> Self
    where
        O: Fn() -> Box<dyn Backend> + Send + Sync + 'static,
    {
        Setup { make: Box::new(move |clock| Box::new(make(clock))), capabilities: None, verbs: DEFAULT_VERBS }
    }

    /// Treats the store as one that has these capabilities.
    #[must_use]
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = Some(capabilities);
        self
    }

    /// Sets how many verbs each process calls; 50 by default.
    #[must_use]
    pub fn verbs(mut self, verbs: usize) -> Self {
        self.verbs = verbs;
        self
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("capabilities", &self.capabilities)
            .field("verbs", &self.verbs)
            .finish_non_exhaustive()
    }
}

/// What a run in which nothing was lost came to.
#[derive(Debug, Default)]
pub struct Summary {
    /// How much of what.
    pub counts: Counts,
    /// All that happened.
    pub history: History,
}

/// How often what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Operations on the store.
    pub operations: usize,
    /// How many of them failed.
    pub failures: usize,
    /// Values that were served and checked.
    pub hits: usize,
    /// Values that were computed.
    pub loads: usize,
    /// Invalidations of a key or a tag, also those that were told an error.
    pub invalidations: usize,
    /// Processes that died and started again.
    pub crashes: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.operations += more.operations;
        self.failures += more.failures;
        self.hits += more.hits;
        self.loads += more.loads;
        self.invalidations += more.invalidations;
        self.crashes += more.crashes;
    }
}

/// A value was served that an invalidation should have taken away.
#[derive(Debug)]
pub struct Lost {
    /// The seed that repeats it.
    pub seed: u64,
    /// The key of the value.
    pub key: String,
    /// Which value, and which invalidation.
    pub what: String,
    /// What happened to the key and the tags of the value.
    pub history: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lost { seed, key, what, history } = self;
        write!(f, "an invalidation was lost in the run of seed {seed}: {key} {what}\n{history}")
    }
}

impl error::Error for Lost {}

/// Runs the simulation of a seed.
///
/// # Errors
/// If an invalidation was lost.
///
/// # Panics
/// If the code under test does, or a run does not come to its end.
pub fn run(seed: u64, setup: &Setup) -> Result<Summary, Box<Lost>> {
    let mut dice = Dice::new(seed);
    let time = Time::new(&dice.skews());
    let open = Arc::new((setup.make)(time.of_store().clone()));
    let store = open();
    let capabilities = &setup.capabilities.clone().unwrap_or_else(|| store.capabilities());
    let weather = Weather::draw(&mut dice, capabilities);
    let processes = weather.processes;
    let world = World::new(seed, dice, weather, time, store);
    thread::scope(|scope| {
        for process in 0..processes {
            let (world, open) = (&world, &open);
            scope.spawn(move || live(world, process, setup.verbs, capabilities, open));
        }
    });
    match Arc::into_inner(world) {
        Some(world) => world.finish(),
        None => panic!("a cache of the run is still in use"),
    }
}
