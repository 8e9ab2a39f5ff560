//! The live view: the decisions of the caches, sent to the browser as they are made (server-sent events).

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, HeaderName},
    web,
};
use futures_util::stream;
use serde::{Deserialize, Serialize};

use super::staff::{Frame, Staff};
use crate::{
    failure::Failure,
    observe::feed::{News, Position, Watcher},
    state::State,
};

/// How long a connection lasts. The browser comes back by itself, and is asked again who it is.
const LIFETIME: Duration = Duration::from_secs(10 * 60);

/// How often something is sent when nothing happens, so that whatever is in between keeps the connection.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// How soon a browser comes back that was cut off.
const RETRY_MS: u32 = 1000;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

#[derive(Serialize)]
struct LivePage {
    #[serde(flatten)]
    frame: Frame,
    /// The line after which the view begins.
    after: String,
    aliases: Vec<String>,
}

pub(super) async fn page(state: web::Data<State>, staff: Staff) -> Result<HttpResponse, Failure> {
    staff.require_caches()?;
    let page = LivePage {
        frame: Frame::of(&staff.session)?,
        after: state.observed.feed.expect().to_string(),
        aliases: state.caches.iter().map(|(alias, ..)| alias.to_owned()).collect(),
    };
    state.page("admin/live.html", &page)
}

#[derive(Deserialize)]
pub(super) struct Query {
    #[serde(default)]
    after: String,
}

pub(super) async fn stream(
    request: HttpRequest,
    state: web::Data<State>,
    staff: Staff,
    query: web::Query<Query>,
) -> Result<HttpResponse, Failure> {
    staff.require_caches()?;
    // The browser says which line it had last when it comes back.
    let again = request.headers().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let watcher = state.observed.feed.watch(again.unwrap_or(&query.after).parse().ok());
    let end = tokio::time::Instant::now() + LIFETIME;
    let hello = format!("retry: {RETRY_MS}\n\n");
    let texts = stream::unfold((Some(hello), watcher), move |(hello, mut watcher)| async move {
        let text = match hello {
            Some(hello) => hello,
            None => next(&mut watcher, end).await?,
        };
        Some((Ok::<_, actix_web::Error>(web::Bytes::from(text)), (None, watcher)))
    });
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        // Nobody in between shall collect before he hands on.
        .insert_header((HeaderName::from_static("x-accel-buffering"), "no"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .streaming(texts))
}

async fn next(watcher: &mut Watcher, end: tokio::time::Instant) -> Option<String> {
    let until = end.min(tokio::time::Instant::now() + SIGN_OF_LIFE);
    match tokio::time::timeout_at(until, watcher.next()).await {
        Ok(news) => Some(event(&news?, watcher.position())),
        Err(_) if tokio::time::Instant::now() >= end => None,
        Err(_) => Some(": nothing happened\n\n".to_owned()),
    }
}

/// Writes what happened as one event, whose id says where its last line is.
fn event(news: &News, position: Position) -> String {
    // JSON has no line breaks, which would end the event; numbers and texts can always be written.
    let data = serde_json::to_string(news).unwrap_or_default();
    format!("id: {position}\ndata: {data}\n\n")
}
