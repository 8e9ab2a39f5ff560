//! What every handler works with.

use std::sync::Arc;

use actix_web::{HttpResponse, http::header::ContentType, web};
use jiff::Timestamp;
use larder_cache::{
    Caches,
    dependencies::carry,
    page::PageCache,
    template::{Context, Lazy, OpenPage, TemplateError, Templates},
};
use larder_models::{Database, Db};
use serde::Serialize;
use tera::{Kwargs, TeraResult};
use tokio::sync::Semaphore;

use crate::{
    admin::Throttle,
    failure::Failure,
    observe::{
        Observed,
        effects::{Effects, noting},
    },
    settings::Settings,
    toolbar::Toolbar,
};

/// Settings, caches, database, templates and the client for the slow API. Cheap to clone.
#[derive(Debug, Clone)]
pub struct State {
    /// What the app was told.
    pub settings: Arc<Settings>,
    /// The table of caches.
    pub caches: Caches,
    /// The models' database.
    pub database: Database,
    /// The templates, with their cache blocks.
    pub templates: Templates,
    /// The client for the slow API.
    pub client: reqwest::Client,
    /// Where the slow API is.
    pub upstream: Arc<str>,
    /// Who may verify a password now.
    pub password_turn: Arc<Semaphore>,
    /// What the caches decided lately.
    pub observed: Observed,
    /// The middleware that keeps pages, which also throws them out.
    pub pages: PageCache,
    /// The debug toolbar, if there is one.
    pub toolbar: Option<Toolbar>,
    /// Who failed to sign in.
    pub failed_logins: Arc<Throttle>,
}

impl State {
    /// Runs queries on the blocking pool.
    ///
    /// # Errors
    /// The queries', and a pool that is shut down.
    pub async fn read<T: Send + 'static>(
        &self,
        queries: impl FnOnce(&mut Db) -> larder_models::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let database = self.database.clone();
        Ok(web::block(carry(move || database.read(queries))).await??)
    }

    /// Runs queries that write in one transaction on the blocking pool. Hooks have run when it returns.
    ///
    /// # Errors
    /// As [`read`](State::read).
    pub async fn write<T: Send + 'static>(
        &self,
        queries: impl FnOnce(&mut Db) -> larder_models::Result<T> + Send + 'static,
    ) -> larder_models::Result<T> {
        let database = self.database.clone();
        let pool_is_gone = |error: actix_web::error::BlockingError| larder_models::Error::abort(error.to_string());
        web::block(carry(move || database.write(queries))).await.map_err(pool_is_gone)?
    }

    /// Does what [`write`](State::write) does, and returns what was thrown out of the caches.
    ///
    /// # Errors
    /// As [`write`](State::write).
    pub async fn write_noting<T: Send + 'static>(
        &self,
        queries: impl FnOnce(&mut Db) -> larder_models::Result<T> + Send + 'static,
    ) -> larder_models::Result<(T, Effects)> {
        let database = self.database.clone();
        let write = move || noting(|| database.write(queries));
        let (done, effects) =
            web::block(carry(write)).await.map_err(|error| larder_models::Error::abort(error.to_string()))?;
        Ok((done?, effects))
    }

    /// Renders a template without cache blocks and lazy values.
    ///
    /// # Errors
    /// The template's.
    pub fn page(&self, template: &str, context: &impl Serialize) -> Result<HttpResponse, Failure> {
        Ok(html(self.text(template, context)?))
    }

    /// Does what [`page`](State::page) does, and returns the text.
    ///
    /// # Errors
    /// The template's.
    pub fn text(&self, template: &str, context: &impl Serialize) -> Result<String, Failure> {
        let context = Context::from_serialize(context).map_err(Failure::internal)?;
        Ok(self.templates.render(template, &context)?)
    }

    /// Renders a template without cache blocks and lazy values, and leaves its holes open.
    ///
    /// # Errors
    /// The template's.
    pub fn open_page(&self, template: &str, context: &impl Serialize) -> Result<OpenPage, Failure> {
        let context = Context::from_serialize(context).map_err(Failure::internal)?;
        Ok(self.templates.open(template, &context, Lazy::new())?)
    }

    /// Renders a template whose cache blocks and lazy values may block.
    ///
    /// # Errors
    /// The template's, and those of its lazy values.
    pub async fn page_with(
        &self,
        template: &'static str,
        context: &impl Serialize,
        lazy: Lazy,
    ) -> Result<HttpResponse, Failure> {
        let context = Context::from_serialize(context).map_err(Failure::internal)?;
        let templates = self.templates.clone();
        let rendered = web::block(carry(move || templates.render_with(template, &context, lazy))).await?;
        Ok(html(rendered?))
    }
}

/// Loads the app's templates, with the filter `datetime`.
///
/// # Errors
/// A template is wrong; the error shows the line.
pub fn load_templates(settings: &Settings, caches: Caches) -> Result<Templates, TemplateError> {
    let builder = Templates::builder().directory(&settings.server.templates)?;
    let with_filters = builder.configure(|tera| tera.register_filter("datetime", datetime));
    with_filters.version(env!("CARGO_PKG_VERSION")).build(caches)
}

/// Formats unix milliseconds for people, or with `iso=true` for machines.
fn datetime(millis: i64, kwargs: Kwargs, _: &tera::State<'_>) -> TeraResult<String> {
    let time = Timestamp::from_millisecond(millis).map_err(tera::Error::message)?;
    let iso = kwargs.get("iso")?.unwrap_or(false);
    Ok(time.strftime(if iso { "%Y-%m-%dT%H:%M:%SZ" } else { "%-d %b %Y, %H:%M:%S UTC" }).to_string())
}

fn html(body: String) -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::html()).body(body)
}

/// Returns the time in unix milliseconds, as templates take it.
pub fn now_millis() -> i64 {
    Timestamp::now().as_millisecond()
}
