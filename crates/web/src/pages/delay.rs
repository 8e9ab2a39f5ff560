//! The built-in slow API: it answers after so many seconds, in the form of httpbin's `/delay/{seconds}`.

use std::{collections::BTreeMap, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, HeaderName},
    web,
};
use serde::Serialize;

use crate::settings::MAX_DELAY_SECONDS;

#[derive(Serialize)]
struct Echo {
    args: BTreeMap<String, String>,
    data: &'static str,
    files: BTreeMap<String, String>,
    form: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    origin: String,
    url: String,
}

#[derive(Serialize)]
struct Refused {
    error: String,
}

/// Waits and then tells the caller what he sent. More than ten seconds count as ten, as at httpbin.
pub(super) async fn delay(
    request: HttpRequest,
    seconds: web::Path<String>,
    args: web::Query<BTreeMap<String, String>>,
) -> HttpResponse {
    let Some(seconds) = seconds.parse::<f64>().ok().filter(|seconds| *seconds >= 0.0) else {
        let error = format!("the delay must be a number of seconds from 0 to {MAX_DELAY_SECONDS}");
        return HttpResponse::BadRequest().json(Refused { error });
    };
    tokio::time::sleep(Duration::from_secs_f64(seconds.min(MAX_DELAY_SECONDS as f64))).await;
    let text = |value: &actix_web::http::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    // What a script of this site must not read is not told.
    let is_secret = |name: &HeaderName| *name == COOKIE || *name == AUTHORIZATION;
    let told = request.headers().iter().filter(|(name, _)| !is_secret(name));
    let headers: BTreeMap<_, _> = told.map(|(name, value)| (name.to_string(), text(value))).collect();
    let host = headers.get("host").map_or("", String::as_str);
    let echo = Echo {
        args: args.into_inner(),
        data: "",
        files: BTreeMap::new(),
        form: BTreeMap::new(),
        origin: request.peer_addr().map_or_else(String::new, |peer| peer.ip().to_string()),
        url: format!("http://{host}{}", request.uri()),
        headers,
    };
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(echo)
}
