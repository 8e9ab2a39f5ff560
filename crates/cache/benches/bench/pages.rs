//! Page hits against a raw handler that returns the same bytes and fields.

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use crate::{number, report::Report, server::Server};

const VARIANTS: [&str; 5] = ["locmem", "memcached", "near", "file", "database"];

pub(crate) const PAGES: usize = 10_000;

/// What the framework sends with every answer, the raw handler's too.
const OWN_FIELDS: [&str; 3] = ["content-length", "connection", "date"];

/// Asks for one of many pages at random. The requests are made beforehand: `wrk` must not be what is slow.
const SCRIPT: &str = r#"
local requests = {}
function init()
    for page = 1, PAGES do requests[page] = wrk.format("GET", "/" .. page) end
end
function request() return requests[math.random(PAGES)] end
"#;

pub(crate) struct Servers {
    raw: Server,
    one_page: Vec<(&'static str, Server)>,
    /// Those with many pages.
    many: Vec<(&'static str, Server)>,
    script: PathBuf,
    _folder: TempDir,
}

impl Servers {
    /// Starts a server for each variant, with its pages in the cache.
    pub(crate) fn start(report: &Report, memcached: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("many.lua");
        fs::write(&script, SCRIPT.replace("PAGES", &PAGES.to_string())).unwrap();
        let example = Server::start("locmem", memcached);
        example.get(&["/"]);
        let fields = fields(&example.get(&["/"]));
        let raw = Server::start_plain("raw", &fields);
        let names = |server: &Server| names(&server.get(&["/"]));
        let started = |variant, paths: &[String]| {
            let server = Server::start(variant, memcached);
            server.get(&["/"]);
            // As many as fit into what the kernel keeps of a connection that nobody reads yet.
            paths.chunks(100).for_each(|paths| drop(server.get(paths)));
            assert!(server.get(&["/"]).contains("larder; hit"), "{variant} does not hit");
            assert_eq!(names(&server), names(&raw), "{variant} answers with other fields than the raw handler");
            server
        };
        let wanted = VARIANTS.into_iter().filter(|variant| report.wants(variant));
        let one_page = wanted.map(|variant| (variant, started(variant, &[]))).collect();
        let paths: Vec<String> = (1..=PAGES).map(|page| format!("/{page}")).collect();
        let mut many = Vec::new();
        if report.wants("locmem-many") {
            many.push(("locmem-many", started("locmem-many", &paths)));
        }
        if report.wants("locmem-many-by-hand") {
            many.push(("locmem-many-by-hand", Server::start_plain("map", &fields)));
        }
        Servers { raw, one_page, many, script, _folder: folder }
    }

    /// Measures each variant once, each between two measurements of the raw handler.
    pub(crate) fn measure(&self, report: &mut Report) {
        let seconds = format!("-d{}s", number("LARDER_BENCH_SECONDS", 2));
        let rate = |server: &Server| server.rate("/", &["-c32", &seconds]);
        let mut before = if self.one_page.is_empty() { 0.0 } else { rate(&self.raw) };
        for (variant, server) in &self.one_page {
            let (here, after) = (rate(server), rate(&self.raw));
            report.add(variant, || here / f64::midpoint(before, after));
            before = after;
        }
        let script = self.script.to_string_lossy();
        let rate = |server: &Server| server.rate("/", &["-c32", &seconds, "-s", &script]);
        let mut before = if self.many.is_empty() { 0.0 } else { rate(&self.raw) };
        for (variant, server) in &self.many {
            let (here, after) = (rate(server), rate(&self.raw));
            report.add(variant, || here / f64::midpoint(before, after));
            before = after;
        }
    }
}

/// Returns the fields that a handler has to set for an answer like this.
fn fields(answer: &str) -> Vec<String> {
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    let is_own = |field: &&str| OWN_FIELDS.iter().any(|name| field.to_lowercase().starts_with(name));
    head.lines().skip(1).filter(|field| !is_own(field)).map(str::to_owned).collect()
}

/// Returns the names of all fields of an answer.
fn names(answer: &str) -> Vec<String> {
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    let mut names: Vec<String> =
        head.lines().skip(1).map(|line| line.split(':').next().unwrap_or_default().to_lowercase()).collect();
    names.sort();
    names
}
