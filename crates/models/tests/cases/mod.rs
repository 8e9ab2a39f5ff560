//! What the crate promises of every database. The targets say which one it is tried on.

mod data;
pub(crate) mod invalidation;
mod migrations;
mod objects;
mod processes;
mod sessions;
mod several;
mod signals;
mod transactions;
mod users;
mod watch;

use std::sync::{Arc, Mutex};

use larder_models::{Database, Db, Model, NewObject, Object, Result, Signals};

/// A migrated database.
pub(crate) fn database() -> Database {
    database_with(Signals::new())
}

pub(crate) fn database_with(signals: Signals) -> Database {
    let database = crate::open_alone(signals);
    database.migrate().unwrap();
    database
}

pub(crate) fn insert(db: &mut Db, title: &str) -> Result<Object> {
    Object::insert(db, NewObject { title: title.to_owned(), body: String::new(), published: true, category_id: None })
}

/// What happened, in order.
#[derive(Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    fn write(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    /// Returns what was written since the last time.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// Returns a closure that writes a line.
    fn line(&self, line: &str) -> impl FnOnce() + Send + 'static {
        let (journal, line) = (self.clone(), line.to_owned());
        move || journal.write(line)
    }
}
