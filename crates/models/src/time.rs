//! Moments as the tables keep them: milliseconds since 1970, so that no database's idea of time zones matters.

use jiff::Timestamp;

/// Reads a column. What is out of range, about ten thousand years from now, becomes the nearest moment there is.
pub(crate) fn from_column(millis: i64) -> Timestamp {
    let nearest = if millis < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_millisecond(millis).unwrap_or(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_some_moment() {
        assert_eq!(from_column(1_000).as_second(), 1);
        assert_eq!(from_column(i64::MAX), Timestamp::MAX);
        assert_eq!(from_column(i64::MIN), Timestamp::MIN);
    }
}
