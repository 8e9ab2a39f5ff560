//! What the caches have done, for Prometheus.

use actix_web::{HttpMessage, HttpRequest, HttpResponse, http::header::CONTENT_TYPE, web};

use crate::{
    failure::{Failure, NEVER_CACHED},
    peer::Peer,
    state::State,
};

/// Exposition format 0.0.4.
const TEXT_FORMAT: (actix_web::http::header::HeaderName, &str) =
    (CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");

/// Answers the addresses of the settings and, to everybody else, that there is no such page.
pub(super) async fn metrics(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, Failure> {
    if !Peer::noted(&request.extensions()).is_one_of(&state.settings.server.metrics_allow) {
        return Err(Failure::NotFound);
    }
    Ok(HttpResponse::Ok().insert_header(TEXT_FORMAT).insert_header(NEVER_CACHED).body(state.caches.prometheus()))
}
