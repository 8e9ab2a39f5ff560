//! Pages with holes: made and stored once for all, and filled for each visitor.
//!
//! A hit of any other page is answered before sessions and views. Who fills holes has to know who asks, so these pages are
//! looked up at their mark, inside of the middleware that knows. What the mark stores nobody else finds, and what it answers
//! nobody stores.

use std::{
    future::{Future, Ready, ready},
    mem,
    pin::Pin,
    rc::Rc,
    sync::Arc,
};

use actix_web::{
    Error, FromRequest, Handler, HttpMessage, HttpRequest, HttpResponse, Responder,
    body::{BoxBody, EitherBody, MessageBody, to_bytes},
    dev::{Payload, Service, ServiceRequest, ServiceResponse, Transform, forward_ready},
    error::ErrorInternalServerError,
    http::header::{
        AGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, COOKIE, ContentType, ETAG, EXPIRES, HeaderMap,
        HeaderValue, LAST_MODIFIED,
    },
    web,
};

use super::{
    CachePage,
    cache_page::{pages_alone, refuse_early_tags},
    invalidation::{self, Unsafe},
    pages::{self, Around, LookedUp, OPEN_PAGE, Pages, Rule, State, open_prefix},
    pending::Pending,
    policy::{PageOutcome, conditional, request},
};
use crate::{
    fill,
    template::{Context, OpenPage, Templates},
};

type Visitor = dyn Fn(&HttpRequest) -> Pin<Box<dyn Future<Output = Result<Context, Error>>>> + Send + Sync;

/// Left in a request whose answer may be an open page.
struct WillBeFilled;

/// Left in an answer that is one.
struct IsOpen;

impl CachePage {
    /// Keeps pages whose `{% nocache %}` blocks are open, and fills them for each request with what `visitor` knows of it: the
    /// user's name, a CSRF token. `visitor` is an async function as views are, with extractors, that returns a [`Context`].
    /// If it fails the request does. It runs each time, the view only if the page has to be made.
    ///
    /// The view returns what [`Templates::open`] makes. It is called without cookies, but for those that the mark varies by,
    /// without `Authorization`, and without what middleware has left in the request: what it cannot know it cannot put into
    /// the page of others. The templates are found as [`web::Data`]. What is not in them, as a view that says 404, is kept
    /// and answered like any other [`public`](Self::public) page.
    ///
    /// A filled page is for one visitor and one time: clients and other caches are told `private, no-store`. Such a page is
    /// looked up after the middleware around the view has run, not before, so it is slower than others. It is the last thing
    /// to say of a mark, and [`PageCache::site`](super::PageCache::site) does not take it.
    ///
    /// # Examples
    /// ```
    /// use actix_web::{App, Error, HttpRequest, Responder, error::ErrorInternalServerError, test, web};
    /// use larder_cache::{Caches, page::{PageCache, cache_page}, template::{Context, Lazy, Templates}};
    ///
    /// async fn home(templates: web::Data<Templates>) -> Result<impl Responder, Error> {
    ///     templates.open("home.html", &Context::new(), Lazy::new()).map_err(ErrorInternalServerError)
    /// }
    ///
    /// async fn visitor(request: HttpRequest) -> Result<Context, Error> {
    ///     let mut context = Context::new();
    ///     context.insert("name", &request.cookie("name").map(|cookie| cookie.value().to_owned()));
    ///     Ok(context)
    /// }
    ///
    /// # actix_web::rt::System::new().block_on(async {
    /// let caches = Caches::local();
    /// let source = "<h1>Hello {% nocache %}{{ name }}{% endnocache %}</h1>";
    /// let templates = Templates::builder().template("home.html", source).build(caches.clone()).unwrap();
    /// let app = test::init_service(
    ///     App::new()
    ///         .app_data(web::Data::new(templates))
    ///         .route("/", web::get().to(home).wrap(cache_page(300).holes(visitor)))
    ///         .wrap(PageCache::new(caches)),
    /// )
    /// .await;
    /// for name in ["Ann", "Ben"] {
    ///     let request = test::TestRequest::get().insert_header(("host", "localhost"));
    ///     let request = request.insert_header(("cookie", format!("name={name}"))).to_request();
    ///     assert_eq!(test::call_and_read_body(&app, request).await, format!("<h1>Hello {name}</h1>"));
    /// }
    /// # });
    /// ```
    #[must_use]
    pub fn holes<V, Args, E>(self, visitor: V) -> OpenPages
    where
        V: Handler<Args, Output = Result<Context, E>> + Send + Sync,
        Args: FromRequest + 'static,
        E: Into<Error> + 'static,
    {
        let rule = self.into_rule();
        let key_prefix = open_prefix(&rule.key_prefix);
        let rule = Rule { key_prefix, is_open: true, public: true, ..rule };
        let visitor = move |request: &HttpRequest| -> Pin<Box<dyn Future<Output = Result<Context, Error>>>> {
            let visitor = visitor.clone();
            let args = Args::from_request(request, &mut Payload::None);
            Box::pin(async move { visitor.call(args.await.map_err(Into::into)?).await.map_err(Into::into) })
        };
        OpenPages { rule, visitor: Arc::new(visitor) }
    }
}

