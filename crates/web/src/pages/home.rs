//! The home page: it calls an API that takes two seconds, so it is worth caching.

use std::time::Instant;

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use reqwest::StatusCode;
use serde::Serialize;

use crate::{failure::Failure, state::State};

#[derive(Serialize)]
struct HomePage<'a> {
    section: &'static str,
    results: Results<'a>,
}

#[derive(Serialize)]
struct Results<'a> {
    time: String,
    date_ms: i64,
    delay_seconds: u64,
    upstream: &'a str,
    took_ms: u128,
}

pub(super) async fn home(state: web::Data<State>) -> Result<HttpResponse, Failure> {
    let delay_seconds = state.settings.upstream.delay_seconds;
    let started = Instant::now();
    let received = call_api(&state, delay_seconds).await?;
    let results = Results {
        time: received.strftime("%H:%M:%S").to_string(),
        date_ms: received.as_millisecond(),
        delay_seconds,
        upstream: &state.upstream,
        took_ms: started.elapsed().as_millis(),
    };
    state.page("home.html", &HomePage { section: "home", results })
}

/// Calls the API and returns when its answer was there.
async fn call_api(state: &State, seconds: u64) -> Result<Timestamp, Failure> {
    let address = format!("{}/delay/{seconds}", state.upstream);
    let failed = |error: reqwest::Error| {
        if error.is_timeout() {
            Failure::UpstreamSlow
        } else {
            Failure::UpstreamFailed(format!("{:#}", anyhow::Error::from(error)))
        }
    };
    let answer = state.client.get(&address).send().await.map_err(failed)?;
    match answer.status() {
        status if status.is_success() => {}
        StatusCode::TOO_MANY_REQUESTS => return Err(Failure::UpstreamLimited),
        StatusCode::GATEWAY_TIMEOUT => return Err(Failure::UpstreamSlow),
        status => return Err(Failure::UpstreamFailed(format!("{address} answered {status}"))),
    }
    answer.json::<serde_json::Value>().await.map_err(failed)?;
    Ok(Timestamp::now())
}
