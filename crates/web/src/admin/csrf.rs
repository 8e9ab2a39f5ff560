//! Forms are accepted only from our own pages: each carries a token that the session knows.

use actix_session::Session;
use actix_web::HttpRequest;
use subtle::ConstantTimeEq;

use crate::{address::is_from_here, failure::Failure, secrets};

const TOKEN: &str = "csrf_token";

/// Returns the token of the session, for a form.
///
/// # Errors
/// The session cannot be written, the system has no random numbers.
pub(super) fn token(session: &Session) -> Result<String, Failure> {
    if let Some(token) = session.get(TOKEN).ok().flatten() {
        return Ok(token);
    }
    let token = secrets::token().map_err(Failure::Internal)?;
    session.insert(TOKEN, &token).map_err(Failure::internal)?;
    Ok(token)
}

/// Refuses a form that was not made for this session, or that a page of another site sent.
///
/// # Errors
/// [`Failure::Csrf`].
pub(super) fn verify(request: &HttpRequest, session: &Session, sent: &str) -> Result<(), Failure> {
    let expected: Option<String> = session.get(TOKEN).ok().flatten();
    let matches = expected.is_some_and(|expected| bool::from(expected.as_bytes().ct_eq(sent.as_bytes())));
    if matches && is_from_here(request) { Ok(()) } else { Err(Failure::Csrf) }
}
