//! What an attacker sends, over real HTTP: nothing private is kept, nothing that one request made reaches another.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::ServerHandle, web};
use larder_cache::{
    Caches,
    page::{PageCache, TRACKING, cache_page},
    settings::AliasSettings,
};

struct Site {
    address: SocketAddr,
    handle: ServerHandle,
    runs: Arc<AtomicUsize>,
}

/// Shows everything that a view can learn of its request.
async fn mirror(request: HttpRequest, body: web::Bytes, runs: web::Data<AtomicUsize>) -> HttpResponse {
    let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
    let (host, scheme) = {
        let connection = request.connection_info();
        (connection.host().to_owned(), connection.scheme().to_owned())
    };
    let field =
        |name: &str| request.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let mut answer = HttpResponse::Ok();
    if request.path() == "/slow" && request.method() == "POST" {
        actix_web::rt::time::sleep(Duration::from_millis(300)).await;
    }
    if request.path().ends_with("/login") {
        answer.insert_header(("set-cookie", "id=fresh"));
    }
    if request.path().ends_with("/varies") {
        answer.insert_header(("vary", "x-a, x-b"));
    }
    answer.body(format!(
        "run {run} {scheme}://{host}{} user={:?} a={:?} b={:?} range={:?} body={}",
        request.uri(),
        request.cookie("id").map(|cookie| cookie.value().to_owned()),
        field("x-a"),
        field("x-b"),
        field("range"),
        String::from_utf8_lossy(&body),
    ))
}

impl Site {
    fn start() -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let store = format!("locmem://attacks-{}", STARTED.fetch_add(1, Ordering::SeqCst));
        let settings = AliasSettings::from_address("default", &store).unwrap();
        let caches = Caches::builder().alias("default", settings).build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let runs = web::Data::new(AtomicUsize::new(0));
        let counted = runs.clone().into_inner();
        let (started, start) = mpsc::channel();
        thread::spawn(move || {
            let pages = PageCache::new(caches)
                .site(cache_page(300))
                .allowed_hosts(["larder.test"])
                .session_cookies(["id"])
                .ignore_query(TRACKING);
            let server = HttpServer::new(move || {
                App::new().app_data(runs.clone()).default_service(web::to(mirror)).wrap(pages.clone())
            });
            let server = server.workers(2).shutdown_timeout(1).disable_signals().listen(listener).unwrap().run();
            started.send(server.handle()).unwrap();
            actix_web::rt::System::new().block_on(server).unwrap();
        });
        Site { address, handle: start.recv().unwrap(), runs: counted }
    }

    /// Sends bytes as they are and returns all that comes.
    fn send(&self, raw: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(raw).unwrap();
        let mut answer = Vec::new();
        // A server that resets the connection after its answer has answered.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn request(&self, method: &str, target: &str, fields: &[&str]) -> String {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let host = if fields.to_ascii_lowercase().contains("host:") && !fields.starts_with("X-") {
            ""
        } else {
            "Host: larder.test\r\n"
        };
        self.send(format!("{method} {target} HTTP/1.1\r\n{host}{fields}Connection: close\r\n\r\n").as_bytes())
    }

    fn get(&self, target: &str, fields: &[&str]) -> String {
        self.request("GET", target, fields)
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Dropped unpolled it still tells the server to stop.
        drop(self.handle.stop(false));
    }
}

