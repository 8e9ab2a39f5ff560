//! The page cache: whole responses, per view or for the whole site.
//!
//! [`cache_page`] on a view or a route **marks** what it answers; one [`PageCache`] around the app looks up and
//! stores. Register it last, so that it is outermost: it then sees the cookies and `Vary` fields that inner
//! middleware adds, and a hit runs none of that middleware. Without it [`cache_page`] does both itself, and says so
//! once in the log.
//!
//! # What is never stored
//! Answers to anything but GET, parts and 304s, answers that set a cookie, say `private` or `no-store`, vary by `*`, are
//! over the limit in size, do not come to their end, or were made with something private ([`mark_private`]). Other statuses
//! than 200 only if the answer says for how long, and server errors never. Requests with an `Authorization` header or a
//! cookie neither read nor fill the cache, unless the view says that it is the same for everyone ([`CachePage::public`]) or
//! the cookie is none of the session's ([`PageCache::session_cookies`]). A page that is the same for everyone but for a name
//! is kept with a hole in place of the name ([`CachePage::holes`]).
//!
//! # HTTP
//! Freshness, age, validators, conditions, parts, request directives, stale answers and invalidation by unsafe methods
//! follow RFC 9110, 9111 and 5861; [`policy`] has each rule as a function. A view whose page is to be kept is asked for the
//! whole page: it does not see the conditions and ranges of the client, nor parameters that do not count, nor, unless a
//! proxy is trusted, what the request says of proxies. `Cache-Status` (RFC 9211) tells what became of each request.
//!
//! # Order
//! Compression, sessions, identity and locale middleware stand inside; request logging stands outside, and finds a
//! [`PageOutcome`] in the request's extensions.
//!
//! # Examples
//! ```
//! use actix_web::{App, HttpResponse, test, web};
//! use larder_cache::{Caches, page::{PageCache, cache_page}};
//!
//! # actix_web::rt::System::new().block_on(async {
//! let home = || async { HttpResponse::Ok().body("made just now") };
//! let app = test::init_service(
//!     App::new()
//!         .route("/", web::get().to(home).wrap(cache_page(300)))
//!         .wrap(PageCache::new(Caches::local())),
//! )
//! .await;
//! let get = || test::TestRequest::get().uri("/").insert_header(("host", "localhost")).to_request();
//! let first = test::call_service(&app, get()).await;
//! assert_eq!(first.headers().get("cache-status").unwrap(), "larder; fwd=uri-miss; stored; ttl=300");
//! let second = test::call_service(&app, get()).await;
//! assert!(second.headers().get("cache-status").unwrap().to_str().unwrap().starts_with("larder; hit; ttl="));
//! assert!(second.headers().contains_key("age"));
//! # });
//! ```

mod answer;
mod cache_page;
mod coded;
mod collect;
mod headers;
mod invalidation;
mod key;
mod memo;
#[cfg(feature = "template")]
mod open;
mod page_cache;
mod pages;
mod pending;
pub mod policy;
mod private;
mod purges;
mod stored;

pub use cache_page::{CachePage, CachePageService, cache_by_headers, cache_page};
pub use headers::{
    CacheControlHeader, Condition, ConditionalPage, HeadersService, VaryHeader, cache_control, condition,
    conditional_page, never_cache, vary_on_cookie, vary_on_headers,
};
#[cfg(feature = "template")]
pub use open::{OpenPages, OpenPagesService};
pub use page_cache::{PageCache, PageCacheService};
pub use policy::{Bypass, Forward, NotStored, PageOutcome, query::TRACKING};
pub use private::{add_tags, mark_private};

#[cfg(fuzzing)]
pub(crate) fn read_stored(stored: bytes::Bytes) {
    let _ = stored::Stored::decode(stored);
}
