//! Objects in the admin: list, add, change, delete.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use larder_models::{Action, Change, Error, LogEntry, Model, NewObject, Object, ObjectQuery, Page};
use serde::{Deserialize, Serialize};

use super::{
    csrf, history,
    staff::{Frame, Staff},
};
use crate::{
    failure::{Failure, see_other},
    session::{self, Message},
    state::State,
};

const LIST: &str = "/admin/objects/";

/// How many objects stand on one page of the list.
const PER_PAGE: u32 = 20;

/// The columns of the list: name and heading.
const COLUMNS: [(&str, &str); 4] =
    [("title", "Title"), ("published", "Published"), ("created", "Created"), ("updated", "Updated")];

/// Stands for the whole form among its errors, as in Django.
const WHOLE_FORM: &str = "__all__";

const CONFLICT: &str = "Somebody else saved this object while you were editing it. What you entered is kept below, and \
                        not saved yet: save again to overwrite theirs, or open the object anew to see it.";

#[derive(Deserialize)]
pub(super) struct ListQuery {
    #[serde(default)]
    q: String,
    #[serde(default)]
    o: String,
    #[serde(default)]
    p: String,
}

#[derive(Serialize)]
struct ListPage {
    #[serde(flatten)]
    frame: Frame,
    page: Page<Object>,
    query: Shown,
    columns: Vec<Column>,
    previous_href: Option<String>,
    next_href: Option<String>,
}

#[derive(Serialize)]
struct Shown {
    search: String,
    order: String,
}

#[derive(Serialize)]
struct Column {
    name: &'static str,
    label: &'static str,
    href: String,
    direction: Option<&'static str>,
}

pub(super) async fn list(
    state: web::Data<State>,
    staff: Staff,
    query: web::Query<ListQuery>,
) -> Result<HttpResponse, Failure> {
    let ListQuery { q: search, o: order, p: page } = query.into_inner();
    let asked = ObjectQuery {
        search: search.clone(),
        published: None,
        order: order.clone(),
        page: page.parse().unwrap_or(1),
        per_page: PER_PAGE,
    };
    let page = state.read(move |db| Object::page(db, &asked)).await?;
    let columns = COLUMNS.map(|(name, label)| column(name, label, &search, &order));
    let page = ListPage {
        frame: Frame::of(&staff.session)?,
        columns: columns.into(),
        previous_href: (page.page > 1).then(|| list_address(&search, &order, page.page - 1)),
        next_href: (page.page < page.pages).then(|| list_address(&search, &order, page.page + 1)),
        query: Shown { search, order },
        page,
    };
    state.page("admin/object_list.html", &page)
}

/// A second click on a heading turns the order round.
fn column(name: &'static str, label: &'static str, search: &str, order: &str) -> Column {
    let (descending, ordered) = order.strip_prefix('-').map_or((false, order), |ordered| (true, ordered));
    let direction = (ordered == name).then_some(if descending { "descending" } else { "ascending" });
    let next = if direction == Some("ascending") { format!("-{name}") } else { name.to_owned() };
    Column { name, label, href: list_address(search, &next, 1), direction }
}

fn list_address(search: &str, order: &str, page: u32) -> String {
    let page = if page > 1 { page.to_string() } else { String::new() };
    let parts = [("q", search), ("o", order), ("p", &page)];
    let parts: Vec<_> = parts.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let query = serde_html_form::to_string(parts).unwrap_or_default();
    if query.is_empty() { LIST.to_owned() } else { format!("{LIST}?{query}") }
}

/// The form as it was sent: fields named as the columns.
#[derive(Deserialize)]
pub(super) struct Sent {
    csrf_token: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    body: String,
    published: Option<String>,
    #[serde(default)]
    version: String,
    #[serde(rename = "_continue")]
    and_continue: Option<String>,
    #[serde(rename = "_addanother")]
    and_add: Option<String>,
}

impl Sent {
    fn form(&self) -> Form {
        Form {
            title: self.title.trim().to_owned(),
            // Browsers send the line breaks of mail.
            body: self.body.replace("\r\n", "\n"),
            published: self.published.is_some(),
            version: self.version.parse().unwrap_or(0),
        }
    }

