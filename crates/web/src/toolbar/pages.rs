//! The pages of the toolbar.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use actix_web::{HttpRequest, HttpResponse, web};
use larder_cache::{Caches, Expiry, Key, explain::Explanation, settings::redacted, template::Templates};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::{
    Toolbar,
    record::{Call, Record},
};
use crate::{
    address,
    failure::{Failure, see_other},
    state::State,
    text::{length, shown_ms},
};

/// How many entries of a request are looked at again for its page.
const MAX_EXPLAINED: usize = 50;

#[derive(Serialize)]
struct HistoryPage {
    records: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    id: u64,
    at: i64,
    method: String,
    uri: String,
    status: u16,
    took: String,
    outcome: Option<String>,
    hits: usize,
    look_ups: usize,
    queries: usize,
}

#[derive(Serialize)]
struct RequestPage<'a> {
    record: &'a Record,
    summary: String,
    calls: Vec<ShownCall>,
    /// Where each statement comes from.
    places: Vec<Option<String>>,
    sql_took: String,
    settings: Vec<(String, String)>,
    token: String,
    is_get: bool,
}

/// A call, with what its entry says now.
#[derive(Serialize)]
struct ShownCall {
    place: Option<String>,
    entry: Option<EntryNow>,
}

#[derive(Serialize)]
struct EntryNow {
    age: String,
    /// How much longer it is good.
    left: String,
    tags: Vec<String>,
}

pub(super) async fn history(state: web::Data<State>, toolbar: web::Data<Toolbar>) -> Result<HttpResponse, Failure> {
    let line = |record: &Arc<Record>| {
        let (hits, look_ups) = record.look_ups();
        Line {
            id: record.id,
            at: record.at,
            method: record.method.clone(),
            uri: record.uri.clone(),
            status: record.status,
            took: shown_ms(super::record::millis(record.took)),
            outcome: record.outcome.clone(),
            hits,
            look_ups,
            queries: record.noted.queries.len() + record.noted.more_queries,
        }
    };
    state.page("toolbar/history.html", &HistoryPage { records: toolbar.0.records.all().iter().map(line).collect() })
}

pub(super) async fn request(
    state: web::Data<State>,
    toolbar: web::Data<Toolbar>,
    id: web::Path<u64>,
) -> Result<HttpResponse, Failure> {
    let record = toolbar.0.records.get(*id).ok_or(Failure::NotFound)?;
    let (caches, templates, looked_at) = (state.caches.clone(), state.templates.clone(), Arc::clone(&record));
    let look = move || {
        let mut entries = entries(&caches, &looked_at.noted.calls);
        let calls = looked_at.noted.calls.iter().map(|call| ShownCall {
            place: if call.level == "fragment" { in_template(&templates, &call.label) } else { call.place.line() },
            // Once; the calls after it are about the same.
            entry: call.key.as_ref().and_then(|key| entries.remove(&(&*call.alias, key))),
        });
        let calls: Vec<ShownCall> = calls.collect();
        let places: Vec<Option<String>> = looked_at.noted.queries.iter().map(|query| query.place.line()).collect();
        (calls, places)
    };
    let (calls, places) = web::block(look).await?;
    let page = RequestPage {
        summary: record.summary(record.at),
        calls,
        places,
        sql_took: shown_ms(record.noted.queries.iter().map(|query| query.took_ms).sum()),
        settings: settings(&state),
        token: toolbar.0.token.clone(),
        is_get: record.method == "GET",
        record: &record,
    };
    state.page("toolbar/request.html", &page)
}

/// Returns where a fragment stands: `objects/_list.html:3`.
fn in_template(templates: &Templates, label: &str) -> Option<String> {
    // The label says what it varies by, too.
    let name = label.split_once(' ').map_or(label, |(name, _)| name);
    let places = templates.fragments().filter(|(fragment, ..)| *fragment == name);
    places
        .map(|(_, template, line)| format!("templates/{template}:{line}"))
        .reduce(|all, place| format!("{all}, {place}"))
}

/// Looks at the entries of calls as they are now.
fn entries<'c>(caches: &Caches, calls: &'c [Call]) -> HashMap<(&'c str, &'c Key<'static>), EntryNow> {
    let mut entries = HashMap::new();
    let keys = calls.iter().filter_map(|call| Some((call, call.key.as_ref()?)));
    let mut looked_at = HashSet::new();
    for (call, key) in keys {
        if looked_at.len() == MAX_EXPLAINED || !looked_at.insert((&call.alias, key)) {
            continue;
        }
        let explained = caches.get(&call.alias).and_then(|cache| cache.blocking().explain(key.clone()));
        if let Some(entry) = explained.ok().and_then(entry_now) {
            entries.insert((&*call.alias, key), entry);
        }
    }
    entries
}

fn entry_now(explanation: Explanation) -> Option<EntryNow> {
    let (entry, now) = (explanation.entry?, explanation.now);
    // Of a page its headers say how long it is fresh; the entry says how long it is kept.
    let end = if entry.fresh_until == Expiry::Never { entry.kept_until } else { entry.fresh_until };
    let left = match end {
        Expiry::Never => "kept for ever".to_owned(),
        Expiry::At(end) => match end.saturating_since(now) {
            Duration::ZERO => "stale".to_owned(),
            left => format!("{} left", length(left)),
        },
    };
    let tags = entry.tags.into_iter().map(|tag| tag.name).collect();
    Some(EntryNow { age: length(now.saturating_since(entry.created)), left, tags })
}

/// Returns the settings, without what lets somebody in.
fn settings(state: &State) -> Vec<(String, String)> {
    let server = &state.settings.server;
    let site_cache = state.settings.site_cache.as_ref();
    let mut settings = vec![
        ("server.bind".to_owned(), server.bind.clone()),
        ("server.allowed_hosts".to_owned(), server.allowed_hosts.join(", ")),
        ("database".to_owned(), state.database.url().to_owned()),
        ("upstream".to_owned(), redacted(&state.upstream)),
        (
            "site_cache".to_owned(),
            site_cache.map_or_else(|| "off".to_owned(), |site| format!("{} s in {}", site.seconds, site.alias)),
        ),
    ];
    settings.extend(state.caches.iter().map(|(alias, settings, _)| (format!("caches.{alias}"), settings.address())));
    settings
}

#[derive(Deserialize)]
pub(super) struct Purge {
    url: String,
    token: String,
}

pub(super) async fn purge(
    request: HttpRequest,
    state: web::Data<State>,
    toolbar: web::Data<Toolbar>,
    form: web::Form<Purge>,
) -> Result<HttpResponse, Failure> {
    let is_ours = bool::from(form.token.as_bytes().ct_eq(toolbar.0.token.as_bytes()));
    if !is_ours || !address::is_from_here(&request) {
        return Err(Failure::Csrf);
    }
    let path = super::compare::page_of(&form.url)?;
    let url = address::absolute(&request, &path);
    let count = state.pages.purge_url(&url).await.map_err(Failure::internal)?;
    log::info!("the toolbar purged {url}: {count} entries");
    Ok(see_other(&path))
}
