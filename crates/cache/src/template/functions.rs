//! What the rewritten blocks call: `__cache_begin`, `__cache_end`, `__hole`; and `lazy`.

use std::{sync::Arc, time::Duration};

use tera::{Kwargs, State, Tera, TeraResult, Value, value::ValueKind};

use super::{
    Begin, Fragment, FragmentStore,
    caches::FRAGMENT_ALIAS,
    catalog::Catalog,
    holes::{CUT, Cut, Hole},
    key::key_of_values,
    scope,
};
use crate::{Timeout, settings::DEFAULT_ALIAS};

/// Registers the functions. They have to be there before the templates are added.
pub(super) fn register(tera: &mut Tera, store: Arc<dyn FragmentStore>, catalog: Arc<Catalog>) {
    let ending = Arc::clone(&store);
    // The settings do not change while the templates live.
    let fallback = if store.has_alias(FRAGMENT_ALIAS) { FRAGMENT_ALIAS } else { DEFAULT_ALIAS };
    tera.register_function("__cache_begin", move |kwargs: Kwargs, state: &State<'_>| {
        begin(&*store, fallback, &catalog, &kwargs, state)
    });
    tera.register_filter("__cache_end", move |body: Value, kwargs: Kwargs, _: &State<'_>| -> TeraResult<Value> {
        let slot: Option<&Value> = kwargs.get("slot")?;
        if let Some(fragment) = slot.and_then(Value::as_u64).and_then(scope::take) {
            let markup = scope::detach(body.as_str().unwrap_or_default()).map_err(|Cut| tera::Error::message(CUT))?;
            fragment.finish(&*ending, &markup);
        }
        Ok(body)
    });
    tera.register_function("__hole", hole);
    tera.register_function("__hole_begin", |_: Kwargs, state: &State<'_>| match scope::escapes() {
        Some(escapes) if escapes != state.autoescaping_enabled() => Err(tera::Error::message(
            "a nocache block stands in a template that another one includes whose markup is escaped differently; give \
             both names with the same ending, such as `.html`",
        )),
        _ => Ok(Value::safe_string("")),
    });
    tera.register_function("lazy", |kwargs: Kwargs, _: &State<'_>| -> TeraResult<Value> {
        scope::lazy(kwargs.must_get("name")?).map_err(tera::Error::message)
    });
}

/// Returns the stored markup as a string, or on a miss the number of the fragment that is open now.
fn begin(
    store: &dyn FragmentStore,
    fallback: &str,
    catalog: &Catalog,
    kwargs: &Kwargs,
    state: &State<'_>,
) -> TeraResult<Value> {
    let name: &str = kwargs.must_get("name")?;
    let template: &str = kwargs.get("template")?.unwrap_or_default();
    let vary: &[Value] = kwargs.get("vary")?.unwrap_or_default();
    let timeout = timeout(kwargs.get("ttl")?)?;
    let alias = match kwargs.get("using")? {
        Some(using) => alias(store, using)?,
        None => fallback,
    };
    let tags = tags(kwargs.get("tags")?)?;
    refuse_holes(vary.iter())?;
    let key = key_of_values(name, vary);
    let digest = catalog.digest(template, state.autoescaping_enabled());
    let fragment = Fragment { alias, name, key: &key, template, digest, timeout, tags: &tags };
    match store.begin(&fragment) {
        // Made from markup that was escaped where it had to be. What cannot be read is rendered, and stays as it is.
        Begin::Hit(html) => Ok(scope::attach(html).map_or_else(Value::none, |html| Value::safe_string(&html))),
        Begin::Miss(ticket) => {
            let open = scope::OpenFragment {
                alias: alias.to_owned(),
                name: name.to_owned(),
                template: template.to_owned(),
                digest: digest.to_owned(),
                key,
                timeout,
                tags,
                ticket,
            };
            // Outside of a render of ours there is no scope: the body runs and nothing is stored.
            Ok(scope::keep(open).map_or_else(Value::none, Value::from))
        }
    }
}

/// Leaves a marker where a hole is filled when everything else is there.
fn hole(kwargs: Kwargs, state: &State<'_>) -> TeraResult<Value> {
    let template: &str = kwargs.must_get("__hole")?;
    let arguments = kwargs.iter().filter(|(name, _)| name.as_str() != Some("__hole"));
    refuse_holes(kwargs.iter().map(|(_, value)| value))?;
    let arguments = arguments
        .map(|(name, value)| Ok((name.to_string(), serde_json::to_value(value).map_err(tera::Error::message)?)))
        .collect::<TeraResult<_>>()?;
    let hole = Hole { template: template.to_owned(), escapes: state.autoescaping_enabled(), arguments };
    scope::mark(hole)
        .map(|marker| Value::safe_string(&marker))
        .ok_or_else(|| tera::Error::message("a nocache block was rendered past `Templates`"))
}

/// Refuses values that hold the place of a hole: it is another one in each render.
fn refuse_holes<'v>(mut values: impl Iterator<Item = &'v Value>) -> TeraResult<()> {
    let has_hole = |value: &Value| serde_json::to_string(value).is_ok_and(|text| scope::has_marker(&text));
    if scope::has_met_holes() && values.any(has_hole) {
        return Err(tera::Error::message("a value holds a nocache block; hand over what the block shows instead"));
    }
    Ok(())
}

fn timeout(value: Option<&Value>) -> TeraResult<Timeout> {
    let Some(value) = value.filter(|value| !value.is_undefined()) else {
        return Err(tera::Error::message("the timeout of a cache block is not defined; `none` means for ever"));
    };
    if value.is_none() {
        return Ok(Timeout::Never);
    }
    let seconds = match value.as_str() {
        Some(text) => text.trim().parse().ok(),
        None => value.as_number().map(|number| number.as_float()),
    };
    match seconds.filter(|seconds| !seconds.is_nan()) {
        // Whole seconds exactly, also beyond what a float holds.
        Some(seconds) => Ok(value.as_u64().map_or_else(|| seconds.into(), |whole| Duration::from_secs(whole).into())),
        None => Err(tera::Error::message(format!(
            "the timeout of a cache block is {}, it has to be a number of seconds or `none`",
            described(value)
        ))),
    }
}

fn alias<'a>(store: &dyn FragmentStore, using: &'a Value) -> TeraResult<&'a str> {
    match using.as_str() {
        Some(alias) if store.has_alias(alias) => Ok(alias),
        Some(alias) => Err(tera::Error::message(format!(
            "there is no cache `{alias}` in the settings; add it there, or leave `using=` out"
        ))),
        None => Err(tera::Error::message(format!(
            "`using=` is {}, it has to be the name of a cache in quotes",
            described(using)
        ))),
    }
}

fn tags(value: Option<&Value>) -> TeraResult<Vec<String>> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let one = std::slice::from_ref(value);
    value.as_array().unwrap_or(one).iter().map(tag).collect()
}

fn tag(value: &Value) -> TeraResult<String> {
    match value.kind() {
        ValueKind::String => Ok(value.to_string()),
        _ if value.is_number() => Ok(value.to_string()),
        _ => Err(tera::Error::message(format!(
            "a tag of a cache block is {}, it has to be a string: `tags=[\"object\", \"object:\" ~ id]`",
            described(value)
        ))),
    }
}

fn described(value: &Value) -> String {
    match value.as_str() {
        Some(text) if text.chars().count() <= 40 => format!("the string `{text}`"),
        _ if value.is_undefined() => "not defined".to_owned(),
        _ => format!("of type {}", value.name()),
    }
}
