//! The pages that visitors see.

mod delay;
mod home;
mod levels;
mod metrics;
mod objects;

use actix_web::{guard, web};
use larder_cache::page::cache_page;

use crate::session;

/// How long the home page is kept.
const HOME_SECONDS: u64 = 300;

/// How long the pages of objects, categories and labels are kept. An edit throws it away, so this could be days.
const OBJECT_SECONDS: u64 = 300;

/// How long the sample of a cached view is kept.
const VIEW_SECONDS: u64 = 60;

/// Pages that are the same for everyone, and the slow API. They know of no session.
pub fn without_session(config: &mut web::ServiceConfig) {
    let home = web::resource("/").wrap(cache_page(HOME_SECONDS).public());
    let object = web::resource(r"/objects/{id:\d+}/").wrap(cache_page(OBJECT_SECONDS).public().clients(0));
    let category = web::resource(r"/categories/{id:\d+}/").wrap(cache_page(OBJECT_SECONDS).public().clients(0));
    let label = web::resource(r"/labels/{id:\d+}/").wrap(cache_page(OBJECT_SECONDS).public().clients(0));
    config
        .service(web::resource("/delay/{seconds}").route(web::get().to(delay::delay)))
        .service(web::resource("/metrics").route(web::route().guard(reads()).to(metrics::metrics)))
        .service(home.route(web::route().guard(reads()).to(home::home)))
        .service(object.route(web::route().guard(reads()).to(objects::detail)))
        .service(category.route(web::route().guard(reads()).to(objects::in_category)))
        .service(label.route(web::route().guard(reads()).to(objects::with_label)))
        .service(web::redirect("/objects", "/objects/").permanent())
        .service(web::redirect("/levels", "/levels/").permanent());
}

/// Pages that show who is signed in; the cached one in a hole.
pub fn with_session(config: &mut web::ServiceConfig) {
    let view = web::resource("/levels/view/").wrap(cache_page(VIEW_SECONDS).holes(session::visitor));
    config
        .service(web::resource("/objects/").route(web::route().guard(reads()).to(objects::list)))
        .service(web::resource("/levels/").route(web::route().guard(reads()).to(levels::levels)))
        .service(view.route(web::route().guard(reads()).to(levels::view)));
}

/// A guard for views that answer GET and HEAD.
fn reads() -> impl guard::Guard {
    guard::Any(guard::Get()).or(guard::Head())
}
