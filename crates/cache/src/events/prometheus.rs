//! The statistics in the text format that Prometheus reads (exposition format 0.0.4). Keys are never labels: there are
//! too many of them, and they may hold what users sent.

use std::fmt::Write as _;

use super::{GroupStats, MissReason};

/// Writes the statistics of all aliases.
pub(crate) fn render(aliases: &[(&str, Vec<GroupStats>)]) -> String {
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
    let plain: [(&str, &str, Count); 9] = [
        ("waits", "Callers who waited for another one's load.", |group| group.waits as f64),
        ("loads", "Loads that returned a value.", |group| group.loads as f64),
        ("load_failures", "Loads that failed.", |group| group.load_failures as f64),
        ("load_seconds", "What all loads took.", |group| group.load_time.as_secs_f64()),
        ("saved_seconds", "What the hits would have taken to load.", |group| group.saved.as_secs_f64()),
        ("stored", "Values stored.", |group| group.stored as f64),
        ("stored_bytes", "Bytes that stored values took.", |group| group.stored_bytes as f64),
        ("overtaken", "Loaded values that an invalidation overtook.", |group| group.overtaken as f64),
        ("invalidations", "Keys and tags invalidated.", |group| group.invalidations as f64),
    ];
    for (name, help, value) in plain {
        page.counter(name, help, |group, sample| sample(&[], value(group)));
    }
    page.text
}

type Count = fn(&GroupStats) -> f64;

struct Page<'a> {
    text: String,
    aliases: &'a [(&'a str, Vec<GroupStats>)],
}

type Sample<'s> = dyn FnMut(&[(&str, &str)], f64) + 's;

impl Page<'_> {
    fn counter(&mut self, name: &str, help: &str, samples: impl Fn(&GroupStats, &mut Sample<'_>)) {
        let text = &mut self.text;
        // Writing to a String does not fail.
        let _ = writeln!(text, "# HELP larder_cache_{name}_total {help}\n# TYPE larder_cache_{name}_total counter");
        for (alias, groups) in self.aliases {
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
    use std::time::Duration;

    use super::*;
    use crate::{
        clock::Clock,
        events::{Journal, What},
        key::Key,
    };

    fn journal() -> Journal {
        let journal = Journal::new("default", Clock::system(), Vec::new().into());
        let key = Key::from("odd \"\\\n key:1");
        let saved = Duration::from_millis(1500);
        journal.note(&key, What::Hit { stale: false, took: None, saved, bytes: 5 });
        journal.note(&key, What::Hit { stale: true, took: None, saved, bytes: 5 });
        journal.note(&key, What::Miss { reason: &MissReason::TagChanged("object".into()), took: None });
        journal
    }

    #[test]
    fn every_line_is_of_the_format() {
        let text = render(&[("default", journal().groups())]);
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let (kind, rest) = comment.split_once(' ').unwrap();
                assert!(kind == "HELP" || kind == "TYPE" && rest.ends_with(" counter"), "{line}");
                continue;
            }
            let (name, rest) = line.split_once('{').unwrap();
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
            let (labels, value) = rest.rsplit_once("} ").unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let mut left = labels;
            while !left.is_empty() {
                let (label, rest) = left.split_once("=\"").unwrap();
                assert!(label.bytes().all(|byte| byte.is_ascii_lowercase()), "{line}");
                let mut escaped = false;
                let end = rest.bytes().position(|byte| {
                    let is_end = byte == b'"' && !escaped;
                    escaped = byte == b'\\' && !escaped;
                    is_end
                });
                left = rest[end.unwrap() + 1..].trim_start_matches(',');
            }
        }
    }

    #[test]
    fn hits_and_misses_are_there_with_their_reasons() {
        let text = render(&[("default", journal().groups())]);
        let labels = r#"alias="default",kind="key",group="odd \"\\\n key:*""#;
        for line in [
            format!("larder_cache_hits_total{{{labels},stale=\"false\"}} 1"),
            format!("larder_cache_hits_total{{{labels},stale=\"true\"}} 1"),
            format!("larder_cache_misses_total{{{labels},reason=\"tag_changed\"}} 1"),
            format!("larder_cache_saved_seconds_total{{{labels}}} 3"),
        ] {
            assert!(text.lines().any(|is| is == line), "{line} is not in\n{text}");
        }
    }
}
