//! The list of objects, in a cached fragment over a cached value; and the page of one object, cached per view.

use actix_session::Session;
use actix_web::{HttpRequest, HttpResponse, web};
use larder_cache::{Caches, LoadError, template::Lazy};
use larder_models::{
    Database, Model, Object,
    invalidation::{ANY_OBJECT_TAG, OBJECTS_KEY},
};
use serde::{Deserialize, Serialize};

use crate::{
    failure::Failure,
    session::{self, Account},
    state::{State, now_millis},
};

/// How long the list is kept. An edit throws it away, so this could be days.
const LIST_SECONDS: u64 = 300;

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
    updated: i64,
}

impl Card {
    fn of(object: Object) -> Self {
        let text = object.body.split_whitespace().collect::<Vec<_>>().join(" ");
        let excerpt = match text.char_indices().nth(EXCERPT_CHARS) {
            Some((end, _)) => {
                let words = text[..end].rsplit_once(' ').map_or(&text[..end], |(words, _)| words);
                format!("{}…", words.trim_end_matches([',', ';', ':', '.', ' ']))
            }
            None => text,
        };
        Card { id: object.id, title: object.title, excerpt, updated: object.updated }
    }
}

/// Returns the list from the low-level cache, and whether it was there. Blocks.
pub(super) fn object_list(
    caches: &Caches,
    database: &Database,
) -> Result<(ObjectList, bool), LoadError<larder_models::Error>> {
    let cache = caches.default_cache().blocking().tags([ANY_OBJECT_TAG]);
    let mut hit = true;
    let list = cache.get_or_set(OBJECTS_KEY, LIST_SECONDS, || {
        hit = false;
        let objects = database.read(Object::published)?;
        Ok::<_, larder_models::Error>(ObjectList {
            made_at: now_millis(),
            cards: objects.into_iter().map(Card::of).collect(),
        })
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
    published: bool,
    created: i64,
    updated: i64,
    version: i64,
}

pub(super) async fn detail(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, Failure> {
    // More digits than a number has are an address without an object.
    let id = request.match_info()["id"].parse().map_err(|_| Failure::NotFound)?;
    let object = state.read(move |db| Object::find(db, id)).await?;
    let object = object.filter(|object| object.published).ok_or(Failure::NotFound)?;
    let paragraphs = object.body.split("\n\n").map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let detail = Detail {
        id: object.pk(),
        paragraphs: paragraphs.collect(),
        title: object.title,
        published: object.published,
        created: object.created,
        updated: object.updated,
        version: object.version,
    };
    state.page("objects/detail.html", &DetailPage { section: "objects", object: detail, made_at: now_millis() })
}
