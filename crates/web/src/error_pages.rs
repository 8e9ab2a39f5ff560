//! Middleware: the page that says why there is no page.

use actix_web::{
    HttpResponse,
    body::{EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    error::InternalError,
    http::{
        StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    },
    middleware::Next,
    web,
};
use serde::Serialize;

use crate::{
    failure::{Failure, Texts, not_found_texts},
    state::State,
};

#[derive(Serialize)]
struct ErrorPage {
    status: u16,
    title: &'static str,
    detail: &'static str,
    advice: &'static str,
}

/// Gives every error that has no body of its own the page that explains it.
///
/// # Errors
/// Those of the service inside.
pub async fn error_pages<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    let state = request.app_data::<web::Data<State>>().cloned();
    let answer = match next.call(request).await {
        Ok(answer) => answer,
        Err(error) => return Err(with_page(error, state.as_ref())),
    };
    let status = answer.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind != "text/plain; charset=utf-8") {
        return Ok(answer.map_into_left_body());
    }
    let texts = answer.response().extensions().get::<Texts>().cloned();
    let texts = texts.map_or_else(|| texts_for(status), |texts| texts.0);
    let page = page(status, texts, state.as_ref());
    Ok(answer.map_body(|head, _| {
        *head.headers_mut() = page.headers().clone();
        EitherBody::right(page.into_body())
    }))
}

/// A middleware inside failed, such as the session's: nobody has logged that yet, and the answer would be empty.
fn with_page(error: actix_web::Error, state: Option<&web::Data<State>>) -> actix_web::Error {
    let status = error.as_response_error().status_code();
    if status.is_server_error() {
        log::error!("a request failed: {error}");
    }
    let page = page(status, texts_for(status), state);
    InternalError::from_response(error, page).into()
}

fn page(status: StatusCode, texts: [&'static str; 3], state: Option<&web::Data<State>>) -> HttpResponse {
    let [title, detail, advice] = texts;
    let page = ErrorPage { status: status.as_u16(), title, detail, advice };
    let rendered = state.and_then(|state| state.page("error.html", &page).ok());
    let plain = || HttpResponse::Ok().body(format!("{title}\n{detail}\n{advice}\n"));
    let mut answer = rendered.unwrap_or_else(plain);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
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
        _ => ["Something went wrong", "The page could not be made.", "Try again in a minute."],
    }
}
