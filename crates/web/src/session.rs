//! Sessions in the database, so that signing out ends them on the server too; and what stands in them.

use std::collections::HashMap;

use actix_session::{
    Session, SessionMiddleware,
    config::{PersistentSession, TtlExtensionPolicy},
    storage::{LoadError, SaveError, SessionKey, SessionStore, UpdateError, generate_session_key},
};
use actix_web::{
    HttpRequest,
    cookie::{Key, SameSite, time::Duration},
    web,
};
use jiff::{SignedDuration, Timestamp};
use larder_cache::{
    dependencies::{carry, untracked},
    template::Context,
};
use larder_models::{Database, Session as Row, User};
use serde::{Deserialize, Serialize};

use crate::{failure::Failure, observe::effects::Effects};

/// The name of the session cookie, which the page cache knows.
pub const COOKIE: &str = "larder_session";

/// Django's `SESSION_COOKIE_AGE`: two weeks.
const LIFETIME: Duration = Duration::days(14);

/// What nobody signed in to lasts an hour: it holds no more than the token of the sign-in form.
const ANONYMOUS_LIFETIME: Duration = Duration::hours(1);

/// How many messages wait for the next page at most.
const MAX_MESSAGES: usize = 10;

const USER_ID: &str = "user_id";
const PASSWORD_MARK: &str = "password_mark";
const USERNAME: &str = "username";
const MESSAGES: &str = "messages";

/// Returns the middleware. Cookies are for HTTPS only, unless `debug`.
pub fn middleware(database: Database, key: Key, debug: bool) -> SessionMiddleware<DatabaseStore> {
    let lifetime = PersistentSession::default()
        .session_ttl(LIFETIME)
        .session_ttl_extension_policy(TtlExtensionPolicy::OnStateChanges);
    SessionMiddleware::builder(DatabaseStore(database), key)
        .cookie_name(COOKIE.to_owned())
        .cookie_secure(!debug)
        .cookie_same_site(SameSite::Lax)
        .session_lifecycle(lifetime)
        .build()
}

/// Keeps sessions in the table `session`.
#[derive(Debug, Clone)]
pub struct DatabaseStore(Database);

impl DatabaseStore {
    async fn run<T: Send + 'static>(
        &self,
        queries: impl FnOnce(&Database) -> larder_models::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let database = self.0.clone();
        // What is made here does not depend on it.
        Ok(web::block(carry(move || untracked(|| queries(&database)))).await??)
    }
}

impl SessionStore for DatabaseStore {
    async fn load(&self, key: &SessionKey) -> Result<Option<HashMap<String, String>>, LoadError> {
        let id = key.as_ref().to_owned();
        let row = self.run(move |database| database.read(|db| Row::load(db, &id))).await.map_err(LoadError::Other)?;
        let state = row.map(|row| serde_json::from_str(&row.state)).transpose();
        state.map_err(|error| LoadError::Deserialization(error.into()))
    }

    async fn save(&self, state: HashMap<String, String>, ttl: &Duration) -> Result<SessionKey, SaveError> {
        let key = generate_session_key();
        let id = key.as_ref().to_owned();
        let expires = expires(lifetime(&state, ttl));
        let state = serde_json::to_string(&state).map_err(|error| SaveError::Serialization(error.into()))?;
        let save = move |database: &Database| {
            database.write(|db| {
                // New sessions are rare enough to sweep the old ones along with them.
                Row::delete_expired(db)?;
                Row::save(db, &id, &state, expires)
            })
        };
        self.run(save).await.map_err(SaveError::Other)?;
        Ok(key)
    }

    async fn update(
        &self,
        key: SessionKey,
        state: HashMap<String, String>,
        ttl: &Duration,
    ) -> Result<SessionKey, UpdateError> {
        let id = key.as_ref().to_owned();
        let text = serde_json::to_string(&state).map_err(|error| UpdateError::Serialization(error.into()))?;
        let expires = expires(lifetime(&state, ttl));
        // If it ended meanwhile it stays so, with all that is in it: somebody signed out while this was answered.
        let update = move |database: &Database| database.write(|db| Row::update(db, &id, &text, expires)).map(drop);
        self.run(update).await.map_err(UpdateError::Other)?;
        Ok(key)
    }

    async fn update_ttl(&self, key: &SessionKey, ttl: &Duration) -> anyhow::Result<()> {
        let id = key.as_ref().to_owned();
        let expires = expires(ttl);
        self.run(move |database| database.write(|db| Row::touch(db, &id, expires))).await.map(drop)
    }

