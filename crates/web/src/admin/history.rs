//! What was done in the admin, by whom and when.

use std::collections::HashMap;

use larder_models::{Action, Db, LogEntry, Model, User};
use serde::Serialize;

use super::MODELS;

/// How many of the latest actions the first page shows.
const RECENT: u32 = 10;

/// How many actions the page of an object shows.
const OF_OBJECT: usize = 20;

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

/// Returns the latest actions.
///
/// # Errors
/// The database's.
pub(super) fn recent(db: &mut Db) -> larder_models::Result<Vec<Line>> {
    let entries = LogEntry::recent(db, RECENT)?;
    lines(db, entries)
}

/// Returns what was done to an object last, the latest first.
///
/// # Errors
/// The database's.
pub(super) fn of_object(db: &mut Db, model: &str, id: i64) -> larder_models::Result<Vec<Line>> {
    let mut entries = LogEntry::for_object(db, model, id)?;
    entries.truncate(OF_OBJECT);
    lines(db, entries)
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
        serde_json::Value::String(text) => match text.char_indices().nth(VALUE_CHARS) {
            Some((end, _)) => Some(format!("{}…", &text[..end])),
            None => Some(text.clone()),
        },
        serde_json::Value::Bool(true) => Some("yes".to_owned()),
        serde_json::Value::Bool(false) => Some("no".to_owned()),
        other => Some(other.to_string()),
    }
}
