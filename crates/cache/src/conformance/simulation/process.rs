//! What the processes of a run do: the verbs of the cache, with loaders in whose middle anything may happen.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    time::Duration,
};

use super::{
    Opener,
    history::{Moment, What},
    record::{Floors, Target},
    store,
    value::{Id, key_name, tag_name},
    world::{Leave, World},
};
use crate::{
    BlockingCache, Cache, Caches, Load, LoadOptions, Timeout,
    backend::{Backend, Capabilities},
    error::Result,
    settings::AliasSettings,
};

/// What processes do. Invalidations are of one kind each, so that a run may have some and lack others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    GetMany,
    Load,
    Set,
    SetMany,
    Add,
    Touch,
    Delete,
    DeleteMany,
    Expire,
    InvalidateTags,
    Clear,
    Maintain,
}

impl Verb {
    pub(super) const ALL: [Verb; 13] = [
        Verb::Get,
        Verb::GetMany,
        Verb::Load,
        Verb::Set,
        Verb::SetMany,
        Verb::Add,
        Verb::Touch,
        Verb::Delete,
        Verb::DeleteMany,
        Verb::Expire,
        Verb::InvalidateTags,
        Verb::Clear,
        Verb::Maintain,
    ];
}

/// Lives the lives of a process until it has done all it was to do.
pub(super) fn live(world: &Arc<World>, process: usize, verbs: usize, capabilities: &Capabilities, open: &Arc<Opener>) {
    world.enter(process);
    let mut left = verbs;
    loop {
        let (here, capabilities, open) = (Arc::clone(world), capabilities.clone(), Arc::clone(open));
        let store = move || store::connect(&here, process, &capabilities, &open);
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let life = Process::start(world, process, store);
            while left > 0 {
                left -= 1;
                life.act(0);
            }
        }));
        match ended.map_err(|panic| panic.downcast::<Leave>()) {
            Err(Ok(leave)) if *leave == Leave::Crashed => world.restart(process),
            Ok(()) | Err(Ok(_)) => break,
            Err(Err(panic)) => {
                world.panicked(panic);
                break;
            }
        }
    }
    world.leave(process);
}

/// One life of a process.
struct Process<'w> {
    world: &'w World,
    number: usize,
    cache: Cache,
}

/// The beginning of a read: what it must not be served.
struct Look {
    key: usize,
    floors: Floors,
    may_be_stale: bool,
}

impl<'w> Process<'w> {
    fn start(world: &'w Arc<World>, number: usize, store: impl Fn() -> Box<dyn Backend> + 'static) -> Self {
        let settings = AliasSettings { backend: "under test".into(), ..AliasSettings::default() };
        let built = Caches::builder()
            .backend("under test", move |_| Ok(store()))
            .clock(world.clock(number))
            .alias("default", settings)
            .stores_as_given()
            .build();
        match built {
            Ok(caches) => Process { world, number, cache: caches.default_cache() },
            Err(error) => panic!("{error}"),
        }
    }

    /// Does one thing. `depth` tells in how many loaders.
    fn act(&self, depth: usize) {
        let verbs = &self.world.weather.verbs;
        match verbs[self.below(verbs.len())] {
            Verb::Get => self.get(),
            Verb::GetMany => self.get_many(),
            Verb::Load => self.load(depth),
            Verb::Set => self.set(),
            Verb::SetMany => self.set_many(),
            Verb::Add => self.add(),
            Verb::Touch => self.touch(),
            Verb::Delete => self.delete(),
            Verb::DeleteMany => self.delete_many(),
            Verb::Expire => self.expire(),
            Verb::InvalidateTags => self.invalidate_tags(),
            Verb::Clear => self.clear(),
            Verb::Maintain => {
                self.say(|| "maintains".to_owned());
                self.world.maintains(self.number, true);
                self.cache.maintain();
                self.world.maintains(self.number, false);
            }
        }
        self.world.pause(self.number);
    }

