//! The list of a model: searched, filtered, ordered, page by page, and what is done with several rows at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use futures_util::{StreamExt, TryStreamExt, future, stream};
use larder_models::Verb;
use serde::Serialize;

use super::{
    csrf,
    describe::MAX_NAMES,
    find,
    form::{not_done, saved_message},
    registry::{Asked, Doomed, Listed, Names, Registered, Sent, ShownColumn, ShownFilter, ShownRow},
    staff::{Frame, Staff},
};
use crate::{
    failure::{Failure, see_other},
    session::{self, Message},
    state::State,
};

/// What a query string says beside the names of filters.
const SEARCH: &str = "q";
const ORDER: &str = "o";
const PAGE: &str = "p";

/// How many rows of a table are read at once.
const EXPORTED_AT_ONCE: usize = 500;

/// The action that every model has.
const DELETE: &str = "delete";

type Query = BTreeMap<String, String>;

#[derive(Serialize)]
struct ListPage {
    #[serde(flatten)]
    frame: Frame,
    names: Names,
    columns: Vec<Column>,
    rows: Vec<ShownRow>,
    filters: Vec<Filter>,
    asked: Shown,
    total: i64,
    page: u32,
    pages: u32,
    previous_href: Option<String>,
    next_href: Option<String>,
    /// Where everything is shown, if it is not.
    all_href: Option<String>,
    export_href: String,
    /// The query string, for the forms to come back to.
    back: String,
    may_add: bool,
    actions: Vec<(&'static str, String)>,
}

#[derive(Serialize)]
struct Shown {
    search: String,
    order: String,
    filters: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Column {
    label: &'static str,
    kind: super::describe::Kind,
    href: Option<String>,
    direction: Option<&'static str>,
}

#[derive(Serialize)]
struct Filter {
    label: &'static str,
    options: Vec<Choice>,
}

#[derive(Serialize)]
struct Choice {
    label: String,
    href: String,
    is_chosen: bool,
}

pub(super) async fn list(
    state: web::Data<State>,
    staff: Staff,
    path: web::Path<String>,
    query: web::Query<Query>,
) -> Result<HttpResponse, Failure> {
    let model = find(&path)?;
    staff.require(model, Verb::View)?;
    let asked = asked(&query);
    let ask = asked.clone();
    let Listed { rows, filters, total, page, pages } = state.read(move |db| model.list(db, &ask)).await?;
    let names = model.names();
    let at = |page: u32| Asked { page, ..asked.clone() };
    let column = |column: ShownColumn| {
        let (descending, by) = asked.order.strip_prefix('-').map_or((false, &*asked.order), |by| (true, by));
        let direction = (by == column.name).then_some(if descending { "descending" } else { "ascending" });
        // A second click turns the order round.
        let order = if direction == Some("ascending") { format!("-{}", column.name) } else { column.name.to_owned() };
        let href = column.is_ordered.then(|| address(&names, &Asked { order, page: 1, ..asked.clone() }));
        Column { label: column.label, kind: column.kind, href, direction }
    };
    let is_narrowed = !asked.search.is_empty() || filters.iter().any(|filter| filter.chosen.is_some());
    let page = ListPage {
        frame: Frame::of(&staff.session)?,
        columns: model.columns().into_iter().map(column).collect(),
        rows,
        filters: filters.into_iter().map(|filter| shown(&names, &asked, filter)).collect(),
        total,
        page,
        pages,
        previous_href: (page > 1).then(|| address(&names, &at(page - 1))),
        next_href: (page < pages).then(|| address(&names, &at(page + 1))),
        all_href: is_narrowed.then(|| names.list_href()),
        export_href: address(&names, &at(1)).replacen(&names.list_href(), &format!("{}export/", names.list_href()), 1),
        back: query_string(&asked),
        may_add: model.allows(&staff.asker, Verb::Add),
        actions: actions(model, &staff),
        asked: Shown { search: asked.search, order: asked.order, filters: asked.filters },
        names,
    };
    state.page("admin/list.html", &page)
}

fn actions(model: &dyn Registered, staff: &Staff) -> Vec<(&'static str, String)> {
    let names = model.names();
    let own = names.actions.iter().filter(|_| model.allows(&staff.asker, Verb::Change));
    let mut actions: Vec<(&'static str, String)> = own.map(|(name, label)| (*name, (*label).to_owned())).collect();
    if model.allows(&staff.asker, Verb::Delete) {
        actions.push((DELETE, "Delete".to_owned()));
    }
    actions
}

fn shown(names: &Names, asked: &Asked, filter: ShownFilter) -> Filter {
    let href = |value: Option<&str>| {
        let mut asked = Asked { page: 1, ..asked.clone() };
        match value {
            Some(value) => asked.filters.insert(filter.name.to_owned(), value.to_owned()),
            None => asked.filters.remove(filter.name),
        };
        address(names, &asked)
    };
    let all = Choice { label: "All".to_owned(), href: href(None), is_chosen: filter.chosen.is_none() };
    let option = |choice: &super::describe::Choice| Choice {
        label: choice.label.clone(),
        href: href(Some(&choice.value)),
        is_chosen: filter.chosen.as_deref() == Some(&*choice.value),
    };
    let options = [all].into_iter().chain(filter.choices.iter().map(option)).collect();
    Filter { label: filter.label, options }
}

/// Reads what a query string asks for.
pub(super) fn asked(query: &Query) -> Asked {
    let text = |name: &str| query.get(name).cloned().unwrap_or_default();
    let is_filter = |name: &&String| ![SEARCH, ORDER, PAGE].contains(&name.as_str());
    let filters = query.iter().filter(|(name, _)| is_filter(name));
    Asked {
        search: text(SEARCH),
        order: text(ORDER),
        page: text(PAGE).parse().unwrap_or(1),
        filters: filters.map(|(name, value)| (name.clone(), value.clone())).collect(),
    }
}

/// Reads what a form says of the list that it was opened from, which may be anything.
fn came_from(back: &str) -> Asked {
    asked(&serde_html_form::from_str(back).unwrap_or_default())
}

/// Returns the address of the list that a form was opened from.
pub(super) fn back_to(names: &Names, back: &str) -> String {
    address(names, &came_from(back))
}

fn query_string(asked: &Asked) -> String {
    let page = if asked.page > 1 { asked.page.to_string() } else { String::new() };
    let parts = [(SEARCH, &*asked.search), (ORDER, &*asked.order), (PAGE, &*page)];
    let filters = asked.filters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let parts: Vec<_> = parts.into_iter().chain(filters).filter(|(_, value)| !value.is_empty()).collect();
    serde_html_form::to_string(parts).unwrap_or_default()
}

fn address(names: &Names, asked: &Asked) -> String {
    let (list, query) = (names.list_href(), query_string(asked));
    if query.is_empty() { list } else { format!("{list}?{query}") }
}

/// The page that asks whether rows shall be deleted.
#[derive(Serialize)]
pub(super) struct DeletePage {
    #[serde(flatten)]
    frame: Frame,
    names: Names,
    doomed: Doomed,
    count: usize,
    /// How many names are left out.
    more: usize,
    back: String,
    /// Where the answer is sent.
    href: String,
    /// What all rows were that a list shows, if they are meant: their numbers would be too many for a form.
    all: Option<String>,
    /// Whether they have become others since they were asked for.
    has_changed: bool,
}

impl DeletePage {
    pub(super) fn new(frame: Frame, names: Names, mut doomed: Doomed, back: String, href: String) -> Self {
        let count = doomed.names.len();
        doomed.names.truncate(MAX_NAMES as usize);
        let more = count - doomed.names.len();
        DeletePage { frame, names, doomed, count, more, back, href, all: None, has_changed: false }
    }
}

/// Returns a mark of these rows, by which it can be told later whether they are others.
fn mark(pks: &[i64]) -> String {
    let mut hasher = DefaultHasher::new();
    pks.iter().collect::<BTreeSet<_>>().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Does something with the rows that were ticked, or with all that the list shows on its pages.
pub(super) async fn act(
    request: HttpRequest,
    state: web::Data<State>,
    staff: Staff,
    path: web::Path<String>,
    body: web::Bytes,
) -> Result<HttpResponse, Failure> {
    let model = find(&path)?;
    let sent = sent(&body)?;
    let text = |name: &str| sent.get(name).and_then(|texts| texts.first()).map_or("", String::as_str);
    csrf::verify(&request, &staff.session, text("csrf_token"))?;
    let (action, back) = (text("action").to_owned(), text("back").to_owned());
    staff.require(model, if action == DELETE { Verb::Delete } else { Verb::Change })?;
    let names = model.names();
    let list = back_to(&names, &back);
    let ticked: Vec<i64> = sent.get("pk").into_iter().flatten().filter_map(|pk| pk.parse().ok()).collect();
    let is_all = !text("all").is_empty();
    let pks = if is_all {
        let asked = came_from(&back);
        state.read(move |db| model.pks(db, &asked)).await?
    } else {
        ticked
    };
    if pks.is_empty() {
        session::add_message(&staff.session, Message::warning(format!("Tick some {} first.", names.many)))?;
        return Ok(see_other(&list));
    }
    let all = is_all.then(|| mark(&pks));
    let has_changed = all.as_ref().is_some_and(|all| *all != text("all"));
    let is_confirmed = !text("confirmed").is_empty();
    if action == DELETE && (!is_confirmed || has_changed) {
        let asker = staff.asker.clone();
        let doomed = state.read(move |db| model.dependents(db, &asker, &pks)).await?;
        let href = format!("{}action/", names.list_href());
        let page = DeletePage::new(Frame::of(&staff.session)?, names, doomed, back, href);
        let page = DeletePage { all, has_changed: is_confirmed, ..page };
        return state.page("admin/delete.html", &page);
    }
    let asker = staff.asker.clone();
    let done = state.write_noting(move |db| {
        if action == DELETE {
            return Ok(model.delete(db, &asker, &pks)?.map(|deleted| (deleted.len(), "deleted")));
        }
        model.act(db, &asker, &action, &pks)
    });
    match done.await {
        Ok((Some((count, done)), effects)) => {
            let many = if count == 1 { names.one } else { names.many };
            let verb = if count == 1 { "was" } else { "were" };
            let message = saved_message(&staff, &format!("{count} {many} {verb} {done}."), effects);
            session::add_message(&staff.session, message)?;
            Ok(see_other(&list))
        }
        Ok((None, _)) => Err(Failure::Forbidden),
        Err(error) => {
            not_done(&staff, error)?;
            Ok(see_other(&list))
        }
    }
}

/// Reads a form in which a name may come several times.
pub(super) fn sent(body: &[u8]) -> Result<Sent, Failure> {
    let pairs: Vec<(String, String)> =
        serde_html_form::from_bytes(body).map_err(|_| Failure::BadRequest("The form cannot be read."))?;
    let mut sent = Sent::new();
    for (name, value) in pairs {
        sent.entry(name).or_default().push(value);
    }
    Ok(sent)
}

/// Sends what a list shows on all its pages as a table, part by part as it is read.
pub(super) async fn export(
    state: web::Data<State>,
    staff: Staff,
    path: web::Path<String>,
    query: web::Query<Query>,
) -> Result<HttpResponse, Failure> {
    let model = find(&path)?;
    staff.require(model, Verb::View)?;
    let asked = asked(&query);
    // First which rows, so that each is there once, whoever writes meanwhile and however slowly this is received.
    let pks = state.read(move |db| model.pks(db, &asked)).await?;
    let parts: Vec<Vec<i64>> = pks.chunks(EXPORTED_AT_ONCE).map(<[i64]>::to_vec).collect();
    let head = stream::once(future::ready(Ok(head(&model.columns()))));
    let lines = stream::iter(parts).then(move |pks| {
        let state = state.clone();
        async move {
            let rows = state.read(move |db| model.rows(db, &pks)).await?;
            Ok::<_, Failure>(lines(&model.columns(), &rows))
        }
    });
    let file = format!("attachment; filename=\"{}.csv\"", model.names().path);
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/csv; charset=utf-8"))
        .insert_header((header::CONTENT_DISPOSITION, file))
        .streaming(head.chain(lines).map_ok(web::Bytes::from)))
}

fn head(columns: &[ShownColumn]) -> String {
    let mut table = String::new();
    let labels = columns.iter().map(|column| column.label.to_owned());
    write_line(&mut table, ["Number".to_owned()].into_iter().chain(labels));
    table
}

fn lines(columns: &[ShownColumn], rows: &[ShownRow]) -> String {
    let mut table = String::new();
    for row in rows {
        let values = row.values.iter().zip(columns).map(|(value, column)| cell(value, column.kind));
        write_line(&mut table, [row.pk.to_string()].into_iter().chain(values));
    }
    table
}

fn cell(value: &serde_json::Value, kind: super::describe::Kind) -> String {
    use serde_json::Value;
    match value {
        Value::Null => String::new(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) if kind == super::describe::Kind::Time => {
            let moment = number.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
            moment.map_or_else(String::new, |moment| moment.to_string())
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Writes a line of RFC 4180. What a spreadsheet would take for a formula gets an apostrophe in front.
fn write_line(table: &mut String, cells: impl Iterator<Item = String>) {
    for (at, cell) in cells.enumerate() {
        if at > 0 {
            table.push(',');
        }
        table.push('"');
        if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<f64>().is_err() {
            table.push('\'');
        }
        table.push_str(&cell.replace('"', "\"\""));
        table.push('"');
    }
    table.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_quoted_and_holds_no_formula() {
        let mut table = String::new();
        write_line(&mut table, ["a \"b\", c", "=1+1", "-5", "@x"].map(str::to_owned).into_iter());
        assert_eq!(table, "\"a \"\"b\"\", c\",\"'=1+1\",\"-5\",\"'@x\"\r\n");
    }

    #[test]
    fn what_a_list_was_asked_survives_a_form() {
        let query = BTreeMap::from([("q", "jam & co"), ("published", "yes"), ("p", "3")]);
        let query: Query = query.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let asked = asked(&query);
        assert_eq!(query_string(&asked), "q=jam+%26+co&p=3&published=yes");
        assert_eq!(came_from(&query_string(&asked)), asked);
        assert_eq!(query_string(&came_from("%%%")), "");
    }
}
