//! The app put together: which address leads where, and which middleware stands around it.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    sync::Arc,
};

use actix_web::{
    App, HttpMessage, HttpServer,
    body::{BodySize, MessageBody},
    cookie::Key,
    dev::{Server, ServerHandle, ServiceRequest, ServiceResponse},
    http::header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
    middleware::{Condition, DefaultHeaders, Next, from_fn},
    web,
};
use larder_cache::{
    Caches,
    page::{PageCache, PageOutcome, TRACKING, cache_page, policy::request},
    settings::AliasSettings,
};
use larder_models::{Database, Signals, Watch};
use log::{debug, info};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
};

use crate::{
    admin,
    error_pages::error_pages,
    failure::Failure,
    observe::{Observed, feed::Feed},
    pages, peer, secrets, session,
    settings::Settings,
    state::{State, load_templates},
    toolbar::{self, Toolbar},
};

/// The largest form that is read. A body has at most 20,000 characters, which may be twelve bytes each in a form.
const MAX_FORM_BYTES: usize = 256 * 1024;

/// How long a stopping server waits for requests that are being answered.
const SHUTDOWN_SECONDS: u64 = 5;

/// What the app is built from, before it knows its address.
#[derive(Debug)]
pub struct Parts {
    /// What the app was told.
    pub settings: Settings,
    /// The table of caches.
    pub caches: Caches,
    /// The models' database, whose writes invalidate in these caches.
    pub database: Database,
    /// What these caches decide.
    pub observed: Observed,
    /// The debug toolbar, if anybody may see it.
    pub toolbar: Option<Toolbar>,
}

impl Parts {
    /// Opens database and caches and connects them.
    ///
    /// # Errors
    /// Settings that cannot be used, a database that cannot be opened.
    pub fn open(settings: Settings) -> anyhow::Result<Self> {
        let observed = Observed::default();
        let allowed = &settings.server.toolbar_allow;
        let toolbar = (!allowed.is_empty()).then(|| Toolbar::new(allowed.clone())).transpose()?;
        let mut caches = observed.observe(settings.caches_builder());
        if let Some(toolbar) = &toolbar {
            caches = caches.observer(toolbar.records().clone());
        }
        let caches = caches.build()?;
        // Nothing that is cached shows a session.
        let watch = Watch::new().ignore(["session"]);
        let mut database = Database::open(&settings.database_url, Signals::new())?.with_caches(&caches).watch(watch);
        if let Some(toolbar) = &toolbar {
            let records = toolbar.records().clone();
            database = database.observe_queries(move |query| records.query(query));
        }
        Ok(Parts { settings, caches, database, observed, toolbar })
    }
}

/// Binds the address and returns it with the server, which runs when it is awaited.
///
/// # Errors
/// The address is taken, a template is wrong, the session key cannot be kept.
pub fn server(parts: Parts) -> anyhow::Result<(String, Server)> {
    let Parts { settings, caches, database, observed, toolbar } = parts;
    let listener = TcpListener::bind(&settings.server.bind).map_err(|error| {
        anyhow::anyhow!("server.bind {}: {error}; is another server running?", settings.server.bind)
    })?;
    let address = format!("http://{}", reachable(&listener)?);
    let templates = load_templates(&settings, caches.clone())?;
    let mut client = reqwest::Client::builder().timeout(settings.upstream.timeout);
    if settings.upstream.base_url.is_none() {
        // The way to ourselves leads through no proxy.
        client = client.no_proxy();
    }
    let client = client.build()?;
    let upstream = settings.upstream.base_url.clone().unwrap_or_else(|| address.clone());
    let key = secrets::session_key()?;
    let workers = settings.server.workers;
    let page_cache = page_cache(&caches, &settings);
    let state = State {
        settings: Arc::new(settings),
        caches,
        database,
        templates,
        client,
        upstream: upstream.into(),
        password_turn: Arc::new(Semaphore::new(1)),
        failed_logins: Arc::default(),
        observed: observed.clone(),
        pages: page_cache,
        toolbar,
    };
    actix_web::rt::spawn(observed.clone().keep_up(state.caches.clone()));
    if let Some(toolbar) = &state.toolbar {
        let (beside, server) = without_cache(toolbar, &state, &key)?;
        toolbar.set_addresses(address.clone(), beside);
        actix_web::rt::spawn(server);
    }
    let server = run(listener, state, key, workers, None)?;
    stop_on_signal(server.handle(), observed.feed)?;
    Ok((address, server))
}

/// Runs the app on a listener, for everybody or for the toolbar alone.
fn run(listener: TcpListener, state: State, key: Key, workers: usize, only_for: Option<Toolbar>) -> io::Result<Server> {
    let mut server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(state.clone()))
            .app_data(web::Data::new(state.templates.clone()))
            .app_data(only_for.clone())
            .app_data(web::FormConfig::default().limit(MAX_FORM_BYTES))
            .configure(|config| routes(config, &state, &key))
            .wrap(from_fn(error_pages))
            .wrap(state.pages.clone())
            .wrap(Condition::new(state.toolbar.is_some(), from_fn(toolbar::toolbar)))
            .wrap(Condition::new(only_for.is_some(), from_fn(toolbar::for_itself)))
            .wrap(security_headers())
            .wrap(from_fn(allowed_hosts_only))
            .wrap(from_fn(peer::note))
            .wrap(from_fn(log_request))
    });
    if workers > 0 {
        server = server.workers(workers);
    }
    Ok(server.shutdown_timeout(SHUTDOWN_SECONDS).disable_signals().listen(listener)?.run())
}

