//! The four levels side by side, and the sample of a cached view.

use actix_session::Session;
use actix_web::{HttpResponse, web};
use larder_cache::{
    dependencies::carry,
    template::{Lazy, OpenPage},
};
use larder_models::Object;
use serde::Serialize;

use super::{
    VIEW_SECONDS,
    objects::{OBJECTS_KEY, object_list},
};
use crate::{
    failure::Failure,
    session::{self, Account},
    state::{State, now_millis},
};

/// How many objects the panels name.
const NEWEST: usize = 3;

#[derive(Serialize)]
struct LevelsPage {
    section: &'static str,
    account: Account,
    path: &'static str,
    site: SitePanel,
    view: ViewPanel,
    value: ValuePanel,
}

#[derive(Serialize)]
struct SitePanel {
    enabled: bool,
    seconds: u64,
}

#[derive(Serialize)]
struct ViewPanel {
    seconds: u64,
    href: &'static str,
}

#[derive(Serialize)]
struct ValuePanel {
    key: &'static str,
    count: usize,
    titles: Vec<String>,
    hit: bool,
    made_at: i64,
}

pub(super) async fn levels(state: web::Data<State>, session: Session) -> Result<HttpResponse, Failure> {
    let (caches, database) = (state.caches.clone(), state.database.clone());
    let (for_panel, from) = (caches.clone(), database.clone());
    let (list, hit) = web::block(carry(move || object_list(&for_panel, &from))).await??;
    let page = LevelsPage {
        section: "levels",
        account: session::account(&session),
        path: "%2Flevels%2F",
        site: SitePanel {
            enabled: state.settings.site_cache.is_some(),
            seconds: state.settings.site_cache.as_ref().map_or(0, |site| site.seconds),
        },
        view: ViewPanel { seconds: VIEW_SECONDS, href: "/levels/view/" },
        value: ValuePanel {
            key: OBJECTS_KEY,
            count: list.cards.len(),
            titles: list.cards.iter().take(NEWEST).map(|card| card.title.clone()).collect(),
            hit,
            made_at: list.made_at,
        },
    };
    let lazy = Lazy::new()
        // Read inside of the fragment, which then depends on it. What is read before it, it knows nothing of.
        .value("newest", move || {
            let (list, _) = object_list(&caches, &database)?;
            Ok::<_, Failure>(list.cards.into_iter().take(NEWEST).collect::<Vec<_>>())
        })
        .value("made_at", || Ok::<_, Failure>(now_millis()));
    state.page_with("levels.html", &page, lazy).await
}

#[derive(Serialize)]
struct ViewPage {
    section: &'static str,
    made_at: i64,
    count: usize,
}

pub(super) async fn view(state: web::Data<State>) -> Result<OpenPage, Failure> {
    let count = state.read(|db| Ok(Object::published(db)?.len())).await?;
    let page = ViewPage { section: "levels", made_at: now_millis(), count };
    state.open_page("levels/view.html", &page)
}
