//! The form of a row: add, change, see, delete, and what becomes of two editors.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use larder_models::{Error, Verb};
use serde::Serialize;
use serde_json::Value;

use super::{
    csrf, find, history,
    list::{DeletePage, back_to, sent},
    registry::{Names, Registered, Row, Sent, ShownFieldset, Stored, Values},
    staff::{Frame, Staff},
};
use crate::{
    failure::{Failure, see_other},
    observe::effects::Effects,
    session::{self, Message},
    state::State,
};

/// Stands for the whole form among its errors, as in Django.
const WHOLE_FORM: &str = "__all__";

pub(super) const WHOLE_FORM_BUSY: &str = "The database is busy. Try again in a moment.";

/// Says of a field in a conflict which value is to be stored.
const TAKE: &str = "_take_";

type Errors = BTreeMap<String, Vec<String>>;

#[derive(Serialize)]
struct FormPage {
    #[serde(flatten)]
    frame: Frame,
    names: Names,
    row: Row,
    sets: Vec<ShownFieldset>,
    errors: Errors,
    history: Vec<history::Line>,
    back: String,
    back_href: String,
    may_save: bool,
    may_delete: bool,
    may_add: bool,
    /// The number of the line after which the live view begins, for those who may see it.
    live: Option<u64>,
}

/// What two editors want.
#[derive(Serialize)]
struct ConflictPage {
    #[serde(flatten)]
    frame: Frame,
    names: Names,
    row: Row,
    back: String,
    /// The last thing that was done with the row, by the other one.
    by: Option<history::Line>,
    differences: Vec<Difference>,
    /// What both want.
    same: Vec<(String, Vec<String>)>,
}

#[derive(Serialize)]
struct Difference {
    name: &'static str,
    label: &'static str,
    theirs: Side,
    mine: Side,
}

/// A value, as it is shown and as it is sent.
#[derive(Serialize)]
struct Side {
    text: String,
    sent: Vec<String>,
}

pub(super) async fn add_form(
    request: HttpRequest,
    state: web::Data<State>,
    staff: Staff,
    path: web::Path<String>,
) -> Result<HttpResponse, Failure> {
    let model = find(&path)?;
    staff.require(model, Verb::Add)?;
    show(&state, &staff, model, None, request.query_string(), None).await
}

