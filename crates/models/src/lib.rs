//! The models of Larder, and the transactions and signals that tell a cache what they changed.
//!
//! [`Database`] opens a database and hands out a [`Db`] per closure; [`Model`] gives each struct insert, save, delete
//! and refresh through it; [`Signals`] carry what happened to receivers, after the outermost commit and never on a
//! rollback. [`invalidation`] is the receiver that throws
//! out of the caches what they changed.
//!
//! Log lines have the target `larder_models`.

mod db;
mod error;
pub mod invalidation;
mod log_entry;
mod migrations;
mod model;
mod object;
mod page;
pub mod sample;
pub mod schema;
mod session;
mod signals;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
mod url;
mod user;

// Diesel finds SQLite through this crate; its feature `bundled` compiles SQLite in.
use libsqlite3_sys as _;

pub use db::{Backend, Connection, Database, Db, lower};
pub use error::{Error, Invalid, Result, Source};
pub use log_entry::{Action, LogEntry};
pub use migrations::MigrationStatus;
pub use model::{Change, Field, Model};
pub use object::{NewObject, Object, ObjectQuery};
pub use page::Page;
pub use session::Session;
pub use signals::{Deleted, Deleting, Saved, Saving, Signals};
pub use user::{NewUser, Password, User};
