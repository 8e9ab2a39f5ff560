//! The `{% cache %}` block for Tera templates, as Django has it.
//!
//! ```html
//! {% cache 500 object_list user.id lang %}
//!   {% for object in lazy(name="objects") %}<li>{{ object }}</li>{% endfor %}
//! {% endcache %}
//! ```
//!
//! The arguments are separated by blanks:
//!
//! | | |
//! | --- | --- |
//! | timeout | seconds: a number, a variable, an expression; `none` for ever; zero or less is not stored |
//! | name | bare or quoted, taken as it stands |
//! | values | any number of values that the fragment varies on; `user?.id` where it may be absent |
//! | `using="fast"` | the cache to use; else `template_fragments` if there is such a cache, else `default` |
//! | `tags=["object"]` | what invalidates the fragment besides its own key |
//!
//! An expression with blanks goes into parentheses: `{% cache (60 * 5) cart (user.id | default(value=0)) %}`.
//!
//! On a hit the body does not run; with [`Lazy`] values the query for it does not run either. A body that fails is
//! not stored. Markup is stored as rendered, that is escaped, with a digest of the template and all that it extends,
//! includes and calls: after a deploy that changes one of them the fragment is a miss.
//!
//! # What a fragment leaves open
//! ```html
//! {% cache 500 object_list %}
//!   {% for object in objects %}
//!     {{ object.title }} {% nocache id=object.id %}{% if id in mine %}yours{% endif %}{% endnocache %}
//!   {% endfor %}
//! {% endcache %}
//! ```
//!
//! A `{% nocache %}` block is rendered each time, on a hit too: for the user's name, a CSRF token, a price. Its body sees
//! what the template was rendered with and the arguments of its tag, whether anything is cached or not. What a loop or a
//! `{% set %}` made is handed to it under a name. Such an argument is evaluated when the fragment is made, and kept with it, as
//! JSON, for everybody: never hand over what is one visitor's. `{% nocache name=user.name %}{{ name }}` shows the name of the
//! first one to all; `{% nocache %}{{ user.name }}` is right. The block is filled after everything else, so a filter around it
//! does not see its content: one that changes what it cannot see is an error.
//!
//! In a page that is kept as a whole the block is filled once and kept with it, unless the page is left open:
//! [`Templates::open`].
//!
//! What is kept where is up to a [`FragmentStore`]. This module is the only one that names Tera.
//!
//! # What a fragment does not do
//! * `{% set %}` in the body is seen after the block on a miss and not on a hit, as in Django.
//! * A `{% block %}` inside a cache block is cached for all child templates alike; loading warns of it.
//! * Two templates that use one name with equal values displace one another's fragment; loading warns of it.
//! * The language, the user and the request are part of the key only where the tag names them.
//! * `break` and `continue` cannot leave the block, and delimiters other than Tera's own are not supported.
//!
//! # Differences from Django
//! The name may be quoted. Values are told apart by type. The template is part of what is compared. `tags=` and
//! `{% nocache %}` are new.

mod arguments;
mod caches;
mod catalog;
mod digest;
mod error;
mod functions;
mod holes;
mod key;
mod loader;
mod rewrite;
mod scan;
mod scope;
mod segments;
#[cfg(fuzzing)]
pub(crate) fn read_source(source: &str) {
    let _ = rewrite::rewrite("fuzzed.html", source);
}

#[cfg(test)]
mod tests;

use std::{any::Any, collections::BTreeMap, fmt, path::Path, sync::Arc};

use log::warn;
pub use tera::{Context, Tera, Value};

use self::{
    catalog::Catalog,
    holes::{CUT, Cut},
    scope::{Piece, Render},
};
pub use self::{
    error::TemplateError,
    key::{Vary, fragment_key},
    scope::Lazy,
};
use crate::{Key, Timeout};

/// How many nocache blocks may lead from one to the next.
const MAX_HOLE_DEPTH: usize = 16;

