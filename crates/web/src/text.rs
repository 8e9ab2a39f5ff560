//! Writes lengths of time and long texts for people.

use std::{borrow::Cow, time::Duration};

/// Writes a length of time for people: `2.0 s`, `150 ms`, `12 µs`.
pub fn length(time: Duration) -> String {
    match time.as_micros() {
        0 if time.is_zero() => "0".to_owned(),
        0 => format!("{} ns", time.as_nanos()),
        micros @ 1..1_000 => format!("{micros} µs"),
        1_000..10_000 => format!("{:.1} ms", time.as_secs_f64() * 1000.0),
        10_000..1_000_000 => format!("{} ms", time.as_millis()),
        1_000_000..120_000_000 => format!("{:.1} s", time.as_secs_f64()),
        120_000_000..7_200_000_000 => format!("{} min", time.as_secs() / 60),
        _ => format!("{} h", time.as_secs() / 3600),
    }
}

/// Writes milliseconds for people: `2,013 ms`, `2.3 ms`.
pub fn shown_ms(millis: f64) -> String {
    if millis < 100.0 {
        return format!("{millis:.1} ms");
    }
    let whole = format!("{millis:.0}");
    let mut shown = String::new();
    for (position, digit) in whole.chars().enumerate() {
        if position > 0 && (whole.len() - position).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown + " ms"
}

/// Leaves out what goes beyond so many characters.
pub fn cut(text: &str, chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_well() {
        let texts =
            [0, 12, 1_500, 150_000, 2_000_000, 600_000_000, 86_400_000_000].map(|us| length(Duration::from_micros(us)));
        assert_eq!(texts, ["0", "12 µs", "1.5 ms", "150 ms", "2.0 s", "10 min", "24 h"]);
        assert_eq!(length(Duration::from_nanos(340)), "340 ns");
    }

    #[test]
    fn milliseconds_read_well() {
        assert_eq!(
            [0.04, 2.34, 99.96, 2013.4, 1_234_567.0].map(shown_ms),
            ["0.0 ms", "2.3 ms", "100.0 ms", "2,013 ms", "1,234,567 ms"]
        );
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!((&*cut("äöü", 3), &*cut("äöü", 2), &*cut("", 0)), ("äöü", "äö…", ""));
    }
}
