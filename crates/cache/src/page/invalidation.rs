//! What a successful unsafe request removes: the pages of its address, and of those that its answer names
//! (RFC 9111, section 4.4).

use actix_web::{
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{CONTENT_LOCATION, LOCATION},
    },
};
use url::{Position, Url};

use super::{key, pages::Pages, policy::request};

/// What an unsafe request was for, as its client asked for it: middleware may rewrite it.
#[derive(Debug)]
pub(super) struct Unsafe {
    method: Method,
    host: String,
    target: String,
}

impl Unsafe {
    /// Returns it if the method of a request is unsafe or unknown.
    pub(super) fn of(request: &ServiceRequest) -> Option<Self> {
        if request.method().is_safe() {
            return None;
        }
        let host = request::host(request.uri(), request.headers())?.to_owned();
        Some(Unsafe { method: request.method().clone(), host, target: key::target(request.uri()).to_owned() })
    }
}

/// Removes what an unsafe request and its answer make old, if the answer is no error.
pub(super) async fn after<B>(pages: &Pages, asked: &Unsafe, made: &ServiceResponse<B>) {
    if !made.status().is_success() && !made.status().is_redirection() {
        return;
    }
    let (request, host) = (made.request(), &asked.host);
    let rewritten = Some(key::target(request.uri())).filter(|target| *target != asked.target);
    let named = [LOCATION, CONTENT_LOCATION].map(|name| {
        let value = made.headers().get(name)?.to_str().ok()?;
        on_host(value, host, request.uri().path())
    });
    let cause = format!("{} {}", asked.method, asked.target);
    for target in [Some(asked.target.clone()), rewritten.map(str::to_owned)].into_iter().chain(named).flatten() {
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
