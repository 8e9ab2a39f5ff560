//! The first page of the admin: what there is, what was done, which caches there are.

use actix_web::{HttpResponse, web};
use larder_models::Object;
use serde::Serialize;

use super::{
    history,
    staff::{Frame, Staff},
};
use crate::{failure::Failure, state::State};

#[derive(Serialize)]
struct IndexPage {
    #[serde(flatten)]
    frame: Frame,
    models: Vec<ModelLine>,
    recent: Vec<history::Line>,
    caches: Vec<CacheLine>,
}

#[derive(Serialize)]
struct ModelLine {
    name: &'static str,
    list_href: &'static str,
    add_href: &'static str,
    count: i64,
}

#[derive(Serialize)]
struct CacheLine {
    alias: String,
    backend: String,
    location: String,
}

pub(super) async fn index(state: web::Data<State>, staff: Staff) -> Result<HttpResponse, Failure> {
    let (count, recent) = state.read(|db| Ok((Object::count(db)?, history::recent(db)?))).await?;
    let caches = state.caches.iter().map(|(alias, settings, _)| CacheLine {
        alias: alias.to_owned(),
        backend: settings.backend.clone(),
        location: settings.location.join(", "),
    });
    let objects = ModelLine { name: "Objects", list_href: "/admin/objects/", add_href: "/admin/objects/add/", count };
    let page = IndexPage { frame: Frame::of(&staff.session)?, models: vec![objects], recent, caches: caches.collect() };
    state.page("admin/index.html", &page)
}
