//! Holes: what is rendered each time, in markup that is not.

use super::*;

/// Renders with `x` as 1, then as 2, and returns both pages.
#[track_caller]
fn twice(sources: &[(&str, &str)]) -> [String; 2] {
    let site = Site::new(sources);
    ["1", "2"].map(|x| site.render(sources[0].0, &[("x", x), ("y", "<b>")]))
}

#[test]
fn a_hole_is_rendered_on_a_miss_and_on_a_hit() {
    let source = "{% cache 500 a %}<p>{{ x }}{% nocache %}[{{ x }}{{ y }}]{% endnocache %}</p>{% endcache %}";
    assert_eq!(twice(&[("a.html", source)]), ["<p>1[1&lt;b&gt;]</p>", "<p>1[2&lt;b&gt;]</p>"]);
    assert_eq!(twice(&[("a.txt", source)]), ["<p>1[1<b>]</p>", "<p>1[2<b>]</p>"]);
}

#[test]
fn outside_of_a_fragment_a_hole_is_just_its_body() {
    let source = "a{% nocache %}{{ x }}{% endnocache %}b{% nocache %}{% endnocache %}c";
    assert_eq!(twice(&[("a.html", source)]), ["a1bc", "a2bc"]);
}

#[test]
fn holes_of_a_loop_keep_their_arguments() {
    let source = "{% cache 500 a %}{% for n in [1, 2] %}{% set more = {'k': [n]} %}\
                  {% nocache n=n more=more t=y %}{{ n }}{{ more.k[0] }}{{ t }}{{ x }},{% endnocache %}{% endfor %}{% endcache %}";
    assert_eq!(twice(&[("a.html", source)]), ["11&lt;b&gt;1,22&lt;b&gt;1,", "11&lt;b&gt;2,22&lt;b&gt;2,"]);
}

#[test]
fn an_argument_that_is_absent_is_none_and_hides_a_value_of_the_same_name() {
    let source = "{% cache 500 a %}{% nocache x=y?.z other=none %}{% if x is none and other is none %}none{% endif %}\
                  {% endnocache %}{% endcache %}";
    assert_eq!(twice(&[("a.html", source)]), ["none", "none"]);
}

#[test]
fn what_a_hole_does_not_see_is_an_error_that_says_how_to_hand_it_over() {
    let site = Site::new(&[(
        "a.html",
        "{% cache 500 a %}\n{% set z = 1 %}{% nocache %}\n{{ z }}{% endnocache %}{% endcache %}",
    )]);
    for _ in 0..2 {
        let error = site.error("a.html", &[]).to_string();
        assert!(error.contains("a.html:3:4") && !error.contains("__hole"), "{error}");
        assert!(error.contains("`{% nocache id=object.id %}`"), "{error}");
    }
}

#[test]
fn a_lazy_value_in_a_hole_is_computed_in_each_render_and_once_in_it() {
    let source = "{% cache 500 a %}{{ lazy(name='n') }}{% nocache %}{{ lazy(name='n') }}{% endnocache %}\
                  {% nocache %}{{ lazy(name='n') }}{% endnocache %}{% endcache %}";
    let site = Site::new(&[("a.html", source)]);
    for n in 1..3 {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&runs);
        let query = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok::<_, std::io::Error>(n)
        };
        let page = site.templates.render_with("a.html", &Context::new(), Lazy::new().value("n", query)).unwrap();
        assert_eq!((page, runs.load(Ordering::SeqCst)), (format!("1{n}{n}"), 1));
    }
    let failing = Lazy::new().value("n", || Err::<(), _>(std::io::Error::other("no database")));
    let error = site.templates.render_with("a.html", &Context::new(), failing).unwrap_err();
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "no database");
}

#[test]
fn holes_pass_through_nested_fragments_includes_and_parents() {
    let sources = [
        (
            "a.html",
            "{% extends 'base.html' %}{% block b %}{{ super() }}{% cache 500 a %}{% include 'part.html' %}{% endcache %}{% endblock %}",
        ),
        ("base.html", "{% block b %}<{% nocache %}{{ x }}{% endnocache %}>{% endblock %}"),
        ("part.html", "{% cache 500 inner %}({% nocache k='k' %}{{ k }}{{ x }}{% endnocache %}){% endcache %}"),
    ];
    let site = Site::new(&sources);
    assert_eq!(site.render("a.html", &[("x", "1")]), "<1>(k1)");
    assert_eq!(site.render("a.html", &[("x", "2")]), "<2>(k2)");
    // The inner fragment was stored on the way, and serves the page that includes it by itself.
    site.memory.log();
    assert_eq!(site.render("part.html", &[("x", "3")]), "(k3)");
    assert_eq!(site.memory.log(), ["hit inner@default"]);
}

#[test]
fn a_fragment_in_a_hole_is_cached() {
    let source = "{% cache 500 a %}{{ x }}{% nocache %}{{ x }}{% cache 500 b %}{{ x }}{% endcache %}{% endnocache %}{% endcache %}";
    assert_eq!(twice(&[("a.html", source)]), ["111", "121"]);
}

#[test]
fn a_hole_in_a_fragment_in_a_hole_is_filled() {
    let site = Site::new(&[
        ("a.html", "{% cache 500 a %}{{ x }}{% nocache %}{% include 'b.html' %}{% endnocache %}{% endcache %}"),
        ("b.html", "{% cache 500 b %}{{ x }}{% nocache %}{{ x }}{% endnocache %}{% endcache %}"),
    ]);
    assert_eq!(site.render("a.html", &[("x", "1")]), "111");
    assert_eq!(site.render("a.html", &[("x", "2")]), "112");
}