    async fn delete(&self, key: &SessionKey) -> anyhow::Result<()> {
        let id = key.as_ref().to_owned();
        self.run(move |database| database.write(|db| Row::delete(db, &id))).await.map(drop)
    }
}

fn lifetime<'a>(state: &HashMap<String, String>, signed_in: &'a Duration) -> &'a Duration {
    if state.contains_key(USER_ID) { signed_in } else { &ANONYMOUS_LIFETIME }
}

fn expires(ttl: &Duration) -> Timestamp {
    Timestamp::now().checked_add(SignedDuration::from_secs(ttl.whole_seconds())).unwrap_or(Timestamp::MAX)
}

/// Who is signed in, for the navigation.
#[derive(Debug, Clone, Serialize)]
pub struct Account {
    /// The name; `None` if nobody is signed in.
    pub username: Option<String>,
}

/// Returns who is signed in.
pub fn account(session: &Session) -> Account {
    Account { username: session.get(USERNAME).ok().flatten() }
}

/// Returns what the holes of cached pages show.
pub async fn visitor(request: HttpRequest, session: Session) -> Result<Context, Failure> {
    let mut context = Context::new();
    context.insert("path", &request.path().replace('/', "%2F"));
    context.insert("account", &account(&session));
    Ok(context)
}

/// Returns the id of the user who is signed in.
pub fn user_id(session: &Session) -> Option<i64> {
    session.get(USER_ID).ok().flatten()
}

/// Tells whether a user still has the password that the session was begun with.
pub fn is_current(session: &Session, user: &User) -> bool {
    let mark: Option<String> = session.get(PASSWORD_MARK).ok().flatten();
    mark.is_some_and(|mark| mark == user.password_mark())
}

/// Signs a user in, in a new session.
///
/// # Errors
/// The session cannot be written.
pub fn sign_in(session: &Session, user: &User) -> Result<(), Failure> {
    session.clear();
    session.renew();
    session.insert(PASSWORD_MARK, user.password_mark()).map_err(Failure::internal)?;
    session.insert(USER_ID, user.id).map_err(Failure::internal)?;
    session.insert(USERNAME, &user.username).map_err(Failure::internal)
}

/// A message that the next page shows once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Message {
    /// `success`, `error`, `info` or `warning`.
    pub level: String,
    /// What it says.
    pub text: String,
    /// Where it leads.
    pub link: Option<Link>,
    /// What it threw out of the caches.
    #[serde(default)]
    pub effects: Effects,
}

/// The link of a [`Message`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Link {
    /// The address.
    pub href: String,
    /// The words.
    pub text: String,
}

impl Message {
    /// Makes a message that something worked.
    pub fn success(text: impl Into<String>) -> Self {
        Message::new("success", text)
    }

    /// Makes a message that something is not as expected.
    pub fn warning(text: impl Into<String>) -> Self {
        Message::new("warning", text)
    }

    fn new(level: &str, text: impl Into<String>) -> Self {
        Message { level: level.to_owned(), text: text.into(), link: None, effects: Effects::default() }
    }

    /// Says what it threw out of the caches.
    #[must_use]
    pub fn effects(mut self, effects: Effects) -> Self {
        self.effects = effects;
        self
    }

    /// Adds a link.
    #[must_use]
    pub fn link(mut self, href: impl Into<String>, text: impl Into<String>) -> Self {
        self.link = Some(Link { href: href.into(), text: text.into() });
        self
    }
}

/// Leaves a message for the next page.
///
/// # Errors
/// The session cannot be written.
pub fn add_message(session: &Session, message: Message) -> Result<(), Failure> {
    let mut messages: Vec<Message> = session.get(MESSAGES).ok().flatten().unwrap_or_default();
    messages.push(message);
    // Who sends forms and looks at no page does not fill the database.
    messages.drain(..messages.len().saturating_sub(MAX_MESSAGES));
    session.insert(MESSAGES, messages).map_err(Failure::internal)
}

/// Returns the messages and forgets them.
pub fn take_messages(session: &Session) -> Vec<Message> {
    let messages: Vec<Message> = session.get(MESSAGES).ok().flatten().unwrap_or_default();
    if !messages.is_empty() {
        // Only then, because the session is stored anew.
        session.remove(MESSAGES);
    }
    messages
}