/// The mark that [`CachePage::holes`] makes.
#[derive(Clone)]
pub struct OpenPages {
    rule: Rule,
    visitor: Arc<Visitor>,
}

impl std::fmt::Debug for OpenPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenPages").field("rule", &self.rule).finish_non_exhaustive()
    }
}

impl<S, B> Transform<S, ServiceRequest> for OpenPages
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Transform = OpenPagesService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, Self::InitError>>;

    fn new_transform(&self, service: S) -> Self::Future {
        self.rule.register();
        let (rule, visitor) = (Rc::new(self.rule.clone()), Arc::clone(&self.visitor));
        ready(Ok(OpenPagesService { service: Rc::new(service), rule, visitor }))
    }
}

/// The service of [`OpenPages`].
pub struct OpenPagesService<S> {
    service: Rc<S>,
    rule: Rc<Rule>,
    visitor: Arc<Visitor>,
}

impl<S> std::fmt::Debug for OpenPagesService<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenPagesService").field("rule", &self.rule).finish_non_exhaustive()
    }
}

impl<S, B> Service<ServiceRequest> for OpenPagesService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>>>>;

    forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let service = Rc::clone(&self.service);
        let rule = Rc::clone(&self.rule);
        let visitor = Arc::clone(&self.visitor);
        Box::pin(async move {
            let around = request.extensions().get::<Around>().cloned();
            let pages = match &around {
                Some(around) => Some(take_over(around, &request, &rule).await),
                None => pages_alone(&request).map(Rc::new),
            };
            let templates = templates_of(&request)?;
            let digest = || HeaderValue::from_str(templates.digest()).unwrap_or(HeaderValue::from_static(""));
            rule.filled_by.get_or_init(digest);
            let visitor = visitor(request.request()).await?;
            let unsafe_one = Unsafe::of(&request).filter(|_| around.is_none());
            let answer = match &pages {
                Some(pages) => answer(&*service, pages, &rule, around.as_ref(), request).await?,
                None => see(&*service, request).await?.map_into_left_body(),
            };
            if let (Some(pages), Some(unsafe_one)) = (&pages, unsafe_one) {
                invalidation::after(pages, &unsafe_one, &answer).await;
            }
            filled(answer, pages.as_deref(), templates, visitor).await
        })
    }
}

/// Says to the [`PageCache`](super::PageCache) around that this is not its own.
async fn take_over(around: &Around, request: &ServiceRequest, rule: &Rc<Rule>) -> Rc<Pages> {
    if let State::Expected(mut pending) | State::Making(mut pending) = around.take() {
        pending.let_go().await;
    }
    around.set(State::Answered);
    let pages = around.pages();
    pages.learn(request, rule);
    pages
}

fn templates_of(request: &ServiceRequest) -> Result<Templates, Error> {
    match request.app_data::<web::Data<Templates>>() {
        Some(templates) => Ok(Templates::clone(templates)),
        None => {
            log::error!("pages with holes found no templates: add web::Data<Templates> to the app");
            Err(failed())
        }
    }
}

fn failed() -> Error {
    ErrorInternalServerError("the page could not be made")
}

/// Answers from the cache or the view, with a page whose holes are open if it has any.
async fn answer<S, B>(
    service: &S,
    pages: &Pages,
    rule: &Rc<Rule>,
    around: Option<&Around>,
    request: ServiceRequest,
) -> Result<ServiceResponse<EitherBody<B>>, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody + 'static,
{
    match pages.look_up(&request, rule).await {
        LookedUp::Page(page) => Ok(request.into_response(page).map_into_right_body()),
        LookedUp::Bypass(reason) => Ok(pages::pass_by(pages, reason, see(service, request).await?)),
        // Whoever finds a page past its time makes it, with others being served the old one meanwhile: what the middleware
        // around keeps in the request cannot be in two places.
        LookedUp::Renew(_, pending) | LookedUp::Missing(pending) => {
            if let Some(around) = around.filter(|_| pending.loading.is_some()) {
                around.must_end();
            }
            make(service, pages, rule, *pending, request).await
        }
    }
}

