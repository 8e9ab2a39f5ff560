//! What a view says of the page while it makes it: that it is for one visitor only, and which tags it shows.

use actix_web::{HttpMessage, HttpRequest};

use crate::dependencies;

/// Left in a request whose answer belongs to one visitor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taint;

/// The tags that a view found out, left in its request.
#[derive(Debug, Clone, Default)]
pub(super) struct PageTags(pub(super) Vec<String>);

/// Says that what is being made for a request depends on who asks: call it where a session, an identity or a CSRF token is
/// read. The answer is then not stored, unless its mark says which cookie tells visitors apart and the request has it
/// ([`vary_on_session`](super::CachePage::vary_on_session)).
///
/// # Examples
/// ```
/// use actix_web::HttpRequest;
/// use larder_cache::page;
///
/// fn user_name(request: &HttpRequest) -> Option<String> {
///     page::mark_private(request);
///     request.cookie("user").map(|cookie| cookie.value().to_owned())
/// }
/// ```
pub fn mark_private(request: &HttpRequest) {
    dependencies::mark_private();
    request.extensions_mut().insert(Taint);
}

/// Adds tags to the page that is being made for a request, which its view found out on the way. An invalidation of one of
/// them meanwhile wins.
///
/// # Examples
/// ```
/// use actix_web::HttpRequest;
/// use larder_cache::page;
///
/// async fn object(request: HttpRequest) -> String {
///     page::add_tags(&request, ["object:7", "category:2"]);
///     "object 7 of category 2".to_owned()
/// }
/// ```
pub fn add_tags<S: Into<String>>(request: &HttpRequest, tags: impl IntoIterator<Item = S>) {
    let mut extensions = request.extensions_mut();
    let known = extensions.get_mut::<PageTags>();
    match known {
        Some(known) => known.0.extend(tags.into_iter().map(Into::into)),
        None => drop(extensions.insert(PageTags(tags.into_iter().map(Into::into).collect()))),
    }
}
