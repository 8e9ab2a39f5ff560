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
    body::{BoxBody, MessageBody, to_bytes},
    dev::{Payload, Service, ServiceRequest, ServiceResponse, Transform, forward_ready},
    error::ErrorInternalServerError,
    http::header::{
        AGE, CACHE_CONTROL, CONTENT_ENCODING, ContentType, ETAG, EXPIRES, HeaderMap, HeaderName, HeaderValue,
        LAST_MODIFIED,
    },
    web,
};

use super::{
    CachePage,
    cache_page::{pages_alone, refuse_early_tags},
    invalidation::{self, Unsafe},
    pages::{self, Around, LookedUp, OPEN_PAGE, Pages, Rule, State, open_prefix},
    pending::{Pending, forget_visitor},
    policy::{PageOutcome, conditional},
};
use crate::{
    error::Causes,
    template::{Context, OpenPage, Templates},
};

type Visitor = dyn Fn(&HttpRequest) -> Pin<Box<dyn Future<Output = Result<Context, Error>>>> + Send + Sync;

/// Left in a request whose answer may be an open page.
struct WillBeFilled;

/// Left in a request that was answered by one.
struct Opened {
    checksum: u32,
}

impl CachePage {
    /// Keeps pages whose `{% nocache %}` blocks are open, and fills them for each request with what `visitor` knows of it: the
    /// user's name, a CSRF token. `visitor` is an async function as views are, with extractors, that returns a [`Context`].
    /// If it fails, its error is the answer. It runs each time, the view only if the page has to be made.
    ///
    /// The view returns what [`Templates::open`] makes. When that is to be kept, it is called without the cookies and the
    /// headers that say who asks: no `Cookie` but for those that the mark varies by, no `Authorization` and
    /// `Proxy-Authorization`, nothing that middleware has left in the request's extensions. All other fields it still has; a
    /// proxy that names the user in one of its own, as `X-Forwarded-User`, has to be named in
    /// [`vary_on_headers`](Self::vary_on_headers), or the view must not look. The templates are found as [`web::Data`].
    ///
    /// Every answer of such a mark is for one visitor and one time: the middleware around it may add his cookies. So clients and
    /// other caches are told `private, no-store`, whatever [`clients`](Self::clients) says. What is no open page, as a 404, is
    /// kept like any other [`public`](Self::public) page.
    ///
    /// Sessions belong around the mark, in a scope or the app; inside of it they would see no cookies. The page is looked up
    /// after them, and [`vary_on`](Self::vary_on) is asked there, so such a page is slower than others. Middleware must not hold
    /// a clone of the request over the call, as for all that changes a request. Whoever finds the page past its time makes
    /// it; the others have the stale one meanwhile, if there is a
    /// [`stale_while_revalidate`](Self::stale_while_revalidate). This is the last thing to say of a mark, and
    /// [`PageCache::site`](super::PageCache::site) does not take it.
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
        let rule = Rule { open_prefix: Some(open_prefix(&rule.key_prefix)), public: true, ..rule };
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
    type Response = ServiceResponse;
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
    type Response = ServiceResponse;
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
            let known = match templates_of(&request) {
                Ok(templates) => visitor(request.request()).await.map(|visitor| (templates, visitor)),
                Err(error) => Err(error),
            };
            // As views: what fails is an answer, to which the middleware around adds its part.
            let (templates, visitor) = match known {
                Ok(known) => known,
                Err(error) => return Ok(request.into_response(HttpResponse::from_error(error))),
            };
            let digest = || HeaderValue::from_str(templates.digest()).unwrap_or(HeaderValue::from_static(""));
            rule.filled_by.get_or_init(digest);
            let unsafe_one = Unsafe::of(&request);
            let answer = match &pages {
                Some(pages) => answer(&*service, pages, &rule, around.as_ref(), request).await?,
                None => see(&*service, request).await?,
            };
            // Whether it can be filled or not.
            if let (Some(pages), Some(unsafe_one)) = (&pages, unsafe_one) {
                invalidation::after(pages, &unsafe_one, &answer).await;
            }
            Ok(filled(answer, pages.as_deref(), templates, visitor).await)
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
) -> Result<ServiceResponse, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody + 'static,
{
    let mut answer = match pages.look_up(&request, rule).await {
        LookedUp::Bypass(reason) => {
            return Ok(pages::pass_by(pages, reason, see(service, request).await?).map_into_boxed_body());
        }
        LookedUp::Page(page) => request.into_response(page),
        // What the middleware around keeps in the request cannot be in two places, so nobody makes it in the background.
        LookedUp::Renew(_, pending) | LookedUp::Missing(pending) => {
            if let Some(around) = around.filter(|_| pending.loading.is_some()) {
                around.must_end();
            }
            make(service, pages, rule, *pending, request).await?
        }
    };
    say_it_is_private(answer.headers_mut(), Some(pages));
    Ok(answer)
}

