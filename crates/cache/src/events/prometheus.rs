//! The statistics in the text format that Prometheus reads (exposition format 0.0.4). Keys are never labels: there are
//! too many of them, and they may hold what users sent.

use std::fmt::Write as _;

use super::{Counted, GroupStats, MissReason};

/// Writes the statistics of all aliases.
pub(crate) fn render(aliases: &[Counted<'_>]) -> String {
    let mut page = Page { text: String::new(), aliases };
    page.counter("hits", "Look-ups that found a value.", |group, sample| {
        sample(&[("stale", "false")], (group.hits - group.stale_hits) as f64);
        sample(&[("stale", "true")], group.stale_hits as f64);
    });
    page.counter("misses", "Look-ups that found nothing of use.", |group, sample| {
        for reason in MissReason::NAMES {
            let count = group.misses.iter().find(|(name, _)| *name == reason).map_or(0, |(_, count)| *count);
            if count > 0 {
                sample(&[("reason", reason)], count as f64);
            }
        }
    });
    let plain: [(&str, &str, Count); 14] = [
        ("timed_look_ups", "Look-ups that were measured.", |group| group.timed_look_ups as f64),
        ("look_up_seconds", "What look-ups took, where they were measured.", |group| group.look_up_time.as_secs_f64()),
        ("waits", "Callers who waited for another one's load.", |group| group.waits as f64),
        ("wait_seconds", "How long they waited.", |group| group.wait_time.as_secs_f64()),
        ("loads", "Loads that returned a value.", |group| group.loads as f64),
        ("load_failures", "Loads that failed.", |group| group.load_failures as f64),
        ("load_seconds", "What all loads took.", |group| group.load_time.as_secs_f64()),
        ("saved_seconds", "What the hits would have taken to load.", |group| group.saved.as_secs_f64()),
        ("stored", "Values stored.", |group| group.stored as f64),
        ("stored_bytes", "Bytes that stored values took.", |group| group.stored_bytes as f64),
        ("timed_stored", "Stored values whose time to make is known.", |group| group.timed_stored as f64),
        ("make_seconds", "What these took to make.", |group| group.make_time.as_secs_f64()),
        ("overtaken", "Loaded values that an invalidation overtook.", |group| group.overtaken as f64),
        ("invalidations", "Keys and tags invalidated.", |group| group.invalidations as f64),
    ];
    for (name, help, value) in plain {
        page.counter(name, help, |group, sample| sample(&[], value(group)));
    }
    page.alias_counter("clears", "Whole stores and prefixes cleared.", |counted| counted.clears);
    page.alias_counter("invalidation_failures", "Invalidations that a store did not hear of at once.", |counted| {
        counted.failed_invalidations
    });
    page.alias_counter("outages", "How often the store, or one server of it, stopped to answer.", |counted| {
        counted.outages
    });
    page.text
}

type Count = fn(&GroupStats) -> f64;

struct Page<'a> {
    text: String,
    aliases: &'a [Counted<'a>],
}

type Sample<'s> = dyn FnMut(&[(&str, &str)], f64) + 's;