/// Where fragments are kept; implemented for the cache's own table of aliases.
///
/// An error of the store must not break the page: [`begin`](Self::begin) answers with a miss and
/// [`finish`](Self::finish) does nothing. Both are called while a template is being rendered and block it.
pub trait FragmentStore: Send + Sync + 'static {
    /// Tells whether the settings have the alias. For `template_fragments` it is asked once, at load.
    fn has_alias(&self, alias: &str) -> bool;

    /// Looks a fragment up under its alias and key.
    ///
    /// What was stored with another [`digest`](Fragment::digest) is a miss; [`Fragment::unpack`] sees to that. The
    /// ticket of a miss comes back in [`finish`](Self::finish), so what has to be read before the body runs (versions
    /// of tags, a lease) goes into it. If the body fails or panics the ticket is dropped instead.
    fn begin(&self, fragment: &Fragment<'_>) -> Begin;

    /// Stores what the body rendered to, byte for byte: what it leaves open is noted in it.
    fn finish(&self, fragment: &Fragment<'_>, ticket: Ticket, html: &str);
}

impl<S: FragmentStore + ?Sized> FragmentStore for Arc<S> {
    fn has_alias(&self, alias: &str) -> bool {
        (**self).has_alias(alias)
    }

    fn begin(&self, fragment: &Fragment<'_>) -> Begin {
        (**self).begin(fragment)
    }

    fn finish(&self, fragment: &Fragment<'_>, ticket: Ticket, html: &str) {
        (**self).finish(fragment, ticket, html);
    }
}

/// One use of a cache block.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Fragment<'a> {
    /// The cache that holds it; [`FragmentStore::has_alias`] has said yes to it, unless it is `default`.
    pub alias: &'a str,
    /// The name, as the tag has it.
    pub name: &'a str,
    /// What [`fragment_key`] returns for the name and the values.
    pub key: &'a Key<'static>,
    /// The template in which the tag stands.
    pub template: &'a str,
    /// Of that template with all that it is made of, and whether it escapes.
    pub digest: &'a str,
    /// How long it lasts.
    pub timeout: Timeout,
    /// What `tags=` says.
    pub tags: &'a [String],
}

impl Fragment<'_> {
    /// Returns what to store for the markup: the digest, a line break, the markup.
    ///
    /// # Examples
    /// See [`Fragment::unpack`].
    pub fn pack(&self, html: &str) -> String {
        format!("{}\n{html}", self.digest)
    }

    /// Returns the markup of what [`Fragment::pack`] made; `None` if it was made for another digest.
    ///
    /// # Examples
    /// ```
    /// use larder_cache::{Key, template::{Begin, Fragment, FragmentStore, Ticket}};
    /// use std::{collections::HashMap, sync::Mutex};
    ///
    /// #[derive(Default)]
    /// struct Memory(Mutex<HashMap<Key<'static>, String>>);
    ///
    /// impl FragmentStore for Memory {
    ///     fn has_alias(&self, alias: &str) -> bool {
    ///         alias == "default"
    ///     }
    ///
    ///     fn begin(&self, fragment: &Fragment<'_>) -> Begin {
    ///         let stored = self.0.lock().unwrap();
    ///         match stored.get(fragment.key).and_then(|stored| fragment.unpack(stored)) {
    ///             Some(html) => Begin::Hit(html.to_owned()),
    ///             None => Begin::Miss(Ticket::empty()),
    ///         }
    ///     }
    ///
    ///     fn finish(&self, fragment: &Fragment<'_>, _: Ticket, html: &str) {
    ///         self.0.lock().unwrap().insert(fragment.key.clone(), fragment.pack(html));
    ///     }
    /// }
    /// ```
    pub fn unpack<'s>(&self, stored: &'s str) -> Option<&'s str> {
        stored.strip_prefix(self.digest)?.strip_prefix('\n')
    }
}

/// What a store answers.
#[derive(Debug)]
pub enum Begin {
    /// The markup, made from the same template.
    Hit(String),
    /// There is none: the body runs, and its markup comes back with the ticket.
    Miss(Ticket),
}

/// What a store wants back with the markup. It never reaches the template.
pub struct Ticket(Option<Box<dyn Any + Send>>);

impl Ticket {
    /// Returns a ticket with something in it.
    ///
    /// # Examples
    /// ```
    /// use larder_cache::template::Ticket;
    ///
    /// assert_eq!(Ticket::new(vec![7_u64]).open::<Vec<u64>>(), Some(vec![7]));
    /// assert_eq!(Ticket::empty().open::<u64>(), None);
    /// ```
    pub fn new(content: impl Any + Send) -> Self {
        Ticket(Some(Box::new(content)))
    }

