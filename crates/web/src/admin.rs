//! The admin: sign in, and the pages that are made from the descriptions of the models. Nothing here is ever cached.

mod caches;
mod csrf;
mod describe;
mod form;
mod history;
mod index;
mod list;
mod live;
mod login;
mod models;
mod password;
mod registry;
mod staff;
mod throttle;

use std::sync::LazyLock;

use actix_web::{middleware::DefaultHeaders, web};

use crate::failure::{Failure, NEVER_CACHED};

use self::{registry::Registered, staff::Staff};

pub use self::throttle::Throttle;

/// The models of the admin.
static MODELS: LazyLock<Vec<Box<dyn Registered>>> = LazyLock::new(models::all);

/// All addresses of the admin. Those that do not exist answer as those that do: sign in first.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(
        web::scope("/admin")
            .wrap(DefaultHeaders::new().add(NEVER_CACHED))
            .service(web::resource("/login/").route(web::get().to(login::form)).route(web::post().to(login::sign_in)))
            .service(web::resource("/logout/").route(web::post().to(login::sign_out)))
            .service(web::resource("/").route(web::get().to(index::index)))
            .service(
                web::resource("/password/")
                    .route(web::get().to(password::form))
                    .route(web::post().to(password::change)),
            )
            .service(web::resource("/live/").route(web::get().to(live::page)))
            .service(web::resource("/live/stream/").route(web::get().to(live::stream)))
            .service(web::resource("/caches/").route(web::get().to(caches::list)))
            .service(
                web::resource("/caches/{alias}/")
                    .route(web::get().to(caches::cache))
                    .route(web::post().to(caches::change)),
            )
            .service(web::resource("/caches/{alias}/key/").route(web::get().to(caches::key)))
            .service(web::resource("/caches/{alias}/clear/").route(web::get().to(caches::clear_form)))
            .service(web::resource("/{model}/").route(web::get().to(list::list)))
            .service(web::resource("/{model}/export/").route(web::get().to(list::export)))
            .service(web::resource("/{model}/action/").route(web::post().to(list::act)))
            .service(
                web::resource("/{model}/add/").route(web::get().to(form::add_form)).route(web::post().to(form::add)),
            )
            .service(
                web::resource(r"/{model}/{id:\d+}/change/")
                    .route(web::get().to(form::change_form))
                    .route(web::post().to(form::change)),
            )
            .service(web::resource(r"/{model}/{id:\d+}/history/").route(web::get().to(history::page)))
            .service(
                web::resource(r"/{model}/{id:\d+}/delete/")
                    .route(web::get().to(form::delete_form))
                    .route(web::post().to(form::delete)),
            )
            .service(web::redirect("", "/admin/"))
            .default_service(web::to(|_: Staff| async { Err::<String, _>(Failure::NotFound) })),
    );
}

/// Returns the model of an address.
///
/// # Errors
/// [`Failure::NotFound`].
fn find(path: &str) -> Result<&'static dyn Registered, Failure> {
    let found = MODELS.iter().find(|model| model.names().path == path);
    found.map(|model| &**model).ok_or(Failure::NotFound)
}
