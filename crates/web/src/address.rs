//! The addresses of this site.

use actix_web::{
    HttpRequest,
    http::header::{HOST, ORIGIN},
};
use larder_cache::page::policy::request;

/// Returns a path of this site, which no browser can take for another one; `None` if it is something else.
pub fn inside(path: &str) -> Option<&str> {
    let is_path = path.starts_with('/') && !path.starts_with("//") && !path.contains('\\');
    (is_path && path.bytes().all(|byte| byte.is_ascii_graphic())).then_some(path)
}

/// Makes a path an address, under the host by which it was asked for.
pub fn absolute(asked: &HttpRequest, path: &str) -> String {
    let host = request::host(asked.uri(), asked.headers()).unwrap_or_default();
    format!("http://{host}{path}")
}

/// Tells whether a form was sent from this site. Browsers say where one comes from.
pub fn is_from_here(request: &HttpRequest) -> bool {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = header(ORIGIN) else { return true };
    let host = origin.split_once("://").map(|(_, host)| host);
    host.is_some_and(|host| header(HOST).is_some_and(|ours| ours.eq_ignore_ascii_case(host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_to_another_site() {
        for path in ["/objects/", "/admin/objects/?q=jam&p=2"] {
            assert_eq!(inside(path), Some(path));
        }
        for path in
            ["", "//evil.test", "/\\evil.test", "https://evil.test", "javascript:x", "/\t/evil.test", "/ä", "/a b"]
        {
            assert_eq!(inside(path), None, "{path}");
        }
    }
}
