//! The servers that are measured: what a child process runs, and how its parent asks it.

use std::{
    collections::HashMap,
    env,
    future::ready,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    dev::{Server as Running, ServerHandle},
    http::header::{HeaderName, HeaderValue},
    rt, web,
};
use larder_cache::{
    Caches,
    backend::{Options, database::Database},
    conformance::server::MemcachedServer,
    page::{PageCache, cache_page},
    settings::{AliasSettings, NearSettings},
};

use crate::{body, pages::PAGES};

const HTML: &str = "text/html; charset=utf-8";

/// How long the slow view takes: longer than 200 clients need to arrive.
const SLOW: Duration = Duration::from_millis(300);

/// Runs one server until its standard input ends. The raw handler answers with `fields`, each `name: value`.
pub(crate) fn serve(variant: &str, memcached: &str, fields: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    io::stdout().flush().unwrap();
    rt::System::new()
        .block_on(async {
            let server = match variant {
                "raw" => run_raw(listener, fields),
                "map" => run_map(listener, fields),
                "cold" | "cold-shared" => run_slow(listener, caches(variant, memcached, folder.path())),
                _ => run_pages(listener, caches(variant, memcached, folder.path())),
            };
            end_with_stdin(server.handle());
            server.await
        })
        .unwrap();
}

fn run_raw(listener: TcpListener, fields: &[&str]) -> Running {
    let fields = fields.iter().map(|field| parse(field)).collect();
    let raw = web::Data::new(Raw { page: body().into(), fields });
    // Not under a pattern for all paths: matching that costs more than the handler, and flatters the cache.
    let answer = || web::get().to(answer_raw);
    let app = move || App::new().app_data(raw.clone()).route("/", answer()).default_service(answer());
    HttpServer::new(app).workers(1).listen(listener).unwrap().run()
}

/// As many different pages as are measured, in a map that nothing ever leaves.
fn run_map(listener: TcpListener, fields: &[&str]) -> Running {
    let pages: HashMap<String, web::Bytes> =
        (1..=PAGES).map(|page| (format!("/{page}"), web::Bytes::from(body()))).collect();
    let map = web::Data::new((pages, fields.iter().map(|field| parse(field)).collect::<Fields>()));
    let app = move || App::new().app_data(map.clone()).default_service(web::get().to(answer_from_map));
    HttpServer::new(app).workers(1).listen(listener).unwrap().run()
}

fn run_pages(listener: TcpListener, caches: Caches) -> Running {
    let pages = PageCache::new(caches).site(cache_page(3600));
    let view = || ready(HttpResponse::Ok().content_type(HTML).body(body()));
    let app =
        move || App::new().route("/", web::get().to(view)).default_service(web::get().to(view)).wrap(pages.clone());
    HttpServer::new(app).workers(1).listen(listener).unwrap().run()
}

fn run_slow(listener: TcpListener, caches: Caches) -> Running {
    let (pages, calls) = (PageCache::new(caches), web::Data::new(AtomicUsize::new(0)));
    let app = move || {
        let slow = web::get().to(answer_slowly).wrap(cache_page(3600));
        let app = App::new().app_data(calls.clone()).route("/cold/{round}", slow);
        app.route("/calls", web::get().to(count_calls)).wrap(pages.clone())
    };
    HttpServer::new(app).workers(1).listen(listener).unwrap().run()
}

/// Runs a memcached until standard input ends, so that it never outlives the one who measures.
pub(crate) fn serve_memcached() {
    let memcached = MemcachedServer::start();
    println!("{}", memcached.address());
    io::stdout().flush().unwrap();
    let _ = io::stdin().read_to_end(&mut Vec::new());
}

/// A server that nobody asks any more ends by itself, and its folder with it, even if the parent was killed.
fn end_with_stdin(server: ServerHandle) {
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        rt::System::new().block_on(server.stop(false));
    });
}