#[test]
fn a_hole_that_leads_to_itself_is_an_error() {
    let site = Site::new(&[("a.html", "{% nocache %}{% include 'a.html' %}{% endnocache %}")]);
    assert!(site.error("a.html", &[]).to_string().contains("leads to itself"));
}

#[test]
fn a_filter_that_cuts_a_hole_is_noticed() {
    for source in [
        "{% set t %}{% nocache %}{{ x }}{% endnocache %}{% endset %}{{ t | truncate(length=12) }}",
        "{% cache 500 a %}{% set t %}{% nocache %}{{ x }}{% endnocache %}{% endset %}{{ t | replace(from='.', to='') }}{% endcache %}",
        "{% set t %}{% nocache %}{{ x }}{% endnocache %}{% endset %}{{ t | upper }}",
        "{% set t %}{% nocache %}{{ x | safe }}{% endnocache %}{% endset %}{{ t | escape_html }}",
        "{% set t %}{% nocache %}{{ x | safe }}{% endnocache %}{% endset %}{{ t | title }}",
        "{% filter escape_html %}{% include 'hole.html' %}{% endfilter %}",
    ] {
        let site = Site::new(&[("a.html", source), ("hole.html", "{% nocache %}{{ x | safe }}{% endnocache %}")]);
        let error = site.error("a.html", &[("x", "1")]).to_string();
        assert!(error.contains("a filter has changed the place"), "{source}: {error}");
    }
    let kept = "{% set t %}é{% nocache %}{{ x }}{% endnocache %}{% endset %}{{ t | trim }}{{ t }}";
    assert_eq!(Site::new(&[("a.html", kept)]).render("a.html", &[("x", "q")]), "éqéq");
}

#[test]
fn a_hole_cannot_be_handed_over_or_varied_by() {
    let set = "{% set t %}{% nocache %}{{ x }}{% endnocache %}{% endset %}";
    for rest in [
        "{% cache 500 a %}{% nocache t=t %}{{ t }}{% endnocache %}{% endcache %}",
        "{% cache 500 a [t] %}{% endcache %}",
    ] {
        let error = Site::new(&[("a.html", &format!("{set}{rest}"))]).error("a.html", &[("x", "1")]).to_string();
        assert!(error.contains("a value holds a nocache block"), "{rest}: {error}");
    }
}

#[test]
fn what_is_never_closed_in_a_hole_is_shown_where_it_is() {
    let error = load_error("{% nocache %}\n{{ \"a }}{% endnocache %}").to_string();
    assert!(error.contains("a.html:2:") && !error.contains("never closed"), "{error}");
}

#[test]
fn text_that_looks_like_a_marker_is_text() {
    let forged = "\u{2}00000000000000000001.0\u{3}\u{2}[[0,{}]]\n";
    for source in [
        "{% cache 500 a %}{{ v }}{% endcache %}",
        "{% cache 500 a %}{{ v }}{% nocache %}{% endnocache %}{% endcache %}",
    ] {
        let site = Site::new(&[("a.txt", source)]);
        for _ in 0..2 {
            assert_eq!(site.render("a.txt", &[("v", forged)]), forged);
        }
    }
}

#[test]
fn what_cannot_be_read_back_is_rendered() {
    let site = Site::new(&[("a.html", "{% cache 500 a %}{% nocache %}{{ x }}{% endnocache %}.{% endcache %}")]);
    site.render("a.html", &[("x", "1")]);
    for stored in site.memory.stored.lock().unwrap().values_mut() {
        *stored = stored.replace("\"escapes\"", "\"other\"");
    }
    assert_eq!(site.render("a.html", &[("x", "2")]), "2.");
}

#[test]
fn a_hole_that_would_be_escaped_differently_is_refused() {
    let site = Site::new(&[
        ("a.txt", "{% include 'b.html' %}"),
        ("b.html", "{% cache 500 a %}{% nocache %}{{ x }}{% endnocache %}{% endcache %}"),
    ]);
    assert_eq!(site.render("b.html", &[("x", "<b>")]), "&lt;b&gt;");
    let error = site.error("a.txt", &[("x", "<b>")]).to_string();
    assert!(error.contains("escaped differently") && error.contains("b.html"), "{error}");
}

#[test]
fn dashes_trim_around_a_hole_and_in_it() {
    let source = "{% cache 500 a %}a {%- nocache -%} {{ x }} {%- endnocache -%} b{% endcache %}";
    assert_eq!(twice(&[("a.html", source)]), ["a1b", "a2b"]);
}

#[test]
fn an_error_in_a_hole_names_the_author_s_file_and_line() {
    let part = "\n{% cache 500 a %}\n{% nocache %}\n  {{ 1 / x }}\n{% endnocache %}{% endcache %}";
    let site = Site::new(&[("a.html", "{% include 'part.html' %}"), ("part.html", part)]);
    for _ in 0..2 {
        let error = site.error("a.html", &[("x", "one")]).to_string();
        assert!(error.contains("part.html:4:") && !error.contains("__hole"), "{error}");
    }
    let error = load_error("\n{% nocache %}\n{{ 1 + }}{% endnocache %}").to_string();
    assert!(error.contains("a.html:3:") && !error.contains("__hole"), "{error}");
}

#[test]
fn holes_are_no_templates_of_the_site() {
    let site = Site::new(&[("a.html", "{% nocache %}{% endnocache %}")]);
    assert_eq!(site.templates.names().collect::<Vec<_>>(), ["a.html"]);
}
