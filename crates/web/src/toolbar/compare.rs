//! The page as it would be without any cache: the same app answers beside this one with the dummy backend.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{ACCEPT, ACCEPT_LANGUAGE, CONTENT_TYPE, COOKIE, HOST, LOCATION},
    },
    web,
};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use similar::{ChangeTag, TextDiff};

use super::{LEFT_OUT, OWN, Toolbar, WithoutCache, record::millis};
use crate::{address, failure::Failure, state::State, text::shown_ms};

/// How long a page may take to be made.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// How large a page may be.
const MAX_BYTES: usize = 4_000_000;

/// How long differences are looked for, before what was found is shown.
const DIFF_TIME: Duration = Duration::from_secs(2);

/// How many lines around a difference are shown.
const CONTEXT: usize = 2;

/// How many lines are shown.
const MAX_LINES: usize = 400;

#[derive(Deserialize)]
pub(super) struct Query {
    url: String,
}

#[derive(Serialize)]
struct ComparePage {
    url: String,
    cached: Side,
    fresh: Side,
    /// `None` if there were not two answers.
    is_same: Option<bool>,
    lines: Vec<Line>,
    more: usize,
}

#[derive(Serialize)]
struct Side {
    /// The status, or why there is no answer.
    answer: String,
    took: String,
    bytes: String,
    /// What the page cache said.
    cache: String,
}

#[derive(Serialize)]
struct Line {
    /// `same`, `cached` or `fresh`; `gap` where lines are left out.
    side: &'static str,
    text: String,
}

struct Answer {
    status: StatusCode,
    took_ms: f64,
    kind: String,
    location: String,
    cache: String,
    body: Vec<u8>,
}

/// Returns a page of this site by its path, as it will be asked for.
///
/// # Errors
/// [`Failure::BadRequest`].
pub(super) fn page_of(url: &str) -> Result<String, Failure> {
    let base = Url::parse("http://localhost").map_err(Failure::internal)?;
    let page = address::inside(url).and_then(|path| base.join(path).ok());
    let path = page.map(|page| match page.query() {
        Some(query) => format!("{}?{query}", page.path()),
        None => page.path().to_owned(),
    });
    // Once more, because it has no dots any more, by which it could be another one.
    let is_page =
        |path: &String| address::inside(path).is_some() && !LEFT_OUT.iter().any(|left_out| path.starts_with(left_out));
    path.filter(is_page).ok_or(Failure::BadRequest("That is no page of this site."))
}

/// Asks for a page as the visitor would. What stands in the way is said in words.
async fn ask(
    request: &HttpRequest,
    toolbar: &Toolbar,
    address: &OnceLock<String>,
    path: &str,
) -> Result<Result<Answer, String>, Failure> {
    let address = address.get().ok_or_else(|| Failure::Internal(anyhow::anyhow!("the server has not started yet")))?;
    let begun = Instant::now();
    let mut asked = toolbar.0.client.get(format!("{address}{path}")).header(OWN, &toolbar.0.own);
    for name in [COOKIE, HOST, ACCEPT, ACCEPT_LANGUAGE] {
        if let Some(value) = request.headers().get(&name) {
            asked = asked.header(name.as_str(), value.as_bytes());
        }
    }
    let in_words = |error: reqwest::Error| match error.is_timeout() {
        true => format!("no answer within {} seconds", PATIENCE.as_secs()),
        false => format!("{:#}", anyhow::Error::new(error)),
    };
    let mut answer = match asked.send().await {
        Ok(answer) => answer,
        Err(error) => return Ok(Err(in_words(error))),
    };
    let status = StatusCode::from_u16(answer.status().as_u16()).map_err(Failure::internal)?;
    let header =
        |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let kind = header(CONTENT_TYPE.as_str());
    let (location, cache) = (header(LOCATION.as_str()), header("cache-status"));
    if kind.starts_with("text/event-stream") {
        return Ok(Err("a stream, which has no end".to_owned()));
    }
    let mut body = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_BYTES => {
                return Ok(Err(format!("more than {} MB", MAX_BYTES / 1_000_000)));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => return Ok(Err(in_words(error))),
        }
    }
    Ok(Ok(Answer { status, took_ms: millis(begun.elapsed()), kind, location, cache, body }))
}