#[test]
fn no_host_and_no_proxy_field_of_a_stranger_gets_into_a_page() {
    let site = Site::start();
    let evil = [
        &["Host: evil.test"][..],
        &["X-Forwarded-Host: evil.test"],
        &["X-Forwarded-Proto: evil"],
        &["Forwarded: host=evil.test;proto=evil"],
        &["X-Forwarded-For: evil.test", "X-Host: evil.test", "X-Original-URL: /evil"],
    ];
    for fields in evil {
        site.get("/a", fields);
        let page = site.get("/a", &[]);
        assert!(page.contains("http://larder.test/a") && !page.contains("evil"), "{fields:?}: {page}");
    }
    for host in
        ["Host: ", "Host: a b", "Host: larder.test@evil.test", "Host: larder.test/evil", "Host: larder.test:evil"]
    {
        let answer = site.get("/b", &[host]);
        assert!(!answer.contains("; stored"), "{host}: {answer}");
    }
    assert!(site.get("/b", &[]).contains("; stored"));
    let elsewhere = site.get("http://evil.test/c", &[]);
    assert!(!elsewhere.contains("; stored"), "{elsewhere}");
    assert!(!site.get("/c", &[]).contains("evil"));
}

#[test]
fn what_a_client_changed_who_went_away_is_not_served() {
    let site = Site::start();
    assert!(site.get("/slow", &[]).contains("; stored"));
    let mut gone = TcpStream::connect(site.address).unwrap();
    // Who does not read what has come resets the connection when he closes it.
    gone.write_all(b"GET /slow HTTP/1.1\r\nHost: larder.test\r\n\r\n").unwrap();
    gone.write_all(b"POST /slow HTTP/1.1\r\nHost: larder.test\r\nContent-Length: 0\r\n\r\n").unwrap();
    thread::sleep(Duration::from_millis(100));
    drop(gone);
    let deadline = Instant::now() + Duration::from_secs(5);
    while site.get("/slow", &[]).contains("larder; hit") {
        assert!(Instant::now() < deadline, "the page of before is served");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_a_signed_in_visitor_sees_is_his_wherever_he_is_lured_to() {
    let site = Site::start();
    for target in [
        "/account",
        "/account/x.css",
        "/account%2Fx.css",
        "/account;x.css",
        "/account?x.css",
        "/account/..%2fstatic/x.css",
    ] {
        let his = site.get(target, &["Cookie: theme=dark; id=ann"]);
        assert!(his.contains("user=Some(\"ann\")") && !his.contains("; stored"), "{target}: {his}");
        assert!(site.get(target, &[]).contains("user=None"), "{target}");
        assert!(site.get(target, &["Cookie: id=bob"]).contains("user=Some(\"bob\")"), "{target}");
    }
    // Views read these names as `id`.
    for cookie in ["%69d=ann", "theme=dark; i%64=ann", "\u{a0}id=ann"] {
        let target = format!("/spelled?{}", cookie.len());
        assert!(!site.get(&target, &[&format!("Cookie: {cookie}")]).contains("; stored"), "{cookie}");
        assert!(site.get(&target, &[]).contains("user=None"), "{cookie}");
    }
    assert!(!site.get("/a", &["Authorization: Bearer x"]).contains("; stored"));
    site.get("/login", &[]);
    assert!(site.get("/login", &[]).contains("fwd=uri-miss"), "a cookie that one visitor is given is not for the next");
}

#[test]
fn addresses_that_differ_in_a_byte_are_different_pages() {
    let site = Site::start();
    let targets = [
        "/a/b",
        "/a%2Fb",
        "/a%2fb",
        "/a/./b",
        "/a/c/../b",
        "/a//b",
        "/A/b",
        "/a/b/",
        "/a/b;x",
        "/a/b?",
        "/a/b?x",
        "/a/b?x=",
        "/a/b?x=1",
        "/a/b?x=1&x=2",
        "/a/b?x=2&x=1",
        "/a/b?x=1;y=2",
        "/a/b%00",
        "/a/b%0d%0aset-cookie:x",
        "/a/b?%00",
    ];
    for target in targets {
        let first = site.get(target, &[]);
        assert!(first.contains(&format!("larder.test{target} ")), "{target}: {first}");
        assert!(!first.to_ascii_lowercase().contains("\r\nset-cookie"), "{first}");
    }
    assert_eq!(site.runs(), targets.len());
    // What is left out of the question is left out of what the view reads, too.
    let cloaked = site.get("/a/b?x=1&utm_content=1;x=evil", &[]);
    assert!(cloaked.contains("larder; hit") && !cloaked.contains("evil"), "{cloaked}");
}

#[test]
fn neither_body_nor_method_nor_part_of_a_request_poisons_a_page() {
    let site = Site::start();
    let fat =
        site.send(b"GET /fat HTTP/1.1\r\nHost: larder.test\r\nContent-Length: 4\r\nConnection: close\r\n\r\nevil");
    assert!(fat.contains("body=evil") && !fat.contains("; stored"), "{fat}");
    assert!(!site.get("/fat", &[]).contains("evil"));
    // A request that may go on as something else has a body without an end. Nobody shall wait for it.
    let mut endless = TcpStream::connect(site.address).unwrap();
    endless
        .write_all(
            b"GET /endless HTTP/1.1\r\nHost: larder.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nevil",
        )
        .unwrap();
    thread::sleep(Duration::from_millis(100));
    let page = site.get("/endless", &[]);
    assert!(page.contains("; stored") && !page.contains("evil"), "{page}");
    let head = site.request("HEAD", "/head", &[]);
    assert!(head.ends_with("\r\n\r\n") && !head.contains("; stored"), "{head}");
    let page = site.get("/head", &[]);
    assert!(page.contains("run "), "{page}");
    let head = site.request("HEAD", "/head", &[]);
    let length = |answer: &str| {
        answer.lines().find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned)).unwrap()
    };
    assert!(head.ends_with("\r\n\r\n") && length(&head) == length(&page), "{head}");
    site.request("POST", "/method", &["X-HTTP-Method-Override: GET", "Content-Length: 0"]);
    assert!(site.get("/method", &[]).contains("; stored"));
    let part = site.get("/part", &["Range: bytes=0-2"]);
    assert!(part.starts_with("HTTP/1.1 206") && part.ends_with("\r\n\r\nrun"), "{part}");
    assert!(site.get("/part", &[]).contains("range=None"), "the page was made whole");
    let many: String = (0..1000).map(|n| format!("{n}-{n},")).collect();
    assert!(site.get("/part", &[&format!("Range: bytes={many}")]).starts_with("HTTP/1.1 20"));
}

