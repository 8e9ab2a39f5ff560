//! The models of Larder, and the transactions and signals that tell a cache what they changed.
//!
//! [`Database`] opens a database and hands out a [`Db`] per closure; [`Model`] gives each struct insert, save, delete
//! and refresh through it; [`Signals`] carry what happened to receivers, after the outermost commit and never on a
//! rollback. [`Link`] keeps what belongs to what. What a write makes stale in the caches is [known by what was
//! read](invalidation), and [`Watch`] does the same for raw SQL.
//!
//! Log lines have the target `larder_models`.

mod category;
mod courier;
mod data;
mod db;
mod error;
mod group;
pub mod invalidation;
mod label;
mod link;
mod log_entry;
mod migrations;
mod model;
mod object;
mod outbox;
mod page;
mod row;
pub mod sample;
pub mod schema;
mod session;
mod signals;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
mod time;
mod url;
mod user;
mod watch;

/// The guide, for its examples.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/models.md")]
struct Guide;

// Diesel finds SQLite through this crate; its feature `bundled` compiles SQLite in.
use libsqlite3_sys as _;

pub use category::{Category, NewCategory};
pub use data::{Data, Record};
pub use db::{Backend, Connection, Database, Db, lower};
#[doc(hidden)]
pub use diesel;
pub use error::{Error, Invalid, Result, Source};
pub use group::{Group, NewGroup, Permissions, UserGroup, Verb, permission};
pub use label::{Label, NewLabel, ObjectLabel};
pub use link::{Link, Side};
pub use log_entry::{Action, LogEntry};
pub use migrations::MigrationStatus;
pub use model::{Change, Field, Lock, Model};
pub use object::{NewObject, Object};
pub use page::Page;
pub use session::Session;
pub use signals::{BulkChanged, Deleted, Deleting, LinksChanged, Saved, Saving, Signals};
pub use user::{NewUser, Password, User};
pub use watch::{Query, Watch};