pub(super) async fn without_cache(
    request: HttpRequest,
    toolbar: web::Data<Toolbar>,
    query: web::Query<Query>,
) -> Result<HttpResponse, Failure> {
    let answer = match ask(&request, &toolbar, &toolbar.0.without_cache, &page_of(&query.url)?).await? {
        Ok(answer) => answer,
        Err(why) => return Ok(HttpResponse::BadGateway().body(format!("Without cache there is no page: {why}.\n"))),
    };
    let mut page = HttpResponse::build(answer.status);
    page.content_type(answer.kind);
    if answer.status.is_redirection() {
        page.insert_header((LOCATION, answer.location));
    }
    let mut page = page.body(answer.body);
    page.extensions_mut().insert(WithoutCache { took_ms: answer.took_ms });
    Ok(page)
}

pub(super) async fn compare(
    request: HttpRequest,
    state: web::Data<State>,
    toolbar: web::Data<Toolbar>,
    query: web::Query<Query>,
) -> Result<HttpResponse, Failure> {
    let path = page_of(&query.url)?;
    let cached = ask(&request, &toolbar, &toolbar.0.here, &path).await?;
    let fresh = ask(&request, &toolbar, &toolbar.0.without_cache, &path).await?;
    let (cached_side, fresh_side) = (side(&cached), side(&fresh));
    let (is_same, (lines, more)) = match (cached, fresh) {
        (Ok(cached), Ok(fresh)) => {
            let is_same = cached.status == fresh.status && cached.body == fresh.body;
            let text = |answer: Answer| String::from_utf8_lossy(&answer.body).into_owned();
            let (cached, fresh) = (text(cached), text(fresh));
            (Some(is_same), web::block(move || differences(&cached, &fresh)).await?)
        }
        _ => (None, (Vec::new(), 0)),
    };
    let page = ComparePage { url: path, cached: cached_side, fresh: fresh_side, is_same, lines, more };
    state.page("toolbar/compare.html", &page)
}

fn side(answer: &Result<Answer, String>) -> Side {
    match answer {
        Ok(answer) => Side {
            answer: match &*answer.location {
                "" => answer.status.as_u16().to_string(),
                location => format!("{} to {location}", answer.status.as_u16()),
            },
            took: shown_ms(answer.took_ms),
            bytes: answer.body.len().to_string(),
            cache: answer.cache.clone(),
        },
        Err(why) => Side { answer: why.clone(), took: String::new(), bytes: String::new(), cache: String::new() },
    }
}

/// Returns the lines in which two texts differ, with some around them, and how many more there are.
fn differences(cached: &str, fresh: &str) -> (Vec<Line>, usize) {
    let diff = TextDiff::configure().timeout(DIFF_TIME).diff_lines(cached, fresh);
    let mut lines = Vec::new();
    for (position, group) in diff.grouped_ops(CONTEXT).iter().enumerate() {
        if position > 0 {
            lines.push(Line { side: "gap", text: "…".to_owned() });
        }
        for change in group.iter().flat_map(|operation| diff.iter_changes(operation)) {
            let side = match change.tag() {
                ChangeTag::Equal => "same",
                ChangeTag::Delete => "cached",
                ChangeTag::Insert => "fresh",
            };
            lines.push(Line { side, text: change.value().trim_end_matches(['\r', '\n']).to_owned() });
        }
    }
    let more = lines.len().saturating_sub(MAX_LINES);
    lines.truncate(MAX_LINES);
    (lines, more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_this_site_are_asked_for() {
        for (url, page) in [("/", "/"), ("/objects/?q=jam", "/objects/?q=jam"), ("/a/../objects/", "/objects/")] {
            assert_eq!(page_of(url).unwrap(), page);
        }
        let elsewhere =
            ["", "//evil.test/", "/\\evil.test", "http://evil.test/", "/a b", "/\r\nHost: x", "/.//evil.test/"];
        let no_pages = ["/__toolbar/purge/", "/./__toolbar/", "/objects/../admin/live/stream/", "/static/larder.js"];
        for url in elsewhere.into_iter().chain(no_pages) {
            assert!(page_of(url).is_err(), "{url}");
        }
    }

    #[test]
    fn differences_are_shown_with_what_is_around_them() {
        let text = |middle: &str| format!("1\n2\n3\n4\n{middle}\n6\n7\n8\n9\n");
        let (lines, more) = differences(&text("old"), &text("new"));
        let shown: Vec<(&str, &str)> = lines.iter().map(|line| (line.side, &*line.text)).collect();
        let expected =
            [("same", "3"), ("same", "4"), ("cached", "old"), ("fresh", "new"), ("same", "6"), ("same", "7")];
        assert_eq!((shown.as_slice(), more), (expected.as_slice(), 0));
        assert!(differences("a\n", "a\n").0.is_empty());
    }
}
