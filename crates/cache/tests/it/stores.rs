//! The stores under test, each with its own clock or a real server.

use std::time::Duration;

use larder_cache::{
    backend::{Backend, Options, locmem::Locmem},
    clock::{Clock, ClockHand},
    conformance::Harness,
};

/// A clock that stands still until the test moves it.
struct Time {
    clock: Clock,
    hand: ClockHand,
}

impl Time {
    fn new() -> Self {
        let (clock, hand) = Clock::manual();
        Time { clock, hand }
    }
}

mod locmem {
    use super::*;

    struct InMemory {
        time: Time,
        store: Locmem,
    }

    impl InMemory {
        fn new() -> Self {
            let time = Time::new();
            let options = Options::new().clock(time.clock.clone());
            InMemory { store: Locmem::new(options, 2_000_000), time }
        }
    }

    impl Harness for InMemory {
        fn open(&self) -> Box<dyn Backend> {
            Box::new(self.store.clone())
        }

        fn clock(&self) -> Clock {
            self.time.clock.clone()
        }

        fn wait(&self, timeout: Duration) {
            self.time.hand.advance(timeout);
        }
    }

    larder_cache::conformance!(InMemory::new());
    crate::levels::levels!(InMemory::new());
    crate::model::model!(InMemory::new(), crate::model::Time::Stands, 300);
}

mod file {
    use larder_cache::backend::file::File;
    use tempfile::TempDir;

    use super::*;

    struct InFolder {
        time: Time,
        folder: TempDir,
    }

    impl InFolder {
        fn new() -> Self {
            InFolder { time: Time::new(), folder: tempfile::tempdir().unwrap() }
        }
    }

    impl Harness for InFolder {
        fn open(&self) -> Box<dyn Backend> {
            let options = Options::new().clock(self.clock());
            Box::new(File::open(self.folder.path(), options).unwrap())
        }

        fn clock(&self) -> Clock {
            self.time.clock.clone()
        }

        fn wait(&self, timeout: Duration) {
            self.time.hand.advance(timeout);
        }
    }

    larder_cache::conformance!(InFolder::new());
    crate::levels::levels!(InFolder::new());
    crate::model::model!(InFolder::new(), crate::model::Time::Stands, 100);
}

mod memcached {
    use larder_cache::{
        backend::memcached::{Driver, Memcached, Settings},
        conformance::server::MemcachedServer,
    };

    use super::*;

    /// A real server, whose clock is the system's.
    struct OnServer {
        server: MemcachedServer,
        driver: Driver,
    }

    impl OnServer {
        fn new(driver: Driver) -> Self {
            OnServer { server: MemcachedServer::start(), driver }
        }
    }

    impl Harness for OnServer {
        fn open(&self) -> Box<dyn Backend> {
            // A machine that is busy with other tests answers late.
            let settings = Settings::new([self.server.address()]).driver(self.driver).timeout(Duration::from_secs(5));
            Box::new(Memcached::connect(settings).unwrap())
        }

        fn clock(&self) -> Clock {
            Clock::system()
        }

        /// Timeouts are rounded up to whole seconds, by a clock that ticks once a second.
        fn wait(&self, timeout: Duration) {
            std::thread::sleep(timeout + Duration::from_millis(1100));
        }
    }

    mod meta {
        use super::*;

        larder_cache::conformance!(OnServer::new(Driver::Meta));
        crate::levels::levels!(OnServer::new(Driver::Meta));
        crate::model::model!(OnServer::new(Driver::Meta), crate::model::Time::Flies, 300);
    }

    mod r2d2 {
        use super::*;

        larder_cache::conformance!(OnServer::new(Driver::R2d2));
        crate::levels::levels!(OnServer::new(Driver::R2d2));
        crate::model::model!(OnServer::new(Driver::R2d2), crate::model::Time::Flies, 60);
    }
}

mod database {
    use larder_cache::backend::database::Database;
    use tempfile::TempDir;

    use super::*;

    struct InTable {
        time: Time,
        folder: TempDir,
    }

    impl InTable {
        fn new() -> Self {
            let made = InTable { time: Time::new(), folder: tempfile::tempdir().unwrap() };
            made.database().create_table().unwrap();
            made
        }

        fn database(&self) -> Database {
            let file = self.folder.path().join("cache.sqlite3");
            Database::open(&format!("sqlite://{}", file.display()), "cache_entry", Options::new().clock(self.clock()))
                .unwrap()
        }
    }

    impl Harness for InTable {
        fn open(&self) -> Box<dyn Backend> {
            Box::new(self.database())
        }

        fn clock(&self) -> Clock {
            self.time.clock.clone()
        }

        fn wait(&self, timeout: Duration) {
            self.time.hand.advance(timeout);
        }
    }

    larder_cache::conformance!(InTable::new());
    crate::levels::levels!(InTable::new());
    crate::model::model!(InTable::new(), crate::model::Time::Stands, 60);
}

mod dummy {
    use larder_cache::backend::dummy::Dummy;

    use super::*;

    struct Nothing;

    impl Harness for Nothing {
        fn open(&self) -> Box<dyn Backend> {
            Box::new(Dummy)
        }

        fn clock(&self) -> Clock {
            Clock::system()
        }

        /// What is not kept does not expire.
        fn wait(&self, _: Duration) {}
    }

    larder_cache::conformance!(keeps_nothing; Nothing);
}
