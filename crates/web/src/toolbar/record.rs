//! What one request did.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use actix_web::http::{
    Method, StatusCode, Uri,
    header::{AGE, HeaderMap},
};
use jiff::{Timestamp, tz::TimeZone};
use larder_cache::{
    Key, Kind,
    dependencies::trace,
    events::{Event, Observer, What},
};
use larder_models::Query;
use serde::Serialize;

use super::place::Place;
use crate::{observe::lock, state::now_millis, text::shown_ms};

/// How many requests are remembered.
const MAX_RECORDS: usize = 25;

/// How many calls and statements of one request are remembered.
const MAX_CALLS: usize = 200;

/// What a header shows instead of a value that lets somebody in.
const HIDDEN: &str = "(hidden)";

/// The requests that are answered now, and the last ones that were.
#[derive(Debug, Clone, Default)]
pub(crate) struct Records(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: Mutex<HashMap<u64, Open>>,
    kept: Mutex<VecDeque<Arc<Record>>>,
}

/// The end of what is noted for a request. Who asked may leave before there is an answer.
#[derive(Debug)]
pub(super) struct Noting {
    records: Records,
    id: u64,
}

impl Noting {
    /// Returns what was noted.
    pub(super) fn end(self) -> Noted {
        self.records.end(self.id)
    }
}

impl Drop for Noting {
    fn drop(&mut self) {
        lock(&self.records.0.open).remove(&self.id);
    }
}

#[derive(Debug)]
struct Open {
    begun: Instant,
    noted: Noted,
}

/// What was done for a request.
#[derive(Debug, Default, Serialize)]
pub(super) struct Noted {
    pub(super) calls: Vec<Call>,
    pub(super) queries: Vec<Statement>,
    /// How many more there were of both.
    pub(super) more_calls: usize,
    pub(super) more_queries: usize,
}

/// A request and its answer.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    pub(super) id: u64,
    /// In unix milliseconds.
    pub(super) at: i64,
    pub(super) method: String,
    pub(super) uri: String,
    /// The same as the query string of links that are about it.
    pub(super) as_query: String,
    pub(super) status: u16,
    #[serde(serialize_with = "as_millis")]
    pub(super) took: Duration,
    /// What the page cache did.
    pub(super) outcome: Option<String>,
    /// When the page was made that came from the cache, in unix milliseconds.
    pub(super) made_at: Option<i64>,
    /// What it took then.
    pub(super) made_in_ms: Option<f64>,
    /// What it took without a cache, if it was made so.
    pub(super) without_cache_ms: Option<f64>,
    #[serde(flatten)]
    pub(super) noted: Noted,
    pub(super) asked: Vec<(String, String)>,
    pub(super) answered: Vec<(String, String)>,
}

/// A decision of a cache.
#[derive(Debug, Serialize)]
pub(super) struct Call {
    /// Since the request began.
    #[serde(serialize_with = "as_millis")]
    pub(super) after: Duration,
    pub(super) alias: String,
    /// `page`, `fragment`, `key` or `tag`.
    pub(super) level: &'static str,
    pub(super) label: String,
    /// `hit`, `miss`, `invalidated`.
    pub(super) outcome: &'static str,
    /// Whether something was found, or was not.
    pub(super) is_hit: Option<bool>,
    /// The reason or cause, if there is one.
    pub(super) reason: Option<String>,
    pub(super) took_ms: Option<f64>,
    pub(super) bytes: Option<usize>,
    /// What a page took that was found.
    #[serde(skip)]
    saved: Option<Duration>,
    #[serde(skip)]
    pub(super) key: Option<Key<'static>>,
    #[serde(skip)]
    pub(super) place: Place,
}

/// A statement of the database.
#[derive(Debug, Serialize)]
pub(super) struct Statement {
    pub(super) sql: String,
    #[serde(skip)]
    with_values: String,
    pub(super) took_ms: f64,
    pub(super) has_failed: bool,
    /// How often the request ran it: with the same values, and with whatever values.
    pub(super) times: usize,
    pub(super) similar: usize,
    #[serde(skip)]
    pub(super) place: Place,
}

impl Records {
    /// Notes what is done for a request, until what is returned is dropped.
    pub(super) fn begin(&self, id: u64) -> Noting {
        let open = Open { begun: Instant::now(), noted: Noted::default() };
        lock(&self.0.open).insert(id, open);
        Noting { records: self.clone(), id }
    }

