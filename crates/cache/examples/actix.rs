//! The app of the README: a home page that is made once in five minutes.
//!
//! `cargo run -p larder-cache --example actix`, then twice `curl -i http://127.0.0.1:8000/`.

use actix_web::{App, HttpServer, Responder, web};
use larder_cache::{
    Caches,
    page::{PageCache, cache_page},
};

async fn home() -> impl Responder {
    format!("made at {:?}\n", std::time::SystemTime::now())
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let pages = PageCache::new(Caches::local());
    let app = move || App::new().route("/", web::get().to(home).wrap(cache_page(300))).wrap(pages.clone());
    HttpServer::new(app).bind("127.0.0.1:8000")?.run().await
}