#[test]
fn header_games_lead_to_variants_of_their_own() {
    let site = Site::start();
    let cases: [&[&str]; 6] =
        [&[], &["X-A: "], &["X-A: 1", "X-B: 23"], &["X-A: 12", "X-B: 3"], &["X-A: 1, 2"], &["X-A: 1", "X-A: 2"]];
    for fields in cases {
        assert!(site.get("/varies", fields).contains("; stored"), "{fields:?}");
    }
    assert_eq!(site.runs(), cases.len());
    for fields in cases {
        assert!(site.get("/varies", fields).contains("larder; hit"), "{fields:?}");
    }
}

#[test]
fn requests_that_are_none_leave_nothing_behind() {
    let site = Site::start();
    let large = format!("GET /x HTTP/1.1\r\nHost: larder.test\r\nX-A: {}\r\n\r\n", "x".repeat(200_000));
    let malformed: [&[u8]; 9] = [
        large.as_bytes(),
        b"GET /x HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: larder.test\r\nHost: evil.test\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: larder.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: larder.test\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"GET /x HTTP/1.1\r\nHost: larder.test\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: larder.test\r\nX-A: a\x00b\r\n\r\n",
        b"GET /x y HTTP/1.1\r\nHost: larder.test\r\n\r\n",
        b"GET /x\x00 HTTP/1.1\r\nHost: larder.test\r\n\r\n",
    ];
    for raw in malformed {
        let shown = String::from_utf8_lossy(&raw[..raw.len().min(80)]).into_owned();
        let answer = site.send(raw);
        assert!(!answer.contains("; stored"), "{shown}: {answer}");
    }
    let first = site.get("/x", &[]);
    assert!(first.contains("; stored") && first.contains("body="), "{first}");
}
