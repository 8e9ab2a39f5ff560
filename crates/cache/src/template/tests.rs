//! The block as a whole: templates in, pages out, over a store in memory that keeps count.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::*;

mod holes;
mod pages;

/// Keeps fragments by alias and key, and writes down what it was asked.
#[derive(Default)]
struct Memory {
    stored: Mutex<HashMap<(String, Key<'static>), String>>,
    aliases: Vec<&'static str>,
    log: Mutex<Vec<String>>,
    /// Whether the store is out of order.
    broken: bool,
}

impl FragmentStore for Memory {
    fn has_alias(&self, alias: &str) -> bool {
        alias == "default" || self.aliases.contains(&alias)
    }

    fn begin(&self, fragment: &Fragment<'_>) -> Begin {
        let stored = self.stored.lock().unwrap();
        let key = (fragment.alias.to_owned(), fragment.key.clone().into_owned());
        match stored.get(&key).and_then(|stored| fragment.unpack(stored)).filter(|_| !self.broken) {
            Some(html) => {
                self.note("hit", fragment);
                Begin::Hit(html.to_owned())
            }
            None => {
                self.note("miss", fragment);
                Begin::Miss(Ticket::new(fragment.name.to_owned()))
            }
        }
    }

    fn finish(&self, fragment: &Fragment<'_>, ticket: Ticket, html: &str) {
        assert_eq!(ticket.open::<String>().as_deref(), Some(fragment.name), "the ticket comes back");
        self.note("stored", fragment);
        if !self.broken && fragment.timeout != Timeout::from(0) {
            let key = (fragment.alias.to_owned(), fragment.key.clone().into_owned());
            self.stored.lock().unwrap().insert(key, fragment.pack(html));
        }
    }
}

impl Memory {
    fn note(&self, what: &str, fragment: &Fragment<'_>) {
        self.log.lock().unwrap().push(format!("{what} {}@{}", fragment.name, fragment.alias));
    }

    /// Returns what was asked since the last time.
    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

struct Site {
    templates: Templates,
    memory: Arc<Memory>,
}

impl Site {
    fn over(memory: Arc<Memory>, sources: &[(&str, &str)]) -> Self {
        let mut builder = Templates::builder();
        for (name, source) in sources {
            builder = builder.template(*name, *source);
        }
        Site { templates: builder.build(Arc::clone(&memory)).unwrap(), memory }
    }

    fn new(sources: &[(&str, &str)]) -> Self {
        Site::over(Arc::default(), sources)
    }

