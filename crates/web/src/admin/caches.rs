//! The caches: how they do, what they hold, and what can be thrown out of them.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use larder_cache::{
    BlockingCache, Cache, Key, Timeout,
    backend::Sharing,
    events::{Counts, GroupStats},
    explain::{Explanation, Verdict},
    settings::AliasSettings,
};
use serde::{Deserialize, Serialize};

use super::{
    csrf,
    staff::{Frame, Staff},
};
use crate::{
    address,
    failure::{Failure, see_other},
    observe::{
        effects::{Effects, noting},
        samples::{Bar, percent},
        seen,
    },
    session::{self, Message},
    state::State,
    text::length,
};

/// How many groups of keys a page lists, of each sort.
const MAX_GROUPS: usize = 10;

/// How many keys a page lists.
const MAX_SEEN: usize = 50;

#[derive(Serialize)]
struct CachesPage {
    #[serde(flatten)]
    frame: Frame,
    caches: Vec<Overview>,
}

/// A cache at a glance.
#[derive(Serialize)]
pub(super) struct Overview {
    alias: String,
    backend: String,
    location: String,
    /// What stands in the way of asking it; `None` if it answers.
    problem: Option<String>,
    hits: u64,
    misses: u64,
    percent: Option<u64>,
    saved: String,
    /// How much it holds: `120 entries, 96 kB`. Empty if it does not say.
    size: String,
    /// What the store says of itself.
    stats: Vec<(String, String)>,
}

