//! What a successful unsafe request removes: the pages of its address, and of those that its answer names
//! (RFC 9111, section 4.4).

use actix_web::{
    dev::ServiceResponse,
    http::header::{CONTENT_LOCATION, LOCATION},
};
use url::{Position, Url};

use super::{pages::Pages, policy::request};

/// Removes what a request and its answer make old, if the method is unsafe or unknown and the answer is no error.
pub(super) async fn after<B>(pages: &Pages, made: &ServiceResponse<B>) {
    let request = made.request();
    let has_changed_nothing =
        request.method().is_safe() || !(made.status().is_success() || made.status().is_redirection());
    let Some(host) = request::host(request.headers()).filter(|_| !has_changed_nothing) else { return };
    let own = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let named = [LOCATION, CONTENT_LOCATION].map(|name| {
        let value = made.headers().get(name)?.to_str().ok()?;
        on_host(value, host, request.uri().path())
    });
    let cause = format!("{} {own}", request.method());
    for target in [Some(own.to_owned())].into_iter().chain(named).flatten() {
        // What could not be removed is removed when the store answers again; the log says so.
        let _ = pages.purge(host, &target, &cause).await;
    }
}

/// Returns path and query of a reference if it stays on the host: nobody may remove the pages of another one.
fn on_host(reference: &str, host: &str, base: &str) -> Option<String> {
    let base = Url::parse(&format!("http://{host}{base}")).ok()?;
    let named = base.join(reference).ok()?;
    // The scheme may differ, and with it the port that is not written.
    let written = |url: &Url| (url.host_str().map(str::to_ascii_lowercase), url.port());
    let is_web = matches!(named.scheme(), "http" | "https");
    (is_web && written(&named) == written(&base)).then(|| named[Position::BeforePath..Position::AfterQuery].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_references_to_the_same_host_count() {
        let cases = [
            ("/objects/8/", Some("/objects/8/")),
            ("/objects/8/?a=1", Some("/objects/8/?a=1")),
            ("http://a.test/x", Some("/x")),
            ("https://A.test/x", Some("/x")),
            ("http://a.test", Some("/")),
            ("http://b.test/x", None),
            ("//b.test/x", None),
            ("http://a.test:81/x", None),
            ("edit", Some("/objects/7/edit")),
            ("../8/", Some("/objects/8/")),
            ("mailto:a@a.test", None),
        ];
        for (reference, expected) in cases {
            assert_eq!(on_host(reference, "a.test", "/objects/7/").as_deref(), expected, "{reference}");
        }
    }
}
