//! What a handler can answer instead of a page.
//!
//! A visitor reads a fixed text that says what to do; the detail is in the log.

use larder_cache::LoadError;
use std::{error, fmt};

use actix_web::{
    HttpResponse, ResponseError,
    http::{
        StatusCode,
        header::{self, CACHE_CONTROL, ContentType, HeaderValue, LOCATION},
    },
};

/// Why there is no page.
#[derive(Debug)]
pub enum Failure {
    /// There is nothing under this address.
    NotFound,
    /// The request cannot be understood.
    BadRequest(&'static str),
    /// The form was not sent from our page, or the page was open for too long.
    Csrf,
    /// The visitor must sign in first, and then comes back to this address.
    SignIn {
        /// The path to come back to.
        next: String,
    },
    /// The visitor is signed in, and may not do this.
    Forbidden,
    /// The slow API answered with an error, or not at all.
    UpstreamFailed(String),
    /// The slow API refused because it was asked too often.
    UpstreamLimited,
    /// The slow API did not answer in time.
    UpstreamSlow,
    /// Our own fault.
    Internal(anyhow::Error),
}

impl Failure {
    /// Wraps an error that visitors should not read.
    pub fn internal(error: impl Into<anyhow::Error>) -> Self {
        Failure::Internal(error.into())
    }

    /// Returns title, detail and advice for the visitor.
    pub(crate) fn texts(&self) -> [&'static str; 3] {
        match self {
            Failure::NotFound => not_found_texts(),
            Failure::BadRequest(detail) => ["Bad request", detail, "Go back, check what you entered, and try again."],
            Failure::Csrf => [
                "The form was not accepted",
                "It was not sent from a page of this site, or the page was open for too long.",
                "Go back, reload the page, and send the form again. Cookies must be allowed.",
            ],
            Failure::SignIn { .. } => ["Sign in", "This page is for staff.", "Sign in and come back."],
            Failure::Forbidden => [
                "Not allowed",
                "Your account may not do this.",
                "Ask somebody who looks after the accounts to put you into a group that may.",
            ],
            Failure::UpstreamFailed(_) => [
                "The API does not answer",
                "The page needs data from another server, which is down or answers with an error.",
                "Try again in a minute. If you run this site: check upstream.base_url.",
            ],
            Failure::UpstreamLimited => [
                "The API was asked too often",
                "The page needs data from another server, which refuses more requests for now.",
                "Try again in a few minutes.",
            ],
            Failure::UpstreamSlow => [
                "The API is too slow",
                "The page needs data from another server, which did not answer in time.",
                "Try again in a minute. If you run this site: raise upstream.timeout_seconds.",
            ],
            Failure::Internal(_) => [
                "Something went wrong",
                "The page could not be made. The fault is ours, and it is in the log.",
                "Try again in a minute.",
            ],
        }
    }
}

pub(crate) fn not_found_texts() -> [&'static str; 3] {
    ["Not found", "There is nothing under this address.", "Check the address, or start from the home page."]
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::UpstreamFailed(detail) => write!(f, "upstream failed: {detail}"),
            Failure::Internal(error) => write!(f, "{error}"),
            other => f.write_str(other.texts()[0]),
        }
    }
}

impl error::Error for Failure {}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        match self {
            Failure::NotFound => StatusCode::NOT_FOUND,
            Failure::BadRequest(_) => StatusCode::BAD_REQUEST,
            Failure::Csrf | Failure::Forbidden => StatusCode::FORBIDDEN,
            Failure::SignIn { .. } => StatusCode::SEE_OTHER,
            Failure::UpstreamFailed(_) | Failure::UpstreamLimited => StatusCode::BAD_GATEWAY,
            Failure::UpstreamSlow => StatusCode::GATEWAY_TIMEOUT,
            Failure::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Answers without a page; [`error_pages`](crate::error_pages) adds it.
    fn error_response(&self) -> HttpResponse {
        let mut answer = HttpResponse::new(self.status_code());
        match self {
            Failure::SignIn { next } => {
                let query = serde_html_form::to_string([("next", next)]).unwrap_or_default();
                if let Ok(address) = HeaderValue::try_from(format!("/admin/login/?{query}")) {
                    answer.headers_mut().insert(LOCATION, address);
                }
            }
            Failure::Internal(error) => log::error!("a page failed: {error:#}"),
            Failure::UpstreamFailed(_) | Failure::UpstreamLimited | Failure::UpstreamSlow => log::warn!("{self}"),
            _ => {}
        }
        answer.extensions_mut().insert(Texts(self.texts()));
        answer
    }
}

impl From<larder_models::Error> for Failure {
    fn from(error: larder_models::Error) -> Self {
        match error {
            larder_models::Error::NotFound { .. } => Failure::NotFound,
            other => Failure::internal(other),
        }
    }
}

impl From<LoadError<larder_models::Error>> for Failure {
    fn from(error: LoadError<larder_models::Error>) -> Self {
        Failure::internal(error)
    }
}

impl From<larder_cache::template::TemplateError> for Failure {
    fn from(error: larder_cache::template::TemplateError) -> Self {
        Failure::internal(error)
    }
}

impl From<actix_web::error::BlockingError> for Failure {
    fn from(error: actix_web::error::BlockingError) -> Self {
        Failure::Internal(anyhow::anyhow!("{error}"))
    }
}

/// Title, detail and advice of a failure, in the extensions of its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Texts(pub(crate) [&'static str; 3]);

/// Returns a redirect after a form was sent.
pub fn see_other(address: &str) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((LOCATION, address)).insert_header(ContentType::plaintext()).finish()
}

/// What no page with personal content may lack.
pub const NEVER_CACHED: (header::HeaderName, HeaderValue) =
    (CACHE_CONTROL, HeaderValue::from_static("max-age=0, no-cache, no-store, must-revalidate, private"));