#[derive(Serialize)]
struct CachePage {
    #[serde(flatten)]
    frame: Frame,
    cache: Overview,
    facts: Vec<(&'static str, String)>,
    bars: Vec<ShownBar>,
    /// How much of the time of the chart was hits, in percent.
    recent: Option<u64>,
    worth: Vec<Group>,
    waste: Vec<Group>,
    seen: Vec<Seen>,
    more_seen: usize,
    find: String,
    may_change: bool,
}

#[derive(Serialize)]
struct ShownBar {
    #[serde(flatten)]
    bar: Bar,
    total: u64,
    /// Where it stands in the picture, and how high it is.
    x: usize,
    y: u64,
    height: u64,
}

/// Keys that have something in common.
#[derive(Serialize)]
struct Group {
    kind: &'static str,
    name: String,
    hits: u64,
    misses: u64,
    percent: Option<u64>,
    /// What one look-up takes, and what making the value.
    look_up: String,
    cost: String,
    /// How much time it saved, or why it is no use.
    verdict: String,
}

#[derive(Serialize)]
struct Seen {
    #[serde(flatten)]
    line: seen::Line,
    cost: String,
}

#[derive(Serialize)]
struct KeyPage {
    #[serde(flatten)]
    frame: Frame,
    alias: String,
    /// What was asked for, to ask for it again.
    key: String,
    name: String,
    label: String,
    /// `hit`, `stale` or `miss`.
    badge: &'static str,
    verdict: &'static str,
    text: String,
    facts: Vec<(&'static str, String)>,
    tags: Vec<Tag>,
    may_change: bool,
}

#[derive(Serialize)]
struct Tag {
    name: String,
    is_current: bool,
    invalidated: Option<i64>,
    cause: Option<String>,
}

#[derive(Serialize)]
struct ClearPage {
    #[serde(flatten)]
    frame: Frame,
    alias: String,
    backend: String,
    key_prefix: String,
    prefix_only: bool,
    is_shared: bool,
}

/// Returns caches at a glance. Asks their stores.
pub(super) async fn overviews(state: &State, which: impl Fn(&str) -> bool) -> Result<Vec<Overview>, Failure> {
    let wanted = state.caches.iter().filter(|(alias, ..)| which(alias));
    let wanted: Vec<_> = wanted
        .map(|(alias, settings, cache)| (alias.to_owned(), settings.backend.clone(), location(settings), cache.clone()))
        .collect();
    let look = move || {
        let overview = |(alias, backend, location, cache): (String, String, String, Cache)| {
            overview(&alias, &backend, location, &cache.blocking(), cache.counts(), &cache.groups())
        };
        wanted.into_iter().map(overview).collect()
    };
    Ok(web::block(look).await?)
}

/// Says where a store is; empty if that is all the backend's business.
fn location(settings: &AliasSettings) -> String {
    if settings.location.is_empty() { String::new() } else { settings.address() }
}

fn overview(
    alias: &str,
    backend: &str,
    location: String,
    cache: &BlockingCache,
    counts: Counts,
    groups: &[GroupStats],
) -> Overview {
    let (stats, problem) = match cache.stats() {
        Ok(stats) => (stats, None),
        Err(error) => (Vec::new(), Some(causes(error))),
    };
    Overview {
        alias: alias.to_owned(),
        backend: backend.to_owned(),
        location,
        problem,
        hits: counts.hits,
        misses: counts.misses,
        percent: percent(counts.hits, counts.hits + counts.misses),
        saved: length(groups.iter().map(|group| group.saved).sum()),
        size: size(&stats),
        stats,
    }
}

/// Finds what a store says of how much it holds. Of several servers each says it for itself.
fn size(stats: &[(String, String)]) -> String {
    let sum = |names: &[&str]| {
        let said = stats.iter().filter(|(name, _)| name.rsplit(' ').next().is_some_and(|name| names.contains(&name)));
        said.filter_map(|(_, value)| value.parse::<u64>().ok()).reduce(|sum, value| sum + value)
    };
    let entries = sum(&["entries", "curr_items"]).map(|count| format!("{count} entries"));
    let bytes = sum(&["bytes"]).map(|bytes| match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} kB", bytes / 1_000),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    });
    [entries, bytes].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

pub(super) async fn list(state: web::Data<State>, staff: Staff) -> Result<HttpResponse, Failure> {
    staff.require_caches()?;
    let caches = overviews(&state, |_| true).await?;
    state.page("admin/caches.html", &CachesPage { frame: Frame::of(&staff.session)?, caches })
}

#[derive(Deserialize)]
pub(super) struct Find {
    #[serde(default)]
    find: String,
}

pub(super) async fn cache(
    state: web::Data<State>,
    staff: Staff,
    alias: web::Path<String>,
    query: web::Query<Find>,
) -> Result<HttpResponse, Failure> {
    staff.require_caches()?;
    let find = query.into_inner().find;
    let cache = overviews(&state, |name| name == *alias).await?.pop().ok_or(Failure::NotFound)?;
    let settings = state.caches.iter().find(|(name, ..)| *name == *alias).map(|(_, settings, cache)| {
        let sharing = match cache.capabilities().sharing {
            Sharing::Process => "this process",
            Sharing::Machine => "processes of this machine",
            _ => "all machines",
        };
        let timeout = match settings.timeout {
            Timeout::Never => "never expire".to_owned(),
            Timeout::After(after) => length(after),
            _ => "default".to_owned(),
        };
        let prefix = if settings.key_prefix.is_empty() { "none" } else { &settings.key_prefix };
        let facts = vec![
            ("Backend", settings.backend.clone()),
            ("Location", location(settings)),
            ("Seen by", sharing.to_owned()),
            ("Timeout", timeout),
            ("Key prefix", prefix.to_owned()),
            ("Version", settings.version.to_string()),
        ];
        (facts, cache.groups())
    });
    let (facts, groups) = settings.ok_or(Failure::NotFound)?;
    let bars = state.observed.samples.bars(&alias);
    let (hits, misses) = bars.iter().fold((0, 0), |(hits, misses), bar| (hits + bar.hits, misses + bar.misses));
    let words = find.to_lowercase();
    let mut seen = state.observed.seen.lines(&alias);
    seen.retain(|line| line.label.to_lowercase().contains(&words));
    let more_seen = seen.len().saturating_sub(MAX_SEEN);
    seen.truncate(MAX_SEEN);
    let page = CachePage {
        frame: Frame::of(&staff.session)?,
        cache,
        facts: facts.into_iter().filter(|(_, value)| !value.is_empty()).collect(),
        recent: percent(hits, hits + misses),
        bars: bars.into_iter().enumerate().map(shown_bar).collect(),
        worth: worth(&groups),
        waste: waste(&groups),
        seen: seen.into_iter().map(|line| Seen { cost: length(line.cost), line }).collect(),
        more_seen,
        find,
        may_change: staff.may_change_caches(),
    };
    state.page("admin/cache.html", &page)
}

fn shown_bar((position, bar): (usize, Bar)) -> ShownBar {
    let height = bar.percent.unwrap_or(0);
    ShownBar { total: bar.hits + bar.misses, x: position * 10, y: 100 - height, height, bar }
}

/// Returns the groups that save most.
fn worth(groups: &[GroupStats]) -> Vec<Group> {
    let mut groups: Vec<(f64, &GroupStats)> = groups.iter().map(|group| (group.saved_seconds(), group)).collect();
    groups.retain(|(saved, _)| *saved > 0.0);
    groups.sort_by(|(one, _), (two, _)| two.total_cmp(one));
    let shown = |(saved, group): &(f64, &GroupStats)| shown_group(group, length(Duration::from_secs_f64(*saved)));
    groups.iter().take(MAX_GROUPS).map(shown).collect()
}

/// Returns the groups that cost more than they save.
fn waste(groups: &[GroupStats]) -> Vec<Group> {
    let verdict = |group: &GroupStats| {
        if group.hits == 0 {
            let is_useless = group.stored > 1;
            return is_useless.then(|| (group.make_time, format!("stored {} times, never found", group.stored)));
        }
        // Of what was only ever set nobody knows what it takes to make.
        let lost = Duration::try_from_secs_f64(-group.saved_seconds()).ok().filter(|_| group.timed_stored > 0)?;
        (!lost.is_zero()).then(|| (lost, format!("cheaper to make than to look up: lost {}", length(lost))))
    };
    let mut found: Vec<(&GroupStats, (Duration, String))> =
        groups.iter().filter_map(|group| Some((group, verdict(group)?))).collect();
    found.sort_by_key(|(_, (lost, _))| std::cmp::Reverse(*lost));
    found.into_iter().take(MAX_GROUPS).map(|(group, (_, verdict))| shown_group(group, verdict)).collect()
}

fn shown_group(group: &GroupStats, verdict: String) -> Group {
    let shown = |time: Option<Duration>| time.map_or_else(|| "–".to_owned(), length);
    Group {
        kind: group.kind.field(),
        name: group.group.clone(),
        hits: group.hits,
        misses: group.look_ups() - group.hits,
        percent: percent(group.hits, group.look_ups()),
        look_up: shown(group.average_look_up()),
        cost: shown(group.average_cost()),
        verdict,
    }
}

/// A key, by what somebody typed or by the name of one that was seen.
#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    key: String,
    #[serde(default)]
    name: String,
}

impl Asked {
    fn find(&self, state: &State, alias: &str) -> Option<Key<'static>> {
        if self.name.is_empty() {
            return Some(Key::from(self.key.trim().to_owned()));
        }
        state.observed.seen.key(alias, &self.name)
    }
}

pub(super) async fn key(
    state: web::Data<State>,
    staff: Staff,
    alias: web::Path<String>,
    asked: web::Query<Asked>,
) -> Result<HttpResponse, Failure> {
    staff.require_caches()?;
    let cache = handle(&state, &alias)?;
    if asked.name.is_empty() && asked.key.trim().is_empty() {
        return back_with(&staff, &href(&alias), Message::warning("Enter a key."));
    }
    if asked.name.is_empty() && asked.key.starts_with('/') {
        // A page has as many keys as its visitors differ: here are those that this process knows.
        let query = serde_html_form::to_string([("find", &asked.key)]).unwrap_or_default();
        return Ok(see_other(&format!("{}?{query}", href(&alias))));
    }
    let Some(key) = asked.find(&state, &alias) else { return forgotten(&staff, &alias) };
    let explained = web::block(move || cache.explain(key)).await?;
    let explanation = match explained {
        Ok(explanation) => explanation,
        Err(error) => return refused(&staff, &alias, error),
    };
    let page = key_page(&staff, explanation, asked.into_inner())?;
    state.page("admin/key.html", &page)
}

fn key_page(staff: &Staff, explanation: Explanation, asked: Asked) -> Result<KeyPage, Failure> {
    let now = explanation.now;
    let mut facts = vec![("Stored as", explanation.final_key.clone())];
    let mut tags = Vec::new();
    if let Some(entry) = &explanation.entry {
        let left = |expiry: larder_cache::Expiry| match expiry {
            larder_cache::Expiry::Never => "for ever".to_owned(),
            larder_cache::Expiry::At(end) => match end.saturating_since(now) {
                Duration::ZERO => format!("over since {}", length(now.saturating_since(end))),
                left => length(left),
            },
        };
        facts.push(("Age", length(now.saturating_since(entry.created))));
        facts.push(("Took to make", length(entry.cost)));
        // Of a page its headers say that.
        if entry.fresh_until != larder_cache::Expiry::Never {
            facts.push(("Fresh for", left(entry.fresh_until)));
        }
        facts.push(("Kept for", left(entry.kept_until)));
        facts.push(("Size", entry.size()));
        tags = entry
            .tags
            .iter()
            .map(|tag| Tag {
                name: tag.name.clone(),
                is_current: tag.is_current,
                invalidated: tag.invalidated.as_ref().and_then(|done| i64::try_from(done.at.as_millis()).ok()),
                cause: tag.invalidated.as_ref().and_then(|done| done.cause.as_deref().map(str::to_owned)),
            })
            .collect();
    }
    let (badge, verdict) = match explanation.verdict {
        Verdict::Fresh => ("hit", "A look-up hits"),
        Verdict::Stale => ("stale", "A look-up hits where stale values are served, else it misses"),
        _ => ("miss", "A look-up misses"),
    };
    let label = explanation.key.split_once('=').map_or("", |(_, label)| label).to_owned();
    Ok(KeyPage {
        frame: Frame::of(&staff.session)?,
        alias: explanation.alias.clone(),
        key: asked.key,
        name: asked.name,
        label,
        badge,
        verdict,
        text: explanation.to_string(),
        facts,
        tags,
        may_change: staff.may_change_caches(),
    })
}

/// What is done to a cache.
#[derive(Deserialize)]
pub(super) struct Change {
    action: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    name: String,
    /// Tags or an address.
    #[serde(default)]
    what: String,
    csrf_token: String,
}

pub(super) async fn change(
    request: HttpRequest,
    state: web::Data<State>,
    staff: Staff,
    alias: web::Path<String>,
    form: web::Form<Change>,
) -> Result<HttpResponse, Failure> {
    let Change { action, key, name, what, csrf_token } = form.into_inner();
    csrf::verify(&request, &staff.session, &csrf_token)?;
    if !staff.may_change_caches() {
        return Err(Failure::Forbidden);
    }
    let cache = handle(&state, &alias)?.because(format!("admin by {}", staff.username));
    let asked = Asked { key, name };
    let (mut back, what) = (href(&alias), what.trim().to_owned());
    let done = match action.as_str() {
        "delete" | "expire" => {
            let Some(key) = asked.find(&state, &alias) else { return forgotten(&staff, &alias) };
            let query = if asked.name.is_empty() { [("key", &asked.key)] } else { [("name", &asked.name)] };
            back = format!("{back}key/?{}", serde_html_form::to_string(query).unwrap_or_default());
            let (label, is_deleted) = (key.label().to_owned(), action == "delete");
            let (was_there, effects) =
                run(move || if is_deleted { cache.delete(key) } else { cache.expire(key) }).await?;
            was_there.map(|was_there| match (was_there, is_deleted) {
                (false, _) => Message::warning(format!("“{label}” was not there.")),
                (true, true) => Message::success(format!("“{label}” was deleted.")).effects(effects),
                (true, false) => Message::success(format!("“{label}” is stale now.")).effects(effects),
            })
        }
        "invalidate" => {
            let tags: Vec<String> =
                what.split(',').map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty()).collect();
            if tags.is_empty() {
                return back_with(&staff, &back, Message::warning("Enter a tag: object:7"));
            }
            let named = tags.join(", ");
            let (done, effects) = run(move || cache.invalidate_tags(tags)).await?;
            done.map(|()| Message::success(format!("Invalidated {named}.")).effects(effects))
        }
        "purge" => {
            let url = match address::inside(&what) {
                Some(path) => address::absolute(&request, path),
                None if what.starts_with("http://") || what.starts_with("https://") => what,
                None => return back_with(&staff, &back, Message::warning("Enter a path: /objects/7/ or /objects/*")),
            };
            let purged = match url.strip_suffix('*') {
                Some(prefix) => {
                    state.pages.purge_prefix(prefix).await.map(|()| format!("Purged all pages under {prefix}."))
                }
                None => state.pages.purge_url(&url).await.map(|count| match count {
                    0 => format!("No page of {url} was there."),
                    count => format!("Purged {url}: {count} entries."),
                }),
            };
            log::info!("{} purged {url} by the admin", staff.username);
            purged.map(Message::success)
        }
        "clear" | "clear_prefix" => {
            let is_all = action == "clear";
            let (done, effects) = run(move || if is_all { cache.clear() } else { cache.clear_prefix() }).await?;
            done.map(|()| Message::success(format!("Cleared {}.", *alias)).effects(effects))
        }
        _ => return Err(Failure::BadRequest("There is no such action.")),
    };
    match done {
        Ok(message) => back_with(&staff, &back, message),
        Err(error) => refused(&staff, &alias, error),
    }
}

