//! Web sessions that are kept on the server.
//!
//! Only the rows: what is in a session, how its id is made and when it is renewed is the web layer's business.
//! Sessions are written with most requests and shown on no page, so they send no signals.

use diesel::prelude::*;
use jiff::Timestamp;

use crate::{db::Db, error::Result, schema::session, time};

/// A session that has not expired.
#[derive(Clone, PartialEq, Eq, Queryable, Selectable, Identifiable)]
#[diesel(table_name = session)]
pub struct Session {
    /// Its secret name, as the web layer made it.
    pub id: String,
    /// What it holds: JSON.
    pub state: String,
    /// When it ends, in milliseconds since 1970. At that moment it has ended.
    pub expires: i64,
}

impl Session {
    /// Loads a session, or `None` if there is none or it has expired.
    ///
    /// # Errors
    /// What the database says.
    pub fn load(db: &mut Db, id: &str) -> Result<Option<Session>> {
        let now = db.now().as_millisecond();
        let query = session::table.find(id).filter(session::expires.gt(now)).select(Session::as_select());
        Ok(query.first(db.conn()).optional()?)
    }

    /// Stores a session, new or not, whether or not one of this id has expired.
    ///
    /// # Errors
    /// What the database says.
    ///
    /// # Examples
    /// ```
    /// use larder_models::{Database, Session, Signals};
    ///
    /// let database = Database::open("sqlite::memory:", Signals::new())?;
    /// database.migrate()?;
    /// let state = database.write(|db| {
    ///     let expires = db.now() + std::time::Duration::from_secs(3_600);
    ///     Session::save(db, "k7f3", "{}", expires)?;
    ///     Session::load(db, "k7f3")
    /// })?;
    /// assert_eq!(state.unwrap().state, "{}");
    /// # Ok::<(), larder_models::Error>(())
    /// ```
    pub fn save(db: &mut Db, id: &str, state: &str, expires: Timestamp) -> Result<()> {
        let columns = (session::state.eq(state), session::expires.eq(expires.as_millisecond()));
        db.transaction(|db| {
            // Not an upsert: diesel's on_conflict cannot be used through its MultiConnection.
            if diesel::update(session::table.find(id)).set(columns).execute(db.conn())? == 0 {
                diesel::insert_into(session::table).values((session::id.eq(id), columns)).execute(db.conn())?;
            }
            Ok(())
        })
    }

    /// Stores a session that is there and has not expired, and tells whether it was.
    ///
    /// A session that somebody logged out of in the meantime does not come back that way.
    ///
    /// # Errors
    /// What the database says.
    pub fn update(db: &mut Db, id: &str, state: &str, expires: Timestamp) -> Result<bool> {
        let live = session::table.find(id).filter(session::expires.gt(db.now().as_millisecond()));
        let columns = (session::state.eq(state), session::expires.eq(expires.as_millisecond()));
        Ok(diesel::update(live).set(columns).execute(db.conn())? > 0)
    }

    /// Moves the end of a session that is there and has not expired, and tells whether it was.
    ///
    /// # Errors
    /// What the database says.
    pub fn touch(db: &mut Db, id: &str, expires: Timestamp) -> Result<bool> {
        let live = session::table.find(id).filter(session::expires.gt(db.now().as_millisecond()));
        Ok(diesel::update(live).set(session::expires.eq(expires.as_millisecond())).execute(db.conn())? > 0)
    }

    /// Deletes a session, and tells whether there was one.
    ///
    /// # Errors
    /// What the database says.
    pub fn delete(db: &mut Db, id: &str) -> Result<bool> {
        Ok(diesel::delete(session::table.find(id)).execute(db.conn())? > 0)
    }

    /// Deletes all sessions that have expired, and returns how many they were.
    ///
    /// # Errors
    /// What the database says.
    pub fn delete_expired(db: &mut Db) -> Result<usize> {
        let ended = session::table.filter(session::expires.le(db.now().as_millisecond()));
        Ok(diesel::delete(ended).execute(db.conn())?)
    }

    /// Returns when it ends.
    pub fn expires_at(&self) -> Timestamp {
        time::from_column(self.expires)
    }
}

/// Without the id and the state: who knows them is logged in.
impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("expires", &self.expires).finish_non_exhaustive()
    }
}
