//! The form of a row: add, change, see, delete, and what becomes of two editors.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use larder_models::{Error, Verb};
use serde::Serialize;
use serde_json::Value;

use super::{
    csrf,
    describe::WHOLE_FORM,
    find, history,
    list::{DeletePage, back_to, sent},
    registry::{Names, Registered, Row, Sent, ShownField, ShownFieldset, Stored, Values},
    staff::{Frame, Staff},
};
use crate::{
    failure::{Failure, see_other},
    observe::effects::Effects,
    session::{self, Message},
    state::State,
};

const WHOLE_FORM_BUSY: &str = "The database is busy. Try again in a moment.";

/// Says of a field in a conflict which value is to be stored.
const TAKE: &str = "_take_";

/// The sides of a conflict.
const THEIRS: &str = "theirs";
const MINE: &str = "mine";

type Errors = BTreeMap<String, Vec<String>>;

#[derive(Serialize)]
struct FormPage {
    #[serde(flatten)]
    frame: Frame,
    names: Names,
    row: Row,
    /// What the editor saw first, see [`marks`].
    was: String,
    sets: Vec<ShownFieldset>,
    errors: Errors,
    history: Vec<history::Line>,
    back: String,
    back_href: String,
    may_save: bool,
    may_delete: bool,
    may_add: bool,
    /// The line after which the live view begins, for those who may see it.
    live: Option<String>,
}

/// What two editors want.
#[derive(Serialize)]
struct ConflictPage {
    #[serde(flatten)]
    frame: Frame,
    names: Names,
    row: Row,
    /// See [`marks`].
    was: String,
    back: String,
    /// The last thing that was done with the row, by the other one.
    by: Option<history::Line>,
    differences: Vec<Difference>,
    /// What both want.
    same: Vec<(String, Vec<String>)>,
    /// Whether a password was entered, which is not sent back.
    has_password: bool,
}

#[derive(Serialize)]
struct Difference {
    name: &'static str,
    label: &'static str,
    theirs: Side,
    mine: Side,
    /// The side of who alone has changed it; `None` if both have.
    chosen: Option<&'static str>,
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
    let (sent, undecided) = resolved(sent(body)?);
    let text = |name: &str| sent.get(name).and_then(|texts| texts.first()).map_or("", String::as_str).to_owned();
    csrf::verify(request, &staff.session, &text("csrf_token"))?;
    let back = text("back");
    if let (Some(pk), false) = (pk, undecided.is_empty()) {
        return conflict(state, staff, model, pk, (sent, undecided), back).await;
    }
    let (asker, form) = (staff.asker.clone(), sent.clone());
    let read = state.read(move |db| match model.open(db, pk)? {
        Some(_) => model.read(db, &asker, &form).map(Some),
        None => Ok(None),
    });
    let Some(read) = read.await? else { return gone(staff, &model.names()) };
    let read = match read {
        Ok(read) => read,
        Err(invalid) => return show(state, staff, model, pk, &back, Some((sent, errors_of(&invalid)))).await,
    };
    let asker = staff.asker.clone();
    let stored = state.write_noting(move |db| model.save(db, &asker, pk, read)).await;
    match stored {
        Ok((None, _)) => Err(Failure::Forbidden),
        Ok((Some(stored), effects)) => {
            let names = model.names();
            session::add_message(&staff.session, message(staff, &stored, pk, effects))?;
            let list = names.list_href();
            // Who may add may not always see.
            if !model.allows(&staff.asker, Verb::View) {
                let another = format!("{list}add/");
                return Ok(see_other(if text("_addanother").is_empty() { "/admin/" } else { &another }));
            }
            Ok(see_other(&match (text("_continue").is_empty(), text("_addanother").is_empty()) {
                (false, _) => with_query(&format!("{list}{}/change/", stored.pk), &back),
                (_, false) => with_query(&format!("{list}add/"), &back),
                _ => back_to(&names, &back),
            }))
        }
        Err(Error::NotFound { .. }) => gone(staff, &model.names()),
        Err(Error::Conflict { id, .. }) => conflict(state, staff, model, id, (sent, undecided), back).await,
        Err(error) => show(state, staff, model, pk, &back, Some((sent, errors(error)?))).await,
    }
}

fn message(staff: &Staff, stored: &Stored, pk: Option<i64>, effects: Effects) -> Message {
    let label = &stored.label;
    let message = match (pk, stored.has_changed) {
        (None, _) => saved_message(staff, &format!("“{label}” was added."), effects),
        (_, true) => saved_message(staff, &format!("“{label}” was saved."), effects),
        (_, false) => Message::success("Nothing was changed."),
    };
    match &stored.view_on_site {
        Some(href) => message.link(href.clone(), "View on site"),
        None => message,
    }
}

