//! Page hits against a raw handler that returns the same bytes and fields.

use std::{
    env,
    future::ready,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use actix_web::{App, HttpResponse, HttpServer, web};
use larder_cache::{
    Caches,
    backend::{Options, database::Database},
    conformance::server::MemcachedServer,
    page::{PageCache, cache_page},
    settings::{AliasSettings, NearSettings},
};

/// What is measured: its name, how it is asked for, and the ratio to reach.
const VARIANTS: [(&str, &str, &str); 6] = [
    ("page hit, locmem", "locmem", "0.95"),
    ("page hit over 10,000 pages, locmem", "locmem-many", "0.85"),
    ("page hit, memcached", "memcached", "0.38"),
    ("page hit, memcached with a near cache", "near", "0.90"),
    ("page hit, file", "file", "0.45"),
    ("page hit, SQLite", "database", "0.38"),
];

const PAGES: usize = 10_000;
const CONNECTIONS: &str = "32";

fn number(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn body() -> String {
    "<p>0123456789</p>".repeat(2048 / 17)
}

/// Runs one server until its standard input ends.
pub(crate) fn serve(variant: &str, memcached: &str) {
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let folder = tempfile::tempdir().unwrap();
    let address = match variant {
        "memcached" | "near" => format!("memcached://{memcached}"),
        "file" => format!("file://{}", folder.path().join("pages").display()),
        "database" => {
            let url = format!("sqlite://{}", folder.path().join("pages.sqlite3").display());
            Database::open(&url, "pages", Options::new()).unwrap().create_table().unwrap();
            format!("db://pages?url={url}")
        }
        _ => "locmem://pages?max_entries=100000".to_owned(),
    };
    let mut settings = AliasSettings::from_address("default", &address).unwrap();
    if variant == "near" {
        let (stale_for, max_bytes) = (Duration::from_secs(3600), 64 << 20);
        settings.near = Some(NearSettings { stale_for, max_entries: 1000, max_bytes });
    }
    let caches = Caches::builder().alias("default", settings).build().unwrap();
    // Binding first, because an app with middleware is of another type than one without.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    std::io::stdout().flush().unwrap();
    let server = if variant == "raw" {
        let page = web::Bytes::from(body());
        let server = HttpServer::new(move || {
            let page = page.clone();
            App::new().route("/{tail:.*}", web::get().to(move || raw(page.clone())))
        });
        server.workers(1).listen(listener).unwrap().run()
    } else {
        let pages = PageCache::new(caches).allowed_hosts(["127.0.0.1"]).site(cache_page(3600));
        let server = HttpServer::new(move || {
            let page = web::Bytes::from(body());
            let view = move || ready(HttpResponse::Ok().content_type(HTML).body(page.clone()));
            App::new().route("/{tail:.*}", web::get().to(view)).wrap(pages.clone())
        });
        server.workers(1).listen(listener).unwrap().run()
    };
    actix_web::rt::System::new().block_on(server).unwrap();
}

const HTML: &str = "text/html; charset=utf-8";

/// Answers with the bytes and the fields that a hit has.
async fn raw(page: web::Bytes) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(HTML)
        .insert_header(("cache-control", "max-age=3600"))
        .insert_header(("expires", "Thu, 01 Jan 2037 00:00:00 GMT"))
        .insert_header(("etag", "\"0123456789abcdef0123456789abcdef\""))
        .insert_header(("age", "12"))
        .insert_header(("cache-status", "larder; hit; ttl=3588"))
        .body(page)
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(variant: &str, memcached: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["serve", variant, memcached])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        let mut byte = [0];
        let out = child.stdout.as_mut().unwrap();
        while out.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            address.push(char::from(byte[0]));
        }
        Server { child, address }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Returns the requests that it answers in a second.
    fn rate(&self, script: Option<&Path>) -> f64 {
        let seconds = format!("{}s", number("LARDER_BENCH_SECONDS", 2));
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "-c", CONNECTIONS, "-d", &seconds]);
        if let Some(script) = script {
            wrk.arg("-s").arg(script);
        }
        let out =
            wrk.arg(format!("http://{}/", self.address)).output().expect("wrk is missing; run: apt-get install wrk");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(!text.contains("Non-2xx"), "{text}");
        let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok());
        rate.unwrap_or_else(|| panic!("wrk said: {text}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Measures all variants and prints a line for each.
pub(crate) fn print() {
    let memcached = MemcachedServer::start();
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("many.lua");
    let lua = format!("request = function() return wrk.format(\"GET\", \"/\" .. math.random({PAGES})) end");
    std::fs::write(&script, lua).unwrap();
    let raw = Server::start("raw", "-");
    let only = env::var("LARDER_BENCH_ONLY").unwrap_or_default();
    let chosen = VARIANTS.iter().filter(|(_, variant, _)| variant.starts_with(only.as_str()));
    let servers: Vec<_> = chosen.map(|line| (line, Server::start(line.1, &memcached.address()))).collect();
    for ((_, variant, _), server) in &servers {
        let pages = if *variant == "locmem-many" { PAGES } else { 0 };
        (0..=pages).for_each(|page| drop(server.get(&if page == 0 { "/".to_owned() } else { format!("/{page}") })));
        assert!(server.get("/").contains("larder; hit"), "{variant} does not hit");
    }
    let mut ratios = vec![Vec::new(); servers.len()];
    for _ in 0..number("LARDER_BENCH_ROUNDS", 5) {
        for (ratios, ((_, variant, _), server)) in ratios.iter_mut().zip(&servers) {
            let script = (*variant == "locmem-many").then_some(script.as_path());
            let (before, rate, after) = (raw.rate(script), server.rate(script), raw.rate(script));
            ratios.push(rate / f64::midpoint(before, after));
        }
    }
    for (((name, _, bar), _), mut ratios) in servers.iter().zip(ratios) {
        ratios.sort_by(f64::total_cmp);
        let (least, middle, most) = (ratios[0], ratios[ratios.len() / 2], ratios[ratios.len() - 1]);
        println!("| {name}, against a raw handler | {middle:.2} ({least:.2} to {most:.2}) | {bar} |");
    }
}
