//! How often a view is called when many clients meet a page that nobody has made yet.

use std::thread;

use crate::{report::Report, server::Server};

const CLIENTS: usize = 200;

/// All processes must take it for one page.
const HOST: &str = "Host: larder.test";

pub(crate) struct Servers(Vec<(&'static str, Vec<Server>)>);

impl Servers {
    pub(crate) fn start(report: &Report, memcached: &Server) -> Self {
        let start = |variant, processes| {
            let servers = (0..processes).map(|_| Server::start(variant, memcached)).collect();
            (variant, servers)
        };
        let variants = [("cold", 1), ("cold-shared", 3)].into_iter().filter(|(variant, _)| report.wants(variant));
        Servers(variants.map(|(variant, processes)| start(variant, processes)).collect())
    }

    pub(crate) fn measure(&self, report: &mut Report, round: usize) {
        for (variant, servers) in &self.0 {
            report.add(variant, || calls(servers, &format!("/cold/{round}")));
        }
    }
}

/// Returns how often the view of a path was called, by the clients of all servers at once.
fn calls(servers: &[Server], path: &str) -> f64 {
    let clients = format!("-c{}", CLIENTS.div_ceil(servers.len()));
    thread::scope(|scope| {
        for server in servers {
            scope.spawn(|| server.rate(path, &[&clients, "-d1s", "-H", HOST]));
        }
    });
    let counts = servers.iter().map(|server| {
        let answer = server.get(&["/calls"]);
        let (_, count) = answer.split_once("\r\n\r\n").unwrap();
        count.parse::<f64>().unwrap()
    });
    counts.sum()
}
