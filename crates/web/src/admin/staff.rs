//! Who may use the admin, and what every page of it shows around its content.

use std::{fmt, future::Future, pin::Pin};

use actix_session::{Session, SessionExt};
use actix_web::{FromRequest, HttpRequest, dev::Payload, http::Method, web};
use larder_models::{Model, User, Verb};
use serde::Serialize;

use super::{
    csrf,
    registry::{Asker, Registered},
};
use crate::{
    failure::Failure,
    session::{self, Account, Message},
    state::State,
};

/// What the permissions call the caches.
pub(super) const CACHE: &str = "cache";

const NOT_SAVED: &str = "You are not signed in any more, so what you sent was not saved. Sign in, go back to the form, \
                         and copy what you entered before you send it anew.";

/// The active staff user who sent the request. Others are sent to the sign-in page.
pub(super) struct Staff {
    pub(super) session: Session,
    pub(super) asker: Asker,
    pub(super) username: String,
}

impl Staff {
    /// Makes sure that this user may do something with the rows of a model.
    ///
    /// # Errors
    /// [`Failure::Forbidden`].
    pub(super) fn require(&self, model: &dyn Registered, verb: Verb) -> Result<(), Failure> {
        if model.allows(&self.asker, verb) { Ok(()) } else { Err(Failure::Forbidden) }
    }

    /// Makes sure that this user may see what is in the caches.
    ///
    /// # Errors
    /// [`Failure::Forbidden`].
    pub(super) fn require_caches(&self) -> Result<(), Failure> {
        if self.may_see_caches() { Ok(()) } else { Err(Failure::Forbidden) }
    }

    /// Tells whether this user may see what is in the caches.
    pub(super) fn may_see_caches(&self) -> bool {
        self.asker.permissions.allow(CACHE, Verb::View)
    }

    /// Tells whether this user may throw something out of the caches.
    pub(super) fn may_change_caches(&self) -> bool {
        self.may_see_caches() && self.asker.permissions.allow(CACHE, Verb::Delete)
    }
}

impl fmt::Debug for Staff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staff").field("asker", &self.asker).finish_non_exhaustive()
    }
}

impl FromRequest for Staff {
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Failure>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let session = request.get_session();
            let sign_in = || {
                // Only to whom had a session: strangers shall not fill the database.
                if request.method() != Method::GET && request.cookie(session::COOKIE).is_some() {
                    // A message that cannot be kept is not worth an error page.
                    let _ = session::add_message(&session, Message::warning(NOT_SAVED));
                }
                Failure::SignIn { next: come_back_to(&request) }
            };
            let id = session::user_id(&session).ok_or_else(sign_in)?;
            let state = request.app_data::<web::Data<State>>().cloned();
            let state = state.ok_or_else(|| Failure::Internal(anyhow::anyhow!("the app has no state")))?;
            let found = state.read(move |db| {
                let Some(user) = User::find(db, id)? else { return Ok(None) };
                let permissions = user.permissions(db)?;
                Ok(Some((user, permissions)))
            });
            let may_enter = |user: &User| user.is_staff && user.is_active && session::is_current(&session, user);
            let (user, permissions) = found.await?.filter(|(user, _)| may_enter(user)).ok_or_else(sign_in)?;
            let asker = Asker { id: user.id, is_superuser: user.is_superuser, permissions };
            Ok(Staff { session, asker, username: user.username })
        })
    }
}

/// A form that was sent cannot be sent again after signing in; its page can be opened.
fn come_back_to(request: &HttpRequest) -> String {
    if request.method() == Method::GET { request.uri().to_string() } else { request.path().to_owned() }
}

/// What every page of the admin shows around its content.
#[derive(Debug, Serialize)]
pub(super) struct Frame {
    section: &'static str,
    account: Account,
    messages: Vec<Message>,
    csrf_token: String,
}

impl Frame {
    /// Makes the frame for a session; takes the messages out of it.
    ///
    /// # Errors
    /// The session cannot be written.
    pub(super) fn of(session: &Session) -> Result<Self, Failure> {
        Ok(Frame {
            section: "admin",
            account: session::account(session),
            messages: session::take_messages(session),
            csrf_token: csrf::token(session)?,
        })
    }
}