    /// Returns a ticket for a store that needs none.
    pub fn empty() -> Self {
        Ticket(None)
    }

    /// Returns the content; `None` if it is of another type or there is none.
    pub fn open<T: Any>(self) -> Option<T> {
        self.0?.downcast().ok().map(|content| *content)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Ticket(..)" } else { "Ticket" })
    }
}

/// The templates of an application, with their cache blocks at work. Cheap to clone.
///
/// # Concurrency
/// Any number of threads may render at the same time. Rendering blocks for as long as the store and the queries do,
/// so with a store over a network it belongs in `web::block`.
///
/// # Examples
/// ```
/// # use larder_cache::{Key, template::{Begin, Context, Fragment, FragmentStore, Lazy, Templates, Ticket}};
/// # use std::{collections::HashMap, sync::Mutex};
/// # #[derive(Default)]
/// # struct Memory(Mutex<HashMap<Key<'static>, String>>);
/// # impl FragmentStore for Memory {
/// #     fn has_alias(&self, alias: &str) -> bool { alias == "default" }
/// #     fn begin(&self, fragment: &Fragment<'_>) -> Begin {
/// #         match self.0.lock().unwrap().get(fragment.key).and_then(|stored| fragment.unpack(stored)) {
/// #             Some(html) => Begin::Hit(html.to_owned()),
/// #             None => Begin::Miss(Ticket::empty()),
/// #         }
/// #     }
/// #     fn finish(&self, fragment: &Fragment<'_>, _: Ticket, html: &str) {
/// #         self.0.lock().unwrap().insert(fragment.key.clone(), fragment.pack(html));
/// #     }
/// # }
/// let templates = Templates::builder()
///     .template("list.html", r#"{% cache 500 objects %}{{ lazy(name="objects") | join(sep=", ") }}{% endcache %}"#)
///     .build(Memory::default())?;
///
/// let first = Lazy::new().value("objects", || Ok::<_, std::io::Error>(["chair", "table"]));
/// assert_eq!(templates.render_with("list.html", &Context::new(), first)?, "chair, table");
///
/// let never = Lazy::new().value("objects", || -> Result<(), std::io::Error> { unreachable!("it is a hit") });
/// assert_eq!(templates.render_with("list.html", &Context::new(), never)?, "chair, table");
/// # Ok::<(), larder_cache::template::TemplateError>(())
/// ```
#[derive(Clone)]
pub struct Templates(Arc<Loaded>);

struct Loaded {
    tera: Tera,
    catalog: Arc<Catalog>,
    /// Of all the templates: what is filled must have been left open by the same.
    digest: String,
}