#[derive(Deserialize)]
pub(super) struct Clear {
    #[serde(default)]
    prefix: bool,
}

pub(super) async fn clear_form(
    state: web::Data<State>,
    staff: Staff,
    alias: web::Path<String>,
    query: web::Query<Clear>,
) -> Result<HttpResponse, Failure> {
    if !staff.may_change_caches() {
        return Err(Failure::Forbidden);
    }
    let found = state.caches.iter().find(|(name, ..)| *name == *alias).ok_or(Failure::NotFound)?;
    let (_, settings, cache) = found;
    let page = ClearPage {
        frame: Frame::of(&staff.session)?,
        alias: alias.into_inner(),
        backend: settings.backend.clone(),
        key_prefix: settings.key_prefix.clone(),
        prefix_only: query.prefix,
        is_shared: cache.capabilities().sharing != Sharing::Process,
    };
    state.page("admin/clear.html", &page)
}

/// Does something with a cache on the blocking pool, and returns what it threw out.
async fn run<T: Send + 'static>(change: impl FnOnce() -> T + Send + 'static) -> Result<(T, Effects), Failure> {
    Ok(web::block(move || noting(change)).await?)
}

fn handle(state: &State, alias: &str) -> Result<BlockingCache, Failure> {
    Ok(state.caches.get(alias).map_err(|_| Failure::NotFound)?.blocking())
}

fn href(alias: &str) -> String {
    format!("/admin/caches/{alias}/")
}

fn back_with(staff: &Staff, back: &str, message: Message) -> Result<HttpResponse, Failure> {
    session::add_message(&staff.session, message)?;
    Ok(see_other(back))
}

fn refused(staff: &Staff, alias: &str, error: larder_cache::Error) -> Result<HttpResponse, Failure> {
    back_with(staff, &href(alias), Message::warning(causes(error)))
}

fn forgotten(staff: &Staff, alias: &str) -> Result<HttpResponse, Failure> {
    back_with(staff, &href(alias), Message::warning("This process does not remember that key any more."))
}

/// Writes an error with its causes.
fn causes(error: larder_cache::Error) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_all_servers() {
        let stats = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(size(&stats(&[("entries", "12"), ("bytes", "96500"), ("max_entries", "99")])), "12 entries, 96 kB");
        let two = [("a:1 curr_items", "1"), ("a:1 bytes", "500000"), ("b:1 curr_items", "2"), ("b:1 bytes", "700000")];
        assert_eq!(size(&stats(&two)), "3 entries, 1.2 MB");
        assert_eq!(size(&[]), "");
    }
}