    /// Returns where to go after saving.
    fn next(&self, id: i64) -> String {
        match (&self.and_continue, &self.and_add) {
            (Some(_), _) => format!("{LIST}{id}/change/"),
            (_, Some(_)) => format!("{LIST}add/"),
            _ => LIST.to_owned(),
        }
    }
}

#[derive(Serialize, Default)]
struct Form {
    title: String,
    body: String,
    published: bool,
    version: i64,
}

type Errors = BTreeMap<&'static str, Vec<String>>;

#[derive(Serialize)]
struct FormPage {
    #[serde(flatten)]
    frame: Frame,
    form: Form,
    errors: Errors,
    object: Option<Object>,
    history: Vec<history::Line>,
}

pub(super) async fn add_form(state: web::Data<State>, staff: Staff) -> Result<HttpResponse, Failure> {
    let form = Form { published: true, ..Form::default() };
    show_form(&state, &staff, None, form, Errors::new()).await
}

pub(super) async fn add(
    request: HttpRequest,
    state: web::Data<State>,
    staff: Staff,
    sent: web::Form<Sent>,
) -> Result<HttpResponse, Failure> {
    csrf::verify(&request, &staff.session, &sent.csrf_token)?;
    let form = sent.form();
    let new = NewObject { title: form.title.clone(), body: form.body.clone(), published: form.published };
    let user = staff.user.id;
    let added = state
        .write(move |db| {
            let object = Object::insert(db, new)?;
            let changes = Change::between(&[], &object.fields());
            LogEntry::record(db, user, Action::Added, &object, &changes)?;
            Ok(object)
        })
        .await;
    match added {
        Ok(object) => saved(&staff, &object, "was added", &sent),
        Err(error) => show_form(&state, &staff, None, form, form_errors(error)?).await,
    }
}

pub(super) async fn change_form(
    state: web::Data<State>,
    staff: Staff,
    id: web::Path<String>,
) -> Result<HttpResponse, Failure> {
    let Some(object) = find(&state, &id).await? else { return gone(&staff) };
    let form = Form {
        title: object.title.clone(),
        body: object.body.clone(),
        published: object.published,
        version: object.version,
    };
    show_form(&state, &staff, Some(object), form, Errors::new()).await
}

pub(super) async fn change(
    request: HttpRequest,
    state: web::Data<State>,
    staff: Staff,
    id: web::Path<String>,
    sent: web::Form<Sent>,
) -> Result<HttpResponse, Failure> {
    csrf::verify(&request, &staff.session, &sent.csrf_token)?;
    let Some(object) = find(&state, &id).await? else { return gone(&staff) };
    let mut form = sent.form();
    let mut edited = Object {
        title: form.title.clone(),
        body: form.body.clone(),
        published: form.published,
        // What the editor saw: if it differs by now, somebody else was faster.
        version: form.version,
        ..object.clone()
    };
    if edited == object {
        session::add_message(&staff.session, Message::success("Nothing was changed."))?;
        return Ok(see_other(&sent.next(object.id)));
    }
    let user = staff.user.id;
    let changed = state
        .write(move |db| {
            let changes = edited.save(db)?;
            LogEntry::record(db, user, Action::Changed, &edited, &changes)?;
            Ok(edited)
        })
        .await;
    match changed {
        Ok(object) => saved(&staff, &object, "was saved", &sent),
        Err(Error::NotFound { .. }) => gone(&staff),
        Err(error) => {
            if matches!(error, Error::Conflict { .. }) {
                form.version = object.version;
            }
            show_form(&state, &staff, Some(object), form, form_errors(error)?).await
        }
    }
}

#[derive(Serialize)]
struct DeletePage {
    #[serde(flatten)]
    frame: Frame,
    object: Object,
}

pub(super) async fn delete_form(
    state: web::Data<State>,
    staff: Staff,
    id: web::Path<String>,
) -> Result<HttpResponse, Failure> {
    let Some(object) = find(&state, &id).await? else { return gone(&staff) };
    state.page("admin/object_confirm_delete.html", &DeletePage { frame: Frame::of(&staff.session)?, object })
}

