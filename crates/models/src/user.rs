//! The people who may log in.

use sha2::{Digest, Sha256};
use std::{fmt, sync::LazyLock};

use diesel::prelude::*;
use jiff::Timestamp;
use larder_cache::dependencies::depends_on;
use serde::Serialize;

use crate::{
    db::Db,
    error::{Invalid, Result},
    group::UserGroup,
    invalidation::table_tag,
    link::{Link, Side},
    model::Model,
    row,
    schema::user,
    time,
};

/// The most characters a username may have, as in Django.
const MAX_USERNAME_CHARS: usize = 150;

/// The fewest characters a password may have (NIST SP 800-63B, section 5.1.1.2).
const MIN_PASSWORD_CHARS: usize = 8;

/// What the password of a user who does not exist is compared with.
static NOBODY: LazyLock<String> = LazyLock::new(|| password_auth::generate_hash("nobody has this password"));

/// Somebody who may log in.
#[derive(Clone, PartialEq, Eq, Serialize, Queryable, Selectable, Identifiable, Insertable, AsChangeset)]
#[diesel(table_name = user)]
pub struct User {
    /// The primary key.
    #[diesel(skip_insertion)]
    pub id: i64,
    /// The name to log in with. Unique, and upper case differs from lower case.
    pub username: String,
    #[serde(skip)]
    password: String,
    /// Whether the admin pages are open to this user.
    pub is_staff: bool,
    /// Whether this user may log in. Users are better switched off than deleted: their history keeps its name.
    pub is_active: bool,
    /// When the user was added, in milliseconds since 1970.
    pub created: i64,
    /// Whether this user may do everything, without being in a group that may.
    pub is_superuser: bool,
    /// The row version: 1, and one more with each save.
    pub version: i64,
}

/// What a new [`User`] is made from.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// The name to log in with.
    pub username: String,
    /// The password, hashed.
    pub password: Password,
    /// Whether the admin pages are open to this user.
    pub is_staff: bool,
    /// Whether this user may do everything there.
    pub is_superuser: bool,
}

/// A password as it is stored: an Argon2 hash with its salt.
///
/// A type of its own, so that the slow hashing is done before a transaction is opened, not inside it.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    /// Hashes a password. This takes tens of milliseconds, on purpose.
    ///
    /// # Errors
    /// The field `password`, if it has fewer than eight characters.
    pub fn new(password: &str) -> Result<Self, Invalid> {
        let mut invalid = Invalid::default();
        if password.chars().count() < MIN_PASSWORD_CHARS {
            invalid.add("password", format!("Use at least {MIN_PASSWORD_CHARS} characters."));
        }
        invalid.into_result()?;
        Ok(Password(password_auth::generate_hash(password)))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl User {
    /// Stores a new user; the same as [`Model::insert`].
    ///
    /// # Errors
    /// [`Error::Unique`](crate::Error::Unique) with the field `username` if the name is taken, and as
    /// [`Model::insert`].
    ///
    /// # Examples
    /// ```
    /// use larder_models::{Database, NewUser, Password, Signals, User};
    ///
    /// let database = Database::open("sqlite::memory:", Signals::new())?;
    /// database.migrate()?;
    /// let anna = NewUser { username: "anna".into(), password: Password::new("quince jelly")?, is_staff: true, is_superuser: false };
    /// database.write(|db| User::create(db, anna))?;
    /// let user = database.read(|db| User::verify(db, "anna", "quince jelly"))?;
    /// assert!(user.is_some_and(|user| user.is_staff));
    /// # Ok::<(), larder_models::Error>(())
    /// ```
    pub fn create(db: &mut Db, new: NewUser) -> Result<User> {
        Self::insert(db, new)
    }

    /// Makes an empty one, to be filled in.
    pub fn blank(now: Timestamp) -> User {
        let new = NewUser {
            username: String::new(),
            password: Password(String::new()),
            is_staff: false,
            is_superuser: false,
        };
        User::draft(new, now)
    }

    /// Sets a new password, which is stored when the user is saved.
    pub fn replace_password(&mut self, password: Password) {
        self.password = password.0;
    }

    /// Loads a user by name, or `None` if there is none.
    ///
    /// # Errors
    /// What the database says.
    pub fn by_username(db: &mut Db, username: &str) -> Result<Option<User>> {
        depends_on([table_tag(User::TABLE)]);
        let query = user::table.filter(user::username.eq(username)).select(User::as_select());
        Ok(query.first(db.conn()).optional()?)
    }

    /// Sets a new password and saves the user.
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn set_password(&mut self, db: &mut Db, password: Password) -> Result<()> {
        let mut changed = self.clone();
        changed.replace_password(password);
        changed.save(db)?;
        *self = changed;
        Ok(())
    }

    /// Returns the active user with this name and password, or `None` without saying what was wrong.
    ///
    /// It does the same work whether or not the user exists and is active, so that the time it takes tells nothing.
    ///
    /// # Errors
    /// What the database says.
    pub fn verify(db: &mut Db, username: &str, password: &str) -> Result<Option<User>> {
        let found = Self::by_username(db, username)?;
        Ok(Self::verified(found, password))
    }

    /// As [`User::verify`], for a user who was loaded already: the work takes a tenth of a second or more, for which no
    /// connection should be held.
    pub fn verified(found: Option<User>, password: &str) -> Option<User> {
        let nobody = NOBODY.as_str();
        let hash = found.as_ref().map_or(nobody, |user| user.password.as_str());
        let matches = password_auth::verify_password(password, hash).is_ok();
        found.filter(|user| matches && user.is_active)
    }

    /// Returns a mark that changes with the password and tells nothing of it, for sessions to end with it.
    pub fn password_mark(&self) -> String {
        let digest = Sha256::digest(format!("larder session {}", self.password));
        digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns when the user was added.
    pub fn created_at(&self) -> Timestamp {
        time::from_column(self.created)
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("id", &self.id)
            .field("username", &self.username)
            .field("is_staff", &self.is_staff)
            .field("is_active", &self.is_active)
            .finish_non_exhaustive()
    }
}

impl Model for User {
    row!(User in user, fields = [username, is_staff, is_active, is_superuser], secret = [password], version = version);
    type New = NewUser;

    fn draft(new: NewUser, now: Timestamp) -> Self {
        let NewUser { username, password: Password(password), is_staff, is_superuser } = new;
        let created = now.as_millisecond();
        User { id: 0, username, password, is_staff, is_active: true, created, is_superuser, version: 1 }
    }

    fn stamp(&mut self, _now: Timestamp) {
        self.version += 1;
    }

    fn before_delete(&self, db: &mut Db) -> Result<()> {
        UserGroup::clear(db, Side::Left, self.id)?;
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        let chars = self.username.chars().count();
        if chars == 0 {
            invalid.add("username", "Enter a username.");
        } else if chars > MAX_USERNAME_CHARS {
            invalid.add("username", format!("Use at most {MAX_USERNAME_CHARS} characters, this has {chars}."));
        }
        if self.password.is_empty() {
            invalid.add("password", "Enter a password.");
        }
        if self.username.trim() != self.username || self.username.chars().any(char::is_control) {
            invalid.add("username", "Leave out spaces at the ends, and line breaks.");
        }
        invalid.into_result()
    }

    fn label(&self) -> String {
        self.username.clone()
    }
}
