//! The admin: sign in, list, add, change and delete objects. Nothing here is ever cached.

mod csrf;
mod history;
mod index;
mod login;
mod objects;
mod staff;

use actix_web::{middleware::DefaultHeaders, web};

use crate::failure::{Failure, NEVER_CACHED};

use self::staff::Staff;

/// All addresses of the admin. Those that do not exist answer as those that do: sign in first.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(
        web::scope("/admin")
            .wrap(DefaultHeaders::new().add(NEVER_CACHED))
            .service(web::resource("/login/").route(web::get().to(login::form)).route(web::post().to(login::sign_in)))
            .service(web::resource("/logout/").route(web::post().to(login::sign_out)))
            .service(web::resource("/").route(web::get().to(index::index)))
            .service(web::resource("/objects/").route(web::get().to(objects::list)))
            .service(
                web::resource("/objects/add/")
                    .route(web::get().to(objects::add_form))
                    .route(web::post().to(objects::add)),
            )
            .service(
                web::resource(r"/objects/{id:\d+}/change/")
                    .route(web::get().to(objects::change_form))
                    .route(web::post().to(objects::change)),
            )
            .service(
                web::resource(r"/objects/{id:\d+}/delete/")
                    .route(web::get().to(objects::delete_form))
                    .route(web::post().to(objects::delete)),
            )
            .service(web::redirect("", "/admin/"))
            .default_service(web::to(|_: Staff| async { Err::<String, _>(Failure::NotFound) })),
    );
}
