//! What was done in the admin, by whom and when.

use std::collections::HashMap;

use actix_web::{HttpResponse, web};
use diesel::prelude::*;
use larder_models::{Action, Db, LogEntry, Model, User, Verb, schema::log_entry};
use serde::{Deserialize, Serialize};

use super::{
    MODELS, find,
    registry::{Asker, Names},
    staff::{Frame, Staff},
};
use crate::{failure::Failure, state::State, text::cut};

/// How many of the latest actions the first page shows.
const RECENT: u32 = 10;

/// How many actions the form of an object shows, and how many a page of its history.
const IN_FORM: u32 = 5;
const PER_PAGE: u32 = 50;

/// How much of an old and a new value is shown.
const VALUE_CHARS: usize = 200;

/// One action.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    action: String,
    username: String,
    created: i64,
    object_repr: String,
    href: Option<String>,
    changes: Vec<ChangeLine>,
}

#[derive(Debug, Serialize)]
struct ChangeLine {
    field: String,
    old: Option<String>,
    new: Option<String>,
}

/// Returns the latest actions, of models that somebody may see.
///
/// # Errors
/// The database's.
pub(super) fn recent(db: &mut Db, asker: &Asker) -> larder_models::Result<Vec<Line>> {
    let seen = MODELS.iter().filter(|model| model.allows(asker, Verb::View));
    let seen: Vec<&'static str> = seen.map(|model| model.names().model).collect();
    let of_those = move |rows: <LogEntry as Model>::Rows| rows.filter(log_entry::model.eq_any(seen.clone()));
    let newest_first = |rows: <LogEntry as Model>::Rows| rows.order((log_entry::created.desc(), log_entry::id.desc()));
    let entries = LogEntry::page(db, 1, RECENT, of_those, newest_first)?.items;
    lines(db, entries)
}

/// Returns what was done to an object last, the latest first.
///
/// # Errors
/// The database's.
pub(super) fn of_object(db: &mut Db, model: &'static str, id: i64) -> larder_models::Result<Vec<Line>> {
    let page = entries(db, model, id, 1, IN_FORM)?;
    lines(db, page.items)
}

fn entries(
    db: &mut Db,
    model: &'static str,
    id: i64,
    page: u32,
    per_page: u32,
) -> larder_models::Result<larder_models::Page<LogEntry>> {
    let of_object = move |rows: <LogEntry as Model>::Rows| {
        rows.filter(log_entry::model.eq(model)).filter(log_entry::object_id.eq(id))
    };
    LogEntry::page(db, page, per_page, of_object, |rows| rows.order((log_entry::created.desc(), log_entry::id.desc())))
}

#[derive(Serialize)]
struct HistoryPage {
    #[serde(flatten)]
    frame: Frame,
    names: Names,
    pk: i64,
    label: String,
    history: Vec<Line>,
    page: u32,
    pages: u32,
    previous_href: Option<String>,
    next_href: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Query {
    #[serde(default)]
    p: String,
}

/// Answers with all that was done to an object, page by page.
pub(super) async fn page(
    state: web::Data<State>,
    staff: Staff,
    path: web::Path<(String, String)>,
    query: web::Query<Query>,
) -> Result<HttpResponse, Failure> {
    let (model, pk) = (find(&path.0)?, path.1.parse().unwrap_or(0));
    staff.require(model, Verb::View)?;
    let (names, asked) = (model.names(), query.p.parse().unwrap_or(1));
    let table = names.model;
    let read = state.read(move |db| {
        let Some(row) = model.open(db, Some(pk))? else { return Ok(None) };
        let found = entries(db, table, pk, asked, PER_PAGE)?;
        let (page, pages) = (found.page, found.pages);
        Ok(Some((row.label, lines(db, found.items)?, page, pages)))
    });
    let (label, history, page, pages) = read.await?.ok_or(Failure::NotFound)?;
    let at = |page: u32| format!("{}{pk}/history/?p={page}", names.list_href());
    let page = HistoryPage {
        frame: Frame::of(&staff.session)?,
        pk,
        label,
        history,
        page,
        pages,
        previous_href: (page > 1).then(|| at(page - 1)),
        next_href: (page < pages).then(|| at(page + 1)),
        names,
    };
    state.page("admin/history.html", &page)
}

fn lines(db: &mut Db, entries: Vec<LogEntry>) -> larder_models::Result<Vec<Line>> {
    let names = usernames(db, &entries)?;
    let line = |entry: LogEntry| {
        let changes = entry.changes()?.into_iter().map(|change| ChangeLine {
            field: change.field.into_owned(),
            old: shown(&change.old),
            new: shown(&change.new),
        });
        let model = MODELS.iter().map(|model| model.names()).find(|names| names.model == entry.model);
        let is_there = entry.action != Action::Deleted.as_str();
        let somebody = || "somebody".to_owned();
        Ok(Line {
            action: entry.action,
            username: entry.user_id.and_then(|id| names.get(&id).cloned()).unwrap_or_else(somebody),
            created: entry.created,
            href: model.filter(|_| is_there).map(|names| format!("{}{}/change/", names.list_href(), entry.object_id)),
            changes: changes.collect(),
            object_repr: entry.object_repr,
        })
    };
    entries.into_iter().map(line).collect()
}

fn usernames(db: &mut Db, entries: &[LogEntry]) -> larder_models::Result<HashMap<i64, String>> {
    let mut names = HashMap::new();
    for id in entries.iter().filter_map(|entry| entry.user_id) {
        if names.contains_key(&id) {
            continue;
        }
        if let Some(user) = User::find(db, id)? {
            names.insert(id, user.username);
        }
    }
    Ok(names)
}

fn shown(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(cut(text, VALUE_CHARS).into_owned()),
        serde_json::Value::Bool(true) => Some("yes".to_owned()),
        serde_json::Value::Bool(false) => Some("no".to_owned()),
        other => Some(other.to_string()),
    }
}