    /// Returns what was noted.
    fn end(&self, id: u64) -> Noted {
        let Some(Open { mut noted, .. }) = lock(&self.0.open).remove(&id) else { return Noted::default() };
        let queries = &mut noted.queries;
        let (mut times, mut similar) = (HashMap::new(), HashMap::new());
        for query in &*queries {
            *times.entry(query.with_values.clone()).or_insert(0) += 1;
            *similar.entry(query.sql.clone()).or_insert(0) += 1;
        }
        for query in queries {
            (query.times, query.similar) = (times[&query.with_values], similar[&query.sql]);
            // There may be what lets somebody in.
            query.with_values = String::new();
        }
        noted
    }

    pub(super) fn keep(&self, record: Arc<Record>) {
        let mut kept = lock(&self.0.kept);
        kept.push_front(record);
        kept.truncate(MAX_RECORDS);
    }

    /// Returns the last requests, the latest first.
    pub(super) fn all(&self) -> Vec<Arc<Record>> {
        lock(&self.0.kept).iter().cloned().collect()
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<Record>> {
        lock(&self.0.kept).iter().find(|record| record.id == id).cloned()
    }

    /// Notes a statement of the database.
    pub(crate) fn query(&self, query: &Query<'_>) {
        let Some(id) = self.asker(|noted| (noted.queries.len(), &mut noted.more_queries)) else { return };
        let statement = Statement {
            sql: query.statement().to_owned(),
            with_values: query.sql.to_owned(),
            took_ms: millis(query.took),
            has_failed: query.has_failed,
            times: 1,
            similar: 1,
            place: Place::here(),
        };
        if let Some(open) = lock(&self.0.open).get_mut(&id) {
            open.noted.queries.push(statement);
        }
    }

    /// Returns for which request something is done here, if there is still room to note it; else it is counted.
    fn asker(&self, room: impl FnOnce(&mut Noted) -> (usize, &mut usize)) -> Option<u64> {
        let id = trace()?;
        let mut open = lock(&self.0.open);
        let (count, more) = room(&mut open.get_mut(&id)?.noted);
        if count < MAX_CALLS {
            return Some(id);
        }
        *more += 1;
        None
    }
}

impl Observer for Records {
    fn wants_look_ups(&self) -> bool {
        trace().is_some()
    }

    fn observe(&self, event: &Event<'_>) {
        let Some(id) = self.asker(|noted| (noted.calls.len(), &mut noted.more_calls)) else { return };
        let is_hit = match event.what {
            What::Hit { .. } => Some(true),
            What::Miss { .. } => Some(false),
            _ => None,
        };
        let (took, bytes) = match event.what {
            What::Hit { took, bytes, .. } => (took, Some(bytes)),
            What::Miss { took, .. } => (took, None),
            What::Waited { took } => (Some(took), None),
            What::Loaded { cost, .. } | What::LoadFailed { cost, .. } | What::Overtaken { cost } => (Some(cost), None),
            What::Stored { bytes, .. } => (None, Some(bytes)),
            _ => (None, None),
        };
        let mut fields = event.fields();
        fields.retain(|(name, _)| matches!(*name, "reason" | "cause" | "error" | "removed"));
        let reason = fields.into_iter().map(|(_, value)| value).reduce(|all, value| format!("{all}: {value}"));
        let level = event.key.map_or("cache", |key| key.kind().field());
        let saved = match event.what {
            What::Hit { saved, .. } if level == "page" => Some(saved),
            _ => None,
        };
        let call = Call {
            after: Duration::ZERO,
            alias: event.alias.to_owned(),
            level,
            label: event.key.map(|key| key.label().to_owned()).unwrap_or_default(),
            outcome: event.message(),
            is_hit,
            reason,
            took_ms: took.map(millis),
            bytes,
            saved,
            key: event.key.filter(|key| key.kind() != Kind::Tag).map(|key| key.clone().into_owned()),
            place: Place::here(),
        };
        if let Some(open) = lock(&self.0.open).get_mut(&id) {
            open.noted.calls.push(Call { after: open.begun.elapsed(), ..call });
        }
    }
}

impl Record {
    pub(super) fn new(id: u64, method: &Method, uri: &Uri, asked: &HeaderMap) -> Self {
        Record {
            id,
            at: now_millis(),
            method: method.to_string(),
            uri: uri.to_string(),
            as_query: serde_html_form::to_string([("url", uri.to_string())]).unwrap_or_default(),
            status: 0,
            took: Duration::ZERO,
            outcome: None,
            made_at: None,
            made_in_ms: None,
            without_cache_ms: None,
            noted: Noted::default(),
            asked: headers(asked),
            answered: Vec::new(),
        }
    }