pub(super) async fn change_form(
    request: HttpRequest,
    state: web::Data<State>,
    staff: Staff,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Failure> {
    let (model, pk) = (find(&path.0)?, path.1.parse().unwrap_or(0));
    staff.require(model, Verb::View)?;
    show(&state, &staff, model, Some(pk), request.query_string(), None).await
}

pub(super) async fn add(
    request: HttpRequest,
    state: web::Data<State>,
    staff: Staff,
    path: web::Path<String>,
    body: web::Bytes,
) -> Result<HttpResponse, Failure> {
    let model = find(&path)?;
    staff.require(model, Verb::Add)?;
    save(&request, &state, &staff, model, None, &body).await
}

pub(super) async fn change(
    request: HttpRequest,
    state: web::Data<State>,
    staff: Staff,
    path: web::Path<(String, String)>,
    body: web::Bytes,
) -> Result<HttpResponse, Failure> {
    let (model, pk) = (find(&path.0)?, path.1.parse().unwrap_or(0));
    staff.require(model, Verb::Change)?;
    save(&request, &state, &staff, model, Some(pk), &body).await
}

async fn save(
    request: &HttpRequest,
    state: &State,
    staff: &Staff,
    model: &'static dyn Registered,
    pk: Option<i64>,
    body: &[u8],
) -> Result<HttpResponse, Failure> {
    let sent = resolved(sent(body)?);
    let text = |name: &str| sent.get(name).and_then(|texts| texts.first()).map_or("", String::as_str).to_owned();
    csrf::verify(request, &staff.session, &text("csrf_token"))?;
    let (asker, form) = (staff.asker.clone(), sent.clone());
    let read = state.read(move |db| {
        let row = model.open(db, pk)?;
        let is_guarded = !asker.is_superuser && row.as_ref().is_some_and(|row| row.is_guarded);
        Ok((row.is_some(), is_guarded, model.read(db, &asker, &form)?))
    });
    let (is_there, is_guarded, read) = read.await?;
    if !is_there {
        return gone(staff, &model.names());
    }
    if is_guarded {
        return Err(Failure::Forbidden);
    }
    let back = text("back");
    let read = match read {
        Ok(read) => read,
        Err(invalid) => return show(state, staff, model, pk, &back, Some((sent, errors_of(&invalid)))).await,
    };
    let asker = staff.asker.clone();
    let stored = state.write_noting(move |db| model.save(db, &asker, pk, read)).await;
    match stored {
        Ok((stored, effects)) => {
            let names = model.names();
            session::add_message(&staff.session, message(&stored, pk, effects))?;
            let list = names.list_href();
            Ok(see_other(&match (text("_continue").is_empty(), text("_addanother").is_empty()) {
                (false, _) => with_query(&format!("{list}{}/change/", stored.pk), &back),
                (_, false) => with_query(&format!("{list}add/"), &back),
                _ => back_to(&names, &back),
            }))
        }
        Err(Error::NotFound { .. }) => gone(staff, &model.names()),
        Err(Error::Conflict { id, .. }) => conflict(state, staff, model, id, sent, back).await,
        Err(error) => show(state, staff, model, pk, &back, Some((sent, errors(error)?))).await,
    }
}

fn message(stored: &Stored, pk: Option<i64>, effects: Effects) -> Message {
    let label = &stored.label;
    let message = match (pk, stored.has_changed) {
        (None, _) => saved_message(format!("“{label}” was added."), effects),
        (_, true) => saved_message(format!("“{label}” was saved."), effects),
        (_, false) => Message::success("Nothing was changed."),
    };
    match &stored.view_on_site {
        Some(href) => message.link(href.clone(), "View on site"),
        None => message,
    }
}

/// Makes the message that says what a write threw out of the caches.
pub(super) fn saved_message(text: String, effects: Effects) -> Message {
    // Of what other processes keep nobody here knows.
    let text = if effects.entries.is_empty() { format!("{text} Nothing that is cached here showed it.") } else { text };
    Message::success(text).effects(effects)
}

fn with_query(address: &str, query: &str) -> String {
    let query = back_to_query(query);
    if query.is_empty() { address.to_owned() } else { format!("{address}?{query}") }
}

/// Returns a query string as it would be made here, so that nothing else gets into an address.
fn back_to_query(query: &str) -> String {
    let parts: Vec<(String, String)> = serde_html_form::from_str(query).unwrap_or_default();
    serde_html_form::to_string(parts).unwrap_or_default()
}

/// Takes the values that were chosen in a conflict.
fn resolved(mut sent: Sent) -> Sent {
    let chosen: Vec<(String, String)> = sent
        .iter()
        .filter_map(|(name, values)| Some((name.strip_prefix(TAKE)?.to_owned(), values.first()?.clone())))
        .collect();
    for (name, side) in chosen {
        let values = sent.get(&format!("{side}.{name}")).cloned().unwrap_or_default();
        sent.insert(name, values);
    }
    sent
}

/// Returns what the form says about an error that its sender can mend.
fn errors(error: Error) -> Result<Errors, Failure> {
    let whole_form = |text: &str| Ok(Errors::from([(WHOLE_FORM.to_owned(), vec![text.to_owned()])]));
    match error {
        Error::Validation(invalid) => Ok(errors_of(&invalid)),
        Error::Unique { field: Some(field), .. } => {
            Ok(Errors::from([(field, vec!["There is one with this already. Choose another.".to_owned()])]))
        }
        Error::Refused { source, .. } => whole_form(&format!("It was refused: {source}")),
        Error::Busy { .. } | Error::InTheWay { .. } => whole_form(WHOLE_FORM_BUSY),
        other => Err(other.into()),
    }
}

fn errors_of(invalid: &larder_models::Invalid) -> Errors {
    invalid.iter().map(|(field, messages)| (field.to_owned(), messages.to_vec())).collect()
}

/// Shows the form, with what was entered and what is wrong with it if it was sent.
async fn show(
    state: &State,
    staff: &Staff,
    model: &'static dyn Registered,
    pk: Option<i64>,
    back: &str,
    sent: Option<(Sent, Errors)>,
) -> Result<HttpResponse, Failure> {
    let names = model.names();
    let (asker, table) = (staff.asker.clone(), names.model);
    let (sent, errors) = sent.unzip();
    let opened = state.read(move |db| {
        let Some(mut row) = model.open(db, pk)? else { return Ok(None) };
        if let Some(sent) = &sent {
            row.values = entered(&row.values, sent);
            row.version = sent.get("version").and_then(|texts| texts.first()?.parse().ok()).unwrap_or(row.version);
        }
        let sets = model.form(db, &asker, &row.values)?;
        let history = pk.map(|pk| history::of_object(db, table, pk)).transpose()?;
        Ok(Some((row, sets, history.unwrap_or_default())))
    });
    let Some((row, sets, history)) = opened.await? else { return gone(staff, &names) };
    let errors = errors.unwrap_or_default();
    let status = match errors.is_empty() {
        true => StatusCode::OK,
        false if errors.contains_key(WHOLE_FORM) => StatusCode::CONFLICT,
        false => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let is_free = staff.asker.is_superuser || !row.is_guarded || pk.is_none();
    let page = FormPage {
        frame: Frame::of(&staff.session)?,
        may_save: is_free && model.allows(&staff.asker, if pk.is_some() { Verb::Change } else { Verb::Add }),
        may_delete: is_free && pk.is_some() && model.allows(&staff.asker, Verb::Delete),
        may_add: model.allows(&staff.asker, Verb::Add),
        live: staff.may_see_caches().then(|| state.observed.feed.expect()),
        back: back_to_query(back),
        back_href: back_to(&names, back),
        names,
        row,
        sets,
        errors,
        history,
    };
    let mut answer = state.page("admin/form.html", &page)?;
    *answer.status_mut() = status;
    Ok(answer)
}

/// Returns the values of a form as they were sent.
fn entered(values: &Values, sent: &Sent) -> Values {
    let value = |(name, old): (&&'static str, &Value)| {
        let texts = sent.get(*name).cloned().unwrap_or_default();
        let value = match old {
            Value::Bool(_) => (!texts.is_empty()).into(),
            Value::Array(_) => texts.into(),
            _ => texts.into_iter().next().unwrap_or_default().into(),
        };
        (*name, value)
    };
    values.iter().map(value).collect()
}

/// Shows what both editors want side by side.
async fn conflict(
    state: &State,
    staff: &Staff,
    model: &'static dyn Registered,
    pk: i64,
    sent: Sent,
    back: String,
) -> Result<HttpResponse, Failure> {
    let names = model.names();
    let (asker, table) = (staff.asker.clone(), names.model);
    let opened = state.read(move |db| {
        let Some(row) = model.open(db, Some(pk))? else { return Ok(None) };
        let sets = model.form(db, &asker, &row.values)?;
        let by = history::of_object(db, table, pk)?.into_iter().next();
        Ok(Some((row, sets, by)))
    });
    let Some((row, sets, by)) = opened.await? else { return gone(staff, &names) };
    let mine = entered(&row.values, &sent);
    let (mut differences, mut same) = (Vec::new(), Vec::new());
    for field in sets.iter().flat_map(|set| &set.fields).filter(|field| !field.is_fixed) {
        let value = mine.get(field.name).cloned().unwrap_or_default();
        let value =
            if field.widget == "lines" { value.as_str().unwrap_or("").replace("\r\n", "\n").into() } else { value };
        let side = |value: &Value| {
            let text = |value: &str| match field.choices.iter().find(|choice| choice.value == *value) {
                Some(choice) => choice.label.clone(),
                None => value.to_owned(),
            };
            match value {
                Value::Bool(true) => Side { text: "yes".to_owned(), sent: vec!["on".to_owned()] },
                Value::Bool(false) => Side { text: "no".to_owned(), sent: Vec::new() },
                Value::Array(values) => {
                    let sent: Vec<String> = values.iter().filter_map(|one| Some(one.as_str()?.to_owned())).collect();
                    Side { text: sent.iter().map(|one| text(one)).collect::<Vec<_>>().join(", "), sent }
                }
                Value::String(value) => Side { text: text(value), sent: vec![value.clone()] },
                _ => Side { text: String::new(), sent: vec![String::new()] },
            }
        };
        let (theirs, mine) = (side(&field.value), side(&value));
        if theirs.sent == mine.sent {
            same.push((field.name.to_owned(), mine.sent));
        } else {
            differences.push(Difference { name: field.name, label: field.label, theirs, mine });
        }
    }
    let page = ConflictPage { frame: Frame::of(&staff.session)?, names, row, back, by, differences, same };
    let mut answer = state.page("admin/conflict.html", &page)?;
    *answer.status_mut() = StatusCode::CONFLICT;
    Ok(answer)
}

/// Somebody may have deleted it while the page was open.
fn gone(staff: &Staff, names: &Names) -> Result<HttpResponse, Failure> {
    let text = format!("There is no such {}. Perhaps it was deleted.", names.one);
    session::add_message(&staff.session, Message::warning(text))?;
    Ok(see_other(&names.list_href()))
}

pub(super) async fn delete_form(
    request: HttpRequest,
    state: web::Data<State>,
    staff: Staff,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Failure> {
    let (model, pk) = (find(&path.0)?, path.1.parse().unwrap_or(0));
    staff.require(model, Verb::Delete)?;
    let (asker, names) = (staff.asker.clone(), model.names());
    let doomed = state.read(move |db| model.dependents(db, &asker, &[pk])).await?;
    if doomed.names.is_empty() {
        return gone(&staff, &names);
    }
    let href = format!("{}{pk}/delete/", names.list_href());
    let page = DeletePage::new(Frame::of(&staff.session)?, names, doomed, back_to_query(request.query_string()), href);
    state.page("admin/delete.html", &page)
}

pub(super) async fn delete(
    request: HttpRequest,
    state: web::Data<State>,
    staff: Staff,
    path: web::Path<(String, String)>,
    body: web::Bytes,
) -> Result<HttpResponse, Failure> {
    let (model, pk) = (find(&path.0)?, path.1.parse().unwrap_or(0));
    let sent = sent(&body)?;
    let text = |name: &str| sent.get(name).and_then(|texts| texts.first()).map_or("", String::as_str);
    csrf::verify(&request, &staff.session, text("csrf_token"))?;
    staff.require(model, Verb::Delete)?;
    let (asker, names) = (staff.asker.clone(), model.names());
    let deleted = state.write_noting(move |db| {
        let is_guarded = model.dependents(db, &asker, &[pk])?.is_guarded;
        if is_guarded { Ok(None) } else { model.delete(db, &asker, &[pk]).map(Some) }
    });
    let (deleted, effects) = deleted.await?;
    let deleted = deleted.ok_or(Failure::Forbidden)?;
    let Some(name) = deleted.first() else { return gone(&staff, &names) };
    session::add_message(&staff.session, saved_message(format!("“{name}” was deleted."), effects))?;
    Ok(see_other(&back_to(&names, text("back"))))
}
