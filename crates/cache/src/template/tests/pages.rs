//! A page is the same whether its cache blocks are there or not.

use proptest::prelude::*;

use super::Site;

/// What may stand in a body, and how it is written with and without the cache.
#[derive(Debug, Clone)]
enum Node {
    Text(&'static str),
    If(Vec<Node>, Vec<Node>),
    For(Vec<Node>),
    Cache(Vec<Node>),
    Hole(Vec<Node>),
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let leaf = prop::sample::select(vec![
        "text ",
        "\n",
        "{{ x }}",
        "{{ y }}",
        "{{ n | default(value='-') }}",
        "{# {% cache #}",
        "{% raw %}{% endcache %}{% endraw %}",
        "{{ '%} {% endcache %}' }}",
        "{% include 'part.html' %}",
        "{{ <box v={y} /> }}",
        "{% filter upper %}{{ y }}é{% endfilter %}",
    ])
    .prop_map(Node::Text);
    let tree = leaf.prop_recursive(4, 32, 4, |inner| {
        let body = prop::collection::vec(inner, 0..4);
        prop_oneof![
            (body.clone(), body.clone()).prop_map(|(yes, no)| Node::If(yes, no)),
            body.clone().prop_map(Node::For),
            body.clone().prop_map(Node::Cache),
            body.prop_map(Node::Hole),
        ]
    });
    prop::collection::vec(tree, 0..6)
}

fn write_nodes(nodes: &[Node], cached: bool, in_hole: bool, out: &mut String, count: &mut usize) {
    for node in nodes {
        let (before, bodies, after): (String, &[&Vec<Node>], &str) = match node {
            Node::Text(text) => ((*text).to_owned(), &[], ""),
            Node::If(yes, no) => ("{% if x == '1' %}".to_owned(), &[yes, no], "{% endif %}"),
            Node::For(body) => ("{% for n in [1, 2] %}".to_owned(), &[body], "{% endfor %}"),
            Node::Cache(body) => {
                *count += 1;
                let tag = format!("{{% cache 5 name{count} (n | default(value=none)) %}}");
                if cached { (tag, &[body], "{% endcache %}") } else { (String::new(), &[body], "") }
            }
            Node::Hole(body) if cached && !in_hole => {
                ("{% nocache n=(n | default(value='-')) %}".to_owned(), &[body], "{% endnocache %}")
            }
            Node::Hole(body) => (String::new(), &[body], ""),
        };
        out.push_str(&before);
        for (index, body) in bodies.iter().enumerate() {
            if index > 0 {
                out.push_str("{% else %}");
            }
            write_nodes(body, cached, in_hole || matches!(node, Node::Hole(_)), out, count);
        }
        out.push_str(after);
    }
}

proptest! {
    #[test]
    fn a_page_is_the_same_without_the_block_on_a_miss_and_on_a_hit(nodes in nodes()) {
        let mut pages = [String::new(), String::new()];
        for (cached, page) in pages.iter_mut().enumerate() {
            write_nodes(&nodes, cached == 1, false, page, &mut 0);
        }
        for extension in ["html", "txt"] {
            let [plain, cached] = [&pages[0], &pages[1]].map(|page| {
                Site::new(&[
                    (&format!("a.{extension}"), page),
                    ("part.html", "({{ y }})"),
                    ("box.html", "{% component box(v) %}[{{ v }}]{% endcomponent %}"),
                ])
            });
            let render = |site: &Site| site.render(&format!("a.{extension}"), &[("x", "1"), ("y", "<b>&")]);
            let expected = render(&plain);
            prop_assert_eq!(&render(&cached), &expected, "a miss of {}", &pages[1]);
            prop_assert_eq!(&render(&cached), &expected, "a hit of {}", &pages[1]);
        }
    }
}
