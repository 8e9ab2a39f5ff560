//! What a handler can answer instead of a page, and the page that says so.
//!
//! A visitor reads a fixed text that says what to do; the detail is in the log.

use std::{error, fmt};

use actix_web::{
    HttpResponse, ResponseError,
    body::{BoxBody, EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{self, CACHE_CONTROL, CONTENT_TYPE, ContentType, HeaderValue, LOCATION},
    },
    middleware::Next,
    web,
};
use serde::Serialize;

use crate::state::State;

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
    /// The slow API answered with an error, or not at all.
    UpstreamFailed(String),
    /// The slow API refused because it was asked too often.
    UpstreamLimited,
    /// The slow API did not answer in time.
    UpstreamSlow,
    /// Our own fault.
    Internal(Box<dyn error::Error + Send + Sync>),
}

impl Failure {
    /// Wraps an error that visitors should not read.
    pub fn internal(error: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        Failure::Internal(error.into())
    }

    /// Returns title, detail and advice for the visitor.
    fn texts(&self) -> [&'static str; 3] {
        match self {
            Failure::NotFound => not_found_texts(),
            Failure::BadRequest(detail) => ["Bad request", detail, "Go back, check what you entered, and try again."],
            Failure::Csrf => [
                "The form was not accepted",
                "It was not sent from a page of this site, or the page was open for too long.",
                "Go back, reload the page, and send the form again. Cookies must be allowed.",
            ],
            Failure::SignIn { .. } => ["Sign in", "This page is for staff.", "Sign in and come back."],
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

fn not_found_texts() -> [&'static str; 3] {
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

impl error::Error for Failure {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Failure::Internal(error) => error.source(),
            _ => None,
        }
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        match self {
            Failure::NotFound => StatusCode::NOT_FOUND,
            Failure::BadRequest(_) => StatusCode::BAD_REQUEST,
            Failure::Csrf => StatusCode::FORBIDDEN,
            Failure::SignIn { .. } => StatusCode::SEE_OTHER,
            Failure::UpstreamFailed(_) | Failure::UpstreamLimited => StatusCode::BAD_GATEWAY,
            Failure::UpstreamSlow => StatusCode::GATEWAY_TIMEOUT,
            Failure::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Answers without a page; [`error_pages`] adds it.
    fn error_response(&self) -> HttpResponse {
        let mut answer = HttpResponse::new(self.status_code());
        match self {
            Failure::SignIn { next } => {
                let query = serde_html_form::to_string([("next", next)]).unwrap_or_default();
                if let Ok(address) = HeaderValue::try_from(format!("/admin/login/?{query}")) {
                    answer.headers_mut().insert(LOCATION, address);
                }
            }
            Failure::Internal(error) => log::error!("a page failed: {}", Causes(error.as_ref())),
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

impl From<larder_cache::template::TemplateError> for Failure {
    fn from(error: larder_cache::template::TemplateError) -> Self {
        Failure::internal(error)
    }
}

impl From<actix_web::error::BlockingError> for Failure {
    fn from(error: actix_web::error::BlockingError) -> Self {
        Failure::internal(error.to_string())
    }
}

/// An error with all its causes.
struct Causes<'a>(&'a (dyn error::Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[derive(Clone)]
struct Texts([&'static str; 3]);

#[derive(Serialize)]
struct ErrorPage {
    status: u16,
    title: &'static str,
    detail: &'static str,
    advice: &'static str,
}

/// Middleware: gives every error that has no body of its own the page that explains it.
///
/// # Errors
/// Those of the service inside.
pub async fn error_pages<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    let answer = next.call(request).await?;
    let status = answer.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind != "text/plain; charset=utf-8") {
        return Ok(answer.map_into_left_body());
    }
    let texts = answer.response().extensions().get::<Texts>().cloned();
    let [title, detail, advice] = texts.map_or_else(|| texts_for(status), |texts| texts.0);
    let page = ErrorPage { status: status.as_u16(), title, detail, advice };
    let state = answer.request().app_data::<web::Data<State>>().cloned();
    let rendered = state.and_then(|state| state.page("error.html", &page).ok());
    Ok(answer.map_body(|head, _| {
        head.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let body = match rendered {
            Some(page) => {
                let html = HeaderValue::from_static("text/html; charset=utf-8");
                head.headers_mut().insert(CONTENT_TYPE, html);
                page.into_body()
            }
            None => BoxBody::new(format!("{title}\n{detail}\n{advice}\n")),
        };
        EitherBody::right(body)
    }))
}

/// Texts for errors that are not ours but actix's.
fn texts_for(status: StatusCode) -> [&'static str; 3] {
    match status {
        StatusCode::NOT_FOUND => not_found_texts(),
        StatusCode::METHOD_NOT_ALLOWED => [
            "Not allowed",
            "This address does not take that kind of request.",
            "Go back and use the links of the page.",
        ],
        StatusCode::PAYLOAD_TOO_LARGE => {
            ["Too large", "What you sent is larger than the site takes.", "Shorten it and try again."]
        }
        status if status.is_client_error() => Failure::BadRequest("The request cannot be understood.").texts(),
        _ => Failure::internal("").texts(),
    }
}

/// Returns a redirect after a form was sent.
pub fn see_other(address: &str) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((LOCATION, address)).insert_header(ContentType::plaintext()).finish()
}

/// What no page with personal content may lack.
pub const NEVER_CACHED: (header::HeaderName, HeaderValue) =
    (CACHE_CONTROL, HeaderValue::from_static("max-age=0, no-cache, no-store, must-revalidate, private"));
