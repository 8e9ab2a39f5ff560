//! The list of objects, in a cached fragment over a cached value; and the pages of one object, of a category and of a label,
//! cached per view.

use actix_session::Session;
use actix_web::{HttpRequest, HttpResponse, web};
use larder_cache::{Caches, LoadError, template::Lazy};
use larder_models::{Category, Database, Db, Label, Link, Model, Object, ObjectLabel};
use serde::{Deserialize, Serialize};

use crate::{
    failure::Failure,
    session::{self, Account},
    state::{State, now_millis},
};

/// The key of the low-level value that holds the list of objects.
pub(super) const OBJECTS_KEY: &str = "objects";

/// How long the list is kept. An edit throws it away, so this could be days.
const LIST_SECONDS: u64 = 500;

/// How much of a text the list shows.
const EXCERPT_CHARS: usize = 140;

/// The low-level value `objects`: what the list shows, and when it was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ObjectList {
    pub(super) made_at: i64,
    pub(super) cards: Vec<Card>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Card {
    pub(super) id: i64,
    pub(super) title: String,
    excerpt: String,
    category: Option<String>,
    labels: Vec<String>,
    updated: i64,
}

impl Card {
    /// Makes the cards of objects, with the names of their categories and labels.
    fn of_all(db: &mut Db, objects: Vec<Object>) -> larder_models::Result<Vec<Card>> {
        let categories = Category::find_many(db, objects.iter().filter_map(|object| object.category_id))?;
        let labels = ObjectLabel::rights_of(db, objects.iter().map(Object::pk))?;
        let card = |object: Object| {
            let category = object.category_id.and_then(|id| categories.get(&id));
            let labels = labels.get(&object.id).into_iter().flatten();
            Card {
                category: category.map(|category| category.name.clone()),
                labels: labels.map(|label| label.name.clone()).collect(),
                ..Card::of(object)
            }
        };
        Ok(objects.into_iter().map(card).collect())
    }

    fn of(object: Object) -> Self {
        let text = object.body.split_whitespace().collect::<Vec<_>>().join(" ");
        let excerpt = match text.char_indices().nth(EXCERPT_CHARS) {
            Some((end, _)) => {
                let words = text[..end].rsplit_once(' ').map_or(&text[..end], |(words, _)| words);
                format!("{}…", words.trim_end_matches([',', ';', ':', '.', ' ']))
            }
            None => text,
        };
        Card {
            id: object.id,
            title: object.title,
            excerpt,
            category: None,
            labels: Vec::new(),
            updated: object.updated,
        }
    }
}

/// Returns the list from the low-level cache, and whether it was there. Blocks.
pub(super) fn object_list(
    caches: &Caches,
    database: &Database,
) -> Result<(ObjectList, bool), LoadError<larder_models::Error>> {
    let cache = caches.default_cache().blocking();
    let mut hit = true;
    let list = cache.get_or_set(OBJECTS_KEY, LIST_SECONDS, || {
        hit = false;
        let cards = database.read(|db| {
            let objects = Object::published(db)?;
            Card::of_all(db, objects)
        });
        Ok::<_, larder_models::Error>(ObjectList { made_at: now_millis(), cards: cards? })
    });
    Ok((list?, hit))
}

#[derive(Serialize)]
struct ListPage {
    section: &'static str,
    account: Account,
    path: &'static str,
}

pub(super) async fn list(state: web::Data<State>, session: Session) -> Result<HttpResponse, Failure> {
    let (caches, database) = (state.caches.clone(), state.database.clone());
    // On a hit of the fragment neither runs.
    let lazy = Lazy::new()
        .value("objects", move || object_list(&caches, &database).map(|(list, _)| list.cards))
        .value("made_at", || Ok::<_, Failure>(now_millis()));
    let page = ListPage { section: "objects", account: session::account(&session), path: "%2Fobjects%2F" };
    state.page_with("objects/list.html", &page, lazy).await
}

#[derive(Serialize)]
struct DetailPage {
    section: &'static str,
    object: Detail,
    made_at: i64,
}

#[derive(Serialize)]
struct Detail {
    id: i64,
    title: String,
    paragraphs: Vec<String>,
    category: Option<Category>,
    labels: Vec<Label>,
    published: bool,
    created: i64,
    updated: i64,
    version: i64,
}

pub(super) async fn detail(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, Failure> {
    // More digits than a number has are an address without an object.
    let id = request.match_info()["id"].parse().map_err(|_| Failure::NotFound)?;
    let found = state.read(move |db| {
        let Some(object) = Object::find(db, id)?.filter(|object| object.published) else { return Ok(None) };
        let category = object.category_id.map(|id| Category::find(db, id)).transpose()?.flatten();
        let labels = ObjectLabel::rights(db, id)?;
        Ok(Some((object, category, labels)))
    });
    let (object, category, labels) = found.await?.ok_or(Failure::NotFound)?;
    let paragraphs = object.body.split("\n\n").map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let detail = Detail {
        id: object.pk(),
        paragraphs: paragraphs.collect(),
        title: object.title,
        category,
        labels,
        published: object.published,
        created: object.created,
        updated: object.updated,
        version: object.version,
    };
    state.page("objects/detail.html", &DetailPage { section: "objects", object: detail, made_at: now_millis() })
}

#[derive(Serialize)]
struct GroupPage {
    section: &'static str,
    /// What the name is that of: `category`, `label`.
    kind: &'static str,
    name: String,
    objects: Vec<Card>,
    made_at: i64,
}

pub(super) async fn in_category(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, Failure> {
    let id = request.match_info()["id"].parse().map_err(|_| Failure::NotFound)?;
    let found = state.read(move |db| {
        let Some(category) = Category::find(db, id)? else { return Ok(None) };
        let objects = Object::published_in(db, id)?;
        Ok(Some((category.name, Card::of_all(db, objects)?)))
    });
    group(&state, "category", found.await?)
}

pub(super) async fn with_label(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, Failure> {
    let id = request.match_info()["id"].parse().map_err(|_| Failure::NotFound)?;
    let found = state.read(move |db| {
        let Some(label) = Label::find(db, id)? else { return Ok(None) };
        let objects = Object::published_with(db, id)?;
        Ok(Some((label.name, Card::of_all(db, objects)?)))
    });
    group(&state, "label", found.await?)
}

fn group(state: &State, kind: &'static str, found: Option<(String, Vec<Card>)>) -> Result<HttpResponse, Failure> {
    let (name, objects) = found.ok_or(Failure::NotFound)?;
    let page = GroupPage { section: "objects", kind, name, objects, made_at: now_millis() };
    state.page("objects/group.html", &page)
}