    fn get(&self) {
        let look = self.look(false);
        let name = key_name(look.key);
        self.say(|| format!("gets {name}"));
        let got = self.handle(&self.some_tags(look.key)).get::<Id>(&name);
        // "A read never fails because the store does": any error is one.
        match got.unwrap_or_else(|error| panic!("get failed: {error}")) {
            Some(id) => self.served(&look, id),
            None => self.say(|| format!("got nothing for {name}")),
        }
    }

    fn get_many(&self) {
        let looks: Vec<Look> = self.keys().into_iter().map(|key| Look { key, ..self.look(false) }).collect();
        let names: Vec<String> = looks.iter().map(|look| key_name(look.key)).collect();
        self.say(|| format!("gets many {}", names.join(" ")));
        let got = self.handle(&self.some_tags(0)).get_many::<Id, _>(&names);
        let mut got = got.unwrap_or_else(|error| panic!("get_many failed: {error}"));
        for (look, name) in looks.iter().zip(&names) {
            if let Some(id) = got.remove(name) {
                self.served(look, id);
            }
        }
    }

    fn load(&self, depth: usize) {
        let mut options = self.options();
        if depth > 0 {
            // The outer load may be of the same key, and nobody else in this process would end the wait for it.
            options = options.max_wait(0);
        }
        let look = self.look(!options.stale_window().is_zero());
        let (name, tags, timeout) = (key_name(look.key), self.tags_given(look.key), self.timeout(false));
        let handle = self.handle(&tags).load_options(options.clone());
        let may_discover = self.world.one_in(self.world.weather.discovery);
        self.say(|| format!("loads {name} for {timeout:?} with tags {tags:?} and {}", Short(&options)));
        let loaded = catch_unwind(AssertUnwindSafe(|| match may_discover {
            true => handle.get_or_load(&name, timeout, |load| self.loader(&look, Some(load), &tags, depth)),
            false => handle.get_or_set(&name, timeout, || self.loader(&look, None, &tags, depth)),
        }));
        match loaded {
            Ok(Ok(id)) => self.served(&look, id),
            Ok(Err(error)) => self.say(|| format!("got no {name}: {error}")),
            Err(panic) if panic.downcast_ref() == Some(&Leave::LoaderPanicked) => {}
            Err(panic) => resume_unwind(panic),
        }
    }

