//! What texts that people enter must be like.

use crate::error::{Invalid, Result};

/// The most characters a name may have.
const MAX_NAME_CHARS: usize = 60;

/// Tells whether a character leaves a mark: neither a blank nor one of those that only steer how others are set
/// (Unicode, general category Cf, as far as keyboards have them).
pub(crate) fn is_visible(c: char) -> bool {
    let only_steers = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !(c.is_whitespace() || c.is_control() || only_steers)
}

/// Adds what is wrong with a text of one line that must not be empty.
pub(crate) fn validate_line(invalid: &mut Invalid, field: &'static str, text: &str, empty: &str, max_chars: usize) {
    if !text.chars().any(is_visible) {
        invalid.add(field, empty);
    } else if text.chars().any(char::is_control) {
        invalid.add(field, "Leave out line breaks and control characters.");
    }
    validate_length(invalid, field, text, max_chars);
}

/// Adds that a text is too long.
pub(crate) fn validate_length(invalid: &mut Invalid, field: &'static str, text: &str, max_chars: usize) {
    let chars = text.chars().count();
    if chars > max_chars {
        invalid.add(field, format!("Use at most {max_chars} characters, this has {chars}."));
    }
}

/// Tells what is wrong with the field `name` of something that has little else.
pub(crate) fn validate_name(name: &str) -> Result<(), Invalid> {
    let mut invalid = Invalid::default();
    validate_line(&mut invalid, "name", name, "Enter a name.", MAX_NAME_CHARS);
    invalid.into_result()
}
