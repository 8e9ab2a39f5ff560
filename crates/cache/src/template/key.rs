//! The key of a fragment: its name and what it varies on, the same from a template and from Rust.

use serde::Serialize;
use sha2::{Digest, Sha256};
use tera::{
    Value,
    value::{Key as MapKey, ValueKind},
};

use crate::{Error, Key, Kind, Result};

/// One value that a fragment varies on, as a template would pass it.
///
/// Numbers are equal when their values are, whatever their types: `1_u64`, `1_i64` and `1.0`. `None` stands for
/// Tera's `none` and for an undefined variable (`user?.id`). A number is never equal to the string that shows it.
///
/// # Examples
/// ```
/// use larder_cache::template::{Vary, fragment_key};
///
/// assert_eq!(fragment_key("cart", &[7_u64.into()]), fragment_key("cart", &[7_i32.into()]));
/// assert_ne!(fragment_key("cart", &[7.into()]), fragment_key("cart", &["7".into()]));
/// assert_eq!(fragment_key("cart", &[Vary::from(None::<i64>)]), fragment_key("cart", &[Vary::none()]));
/// ```
#[derive(Debug, Clone)]
pub struct Vary(Value);

impl Vary {
    /// Returns the value that `none` and undefined variables have.
    pub fn none() -> Self {
        Vary(Value::none())
    }

    /// Turns any serde value into what it would be in the context of a template.
    ///
    /// # Errors
    /// The value cannot be serialised.
    ///
    /// # Examples
    /// ```
    /// use larder_cache::template::{Vary, fragment_key};
    ///
    /// let languages = Vary::serialize(&["de", "en"])?;
    /// assert_ne!(fragment_key("menu", &[languages]), fragment_key("menu", &["de".into(), "en".into()]));
    /// # Ok::<(), larder_cache::Error>(())
    /// ```
    pub fn serialize<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        match Value::try_from_serializable(value) {
            Ok(value) => Ok(Vary(value)),
            Err(error) => Err(Error::Encode { key: std::any::type_name::<T>().to_owned(), source: error.into() }),
        }
    }
}

impl From<&str> for Vary {
    fn from(text: &str) -> Self {
        Vary(Value::normal_string(text))
    }
}

impl From<&String> for Vary {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for Vary {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl<T: Into<Vary>> From<Option<T>> for Vary {
    fn from(value: Option<T>) -> Self {
        value.map_or_else(Vary::none, Into::into)
    }
}

macro_rules! from_plain {
    ($($plain:ty),*) => {$(
        impl From<$plain> for Vary {
            fn from(value: $plain) -> Self {
                Vary(Value::from(value))
            }
        }
    )*};
}

from_plain!(bool, i32, i64, u32, u64, usize, f64);

/// Returns the key under which a fragment is kept. Different names or values never share a key. The template is no
/// part of it, so the caller need not know where the fragment stands.
///
/// # Differences from Django
/// Values are told apart by type as well, and each has its length in front: `["a", "bc"]` is not `["ab", "c"]`.
///
/// # Examples
/// ```
/// use larder_cache::{Caches, template::fragment_key};
///
/// let cache = Caches::local().default_cache().blocking();
/// let was_there = cache.delete(fragment_key("object_list", &[7.into(), "de".into()]))?;
/// assert!(!was_there);
/// # Ok::<_, larder_cache::Error>(())
/// ```
pub fn fragment_key(name: &str, vary: &[Vary]) -> Key<'static> {
    key_of(name, vary.len(), vary.iter().map(|vary| &vary.0))
}

/// The same, for the values of a template.
pub(super) fn key_of_values(name: &str, vary: &[Value]) -> Key<'static> {
    key_of(name, vary.len(), vary.iter())
}

fn key_of<'v>(name: &str, count: usize, values: impl Iterator<Item = &'v Value>) -> Key<'static> {
    let mut bytes = Vec::with_capacity(64);
    encode_bytes(b's', name.as_bytes(), &mut bytes);
    bytes.extend(count_bytes(count));
    for value in values {
        encode(value, &mut bytes);
    }
    Key::digested(Kind::Fragment, name.to_owned(), Sha256::digest(&bytes).into())
}