impl Templates {
    /// Loads every file below a folder; the name of a template is its path in it, `objects/list.html`.
    ///
    /// What autoescapes is Tera's choice: `.html`, `.htm` and `.xml`.
    ///
    /// # Errors
    /// A file cannot be read, or a template is wrong. All templates are looked at, so one error shows what is known
    /// about each.
    ///
    /// # Examples
    /// ```no_run
    /// # use larder_cache::template::{Context, FragmentStore, TemplateError, Templates};
    /// # fn load(store: impl FragmentStore) -> Result<(), TemplateError> {
    /// let templates = Templates::load("templates", store)?;
    /// let html = templates.render("objects/list.html", &Context::new())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn load(directory: impl AsRef<Path>, store: impl FragmentStore) -> Result<Self, TemplateError> {
        Templates::builder().directory(directory)?.build(store)
    }

    /// Returns a builder, for own filters and functions or templates that are no files.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Renders a template.
    ///
    /// # Errors
    /// The template is not there or cannot be rendered. The error shows the author's line; it is for the log.
    pub fn render(&self, name: &str, context: &Context) -> Result<String, TemplateError> {
        self.render_with(name, context, Lazy::new())
    }

    /// Renders a template that may ask for lazy values.
    ///
    /// # Errors
    /// As [`render`](Self::render). If a lazy value failed, its error is the source of this one.
    pub fn render_with(&self, name: &str, context: &Context, lazy: Lazy) -> Result<String, TemplateError> {
        self.in_scope(lazy, || {
            let markup = self.0.tera.render(name, context).map_err(|error| self.0.catalog.explain(&error))?;
            self.fill_holes(markup, context, 0)
        })
    }

    /// Renders a template and leaves its `{% nocache %}` blocks open.
    ///
    /// # Errors
    /// As [`render_with`](Self::render_with).
    ///
    /// # Examples
    /// ```
    /// # use larder_cache::{Caches, template::{Context, Lazy, Templates}};
    /// let source = "A page for {% nocache %}{{ name }}{% endnocache %}.";
    /// let templates = Templates::builder().template("page.html", source).build(Caches::local())?;
    /// let page = templates.open("page.html", &Context::new(), Lazy::new())?;
    /// for name in ["Ann", "Ben"] {
    ///     let mut visitor = Context::new();
    ///     visitor.insert("name", &name);
    ///     assert_eq!(templates.fill(&page, &visitor)?, format!("A page for {name}."));
    /// }
    /// # Ok::<_, larder_cache::template::TemplateError>(())
    /// ```
    pub fn open(&self, name: &str, context: &Context, lazy: Lazy) -> Result<OpenPage, TemplateError> {
        self.in_scope(lazy, || {
            let markup = self.0.tera.render(name, context).map_err(|error| self.0.catalog.explain(&error))?;
            let markup = scope::detach(&markup).map_err(|Cut| TemplateError::new(CUT))?.into_owned();
            Ok(OpenPage { markup, digest: self.0.digest.clone() })
        })
    }

    /// Fills what a page leaves open. Its blocks see `context` and the arguments of their tags, and nothing of what the page
    /// was rendered with.
    ///
    /// # Errors
    /// A block cannot be rendered, or the page was made of other templates than these.
    pub fn fill(&self, page: &OpenPage, context: &Context) -> Result<String, TemplateError> {
        if page.digest != self.0.digest {
            return Err(TemplateError::new("the page was made of other templates; make it anew"));
        }
        self.in_scope(Lazy::new(), || match scope::attach(page.markup.clone()) {
            Some(markup) => self.fill_holes(markup, context, 0),
            None => Err(TemplateError::new("the page that was stored cannot be read; make it anew")),
        })
    }

    /// Runs a render. If a lazy value failed in it, its error is the source of the render's.
    fn in_scope<T>(&self, lazy: Lazy, render: impl FnOnce() -> Result<T, TemplateError>) -> Result<T, TemplateError> {
        let scope = Render::begin(lazy);
        render().map_err(|error| error.caused_by(scope.failure()))
    }

    /// Renders the holes of markup.
    fn fill_holes(&self, markup: String, context: &Context, depth: usize) -> Result<String, TemplateError> {
        let Some(pieces) = scope::pieces(&markup).map_err(|Cut| TemplateError::new(CUT))? else { return Ok(markup) };
        let mut filled = String::with_capacity(markup.len());
        for piece in pieces {
            let hole = match piece {
                Piece::Text(text) => {
                    filled.push_str(text);
                    continue;
                }
                Piece::Hole(hole) => hole,
            };
            if depth == MAX_HOLE_DEPTH {
                return Err(TemplateError::new("a nocache block leads to itself; take out what includes its template"));
            }
            let mut context = context.clone();
            for (name, value) in &hole.arguments {
                context.insert(name.clone(), value);
            }
            let before = scope::set_escapes(Some(hole.escapes));
            let rendered = self.0.tera.render(&hole.template, &context);
            scope::set_escapes(before);
            let rendered = rendered.map_err(|error| self.0.catalog.explain(&error))?;
            filled.push_str(&self.fill_holes(rendered, &context, depth + 1)?);
        }
        Ok(filled)
    }

    /// Returns the digest of all templates.
    #[cfg(feature = "page")]
    pub(crate) fn digest(&self) -> &str {
        &self.0.digest
    }

    /// Returns the names of all templates, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.catalog.names()
    }

    /// Returns where fragments stand: the name of each with its template and line. Several may have one name.
    ///
    /// # Examples
    /// ```
    /// use larder_cache::{Caches, template::Templates};
    ///
    /// let source = "<ul>\n{% cache 500 list %}…{% endcache %}\n</ul>";
    /// let templates = Templates::builder().template("a.html", source).build(Caches::local())?;
    /// assert_eq!(templates.fragments().collect::<Vec<_>>(), [("list", "a.html", 2)]);
    /// # Ok::<_, larder_cache::template::TemplateError>(())
    /// ```
    pub fn fragments(&self) -> impl Iterator<Item = (&str, &str, usize)> {
        self.0.catalog.fragments()
    }
}