/// Makes the message that says what a write threw out of the caches.
pub(super) fn saved_message(staff: &Staff, text: &str, effects: Effects) -> Message {
    let message = match (&*effects.waiting, effects.is_nothing(), effects.may_be_more) {
        ([], true, false) => Message::success(format!("{text} Nothing that is cached here showed it.")),
        ([], true, true) => {
            Message::success(format!("{text} Whatever showed it is thrown out; this process had stored nothing of it."))
        }
        ([], false, _) => Message::success(text),
        (waiting, ..) => Message::warning(format!(
            "{text} The caches that do not answer now ({}) throw out what showed it as soon as they do.",
            waiting.join(", ")
        )),
    };
    message.effects(if staff.may_see_caches() { effects } else { effects.without_names() })
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

/// Takes the values that were chosen in a conflict, and returns the fields for which nothing was.
fn resolved(mut sent: Sent) -> (Sent, BTreeSet<String>) {
    let is_of_two = |name: &String| {
        let (side, name) = name.split_once('.')?;
        [THEIRS, MINE].contains(&side).then(|| name.to_owned())
    };
    let (of_two, mut undecided): (BTreeSet<String>, _) = (sent.keys().filter_map(is_of_two).collect(), BTreeSet::new());
    for name in of_two {
        let chosen = sent.get(&format!("{TAKE}{name}")).and_then(|sides| sides.first()).map_or("", String::as_str);
        if ![THEIRS, MINE].contains(&chosen) {
            undecided.insert(name.clone());
        }
        let side = if chosen == THEIRS { THEIRS } else { MINE };
        let values = sent.get(&format!("{side}.{name}")).cloned().unwrap_or_default();
        sent.insert(name, values);
    }
    (sent, undecided)
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
        let was = match &sent {
            Some(sent) => sent.get("was").and_then(|texts| texts.first()).cloned().unwrap_or_default(),
            None => marks(&sets),
        };
        let history = pk.map(|pk| history::of_object(db, table, pk)).transpose()?;
        Ok(Some((row, was, sets, history.unwrap_or_default())))
    });
    let Some((row, was, sets, history)) = opened.await? else { return gone(staff, &names) };
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
        live: staff.may_see_caches().then(|| state.observed.feed.expect().to_string()),
        back: back_to_query(back),
        back_href: back_to(&names, back),
        names,
        row,
        was,
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

/// Returns a short mark of each value of a form, so that it can be told later which ones an editor has changed.
fn marks(sets: &[ShownFieldset]) -> String {
    let fields = sets.iter().flat_map(|set| &set.fields).filter(|field| field.widget != "password");
    fields.map(|field| mark(field.name, &as_sent(&field.value))).collect::<Vec<_>>().join(" ")
}

fn mark(name: &str, sent: &[String]) -> String {
    let mut hasher = DefaultHasher::new();
    sent.hash(&mut hasher);
    format!("{name}:{:016x}", hasher.finish())
}

/// Returns a value as a form sends it.
fn as_sent(value: &Value) -> Vec<String> {
    match value {
        Value::Bool(true) => vec!["on".to_owned()],
        Value::Bool(false) => Vec::new(),
        Value::Array(values) => values.iter().filter_map(|one| Some(one.as_str()?.to_owned())).collect(),
        Value::String(text) => vec![text.replace("\r\n", "\n")],
        _ => vec![String::new()],
    }
}

/// Shows what both editors want side by side. Of what only one of them has changed that side is chosen.
async fn conflict(
    state: &State,
    staff: &Staff,
    model: &'static dyn Registered,
    pk: i64,
    (sent, undecided): (Sent, BTreeSet<String>),
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
    let entered = entered(&row.values, &sent);
    let seen: BTreeSet<&str> =
        sent.get("was").and_then(|was| was.first()).map_or("", String::as_str).split(' ').collect();
    let (mut differences, mut same, mut has_password) = (Vec::new(), Vec::new(), false);
    for field in sets.iter().flat_map(|set| &set.fields).filter(|field| !field.is_fixed) {
        let value = entered.get(field.name).cloned().unwrap_or_default();
        if field.widget == "password" {
            has_password |= value.as_str().is_some_and(|password| !password.is_empty());
            continue;
        }
        let (theirs, mine) = (as_sent(&field.value), as_sent(&value));
        if theirs == mine {
            same.push((field.name.to_owned(), mine));
            continue;
        }
        let is_as_it_was = |sent: &[String]| seen.contains(&*mark(field.name, sent));
        let chosen = match (is_as_it_was(&theirs), is_as_it_was(&mine)) {
            _ if undecided.contains(field.name) => None,
            (true, false) => Some(MINE),
            (false, true) => Some(THEIRS),
            _ => None,
        };
        let side = |value: &Value, sent| Side { text: in_words(field, value), sent };
        let (theirs, mine) = (side(&field.value, theirs), side(&value, mine));
        differences.push(Difference { name: field.name, label: field.label, theirs, mine, chosen });
    }
    let (frame, was) = (Frame::of(&staff.session)?, marks(&sets));
    let page = ConflictPage { frame, names, row, was, back, by, differences, same, has_password };
    let mut answer = state.page("admin/conflict.html", &page)?;
    *answer.status_mut() = StatusCode::CONFLICT;
    Ok(answer)
}

/// Writes the value of a field for people.
fn in_words(field: &ShownField, value: &Value) -> String {
    let label = |text: &str| match field.choices.iter().find(|choice| choice.value == *text) {
        Some(choice) => choice.label.clone(),
        None => text.to_owned(),
    };
    match value {
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Array(values) => values.iter().filter_map(Value::as_str).map(label).collect::<Vec<_>>().join(", "),
        Value::String(text) => label(text),
        _ => String::new(),
    }
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
    match state.write_noting(move |db| model.delete(db, &asker, &[pk])).await {
        Ok((None, _)) => return Err(Failure::Forbidden),
        Ok((Some(deleted), effects)) => match deleted.first() {
            Some(name) => {
                let message = saved_message(&staff, &format!("“{name}” was deleted."), effects);
                session::add_message(&staff.session, message)?;
            }
            None => return gone(&staff, &names),
        },
        Err(error) => not_done(&staff, error)?,
    }
    Ok(see_other(&back_to(&names, text("back"))))
}

/// Leaves a message that says why something was not done.
///
/// # Errors
/// An error that its sender cannot mend.
pub(super) fn not_done(staff: &Staff, error: Error) -> Result<(), Failure> {
    let texts: Vec<String> = errors(error)?.into_values().flatten().collect();
    session::add_message(&staff.session, Message::warning(texts.join(" ")))
}