/// Has the view make the page, which then is anybody's.
async fn make<S, B>(
    service: &S,
    pages: &Pages,
    rule: &Rule,
    mut pending: Pending,
    mut request: ServiceRequest,
) -> Result<ServiceResponse, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody + 'static,
{
    pending.read_tags(request.request()).await;
    refuse_early_tags(&mut pending, &request).await;
    // Middleware around may ask for them afterwards; they are remembered with what it left in the request.
    let _ = request.cookies();
    pending.neutralise(&mut request, pages);
    forget_visitor(request.headers_mut(), rule);
    conditional::strip(request.headers_mut());
    pending.prepare(&mut request, pages);
    let stand_in = pending.may_stand_in().then(|| pages::copy_of(&request));
    let of_visitor = mem::take(&mut *request.extensions_mut());
    let made = match (pending.making(see(service, request)).await, stand_in) {
        (Ok(made), _) => pending.finish(pages, made).await.map_into_boxed_body(),
        (Err(error), None) => return Err(error),
        (Err(error), Some(request)) => {
            let status = error.as_response_error().status_code();
            let page = pending.instead_of_failure(pages, &request, status).await;
            ServiceResponse::new(request, page.ok_or(error)?)
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

/// Calls the view, which may answer with an open page, and makes sure that what comes is what it made.
async fn see<S, B>(service: &S, request: ServiceRequest) -> Result<ServiceResponse, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody + 'static,
{
    request.extensions_mut().insert(WillBeFilled);
    let mut made = service.call(request).await?.map_into_boxed_body();
    let Some(Opened { checksum }) = made.request().extensions_mut().remove() else {
        // Said by a server that the view asked, perhaps.
        made.headers_mut().remove(OPEN_PAGE);
        return Ok(made);
    };
    let (request, made) = made.into_parts();
    let (head, body) = made.into_parts();
    let body = to_bytes(body).await.unwrap_or_default();
    if head.headers().contains_key(OPEN_PAGE) && crc32fast::hash(&body) == checksum {
        return Ok(ServiceResponse::new(request, head.set_body(BoxBody::new(body))));
    }
    log::error!(
        "a middleware has changed the open page {}, so that its holes cannot be found; put it around cache_page(…).holes(…)",
        request.path()
    );
    Ok(ServiceResponse::new(request, HttpResponse::from_error(failed())))
}

/// Fills an open page for the visitor; anything else stays as it is.
async fn filled(
    mut answer: ServiceResponse,
    pages: Option<&Pages>,
    templates: Templates,
    visitor: Context,
) -> ServiceResponse {
    let Some(made_of) = answer.headers_mut().remove(OPEN_PAGE).next() else { return answer };
    let (request, answer) = answer.into_parts();
    let (mut head, body) = answer.into_parts();
    let body = to_bytes(body).await.unwrap_or_default();
    let markup = String::from_utf8(body.into()).map_err(|error| error.to_string());
    let made_of = String::from_utf8_lossy(made_of.as_bytes()).into_owned();
    let filled = match markup.map(|markup| OpenPage::from_parts(markup, made_of)) {
        Ok(page) if page.has_holes() => {
            let fill = move || templates.fill(&page, &visitor).map_err(|error| Causes(&error).to_string());
            web::block(fill).await.unwrap_or_else(|error| Err(error.to_string()))
        }
        Ok(page) => Ok(page.into_parts().0),
        Err(error) => Err(error),
    };
    match filled {
        Ok(page) => {
            head.headers_mut().remove(CONTENT_ENCODING);
            say_it_is_private(head.headers_mut(), pages);
            ServiceResponse::new(request, head.set_body(BoxBody::new(page)))
        }
        Err(error) => {
            log::error!("could not fill the holes of {}: {error}", request.path());
            ServiceResponse::new(request, HttpResponse::from_error(failed()))
        }
    }
}

/// Says that an answer is for one visitor and one time, and nothing of the page that is kept.
fn say_it_is_private(headers: &mut HeaderMap, pages: Option<&Pages>) {
    let of_page = [AGE, ETAG, EXPIRES, LAST_MODIFIED];
    // RFC 9213: what is said to one cache goes before what is said to all.
    let is_for_caches = |name: &HeaderName| {
        name.as_str().ends_with("-cache-control")
            || ["surrogate-control", "x-accel-expires"].contains(&name.as_str())
            || pages
                .is_some_and(|Pages { site, .. }| site.targets.contains(name) || site.tag_field.as_ref() == Some(name))
    };
    headers.retain(|name, _| !of_page.contains(name) && !is_for_caches(name));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
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
        request.extensions_mut().insert(Opened { checksum: crc32fast::hash(markup.as_bytes()) });
        HttpResponse::Ok()
            .content_type(ContentType::html())
            // What stands in for the page is not to be compressed on the way.
            .insert_header((CONTENT_ENCODING, "identity"))
            .insert_header((OPEN_PAGE, digest))
            .body(markup)
    }
}
