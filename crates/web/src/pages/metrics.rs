//! What the caches have done, for Prometheus.

use std::net::IpAddr;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CONTENT_TYPE, FORWARDED, VIA},
    web,
};

use crate::{
    failure::{Failure, NEVER_CACHED},
    state::State,
};

/// Exposition format 0.0.4.
const TEXT_FORMAT: (actix_web::http::header::HeaderName, &str) =
    (CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");

/// Answers the addresses of the settings and, to everybody else, that there is no such page. Whoever comes through a
/// proxy is somebody else: the proxy's address says nothing about him.
pub(super) async fn metrics(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, Failure> {
    let peer = request.peer_addr().map(|peer| peer.ip().to_canonical());
    let headers = request.headers();
    let is_direct =
        !(headers.contains_key(FORWARDED) || headers.contains_key("x-forwarded-for") || headers.contains_key(VIA));
    let is_allowed = |peer: IpAddr| state.settings.server.metrics_allow.contains(&peer);
    if !is_direct || !peer.is_some_and(is_allowed) {
        return Err(Failure::NotFound);
    }
    Ok(HttpResponse::Ok().insert_header(TEXT_FORMAT).insert_header(NEVER_CACHED).body(state.caches.prometheus()))
}