/// A rendered page whose `{% nocache %}` blocks are open: what [`Templates::open`] makes and [`Templates::fill`] fills.
///
/// A view returns it whose page is kept by [`holes`](crate::page::CachePage::holes).
#[derive(Debug, Clone)]
pub struct OpenPage {
    /// As it is stored: with its holes noted in it.
    markup: String,
    /// Of all the templates.
    digest: String,
}

#[cfg(feature = "page")]
impl OpenPage {
    /// Returns the markup as it is stored, and the digest of what it was made of.
    pub(crate) fn into_parts(self) -> (String, String) {
        (self.markup, self.digest)
    }

    /// Tells whether there may be anything to fill.
    pub(crate) fn has_holes(&self) -> bool {
        holes::is_detached(&self.markup)
    }

    pub(crate) fn from_parts(markup: String, digest: String) -> Self {
        OpenPage { markup, digest }
    }
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Templates").field(&self.names().collect::<Vec<_>>()).finish()
    }
}

/// Collects what [`Templates`] are made of.
///
/// # Examples
/// ```
/// # use larder_cache::template::{Begin, Context, Fragment, FragmentStore, Templates, Ticket};
/// # struct Nothing;
/// # impl FragmentStore for Nothing {
/// #     fn has_alias(&self, alias: &str) -> bool { alias == "default" }
/// #     fn begin(&self, _: &Fragment<'_>) -> Begin { Begin::Miss(Ticket::empty()) }
/// #     fn finish(&self, _: &Fragment<'_>, _: Ticket, _: &str) {}
/// # }
/// use larder_cache::template::Value;
///
/// let templates = Templates::builder()
///     .template("hello.txt", "{{ 'hello' | shout }}")
///     .configure(|tera| {
///         tera.register_filter("shout", |text: &str, _: tera::Kwargs, _: &tera::State| text.to_uppercase());
///     })
///     .version(env!("CARGO_PKG_VERSION"))
///     .build(Nothing)?;
/// assert_eq!(templates.render("hello.txt", &Context::new())?, "HELLO");
/// # Ok::<(), larder_cache::template::TemplateError>(())
/// ```
#[derive(Default)]
pub struct Builder {
    sources: BTreeMap<String, String>,
    tera: Tera,
    version: String,
}

impl Builder {
    /// Adds every file below a folder.
    ///
    /// # Errors
    /// A file cannot be read or is not text.
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Result<Self, TemplateError> {
        self.sources.extend(loader::read(directory.as_ref())?);
        Ok(self)
    }

    /// Adds one template, in place of an earlier one of the same name.
    #[must_use]
    pub fn template(mut self, name: impl Into<String>, source: impl Into<String>) -> Self {
        self.sources.insert(name.into(), source.into());
        self
    }

    /// Registers own filters, functions and tests, or sets what else Tera has to set.
    ///
    /// The templates are added later, in one go. Delimiters have to stay Tera's own.
    #[must_use]
    pub fn configure(mut self, configure: impl FnOnce(&mut Tera)) -> Self {
        configure(&mut self.tera);
        self
    }

    /// Makes this text part of every digest, so that no fragment of before is shown when it changes.
    ///
    /// The digests see the templates and not the filters and functions that they call, nor which of them are escaped: give
    /// the version of the application if those change what is rendered.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Rewrites and loads the templates.
    ///
    /// # Errors
    /// A template is wrong. The error shows the author's line and what to do.
    pub fn build(mut self, store: impl FragmentStore) -> Result<Templates, TemplateError> {
        let catalog = Arc::new(Catalog::new(self.sources, &self.version)?);
        functions::register(&mut self.tera, Arc::new(store), Arc::clone(&catalog));
        self.tera.add_raw_templates(catalog.rewritten()).map_err(|error| catalog.explain(&error))?;
        for warning in catalog.warnings() {
            warn!(
                template = warning.file().unwrap_or_default(),
                line = warning.line();
                "found a doubtful cache block: {}", warning.message()
            );
        }
        let digest = catalog.digest_of_all();
        Ok(Templates(Arc::new(Loaded { tera: self.tera, catalog, digest })))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("templates", &self.sources.keys())
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
