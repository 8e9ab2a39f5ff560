//! Forms are accepted only from our own pages: each carries a token that the session knows.

use actix_session::Session;
use actix_web::{
    HttpRequest,
    http::header::{HOST, ORIGIN},
};
use subtle::ConstantTimeEq;

use crate::failure::Failure;

const TOKEN: &str = "csrf_token";

/// Returns the token of the session, for a form.
///
/// # Errors
/// The session cannot be written, the system has no random numbers.
pub(super) fn token(session: &Session) -> Result<String, Failure> {
    if let Some(token) = session.get(TOKEN).ok().flatten() {
        return Ok(token);
    }
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| Failure::Internal(anyhow::anyhow!("no random numbers: {error}")))?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
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

/// Browsers say which site a form comes from.
fn is_from_here(request: &HttpRequest) -> bool {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = header(ORIGIN) else { return true };
    let host = origin.split_once("://").map(|(_, host)| host);
    host.is_some_and(|host| header(HOST).is_some_and(|ours| ours.eq_ignore_ascii_case(host)))
}
