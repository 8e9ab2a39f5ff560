//! The page as it would be without any cache: the same app answers beside this one with the dummy backend.

use std::time::Instant;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{CONTENT_TYPE, COOKIE, HOST},
    },
    web,
};
use serde::{Deserialize, Serialize};
use similar::{ChangeTag, TextDiff};

use super::{PATH, Toolbar, WithoutCache, record::millis};
use crate::{failure::Failure, state::State, text::shown_ms};

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
    is_same: bool,
    lines: Vec<Line>,
    more: usize,
}

#[derive(Serialize)]
struct Side {
    status: u16,
    took: String,
    bytes: usize,
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
    cache: String,
    body: web::Bytes,
}

/// Returns the address if it is a path of this site, and none of the toolbar.
///
/// # Errors
/// [`Failure::BadRequest`].
pub(super) fn inside(url: &str) -> Result<&str, Failure> {
    let is_path = url.starts_with('/') && !url.starts_with("//") && !url.contains('\\') && !url.starts_with(PATH);
    let is_plain = url.bytes().all(|byte| byte.is_ascii_graphic());
    if is_path && is_plain { Ok(url) } else { Err(Failure::BadRequest("That is no path of this site.")) }
}

/// Asks for a page as the visitor would.
async fn ask(request: &HttpRequest, state: &State, address: Option<&String>, path: &str) -> Result<Answer, Failure> {
    let address = address.ok_or_else(|| Failure::Internal(anyhow::anyhow!("the server has not started yet")))?;
    let begun = Instant::now();
    let mut asked = state.client.get(format!("{address}{path}"));
    for name in [COOKIE, HOST] {
        if let Some(value) = request.headers().get(&name) {
            asked = asked.header(name.as_str(), value.as_bytes());
        }
    }
    let answer = asked.send().await.map_err(Failure::internal)?;
    let status = StatusCode::from_u16(answer.status().as_u16()).map_err(Failure::internal)?;
    let header =
        |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (kind, cache) = (header(CONTENT_TYPE.as_str()), header("cache-status"));
    let body = answer.bytes().await.map_err(Failure::internal)?;
    Ok(Answer { status, took_ms: millis(begun.elapsed()), kind, cache, body })
}

pub(super) async fn without_cache(
    request: HttpRequest,
    state: web::Data<State>,
    toolbar: web::Data<Toolbar>,
    query: web::Query<Query>,
) -> Result<HttpResponse, Failure> {
    let answer = ask(&request, &state, toolbar.0.without_cache.get(), inside(&query.url)?).await?;
    let mut page = HttpResponse::build(answer.status);
    page.content_type(answer.kind);
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
    let path = inside(&query.url)?;
    let cached = ask(&request, &state, toolbar.0.here.get(), path).await?;
    let fresh = ask(&request, &state, toolbar.0.without_cache.get(), path).await?;
    let is_same = cached.status == fresh.status && cached.body == fresh.body;
    let (lines, more) = differences(&String::from_utf8_lossy(&cached.body), &String::from_utf8_lossy(&fresh.body));
    let side = |answer: &Answer| Side {
        status: answer.status.as_u16(),
        took: shown_ms(answer.took_ms),
        bytes: answer.body.len(),
        cache: answer.cache.clone(),
    };
    let page = ComparePage { url: path.to_owned(), cached: side(&cached), fresh: side(&fresh), is_same, lines, more };
    state.page("toolbar/compare.html", &page)
}

/// Returns the lines in which two texts differ, with some around them, and how many more there are.
fn differences(cached: &str, fresh: &str) -> (Vec<Line>, usize) {
    let diff = TextDiff::from_lines(cached, fresh);
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
        for url in ["/", "/objects/?q=jam"] {
            assert_eq!(inside(url).unwrap(), url);
        }
        for url in
            ["", "//evil.test/", "/\\evil.test", "http://evil.test/", "/__toolbar/purge/", "/a b", "/\r\nHost: x"]
        {
            assert!(inside(url).is_err(), "{url}");
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