/// Writes a value so that no two different values read the same, one after the other: tag, length, content.
fn encode(value: &Value, out: &mut Vec<u8>) {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push(b'n'),
        ValueKind::Bool => out.push(if value.is_truthy() { b't' } else { b'f' }),
        ValueKind::String => encode_bytes(b's', value.as_str().unwrap_or_default().as_bytes(), out),
        ValueKind::Bytes => encode_bytes(b'b', value.as_bytes().unwrap_or_default(), out),
        ValueKind::Array => {
            let items = value.as_array().unwrap_or_default();
            out.push(b'a');
            out.extend(count_bytes(items.len()));
            items.iter().for_each(|item| encode(item, out));
        }
        ValueKind::Map => encode_map(value, out),
        _ => encode_number(value, out),
    }
}

fn encode_map(value: &Value, out: &mut Vec<u8>) {
    let entry = |(key, value): (&MapKey<'_>, &Value)| {
        let mut bytes = Vec::new();
        encode(&key.as_value(), &mut bytes);
        encode(value, &mut bytes);
        bytes
    };
    let mut entries: Vec<Vec<u8>> = value.as_map().into_iter().flatten().map(entry).collect();
    entries.sort_unstable();
    out.push(b'm');
    out.extend(count_bytes(entries.len()));
    entries.iter().for_each(|entry| out.extend(entry));
}

/// Integers by their value, floats without a fraction as integers, other floats by their bits.
fn encode_number(value: &Value, out: &mut Vec<u8>) {
    if let Some(integer) = value.as_number().and_then(|number| number.as_integer()) {
        out.push(b'i');
        out.extend(integer.to_be_bytes());
    } else if let Some(integer) = value.as_u128() {
        out.push(b'u');
        out.extend(integer.to_be_bytes());
    } else {
        let float = value.as_f64().unwrap_or(f64::NAN);
        out.push(b'd');
        // All that is not a number is one value.
        out.extend(if float.is_nan() { f64::NAN } else { float }.to_bits().to_be_bytes());
    }
}

fn encode_bytes(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend(count_bytes(bytes.len()));
    out.extend(bytes);
}

fn count_bytes(count: usize) -> [u8; 8] {
    (count as u64).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_equal_by_value_and_by_nothing_else() {
        let one = fragment_key("a", &[1_i64.into()]);
        for other in [Vary::from(1_u64), 1.0.into(), Vary(Value::from(1_i128)), Vary(Value::from(1_u128)), 1_u32.into()]
        {
            assert_eq!(fragment_key("a", &[other]), one);
        }
        for other in [Vary::from("1"), true.into(), 1.5.into(), 2.into(), Vary::none(), Vary(Value::from(u128::MAX))] {
            assert_ne!(fragment_key("a", &[other]), one);
        }
        assert_eq!(fragment_key("a", &[0.0.into()]), fragment_key("a", &[(-0.0).into()]));
    }

    #[test]
    fn none_and_undefined_are_one_value_and_an_empty_list_is_another() {
        let none = key_of_values("a", &[Value::none()]);
        assert_eq!(none, key_of_values("a", &[Value::undefined()]));
        assert_ne!(none, key_of_values("a", &[]));
        assert_ne!(none, fragment_key("a", &["".into()]));
        assert_ne!(none, fragment_key("a", &[false.into()]));
    }

    #[test]
    fn a_safe_string_is_the_string() {
        assert_eq!(key_of_values("a", &[Value::safe_string("<b>")]), fragment_key("a", &["<b>".into()]));
    }

    #[test]
    fn neither_boundaries_nor_nesting_collide() {
        let keys = [
            fragment_key("a", &["a".into(), "bc".into()]),
            fragment_key("a", &["ab".into(), "c".into()]),
            fragment_key("a", &["abc".into()]),
            fragment_key("a", &[Vary::serialize(&["a", "bc"]).unwrap()]),
            fragment_key("a", &[Vary::serialize(&[["a", "bc"]]).unwrap()]),
            fragment_key(
                "a",
                &[Vary::serialize(&[("a", "bc")].into_iter().collect::<std::collections::BTreeMap<_, _>>()).unwrap()],
            ),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    proptest! {
        #[test]
        fn different_names_and_strings_have_different_keys(
            left in (any::<String>(), prop::collection::vec(any::<String>(), 0..4)),
            right in (any::<String>(), prop::collection::vec(any::<String>(), 0..4)),
        ) {
            let key = |(name, values): &(String, Vec<String>)| {
                fragment_key(name, &values.iter().map(Vary::from).collect::<Vec<_>>())
            };
            prop_assert_eq!(left == right, key(&left) == key(&right));
        }
    }
}