fn caches(variant: &str, memcached: &str, folder: &Path) -> Caches {
    let address = match variant {
        "memcached" | "near" | "cold-shared" => format!("memcached://{memcached}"),
        "file" => format!("file://{}", folder.join("pages").display()),
        "database" => {
            let url = format!("sqlite://{}", folder.join("pages.sqlite3").display());
            Database::open(&url, "pages", Options::new()).unwrap().create_table().unwrap();
            format!("db://pages?url={url}")
        }
        _ => "locmem://pages?max_entries=100000".to_owned(),
    };
    let mut settings = AliasSettings::from_address("default", &address).unwrap();
    if variant == "near" {
        let (stale_for, max_bytes) = (Duration::from_secs(60), 64 << 20);
        settings.near = Some(NearSettings { stale_for, max_entries: 1000, max_bytes });
    }
    Caches::builder().alias("default", settings).build().unwrap()
}

/// What the raw handler answers with, as ready as a handler can have it.
struct Raw {
    page: web::Bytes,
    fields: Fields,
}

type Fields = Vec<(HeaderName, HeaderValue)>;

fn parse(field: &str) -> (HeaderName, HeaderValue) {
    let (name, value) = field.split_once(": ").unwrap();
    (name.parse().unwrap(), value.parse().unwrap())
}

async fn answer_raw(raw: web::Data<Raw>) -> HttpResponse {
    answer_with(&raw.fields, raw.page.clone())
}

async fn answer_from_map(request: HttpRequest, map: web::Data<(HashMap<String, web::Bytes>, Fields)>) -> HttpResponse {
    let page = map.0.get(request.path()).cloned();
    page.map_or_else(|| HttpResponse::Ok().body(body()), |page| answer_with(&map.1, page))
}

fn answer_with(fields: &Fields, page: web::Bytes) -> HttpResponse {
    let mut answer = HttpResponse::Ok();
    for (name, value) in fields {
        answer.insert_header((name.clone(), value.clone()));
    }
    answer.body(page)
}

async fn answer_slowly(calls: web::Data<AtomicUsize>) -> HttpResponse {
    calls.fetch_add(1, Ordering::SeqCst);
    rt::time::sleep(SLOW).await;
    HttpResponse::Ok().content_type(HTML).body(body())
}

async fn count_calls(calls: web::Data<AtomicUsize>) -> String {
    calls.swap(0, Ordering::SeqCst).to_string()
}

/// A server in a child process, which ends when the value is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: String,
}

impl Server {
    pub(crate) fn start(variant: &str, memcached: &Server) -> Self {
        Self::run(&["serve", variant, &memcached.address])
    }

    /// Starts what knows no cache: `raw` or `map`.
    pub(crate) fn start_plain(variant: &str, fields: &[String]) -> Self {
        let fields = fields.iter().map(String::as_str);
        Self::run(&["serve", variant, "-"].into_iter().chain(fields).collect::<Vec<_>>())
    }

    pub(crate) fn start_memcached() -> Self {
        Self::run(&["memcached"])
    }

    fn run(arguments: &[&str]) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut address).unwrap();
        Server { child, address: address.trim().to_owned() }
    }

    /// Asks for some paths on one connection and returns all that was answered.
    pub(crate) fn get(&self, paths: &[impl AsRef<str>]) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        for (position, path) in paths.iter().enumerate() {
            let connection = if position + 1 == paths.len() { "Connection: close\r\n" } else { "" };
            let (path, host) = (path.as_ref(), &self.address);
            write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n{connection}\r\n").unwrap();
        }
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        answers
    }

    /// Has `wrk` ask for a path, and returns how many requests were answered in a second.
    pub(crate) fn rate(&self, path: &str, arguments: &[&str]) -> f64 {
        let mut wrk = Command::new("wrk");
        wrk.arg("-t1").args(arguments).arg(format!("http://{}{path}", self.address));
        let out = wrk.output().expect("wrk is not installed; install it with: apt-get install wrk");
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
        let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok());
        rate.unwrap_or_else(|| panic!("wrk said: {text}{}", String::from_utf8_lossy(&out.stderr)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