/// Has the view make the page, which then is anybody's.
async fn make<S, B>(
    service: &S,
    pages: &Pages,
    rule: &Rule,
    mut pending: Pending,
    mut request: ServiceRequest,
) -> Result<ServiceResponse<EitherBody<B>>, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody + 'static,
{
    pending.read_tags(request.request()).await;
    refuse_early_tags(&mut pending, &request).await;
    pending.neutralise(&mut request, pages);
    pending.prepare(&mut request, pages);
    forget_visitor(request.headers_mut(), rule);
    let stand_in = pending.may_stand_in().then(|| pages::copy_of(&request));
    let key = pending.key_in_making();
    let of_visitor = mem::take(&mut *request.extensions_mut());
    let made = match (fill::loading(see(service, request), key).await, stand_in) {
        (Ok(made), _) => pending.finish(pages, made).await,
        (Err(error), None) => return Err(error),
        (Err(error), Some(request)) => {
            let status = error.as_response_error().status_code();
            let page = pending.instead_of_failure(pages, &request, status).await;
            ServiceResponse::new(request, page.ok_or(error)?).map_into_right_body()
        }
    };
    {
        let mut extensions = made.request().extensions_mut();
        let outcome = extensions.remove::<PageOutcome>();
        *extensions = of_visitor;
        outcome.map(|outcome| extensions.insert(outcome));
    }
    Ok(made)
}

/// Takes from a request what says who asks, but for what the rule keeps pages apart by.
fn forget_visitor(headers: &mut HeaderMap, rule: &Rule) {
    conditional::strip(headers);
    let keeps = |name| rule.vary_on_headers.contains(name);
    if !keeps(&AUTHORIZATION) {
        headers.remove(AUTHORIZATION);
    }
    if keeps(&COOKIE) {
        return;
    }
    let mut kept = Vec::new();
    for (name, value) in request::cookies(headers) {
        if rule.vary_on_cookies.iter().any(|cookie| cookie.as_bytes() == name) {
            kept.push([name, value].join(&b'='));
        }
    }
    headers.remove(COOKIE);
    if let Ok(kept) = HeaderValue::from_bytes(&kept.join(&b"; "[..]))
        && !kept.is_empty()
    {
        headers.insert(COOKIE, kept);
    }
}

/// Calls the view, which may answer with an open page.
async fn see<S, B>(service: &S, request: ServiceRequest) -> Result<ServiceResponse<B>, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    request.extensions_mut().insert(WillBeFilled);
    let mut made = service.call(request).await?;
    // Said by a server that the view asked, perhaps.
    if made.response().extensions().get::<IsOpen>().is_none() {
        made.headers_mut().remove(OPEN_PAGE);
    }
    Ok(made)
}

/// Fills an open page for the visitor; anything else stays as it is.
async fn filled<B: MessageBody + 'static>(
    mut answer: ServiceResponse<EitherBody<B>>,
    pages: Option<&Pages>,
    templates: Templates,
    visitor: Context,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let Some(made_of) = answer.headers_mut().remove(OPEN_PAGE).next() else { return Ok(answer) };
    let (request, answer) = answer.into_parts();
    let (mut head, body) = answer.into_parts();
    let body = to_bytes(body).await.map_err(|_| failed())?;
    let filled = web::block(move || {
        let markup = String::from_utf8(body.to_vec()).map_err(|error| error.to_string())?;
        let page = OpenPage::from_parts(markup, String::from_utf8_lossy(made_of.as_bytes()).into_owned());
        templates.fill(&page, &visitor).map_err(|error| error.to_string())
    });
    let filled = filled.await.unwrap_or_else(|error| Err(error.to_string()));
    let page = filled.map_err(|error| {
        log::error!("could not fill the holes of {}: {error}", request.path());
        failed()
    })?;
    let headers = head.headers_mut();
    // What was said of the page that is stored, to clients and to caches.
    let targets = pages.iter().flat_map(|pages| pages.site.targets.iter().chain(&pages.site.tag_field));
    for name in [AGE, CONTENT_ENCODING, ETAG, EXPIRES, LAST_MODIFIED].iter().chain(targets) {
        headers.remove(name);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    Ok(ServiceResponse::new(request, head.set_body(EitherBody::right(BoxBody::new(page)))))
}

impl Responder for OpenPage {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        if request.extensions().get::<WillBeFilled>().is_none() {
            log::error!(
                "nobody fills the holes of {}: wrap its view in cache_page(…).holes(…), or render it as a whole",
                request.path()
            );
            return failed().into();
        }
        let (markup, digest) = self.into_parts();
        let mut page = HttpResponse::Ok()
            .content_type(ContentType::html())
            // What stands in for the page is not to be compressed on the way.
            .insert_header((CONTENT_ENCODING, "identity"))
            .insert_header((OPEN_PAGE, digest))
            .body(markup);
        page.extensions_mut().insert(IsOpen);
        page
    }
}