impl Page<'_> {
    // Writing to a String does not fail, here as below.
    fn head(&mut self, name: &str, help: &str) {
        let name = format_args!("larder_cache_{name}_total");
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} counter");
    }

    /// Writes what is counted for a whole alias.
    fn alias_counter(&mut self, name: &str, help: &str, count: fn(&Counted<'_>) -> u64) {
        self.head(name, help);
        for counted in self.aliases {
            let (alias, count) = (escaped(counted.alias), count(counted));
            let _ = writeln!(self.text, "larder_cache_{name}_total{{alias=\"{alias}\"}} {count}");
        }
    }

    fn counter(&mut self, name: &str, help: &str, samples: impl Fn(&GroupStats, &mut Sample<'_>)) {
        self.head(name, help);
        let text = &mut self.text;
        for Counted { alias, groups, .. } in self.aliases {
            for group in groups {
                samples(group, &mut |labels, value| {
                    let _ = write!(text, "larder_cache_{name}_total{{alias=\"{}\"", escaped(alias));
                    let _ = write!(text, ",kind=\"{}\",group=\"{}\"", group.kind.field(), escaped(&group.group));
                    for (label, value) in labels {
                        let _ = write!(text, ",{label}=\"{value}\"");
                    }
                    let _ = writeln!(text, "}} {value}");
                });
            }
        }
    }
}

/// Exposition format, "Comments, help text, and type information": these three are escaped in a label's value.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        time::Duration,
    };

    use proptest::prelude::*;

    use super::*;
    use crate::{
        clock::Clock,
        events::{Journal, What},
        key::Key,
    };

    type Series = BTreeMap<(String, BTreeMap<String, String>), f64>;

    fn journal() -> Journal {
        Journal::new("default", Clock::system(), Vec::new().into())
    }

    /// Reads a text strictly by the format's grammar: every sample below the HELP and TYPE of its name, all samples of
    /// a name together, no series twice, every line ended.
    fn parse(text: &str) -> Result<Series, String> {
        let mut series = Series::new();
        let mut seen = BTreeSet::new();
        let (mut helped, mut current) = (None, None);
        let lines = text.strip_suffix('\n').ok_or("the last line does not end")?;
        for line in lines.split('\n') {
            let wrong = |what: &str| format!("{what}: {line:?}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').ok_or(wrong("help without a text"))?;
                let is_plain = !help.is_empty() && !help.contains('\\');
                (is_name(name) && is_plain && seen.insert(name)).then_some(()).ok_or(wrong("help"))?;
                helped = Some(name);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let name = rest.strip_suffix(" counter").filter(|name| helped == Some(*name)).ok_or(wrong("type"))?;
                current = Some(name);
            } else {
                let (name, labels, value) = parse_sample(line).ok_or(wrong("sample"))?;
                (current == Some(name)).then_some(()).ok_or(wrong("name without a type, or far from it"))?;
                let is_new = series.insert((name.to_owned(), labels), value).is_none();
                is_new.then_some(()).ok_or(wrong("series that was there already"))?;
            }
        }
        Ok(series)
    }

    fn parse_sample(line: &str) -> Option<(&str, BTreeMap<String, String>, f64)> {
        let (name, mut rest) = line.split_once('{').filter(|(name, _)| is_name(name))?;
        let mut labels = BTreeMap::new();
        loop {
            let (label, quoted) = rest.split_once("=\"").filter(|(label, _)| is_name(label))?;
            let (value, behind) = parse_value(quoted)?;
            labels.insert(label.to_owned(), value).is_none().then_some(())?;
            match behind.strip_prefix(',') {
                Some(next) => rest = next,
                None => return Some((name, labels, parse_number(behind.strip_prefix("} ")?)?)),
            }
        }
    }

    fn parse_value(quoted: &str) -> Option<(String, &str)> {
        let mut value = String::new();
        let mut chars = quoted.chars();
        loop {
            match chars.next()? {
                '"' => return Some((value, chars.as_str())),
                '\\' => value.push(match chars.next()? {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    _ => return None,
                }),
                c => value.push(c),
            }
        }
    }

    fn parse_number(text: &str) -> Option<f64> {
        let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        is_decimal.then(|| text.parse().ok())?
    }

    fn is_name(name: &str) -> bool {
        let is_start = |c: char| c.is_ascii_alphabetic() || c == '_';
        name.starts_with(is_start) && name.chars().all(|c| is_start(c) || c.is_ascii_digit())
    }

    #[test]
    fn what_was_counted_can_be_read() {
        let journal = journal();
        let key = Key::from("odd \"\\\n key:1");
        let (took, saved) = (Some(Duration::from_micros(250)), Duration::from_millis(1500));
        journal.note(&key, What::Hit { stale: false, took, saved, bytes: 5 });
        journal.note(&key, What::Hit { stale: true, took: None, saved, bytes: 5 });
        journal.note(&key, What::Miss { reason: &MissReason::TagChanged("object".into()), took });
        journal.note(&key, What::Waited { took: Duration::from_millis(20) });
        journal.note_alias(What::Cleared { cause: None, prefix_only: true });
        let text = render(&[journal.counted()]);
        let labels = r#"alias="default",kind="key",group="odd \"\\\n key:*""#;
        for line in [
            format!("larder_cache_hits_total{{{labels},stale=\"false\"}} 1"),
            format!("larder_cache_hits_total{{{labels},stale=\"true\"}} 1"),
            format!("larder_cache_misses_total{{{labels},reason=\"tag_changed\"}} 1"),
            format!("larder_cache_saved_seconds_total{{{labels}}} 3"),
            format!("larder_cache_look_up_seconds_total{{{labels}}} 0.0005"),
            format!("larder_cache_wait_seconds_total{{{labels}}} 0.02"),
            "larder_cache_clears_total{alias=\"default\"} 1".to_owned(),
            "larder_cache_invalidation_failures_total{alias=\"default\"} 0".to_owned(),
        ] {
            assert!(text.lines().any(|is| is == line), "{line} is not in\n{text}");
        }
        parse(&text).unwrap();
    }

    #[test]
    fn the_order_does_not_depend_on_what_came_first() {
        let (one, other) = (journal(), journal());
        let keys = ["b", "a", "c:1"];
        let miss = What::Miss { reason: &MissReason::Absent, took: None };
        keys.iter().for_each(|key| one.note(&Key::from(*key), miss));
        keys.iter().rev().for_each(|key| other.note(&Key::from(*key), miss));
        assert_eq!(render(&[one.counted()]), render(&[other.counted()]));
    }

    #[test]
    fn the_parser_refuses_what_the_format_does_not_allow() {
        let head = "# HELP a_total A.\n# TYPE a_total counter\n";
        assert!(parse(&format!("{head}a_total{{b=\"c\\\\\\\"\\n\"}} 1.5\n")).is_ok());
        for wrong in [
            "a_total{b=\"c\"} 1",
            "a_total{b=\"c\"} x\n",
            "a_total{b=\"c\"}1\n",
            "a_total{b=\"c} 1\n",
            "a_total{b=\"\\t\"} 1\n",
            "a_total{b=\"c\",} 1\n",
            "a_total{b-c=\"d\"} 1\n",
            "a_total{b=\"c\",b=\"d\"} 1\n",
            "a_total{b=\"c\"} 1\na_total{b=\"c\"} 2\n",
            "b_total{b=\"c\"} 1\n",
            "\n",
        ] {
            assert!(parse(&format!("{head}{wrong}")).is_err(), "{wrong}");
        }
        assert!(parse(&format!("{head}{head}")).is_err());
    }

    proptest! {
        #[test]
        fn no_key_breaks_the_format(keys in prop::collection::vec(any::<String>(), 1..20)) {
            let journal = journal();
            for key in &keys {
                journal.note(&Key::from(key), What::Miss { reason: &MissReason::Absent, took: None });
            }
            let series = parse(&render(&[journal.counted()])).unwrap();
            let misses = series.iter().filter(|((name, _), _)| name == "larder_cache_misses_total");
            prop_assert_eq!(misses.map(|(_, count)| *count as usize).sum::<usize>(), keys.len());
        }
    }
}
