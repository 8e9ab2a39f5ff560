//! A caching reverse proxy: the page cache around a handler that passes requests on.
//!
//! ```text
//! cargo run --example gateway --all-features -- --listen 127.0.0.1:8080 --origin http://127.0.0.1:9000 \
//!     --cache locmem://pages [--default-ttl SECONDS]
//! ```
//!
//! What may be cached the origin says, by `Cache-Control`, `Expires` and `Vary`; answers that say nothing are kept for
//! `--default-ttl`, by default not at all, and never for requests with cookies.

use std::{collections::HashMap, env, io, time::Duration};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    body::{BodyStream, SizedStream},
    error::ErrorBadGateway,
    http::{
        StatusCode,
        header::{CONNECTION, HeaderName},
    },
    web,
};
use larder_cache::{
    Caches,
    page::{PageCache, cache_by_headers},
    settings::AliasSettings,
};
use reqwest::{Client, redirect::Policy};

const MAX_FORWARDS: HeaderName = HeaderName::from_static("max-forwards");
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// Fields of one connection (RFC 9110, section 7.6.1). The servers at both ends write the length of the body anew.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "te",
    "transfer-encoding",
    "trailer",
    "upgrade",
    "proxy-connection",
    "proxy-authenticate",
    "content-length",
];

/// Tells whether a field is passed on.
fn goes_on(name: &str, connection: &[String]) -> bool {
    !HOP_BY_HOP.contains(&name) && !connection.iter().any(|listed| listed == name)
}

fn listed<'v>(values: impl Iterator<Item = &'v [u8]>) -> Vec<String> {
    let names = values.flat_map(|value| value.split(|byte| *byte == b','));
    names.map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase()).collect()
}

async fn pass_on(request: HttpRequest, body: web::Bytes, origin: web::Data<Origin>) -> actix_web::Result<HttpResponse> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let url = reqwest::Url::parse(&format!("{}{target}", origin.url)).map_err(failed)?;
    let method = reqwest::Method::from_bytes(request.method().as_str().as_bytes()).map_err(failed)?;
    let hops = request.headers().get(MAX_FORWARDS).and_then(|hops| hops.to_str().ok()?.parse::<u64>().ok());
    let hops = hops.filter(|_| matches!(request.method().as_str(), "OPTIONS" | "TRACE"));
    if hops == Some(0) {
        return Ok(HttpResponse::NoContent().finish());
    }
    let connection = listed(request.headers().get_all(CONNECTION).map(|value| value.as_bytes()));
    let mut asked = origin.client.request(method, url);
    for (name, value) in request.headers().iter().filter(|(name, _)| goes_on(name.as_str(), &connection)) {
        match hops.filter(|_| name == MAX_FORWARDS) {
            Some(hops) => asked = asked.header("max-forwards", hops - 1),
            None => asked = asked.header(name.as_str(), value.as_bytes()),
        }
    }
    asked = asked.header("via", "1.1 larder");
    if !body.is_empty() {
        asked = asked.body(body);
    }
    let answer = asked.send().await.map_err(failed)?;
    let status = StatusCode::from_u16(answer.status().as_u16()).map_err(failed)?;
    let mut made = HttpResponse::build(status);
    let connection = listed(answer.headers().get_all("connection").iter().map(|value| value.as_bytes()));
    for (name, value) in answer.headers().iter().filter(|(name, _)| goes_on(name.as_str(), &connection)) {
        made.append_header((name.as_str(), value.as_bytes()));
    }
    let length = answer.headers().get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
    let stream = answer.bytes_stream();
    Ok(match length {
        Some(length) => made.body(SizedStream::new(length, stream)),
        None => made.body(BodyStream::new(stream)),
    })
}

/// Strangers need not know where the origin is.
fn failed(error: impl std::fmt::Display) -> actix_web::Error {
    log::warn!("the origin cannot be asked: {error}");
    ErrorBadGateway("The origin does not answer.\n")
}

struct Origin {
    url: String,
    client: Client,
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let options: HashMap<&str, &str> =
        arguments.chunks(2).filter_map(|pair| Some((pair[0].as_str(), pair.get(1)?.as_str()))).collect();
    let option = |name: &str| options.get(name).copied().ok_or_else(|| io::Error::other(format!("{name} is missing")));
    let default_ttl = options.get("--default-ttl").map_or(Ok(0), |seconds| seconds.parse())?;
    let settings = AliasSettings::from_address("default", option("--cache")?)?;
    let pages = PageCache::new(Caches::builder().alias("default", settings).build()?)
        .site(cache_by_headers(default_ttl))
        .session_cookies([""; 0])
        .targeted_fields([CDN_CACHE_CONTROL])
        .obey_reload(true)
        .etags(false);
    let url = option("--origin")?.trim_end_matches('/').to_owned();
    let client = Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(30))
        .build()?;
    let origin = web::Data::new(Origin { url, client });
    let server = HttpServer::new(move || {
        let limit = web::PayloadConfig::new(64 * 1024 * 1024);
        App::new().app_data(origin.clone()).app_data(limit).default_service(web::to(pass_on)).wrap(pages.clone())
    });
    Ok(server.bind(option("--listen")?)?.run().await?)
}