    fn with_aliases(aliases: &[&'static str], sources: &[(&str, &str)]) -> Self {
        Site::over(Arc::new(Memory { aliases: aliases.to_vec(), ..Memory::default() }), sources)
    }

    #[track_caller]
    fn render(&self, name: &str, values: &[(&'static str, &str)]) -> String {
        self.templates.render(name, &context(values)).unwrap()
    }

    fn error(&self, name: &str, values: &[(&'static str, &str)]) -> TemplateError {
        self.templates.render(name, &context(values)).unwrap_err()
    }
}

fn context(values: &[(&'static str, &str)]) -> Context {
    let mut context = Context::new();
    for (name, value) in values {
        context.insert(*name, value);
    }
    context
}

fn load_error(source: &str) -> TemplateError {
    Templates::builder().template("a.html", source).build(Memory::default()).unwrap_err()
}

/// Renders with one value twice and a third time with another, of which a hit shows nothing.
#[track_caller]
fn assert_cached(sources: &[(&str, &str)], expected: &str) {
    let site = Site::new(sources);
    assert_eq!(site.render(sources[0].0, &[("x", "1"), ("y", "<b>")]), expected, "miss");
    assert_eq!(site.render(sources[0].0, &[("x", "2"), ("y", "<i>")]), expected, "hit");
    assert!(site.memory.log().iter().any(|line| line.starts_with("hit")));
}

#[test]
fn a_fragment_is_rendered_once_and_escaped_alike_on_miss_and_hit() {
    assert_cached(
        &[("a.html", "<p>{% cache 500 name %}<i>{{ x }}{{ y }}</i>{% endcache %}</p>")],
        "<p><i>1&lt;b&gt;</i></p>",
    );
    assert_cached(&[("a.txt", "{% cache 500 name %}<i>{{ x }}{{ y }}{% endcache %}")], "<i>1<b>");
}

#[test]
fn a_text_template_included_in_a_page_does_not_lend_the_page_its_unescaped_fragment() {
    let part = "{% cache 500 name %}{{ y }}{% endcache %}";
    let site = Site::new(&[("a.html", "{% include 'part.txt' %}"), ("part.txt", part)]);
    assert_eq!(site.render("part.txt", &[("y", "<b>")]), "<b>");
    assert_eq!(site.render("a.html", &[("y", "<b>")]), "&lt;b&gt;");
    assert_eq!(site.render("part.txt", &[("y", "<b>")]), "<b>");
}

#[test]
fn an_empty_body_is_a_hit_too() {
    let site = Site::new(&[("a.html", "{% cache 500 name %}{% endcache %}")]);
    assert_eq!(site.render("a.html", &[]) + &site.render("a.html", &[]), "");
    assert_eq!(site.memory.log(), ["miss name@default", "stored name@default", "hit name@default"]);
}

#[test]
fn fragments_vary_on_their_values() {
    let site = Site::new(&[("a.html", "{% cache 500 name x %}{{ x }}{{ y }}{% endcache %}")]);
    assert_eq!(site.render("a.html", &[("x", "1"), ("y", "a")]), "1a");
    assert_eq!(site.render("a.html", &[("x", "2"), ("y", "b")]), "2b");
    assert_eq!(site.render("a.html", &[("x", "1"), ("y", "c")]), "1a");
}

#[test]
fn an_inner_fragment_hits_while_the_outer_misses() {
    let source = "{% cache 5 outer x %}[{{ y }}{% cache 5 inner %}({{ y }}){% endcache %}]{% endcache %}";
    let site = Site::new(&[("a.html", source)]);
    assert_eq!(site.render("a.html", &[("x", "1"), ("y", "a")]), "[a(a)]");
    assert_eq!(site.render("a.html", &[("x", "2"), ("y", "b")]), "[b(a)]");
    assert_eq!(site.render("a.html", &[("x", "1"), ("y", "c")]), "[a(a)]");
}

#[test]
fn loops_vary_on_their_variables() {
    let source = "{% for n in [10, 20, 10] %}{% cache 5 row n %}{{ loop.index }}:{{ n }} {% endcache %}{% endfor %}\
                  {% for n in [7] %}{% cache 5 at loop.index %}{{ n }}{% endcache %}{% endfor %}";
    let site = Site::new(&[("a.html", source)]);
    assert_eq!(site.render("a.html", &[]), "1:10 2:20 1:10 7");
    assert_eq!(site.render("a.html", &[]), "1:10 2:20 1:10 7");
}

#[test]
fn a_cached_block_may_call_super_whose_block_is_cached_too() {
    assert_cached(
        &[
            (
                "kid.html",
                "{% extends 'base.html' %}{% block a %}{% cache 5 kid %}{{ x }}{{ super() }}{% endcache %}{% endblock %}",
            ),
            ("base.html", "<{% block a %}{% cache 5 base %}base{{ x }}{% endcache %}{% endblock %}>"),
        ],
        "<1base1>",
    );
}

#[test]
fn fragments_and_includes_go_into_one_another() {
    let part = ("part.html", "{% set z = 1 %}{% cache 5 part %}({{ x }}{{ n }}){% endcache %}");
    assert_cached(&[("a.html", "{% set n = 3 %}{% include 'part.html' %}{% include 'part.html' %}"), part], "(13)(13)");
    assert_cached(
        &[("a.html", "{% set n = 3 %}{% cache 5 all %}{% include 'part.html' %}!{% endcache %}"), part],
        "(13)!",
    );
}

#[test]
fn components_hold_fragments_and_stand_in_them() {
    let boxed = ("box.html", "{% component box(v) %}{% cache 5 box v %}[{{ v }}]{% endcache %}{% endcomponent %}");
    assert_cached(
        &[("a.html", "{{ <box v='a' /> }}{% cache 5 page %}{{ <box v={x} /> }}{% endcache %}"), boxed],
        "[a][1]",
    );
    let wide = ("box.html", "{% component box() %}({{ body }}){% endcomponent %}");
    assert_cached(&[("a.html", "{% <box> %}{% cache 5 n %}{{ x }}{% endcache %}{% </box> %}"), wide], "(1)");
}

#[test]
fn dashes_take_the_blanks_around() {
    assert_cached(&[("a.html", "a  {%- cache 5 n -%}  {{ x }}  {%- endcache -%}  b")], "a1b");
    assert_cached(&[("a.html", "a {% cache 5 n -%} {{ x }} {% endcache %} b")], "a 1  b");
}

#[test]
fn raw_blocks_comments_and_strings_are_left_alone() {
    let source = "{% raw %}{% cache 5 n %}{% endraw %}{# {% endcache %} #}{{ '{% cache %}' }}\
                  {% cache 5 n '%}' \"{% endcache %}\" %}{{ x }}{% endcache %}";
    assert_cached(&[("a.txt", source)], "{% cache 5 n %}{% cache %}1");
}

#[test]
fn tags_may_go_over_several_lines() {
    let source = "{% cache\n   500\n   name\n   x\n%}\n{{ x }}\n{% endcache\n%}";
    let site = Site::new(&[("a.html", source)]);
    assert_eq!(site.render("a.html", &[("x", "1")]), "\n1\n");
    let site = Site::new(&[("a.html", &format!("{source}\n{{{{ nothing }}}}"))]);
    assert_eq!(site.error("a.html", &[("x", "1")]).line(), 9);
}

#[test]
fn timeouts_are_numbers_variables_expressions_or_none() {
    #[derive(Default)]
    struct Timeouts(Mutex<Vec<Timeout>>);
    impl FragmentStore for Timeouts {
        fn has_alias(&self, _: &str) -> bool {
            false
        }
        fn begin(&self, fragment: &Fragment<'_>) -> Begin {
            self.0.lock().unwrap().push(fragment.timeout);
            Begin::Miss(Ticket::empty())
        }
        fn finish(&self, _: &Fragment<'_>, _: Ticket, _: &str) {}
    }
    for (written, expected) in [
        ("500", Timeout::from(500)),
        ("1.5", Timeout::from(1.5)),
        ("-1", Timeout::from(0)),
        ("0", Timeout::from(0)),
        ("none", Timeout::Never),
        ("None", Timeout::Never),
        ("minutes", Timeout::from(120)),
        ("(60 * 5)", Timeout::from(300)),
        ("(missing | default(value=7))", Timeout::from(7)),
    ] {
        let store = Arc::new(Timeouts::default());
        let source = format!("{{% cache {written} a %}}{{% endcache %}}");
        let templates = Templates::builder().template("a", source).build(Arc::clone(&store)).unwrap();
        templates.render("a", &context(&[("minutes", "120")])).unwrap();
        assert_eq!(*store.0.lock().unwrap(), [expected], "{written}");
    }
}

#[test]
fn the_alias_is_the_named_one_or_template_fragments_or_default() {
    let plain = ("a.html", "{% cache 5 n %}{% endcache %}");
    let named = ("a.html", "{% cache 5 n using='fast' %}{% endcache %}");
    for (aliases, source, expected) in [
        (&[][..], plain, "miss n@default"),
        (&["template_fragments"], plain, "miss n@template_fragments"),
        (&["template_fragments", "fast"], named, "miss n@fast"),
    ] {
        let site = Site::with_aliases(aliases, &[source]);
        site.render("a.html", &[]);
        assert_eq!(site.memory.log()[0], expected);
    }
}

#[test]
fn tags_reach_the_store() {
    struct Tags(Mutex<Vec<String>>);
    impl FragmentStore for Tags {
        fn has_alias(&self, _: &str) -> bool {
            false
        }
        fn begin(&self, fragment: &Fragment<'_>) -> Begin {
            Begin::Miss(Ticket::new(fragment.tags.to_vec()))
        }
        fn finish(&self, fragment: &Fragment<'_>, ticket: Ticket, _: &str) {
            assert_eq!(ticket.open::<Vec<String>>().as_deref(), Some(fragment.tags));
            self.0.lock().unwrap().extend_from_slice(fragment.tags);
        }
    }
    let store = Arc::new(Tags(Mutex::default()));
    let source = "{% cache 5 n x tags=['object', 'object:' ~ x] %}{% endcache %}";
    let templates = Templates::builder().template("a", source).build(Arc::clone(&store)).unwrap();
    templates.render("a", &context(&[("x", "7")])).unwrap();
    assert_eq!(*store.0.lock().unwrap(), ["object", "object:7"]);
}

#[test]
fn a_lazy_query_runs_once_on_a_miss_and_not_at_all_on_a_hit() {
    let runs = Arc::new(AtomicUsize::new(0));
    let source = "{% cache 5 n %}{% for o in lazy(name='objects') %}{{ o }},{% endfor %}\
                  {{ lazy(name='objects') | length }}{% endcache %}";
    let site = Site::new(&[("a.html", source)]);
    for expected in [1, 1] {
        let counted = Arc::clone(&runs);
        let lazy = Lazy::new().value("objects", move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok::<_, TemplateError>(vec!["chair", "table"])
        });
        assert_eq!(site.templates.render_with("a.html", &Context::new(), lazy).unwrap(), "chair,table,2");
        assert_eq!(runs.load(Ordering::SeqCst), expected);
    }
}

#[test]
fn the_error_of_a_lazy_query_is_the_source_of_the_render_s() {
    let site = Site::new(&[("a.html", "{% cache 5 n %}\n  {{ lazy(name='objects') }}{% endcache %}")]);
    let lazy = Lazy::new().value("objects", || Err::<(), _>(std::io::Error::other("no such table")));
    let error = site.templates.render_with("a.html", &Context::new(), lazy).unwrap_err();
    assert_eq!(error.message(), "the lazy value `objects` could not be computed: no such table");
    assert_eq!((error.line(), error.column()), (2, 6));
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.downcast_ref::<std::io::Error>().is_some());
    assert_eq!(site.memory.log(), ["miss n@default"], "nothing was stored");
}

#[test]
fn a_lazy_name_that_is_not_there_is_named_with_those_that_are() {
    let site = Site::new(&[("a.html", "{{ lazy(name='object') }}")]);
    let lazy = Lazy::new().value("objects", || Ok::<_, TemplateError>(1)).value("count", || Ok::<_, TemplateError>(1));
    let error = site.templates.render_with("a.html", &Context::new(), lazy).unwrap_err();
    assert_eq!(error.message(), "there is no lazy value `object`; registered for this render: `count`, `objects`");
    assert_eq!(
        site.error("a.html", &[]).message(),
        "there is no lazy value `object`; registered for this render: none"
    );
}

#[test]
fn a_lazy_query_may_render_a_template_of_its_own() {
    let site = Site::new(&[
        ("a.html", "{% cache 5 a %}{{ lazy(name='part') }}{{ lazy(name='part') }}{% endcache %}"),
        ("b.html", "{% cache 5 b %}b{{ lazy(name='inner') }}{% endcache %}"),
    ]);
    let templates = site.templates.clone();
    let lazy = Lazy::new().value("part", move || {
        templates.render_with("b.html", &Context::new(), Lazy::new().value("inner", || Ok::<_, TemplateError>(7)))
    });
    assert_eq!(site.templates.render_with("a.html", &Context::new(), lazy).unwrap(), "b7b7");
    assert_eq!(site.memory.log(), ["miss a@default", "miss b@default", "stored b@default", "stored a@default"]);
}

#[test]
fn a_panic_in_a_render_leaves_the_next_one_alone() {
    let site = Site::new(&[("a.html", "{% cache 5 n %}{{ lazy(name='v') }}{% endcache %}")]);
    let panicking = Lazy::new().value("v", || -> Result<(), TemplateError> { panic!("on purpose") });
    let templates = site.templates.clone();
    let render = move || templates.render_with("a.html", &Context::new(), panicking);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(render)).unwrap_err();
    assert!(site.error("a.html", &[]).message().contains("registered for this render: none"));
    let lazy = Lazy::new().value("v", || Ok::<_, TemplateError>("fine"));
    assert_eq!(site.templates.render_with("a.html", &Context::new(), lazy).unwrap(), "fine");
}

#[test]
fn a_body_that_fails_stores_nothing_and_drops_its_ticket() {
    let site = Site::new(&[("a.html", "{% cache 5 n %}{{ gone }}{% endcache %}")]);
    assert!(site.error("a.html", &[]).message().contains("`gone`"));
    assert_eq!(site.memory.log(), ["miss n@default"]);
    assert_eq!(site.render("a.html", &[("gone", "back")]), "back");
}

#[test]
fn a_broken_store_does_not_break_the_page() {
    let memory = Arc::new(Memory { broken: true, ..Memory::default() });
    let site = Site::over(memory, &[("a.html", "{% cache 5 n %}{{ x }}{% endcache %}")]);
    assert_eq!(site.render("a.html", &[("x", "1")]), "1");
    assert_eq!(site.render("a.html", &[("x", "2")]), "2");
}

#[test]
fn a_deploy_with_other_markup_misses_and_the_key_stays() {
    let page = ("a.html", "{% cache 5 n x %}{% include 'b.html' %}{% endcache %}");
    let memory = Arc::<Memory>::default();
    let old = Site::over(Arc::clone(&memory), &[page, ("b.html", "old")]);
    assert_eq!(old.render("a.html", &[("x", "1")]), "old");
    let new = Site::over(Arc::clone(&memory), &[page, ("b.html", "new")]);
    assert_eq!(new.render("a.html", &[("x", "1")]), "new");
    assert_eq!(new.render("a.html", &[("x", "1")]), "new");
    let keys: Vec<_> = memory.stored.lock().unwrap().keys().cloned().collect();
    assert_eq!(keys, [("default".to_owned(), fragment_key("n", &["1".into()]))]);
}

#[test]
fn a_key_from_rust_is_the_template_s() {
    #[derive(serde::Serialize)]
    struct User {
        id: u32,
        name: &'static str,
        team: Option<u8>,
    }
    let user = User { id: 7, name: "Ann", team: None };
    let mut context = Context::new();
    context.insert("user", &user);
    context.insert("list", &[1_u64, 2]);
    for (written, values) in [
        ("user.id", vec![Vary::from(7_i64)]),
        ("(user.id + 0)", vec![7_u64.into()]),
        ("7.0 (1 == 1)", vec![7.into(), true.into()]),
        (
            "user.name user.team user?.age nobody?.id",
            vec!["Ann".into(), Vary::none(), None::<i64>.into(), Vary::none()],
        ),
        ("'Ann' (user.name | upper)", vec![(&"Ann".to_owned()).into(), "ANN".into()]),
        ("user", vec![Vary::serialize(&user).unwrap()]),
        ("list [1,2]", vec![Vary::serialize(&[1, 2]).unwrap(), Vary::serialize(&[1_i64, 2]).unwrap()]),
        ("", vec![]),
    ] {
        let site = Site::new(&[("a.html", &format!("{{% cache 5 'the name' {written} %}}{{% endcache %}}"))]);
        site.templates.render("a.html", &context).unwrap();
        let stored = site.memory.stored.lock().unwrap();
        let key = &stored.keys().next().unwrap().1;
        assert_eq!(*key, fragment_key("the name", &values), "{written}");
    }
}

#[test]
fn an_error_on_the_tag_s_line_shows_the_author_s_text() {
    let site = Site::new(&[("objects/list.html", "<p>\n\t{% cache 500 list nouser.id %}x{% endcache %}")]);
    assert_eq!(
        site.error("objects/list.html", &[("x", "1")]).to_string(),
        "error: Variable `nouser` is not defined. Available variables: x\n --> objects/list.html:2:20\n  |\n\
         2 | \t{% cache 500 list nouser.id %}x{% endcache %}\n  | \t                  ^^^^^^\n  \
         = help: what a fragment varies on has to be there; write `user?.id` for a value that may be absent"
    );
}

#[test]
fn errors_at_render_point_at_the_tag_and_show_nothing_of_ours() {
    for (source, message, excerpt) in [
        (
            "a\n{% cache 5 n using='slow' %}{% endcache %}",
            "there is no cache `slow`",
            "{% cache 5 n using='slow' %}{% endcache %}",
        ),
        ("a\n{% cache 5 n using=x %}{% endcache %}", "there is no cache `1`", "{% cache 5 n using=x %}{% endcache %}"),
        ("a\n{% cache 'soon' n %}{% endcache %}", "the string `soon`", "{% cache 'soon' n %}{% endcache %}"),
        ("a\n{% cache ttl n %}{% endcache %}", "not defined", "{% cache ttl n %}{% endcache %}"),
        (
            "a\n{% cache 5 n tags=[none] %}{% endcache %}",
            "a tag of a cache block",
            "{% cache 5 n tags=[none] %}{% endcache %}",
        ),
        ("{% cache 5 n %}\n{{ gone }}{% endcache %}", "`gone` is not defined", "{{ gone }}{% endcache %}"),
    ] {
        let error = Site::new(&[("a.html", source)]).error("a.html", &[("x", "1")]);
        assert!(error.message().contains(message), "{source}: {error}");
        assert_eq!((error.line(), error.excerpt()), (2, Some(excerpt)), "{error}");
        assert!(!error.to_string().contains("__cache"), "{error}");
    }
}

#[test]
fn an_error_in_an_include_says_from_where_it_was_called() {
    let site = Site::new(&[
        ("a.html", "{% cache 5 n %}\n  {% include 'b.html' %}{% endcache %}"),
        ("b.html", "{% cache 5 b %}{{ gone }}{% endcache %}"),
    ]);
    let error = site.error("a.html", &[]);
    assert_eq!((error.file(), error.line(), error.column()), (Some("b.html"), 1, 19));
    assert_eq!(error.excerpt(), Some("{% cache 5 b %}{{ gone }}{% endcache %}"));
    let note = &error.notes()[0];
    assert_eq!((note.message(), note.file(), note.line()), ("called from", Some("a.html"), 2));
    assert_eq!(note.excerpt(), Some("  {% include 'b.html' %}{% endcache %}"));
}

#[test]
fn errors_at_load_point_at_the_author_s_line() {
    for (source, message, line, column) in [
        ("{% cache 5 n %}{{ x | nofilter }}{% endcache %}", "Unknown filter `nofilter`", 1, 23),
        ("{% cache 5 n (x | nofilter) %}{% endcache %}", "Unknown filter `nofilter`", 1, 19),
        ("\n{% cache nofunction() n %}{% endcache %}", "Unknown function `nofunction`", 2, 10),
        ("{% cache 5 n %}{% include 'no.html' %}{% endcache %}", "Unknown template `no.html`", 1, 27),
        ("{% cache 5 n a..b %}{% endcache %}", "Found", 1, 16),
        ("{% cache 5 n %}{% if %}{% endif %}{% endcache %}", "Found", 1, 22),
        ("{% cache 5 n %}{{ x ", "Unexpected end", 1, 19),
    ] {
        let error = load_error(source);
        assert!(error.message().contains(message), "{source}: {error}");
        assert_eq!((error.line(), error.column()), (line, column), "{error}");
        assert!(source.contains(error.excerpt().unwrap()), "{error}");
    }
}

#[test]
fn all_that_is_wrong_at_load_is_shown_at_once() {
    let error = load_error("{{ a | one }}\n{% cache 5 n %}{{ b | two }}{% endcache %}");
    assert_eq!((error.line(), error.also()[0].line()), (1, 2), "{error}");
    let error = Templates::builder()
        .template("a.html", "{% endcache %}")
        .template("b.html", "{% cache 5 %}")
        .build(Memory::default())
        .unwrap_err();
    assert_eq!((error.file(), error.also()[0].file()), (Some("a.html"), Some("b.html")), "{error}");
}

#[test]
fn a_cache_block_at_the_top_of_a_child_is_refused() {
    let error = Templates::builder()
        .template("base.html", "")
        .template("a.html", "{% extends 'base.html' %}\n{% cache 5 n %}{% endcache %}")
        .build(Memory::default())
        .unwrap_err();
    assert!(error.message().contains("only `extends`"), "{error}");
    assert_eq!((error.line(), error.column()), (2, 1));
}

#[test]
fn doubtful_blocks_are_warned_of() {
    let sources = [
        ("a.html", "{% cache 5 n x %}{% block b %}{% endblock %}{% endcache %}"),
        ("b.html", "{% cache 5 n y %}{% endcache %}{% cache 5 n %}{% endcache %}"),
    ];
    let catalog = Catalog::new(sources.map(|(name, source)| (name.into(), source.into())).into(), "").unwrap();
    let warnings = catalog.warnings();
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].message().contains("block inside a cache block"), "{}", warnings[0]);
    assert_eq!((warnings[1].file(), warnings[1].column()), (Some("b.html"), 1));
}

#[test]
fn templates_are_shared_between_threads() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<Templates>();
    sent::<(Lazy, TemplateError)>();
    let site = Site::new(&[("a.html", "{% cache 5 n x %}{{ x }}{% endcache %}")]);
    std::thread::scope(|scope| {
        for x in ["1", "2", "3", "4"] {
            let site = &site;
            scope.spawn(move || assert!((0..50).all(|_| site.render("a.html", &[("x", x)]) == x)));
        }
    });
}

#[test]
fn a_missing_template_is_named() {
    assert_eq!(Site::new(&[]).error("no.html", &[]).to_string(), "error: Template 'no.html' not found");
}