/// Lets the same app answer without caches, on an address of its own on this machine: the toolbar compares with it.
fn without_cache(toolbar: &Toolbar, state: &State, key: &Key) -> anyhow::Result<(String, Server)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = format!("http://{}", listener.local_addr()?);
    let mut settings = Settings::clone(&state.settings);
    for cache in settings.caches.values_mut() {
        *cache = AliasSettings::default();
        cache.backend = "dummy".to_owned();
    }
    let caches = settings.open_caches()?;
    let state = State {
        database: Database::open(&settings.database_url, Signals::new())?,
        templates: load_templates(&settings, caches.clone())?,
        pages: page_cache(&caches, &settings),
        toolbar: None,
        observed: Observed::default(),
        settings: Arc::new(settings),
        caches,
        ..state.clone()
    };
    Ok((address, run(listener, state, key.clone(), 1, Some(toolbar.clone()))?))
}

/// Lets requests that are being answered come to their end, on Ctrl-C as well as when the system asks.
fn stop_on_signal(server: ServerHandle, feed: Feed) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    actix_web::rt::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        // These would never come to their end by themselves.
        feed.close();
        server.stop(true).await;
    });
    Ok(())
}

/// Returns the address under which this machine reaches the listener.
fn reachable(listener: &TcpListener) -> io::Result<String> {
    let mut address = listener.local_addr()?;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    Ok(address.to_string())
}

/// Makes the middleware that keeps pages, as the settings say.
pub(crate) fn page_cache(caches: &Caches, settings: &Settings) -> PageCache {
    let server = &settings.server;
    let page_cache = PageCache::new(caches.clone())
        .session_cookies([session::COOKIE])
        .allowed_hosts(server.allowed_hosts.clone())
        .trusted_proxies(server.trusted_proxies.iter().copied())
        .ignore_query(TRACKING)
        .compress(true)
        .debug(server.debug);
    match &settings.site_cache {
        Some(site) => {
            page_cache.site(cache_page(site.seconds).alias(&site.alias).key_prefix(&site.key_prefix).clients(0))
        }
        None => page_cache,
    }
}

fn routes(config: &mut web::ServiceConfig, state: &State, key: &Key) {
    let debug = state.settings.server.debug;
    if let Some(toolbar) = &state.toolbar {
        toolbar::routes(config, toolbar);
    }
    config
        .service(
            web::scope("/static")
                // Their names stay the same when they change, so browsers ask each time, and mostly hear 304.
                .wrap(DefaultHeaders::new().add((CACHE_CONTROL, "no-cache")))
                .service(actix_files::Files::new("", &state.settings.server.static_files)),
        )
        .configure(pages::without_session)
        .service(
            web::scope("")
                // A page with a name in it must not be shown by a browser or proxy to whoever comes next.
                .wrap(DefaultHeaders::new().add((VARY, "Cookie")))
                .wrap(session::middleware(state.database.clone(), key.clone(), debug))
                .configure(pages::with_session)
                .configure(admin::routes)
                .default_service(web::to(|| async { Err::<String, _>(Failure::NotFound) })),
        );
}

fn security_headers() -> DefaultHeaders {
    DefaultHeaders::new()
        .add((
            CONTENT_SECURITY_POLICY,
            "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
        ))
        .add((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .add((X_FRAME_OPTIONS, "DENY"))
        .add((REFERRER_POLICY, "same-origin"))
}

/// Middleware: answers only for the hosts of the settings, so that no link and no key is made from another.
async fn allowed_hosts_only<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<actix_web::body::EitherBody<B>>, actix_web::Error> {
    let state = request.app_data::<web::Data<State>>().cloned();
    // The app calls its own API by address, whatever its name is outside; the API makes no link and is not cached.
    let is_api = request.path().starts_with("/delay/");
    let allowed = is_api
        || state.is_none_or(|state| {
            request::host(request.uri(), request.headers())
                .is_some_and(|host| request::is_allowed(host, &state.settings.server.allowed_hosts))
        });
    if allowed {
        return Ok(next.call(request).await?.map_into_left_body());
    }
    let text = "This server does not answer for that host. If it should, add the host to server.allowed_hosts.\n";
    Ok(request.into_response(actix_web::HttpResponse::BadRequest().body(text)).map_into_right_body())
}

/// Middleware: one line of the target `http` for each request, with what the page cache did.
async fn log_request<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, actix_web::Error> {
    let started = std::time::Instant::now();
    let asked = format!("{} {}", request.method(), request.uri());
    let answer = next.call(request).await.inspect_err(|error| {
        let status = error.as_response_error().status_code().as_u16();
        info!(target: "http", status, cache = "-"; "{asked}");
    })?;
    let request = answer.request();
    let cache = request.extensions().get::<PageOutcome>().map_or_else(|| "-".to_owned(), ToString::to_string);
    let bytes = match answer.response().body().size() {
        BodySize::Sized(bytes) => bytes,
        BodySize::None | BodySize::Stream => 0,
    };
    let (method, path, status) = (request.method(), request.uri(), answer.status().as_u16());
    let took_ms = started.elapsed().as_secs_f64() * 1000.0;
    if path.path().starts_with("/static/") {
        debug!(target: "http", status, took_ms = format!("{took_ms:.1}"), bytes; "{method} {path}");
    } else {
        info!(target: "http", status, cache, took_ms = format!("{took_ms:.1}"), bytes; "{method} {path}");
    }
    Ok(answer)
}