    /// Notes the answer, as it was before the bar was put under it.
    pub(super) fn answered(&mut self, status: StatusCode, headers_: &HeaderMap, outcome: Option<String>) {
        self.status = status.as_u16();
        self.answered = headers(headers_);
        self.outcome = outcome;
        let saved = self.noted.calls.iter().find_map(|call| call.saved);
        if let Some(saved) = saved {
            let age: i64 = headers_.get(AGE).and_then(|age| age.to_str().ok()?.parse().ok()).unwrap_or(0);
            self.made_at = Some(now_millis() - age * 1000);
            self.made_in_ms = Some(millis(saved));
        }
    }

    /// Says in a line what it took: `2.3 ms from cache, 2,013 ms when made at 16:02:11 UTC`.
    pub(super) fn summary(&self, now: i64) -> String {
        if let Some(took) = self.without_cache_ms {
            return format!("{} without any cache", shown_ms(took));
        }
        let took = shown_ms(millis(self.took));
        match (self.made_in_ms, self.made_at) {
            (Some(made_in), Some(at)) => {
                format!("{took} from cache, {} when made at {}", shown_ms(made_in), time_of_day(at, now))
            }
            _ => format!("{took}, made now"),
        }
    }

    /// Counts the look-ups that found something, and all of them.
    pub(super) fn look_ups(&self) -> (usize, usize) {
        let found = self.noted.calls.iter().filter_map(|call| call.is_hit);
        found.fold((0, 0), |(hits, all), is_hit| (hits + usize::from(is_hit), all + 1))
    }
}

/// Writes headers down, but for what lets somebody in.
fn headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| {
            let is_secret = matches!(name.as_str(), "cookie" | "set-cookie" | "authorization" | "proxy-authorization");
            let value = if is_secret { HIDDEN.into() } else { String::from_utf8_lossy(value.as_bytes()) };
            (name.to_string(), value.into_owned())
        })
        .collect();
    all.sort();
    all
}

/// Writes the time, with the day if it was another one.
fn time_of_day(at: i64, now: i64) -> String {
    let zoned = |millis| Timestamp::from_millisecond(millis).unwrap_or_default().to_zoned(TimeZone::UTC);
    let (at, now) = (zoned(at), zoned(now));
    let format = if at.date() == now.date() { "%H:%M:%S UTC" } else { "%-d %b, %H:%M:%S UTC" };
    at.strftime(format).to_string()
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn as_millis<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(millis(*time))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{COOKIE, HeaderValue};
    use larder_cache::{Caches, dependencies::traced, settings::AliasSettings};

    use super::*;

    #[test]
    fn times_read_well() {
        let day = 24 * 60 * 60 * 1000;
        assert_eq!(time_of_day(57_731_000, day - 1), "16:02:11 UTC");
        assert_eq!(time_of_day(57_731_000, day), "1 Jan, 16:02:11 UTC");
    }

    #[test]
    fn what_lets_somebody_in_is_not_shown() {
        let shown = headers(&HeaderMap::from_iter([(COOKIE, HeaderValue::from_static("session=secret"))]));
        assert_eq!(shown, [("cookie".to_owned(), HIDDEN.to_owned())]);
    }

    #[test]
    fn what_is_done_for_no_request_is_not_noted() {
        let records = Records::default();
        let noted = records.begin(7).end();
        assert!(noted.calls.is_empty() && noted.queries.is_empty());
        drop(records.begin(8));
        assert!(lock(&records.0.open).is_empty(), "who leaves leaves nothing behind");
        let record = |id| Arc::new(Record::new(id, &Method::GET, &Uri::from_static("/"), &HeaderMap::new()));
        (0..100).for_each(|id| records.keep(record(id)));
        assert_eq!((records.all().len(), records.all()[0].id), (MAX_RECORDS, 99));
        assert!(records.get(99).is_some() && records.get(1).is_none());
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let records = Records::default();
        let caches = Caches::builder().alias("default", AliasSettings::default()).observer(records.clone()).build();
        let cache = caches.unwrap().default_cache().blocking();
        let noting = records.begin(7);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(traced(7, async {
            for number in 0..MAX_CALLS + 5 {
                cache.delete(number.to_string()).unwrap();
            }
        }));
        cache.delete("for nobody").unwrap();
        let noted = noting.end();
        assert_eq!((noted.calls.len(), noted.more_calls), (MAX_CALLS, 5));
    }
}