    fn loader(&self, look: &Look, load: Option<Load<Id>>, tags: &[usize], depth: usize) -> Result<Id, &'static str> {
        if let Some(old) = load.as_ref().and_then(Load::old) {
            self.check(&Look { key: look.key, floors: look.floors.clone(), may_be_stale: true }, *old);
        }
        let name = key_name(look.key);
        self.pauses();
        let id = self.world.record().read_database(look.key, tags);
        self.say(|| format!("reads {name}, makes {id}"));
        self.pauses();
        if depth < 2 && self.world.one_in(4) {
            self.act(depth + 1);
        }
        if let Some(load) = load {
            self.choose(&load, look.key, id);
        }
        match self.below(12) {
            0 => Err("its source failed"),
            1 if depth == 0 => {
                self.say(|| "its loader panics".to_owned());
                resume_unwind(Box::new(Leave::LoaderPanicked))
            }
            _ => Ok(id),
        }
    }

    /// What loaders choose.
    fn choose(&self, load: &Load<Id>, key: usize, id: Id) {
        let tags = self.some_tags(key);
        if !tags.is_empty() {
            self.world.record().discover(id, &tags);
            self.say(|| format!("finds out that {id} has tags {tags:?}"));
            load.tags(tags.into_iter().map(tag_name));
        }
        match self.below(8) {
            0 => load.timeout(self.timeout(true)),
            1 => load.options(self.options()),
            2 => load.do_not_store(),
            _ => {}
        }
    }

    fn set(&self) {
        let (key, timeout) = (self.key(), self.timeout(true));
        let tags = self.tags_given(key);
        let (began, id) = self.begin_set(key, &tags);
        self.say(|| format!("sets {} to {id} for {timeout:?} with tags {tags:?}", key_name(key)));
        let result = self.handle(&tags).load_options(self.options()).set(key_name(key), &id, timeout);
        self.world.record().end_set(self.number);
        self.invalidated(&[Target::Key(key)], began, "set", result);
    }

    fn set_many(&self) {
        let (timeout, keys) = (self.timeout(true), self.keys());
        let tags = self.tags_given(keys[0]);
        let began = self.begin();
        let items: Vec<(String, Id)> = keys.iter().map(|key| (key_name(*key), self.begin_set(*key, &tags).1)).collect();
        self.say(|| {
            let items: Vec<String> = items.iter().map(|(name, id)| format!("{name}={id}")).collect();
            format!("sets many {} for {timeout:?} with tags {tags:?}", items.join(" "))
        });
        let result = self.handle(&tags).load_options(self.options()).set_many(items, timeout);
        self.world.record().end_set(self.number);
        let refused = |key: &usize| result.as_ref().map_or(true, |failed| failed.contains(&key_name(*key)));
        for key in &keys {
            self.world.record().invalidated(self.number, Target::Key(*key), began, !refused(key));
        }
        self.say(|| format!("set many: {result:?}"));
    }

    fn add(&self) {
        let (key, timeout) = (self.key(), self.timeout(true));
        let tags = self.tags_given(key);
        let (began, id) = self.begin_set(key, &tags);
        self.say(|| format!("adds {id} to {} for {timeout:?} with tags {tags:?}", key_name(key)));
        let result = self.handle(&tags).load_options(self.options()).add(key_name(key), &id, timeout);
        self.world.record().end_set(self.number);
        self.say(|| format!("added: {result:?}"));
        if matches!(result, Ok(true)) && timeout != Timeout::After(Duration::ZERO) {
            self.world.record().invalidated(self.number, Target::Key(key), began, true);
        }
    }

    fn touch(&self) {
        let (key, timeout) = (self.key(), self.timeout(true));
        let began = self.begin();
        self.say(|| format!("touches {} for {timeout:?}", key_name(key)));
        let result = self.handle(&[]).touch(key_name(key), timeout);
        self.say(|| format!("touched: {result:?}"));
        if matches!(result, Ok(true)) && timeout == Timeout::After(Duration::ZERO) {
            self.world.record().invalidated(self.number, Target::Key(key), began, true);
        }
    }

    fn delete(&self) {
        let key = self.key();
        let began = self.begin();
        self.say(|| format!("deletes {}", key_name(key)));
        self.invalidated(&[Target::Key(key)], began, "delete", self.handle(&[]).delete(key_name(key)));
    }

    fn delete_many(&self) {
        let keys = self.keys();
        let began = self.begin();
        let names: Vec<String> = keys.iter().map(|key| key_name(*key)).collect();
        self.say(|| format!("deletes many {}", names.join(" ")));
        let targets: Vec<Target> = keys.into_iter().map(Target::Key).collect();
        self.invalidated(&targets, began, "delete_many", self.handle(&[]).delete_many(&names));
    }

    fn expire(&self) {
        let key = self.key();
        let began = self.begin();
        self.say(|| format!("expires {}", key_name(key)));
        let result = self.handle(&[]).expire(key_name(key));
        // "And then the value is removed instead."
        let target = if result.is_ok() { Target::Softly(key) } else { Target::Key(key) };
        self.invalidated(&[target], began, "expire", result);
    }

    fn invalidate_tags(&self) {
        let tag = self.below(self.world.weather.tags);
        let tags = if self.world.one_in(3) { (0..self.world.weather.tags).collect() } else { vec![tag] };
        let began = self.begin();
        self.say(|| format!("invalidates tags {tags:?}"));
        let result = self.handle(&[]).invalidate_tags(tags.iter().map(|tag| tag_name(*tag)));
        let targets: Vec<Target> = tags.into_iter().map(Target::Tag).collect();
        self.invalidated(&targets, began, "invalidate_tags", result);
    }

    fn clear(&self) {
        let began = self.begin();
        self.say(|| "clears".to_owned());
        self.invalidated(&[Target::Everything], began, "clear", self.handle(&[]).clear());
    }

    fn invalidated<T: fmt::Debug>(&self, targets: &[Target], began: Moment, verb: &str, result: Result<T>) {
        for target in targets {
            self.world.record().invalidated(self.number, *target, began, result.is_ok());
        }
        self.say(|| match result {
            Ok(done) => format!("{verb} that began at {began}: {done:?}"),
            Err(error) => format!("{verb} that began at {began}: {error}"),
        });
    }

    fn served(&self, look: &Look, id: Id) {
        self.say(|| format!("got {id} for {}", key_name(look.key)));
        self.check(look, id);
    }

    fn check(&self, look: &Look, id: Id) {
        self.world.serve(self.number, (look.key, id), &look.floors, look.may_be_stale);
    }

    fn look(&self, may_be_stale: bool) -> Look {
        let key = self.key();
        Look { key, floors: self.world.record().begin(self.number).1, may_be_stale }
    }

    fn begin(&self) -> Moment {
        self.world.record().begin(self.number).0
    }

    fn begin_set(&self, key: usize, tags: &[usize]) -> (Moment, Id) {
        let began = self.begin();
        (began, self.world.record().begin_set(self.number, key, tags))
    }

    fn handle(&self, tags: &[usize]) -> BlockingCache {
        self.cache.blocking().tags(tags.iter().map(|tag| tag_name(*tag)))
    }

    fn options(&self) -> LoadOptions {
        let mut options = LoadOptions::new();
        if self.world.one_in(3) {
            options = options.stale_while_revalidate(self.pick(&[2, 30]));
        }
        if self.world.one_in(3) {
            options = options.stale_if_error(self.pick(&[2, 30])).retry_after(self.pick(&[0, 1, 30]));
        }
        if self.world.one_in(4) {
            options = options.early_refresh(0.5);
        }
        if self.world.one_in(8) {
            options = options.max_wait(0);
        }
        options
    }

    fn timeout(&self, may_be_zero: bool) -> Timeout {
        match self.below(8) {
            0 if may_be_zero => Timeout::After(Duration::ZERO),
            1 => Timeout::Never,
            _ => Timeout::After(Duration::from_secs(self.pick(&[1, 5, 60]))),
        }
    }

    fn pick(&self, options: &[u64]) -> u64 {
        options[self.below(options.len())]
    }

    fn key(&self) -> usize {
        self.below(self.world.weather.keys)
    }

    /// All keys from one on.
    fn keys(&self) -> Vec<usize> {
        (self.key()..self.world.weather.keys).collect()
    }

    /// Values without tags are needed too: they have another form.
    fn tags_given(&self, key: usize) -> Vec<usize> {
        if self.world.one_in(2) { Vec::new() } else { self.some_tags(key) }
    }

    /// Half of the time a key has the tag that it mostly has.
    fn some_tags(&self, key: usize) -> Vec<usize> {
        let tags = self.world.weather.tags;
        if self.world.one_in(self.world.weather.habit) {
            vec![key % tags]
        } else {
            (0..tags).filter(|_| self.world.one_in(3)).collect()
        }
    }

    fn pauses(&self) {
        (0..self.below(4)).for_each(|_| self.world.pause(self.number));
    }

    fn below(&self, count: usize) -> usize {
        self.world.below(count)
    }

    fn say(&self, text: impl FnOnce() -> String) {
        self.world.record().note(Some(self.number), What::Said(text()));
    }
}

/// The options that a run plays with.
struct Short<'a>(&'a LoadOptions);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoadOptions { stale_while_revalidate, stale_if_error, retry_after, early_refresh, max_wait, .. } = self.0;
        write!(
            f,
            "swr {stale_while_revalidate:?} sie {stale_if_error:?} retry {retry_after:?} early {early_refresh:?} wait {max_wait:?}"
        )
    }
}
