//! Who is at the other end of a connection.

use std::net::{IpAddr, Ipv6Addr};

use actix_web::{
    Error, HttpMessage,
    body::MessageBody,
    dev::{Extensions, RequestHead, ServiceRequest, ServiceResponse},
    http::header::{FORWARDED, VIA},
    middleware::Next,
    web,
};

use crate::state::State;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// Who asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peer {
    /// His address; if a proxy asks for him that is trusted, what the proxy says.
    pub address: Option<IpAddr>,
    /// Whether nobody is in between, as far as one can see.
    is_direct: bool,
}

/// Middleware: notes who asks. It stands outside of the page cache, which keeps from views what proxies say.
///
/// # Errors
/// Those of the service inside.
pub async fn note<B: MessageBody>(request: ServiceRequest, next: Next<B>) -> Result<ServiceResponse<B>, Error> {
    let state = request.app_data::<web::Data<State>>();
    let peer = state.map(|state| Peer::of(request.head(), &state.settings.server.trusted_proxies));
    request.extensions_mut().insert(peer.unwrap_or_default());
    next.call(request).await
}

impl Peer {
    fn of(request: &RequestHead, proxies: &[IpAddr]) -> Self {
        let headers = &request.headers;
        let is_direct =
            ![FORWARDED.as_str(), FORWARDED_FOR, VIA.as_str()].iter().any(|name| headers.contains_key(*name));
        let connected = request.peer_addr.map(|peer| peer.ip().to_canonical());
        if !connected.is_some_and(|address| proxies.contains(&address)) {
            return Peer { address: connected, is_direct };
        }
        let lists = headers.get_all(FORWARDED_FOR).filter_map(|list| list.to_str().ok());
        let said: Vec<&str> = lists.flat_map(|list| list.split(',')).collect();
        // Each proxy writes at the end; what stands before may be made up.
        let addresses = said.into_iter().rev().map_while(|one| one.trim().parse::<IpAddr>().ok());
        let outside = addresses.map(|one| one.to_canonical()).find(|one| !proxies.contains(one));
        Peer { address: outside.or(connected), is_direct: false }
    }

    /// Returns who was noted; nobody if nobody was.
    pub fn noted(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or_default()
    }

    /// Tells whether he asks from one of these addresses. Whoever comes through a proxy is somebody else: the proxy's
    /// address says nothing about him.
    pub fn is_one_of(&self, allowed: &[IpAddr]) -> bool {
        self.is_direct && self.address.is_some_and(|address| allowed.contains(&address))
    }

    /// Returns his address, or that of the network in which somebody can choose addresses as he likes: of IPv6 the first
    /// 64 bits.
    pub fn network(&self) -> Option<IpAddr> {
        self.address.map(|address| match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn peer(address: &str, forwarded_for: Option<&'static str>, proxies: &[IpAddr]) -> Peer {
        let mut request = TestRequest::default().peer_addr(address.parse().unwrap());
        if let Some(forwarded_for) = forwarded_for {
            request = request.insert_header((FORWARDED_FOR, forwarded_for));
        }
        Peer::of(request.to_http_request().head(), proxies)
    }

    #[test]
    fn an_address_counts_in_both_notations_and_never_that_of_a_proxy() {
        let allowed = [IpAddr::from([127, 0, 0, 1])];
        assert!(peer("127.0.0.1:9", None, &[]).is_one_of(&allowed));
        assert!(peer("[::ffff:127.0.0.1]:9", None, &[]).is_one_of(&allowed));
        assert!(!peer("10.0.0.1:9", None, &[]).is_one_of(&allowed));
        assert!(!peer("127.0.0.1:9", Some("10.0.0.1"), &[]).is_one_of(&allowed));
        assert!(!peer("10.0.0.1:9", Some("127.0.0.1"), &[[10, 0, 0, 1].into()]).is_one_of(&allowed));
        assert!(!Peer::default().is_one_of(&allowed));
    }

    #[test]
    fn a_proxy_is_believed_only_if_the_settings_name_it() {
        let proxies = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        for (address, said, expected) in [
            ("192.0.2.1:9", "203.0.113.5", "192.0.2.1"),
            ("10.0.0.1:9", "203.0.113.5", "203.0.113.5"),
            ("10.0.0.1:9", "1.1.1.1, 203.0.113.5, 10.0.0.2", "203.0.113.5"),
            ("10.0.0.1:9", "203.0.113.5, nonsense", "10.0.0.1"),
            ("10.0.0.1:9", "", "10.0.0.1"),
        ] {
            assert_eq!(peer(address, Some(said), &proxies).address, expected.parse().ok(), "{address} {said}");
        }
    }

    #[test]
    fn a_network_is_one_however_many_addresses_it_has() {
        let network = |address: &str| peer(address, None, &[]).network().unwrap();
        assert_eq!(network("[2001:db8:1:2:3:4:5:6]:9"), network("[2001:db8:1:2::1]:9"));
        assert_ne!(network("[2001:db8:1:2::1]:9"), network("[2001:db8:1:3::1]:9"));
        assert_eq!(network("192.0.2.1:9"), IpAddr::from([192, 0, 2, 1]));
    }
}
