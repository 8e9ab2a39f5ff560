//! The first page of the admin: what there is, what was done, which caches there are.

use actix_web::{HttpResponse, web};
use larder_models::Verb;
use serde::Serialize;

use super::{
    MODELS,
    caches::{Overview, overviews},
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
    /// If this user may see them.
    caches: Option<Vec<Overview>>,
}

#[derive(Serialize)]
struct ModelLine {
    name: String,
    one: &'static str,
    list_href: String,
    /// Where one is added, if this user may.
    add_href: Option<String>,
    count: i64,
}

pub(super) async fn index(state: web::Data<State>, staff: Staff) -> Result<HttpResponse, Failure> {
    let asker = staff.asker.clone();
    let read = state.read(move |db| {
        let mut models = Vec::new();
        for model in MODELS.iter().filter(|model| model.allows(&asker, Verb::View)) {
            let names = model.names();
            models.push(ModelLine {
                name: capitalized(names.many),
                one: names.one,
                add_href: model.allows(&asker, Verb::Add).then(|| format!("{}add/", names.list_href())),
                list_href: names.list_href(),
                count: model.count(db)?,
            });
        }
        Ok((models, history::recent(db, &asker)?))
    });
    let (models, recent) = read.await?;
    let caches = if staff.may_see_caches() { Some(overviews(&state, |_| true).await?) } else { None };
    let page = IndexPage { frame: Frame::of(&staff.session)?, models, recent, caches };
    state.page("admin/index.html", &page)
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