#[derive(Deserialize)]
pub(super) struct Confirmed {
    csrf_token: String,
}

pub(super) async fn delete(
    request: HttpRequest,
    state: web::Data<State>,
    staff: Staff,
    id: web::Path<String>,
    confirmed: web::Form<Confirmed>,
) -> Result<HttpResponse, Failure> {
    csrf::verify(&request, &staff.session, &confirmed.csrf_token)?;
    let Some(object) = find(&state, &id).await? else { return gone(&staff) };
    let user = staff.user.id;
    let title = object.title.clone();
    let deleted = state
        .write(move |db| {
            object.delete(db)?;
            LogEntry::record(db, user, Action::Deleted, &object, &[])
        })
        .await;
    match deleted {
        Err(Error::NotFound { .. }) => gone(&staff),
        Err(error) => Err(error.into()),
        Ok(_) => {
            session::add_message(&staff.session, Message::success(format!("“{title}” was deleted.")))?;
            Ok(see_other(LIST))
        }
    }
}

/// Loads an object by the id in the address, which may have more digits than a number has.
async fn find(state: &State, id: &str) -> Result<Option<Object>, Failure> {
    let Ok(id) = id.parse() else { return Ok(None) };
    state.read(move |db| Object::find(db, id)).await
}

/// Somebody may have deleted it while the page was open.
fn gone(staff: &Staff) -> Result<HttpResponse, Failure> {
    session::add_message(&staff.session, Message::warning("There is no such object. Perhaps it was deleted."))?;
    Ok(see_other(LIST))
}

fn saved(staff: &Staff, object: &Object, what: &str, sent: &Sent) -> Result<HttpResponse, Failure> {
    let message = Message::success(format!("“{}” {what}.", object.title));
    let message = match object.published {
        true => message.link(format!("/objects/{}/", object.id), "View on site"),
        false => message,
    };
    session::add_message(&staff.session, message)?;
    Ok(see_other(&sent.next(object.id)))
}

/// Returns what the form says about an error that its sender can mend.
fn form_errors(error: Error) -> Result<Errors, Failure> {
    let whole_form = |text: &str| Ok(Errors::from([(WHOLE_FORM, vec![text.to_owned()])]));
    match error {
        Error::Validation(invalid) => Ok(invalid.iter().map(|(field, messages)| (field, messages.to_vec())).collect()),
        Error::Conflict { .. } => whole_form(CONFLICT),
        Error::Busy { .. } => whole_form("The database is busy. Save again in a moment."),
        other => Err(other.into()),
    }
}

async fn show_form(
    state: &State,
    staff: &Staff,
    object: Option<Object>,
    form: Form,
    errors: Errors,
) -> Result<HttpResponse, Failure> {
    let history = match object.as_ref().map(|object| object.id) {
        Some(id) => state.read(move |db| history::of_object(db, id)).await?,
        None => Vec::new(),
    };
    let status = match errors.is_empty() {
        true => StatusCode::OK,
        false if errors.contains_key(WHOLE_FORM) => StatusCode::CONFLICT,
        false => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let page = FormPage { frame: Frame::of(&staff.session)?, form, errors, object, history };
    let mut answer = state.page("admin/object_form.html", &page)?;
    *answer.status_mut() = status;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_turns_its_order_round() {
        let by = |order: &str| column("title", "Title", "jam & co", order);
        assert_eq!(by("").href, "/admin/objects/?q=jam+%26+co&o=title");
        assert_eq!(by("title").href, "/admin/objects/?q=jam+%26+co&o=-title");
        assert_eq!((by("title").direction, by("-title").direction), (Some("ascending"), Some("descending")));
        assert_eq!(by("created").direction, None);
    }

    #[test]
    fn the_first_page_of_a_plain_list_has_the_plain_address() {
        assert_eq!(list_address("", "", 1), "/admin/objects/");
        assert_eq!(list_address("", "", 2), "/admin/objects/?p=2");
    }
}
