//! Who is at the other end of a connection.

use std::net::IpAddr;

use actix_web::{
    dev::RequestHead,
    http::header::{FORWARDED, VIA},
};

/// Tells whether a request came from one of these addresses. Whoever comes through a proxy is somebody else: the proxy's
/// address says nothing about him.
pub fn is_one_of(allowed: &[IpAddr], request: &RequestHead) -> bool {
    let headers = &request.headers;
    let is_direct =
        !(headers.contains_key(FORWARDED) || headers.contains_key("x-forwarded-for") || headers.contains_key(VIA));
    is_direct && request.peer_addr.is_some_and(|peer| allowed.contains(&peer.ip().to_canonical()))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn an_address_counts_in_both_notations_and_never_that_of_a_proxy() {
        let allowed = [IpAddr::from([127, 0, 0, 1])];
        let from = |peer: &str| TestRequest::default().peer_addr(peer.parse().unwrap());
        assert!(is_one_of(&allowed, from("127.0.0.1:9").to_http_request().head()));
        assert!(is_one_of(&allowed, from("[::ffff:127.0.0.1]:9").to_http_request().head()));
        assert!(!is_one_of(&allowed, from("10.0.0.1:9").to_http_request().head()));
        let proxied = from("127.0.0.1:9").insert_header(("x-forwarded-for", "10.0.0.1"));
        assert!(!is_one_of(&allowed, proxied.to_http_request().head()));
    }
}
