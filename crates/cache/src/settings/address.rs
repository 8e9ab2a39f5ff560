//! One-line addresses of caches: `scheme://location?setting=value&…`, turned into the table they stand for.
//!
//! Parsed by hand: a list of hosts with ports is no URL.

use toml::{Table, Value};

const EXAMPLES: &str = "write locmem://name, memcached://host:port,host:port, file:///folder, db://table or dummy://";

/// Parameters that are settings of the alias; all others are options of its backend.
const ALIAS_SETTINGS: [&str; 4] = ["timeout", "key_prefix", "version", "invalid_keys"];

pub(super) fn to_table(address: &str) -> Result<Table, String> {
    let (scheme, rest) = address.split_once("://").ok_or_else(|| format!("{address:?} is no address; {EXAMPLES}"))?;
    let named = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if scheme.is_empty() || !scheme.chars().all(named) {
        return Err(format!("{address:?} does not start with the name of a backend; {EXAMPLES}"));
    }
    let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut table = Table::new();
    let backend = if scheme == "db" { "database" } else { scheme };
    table.insert("backend".into(), backend.into());
    if !location.is_empty() {
        let parts: Vec<&str> = location.split(',').collect();
        table.insert("location".into(), parts.into());
    }
    let mut options = Table::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) =
            pair.split_once('=').ok_or_else(|| format!("{pair:?} in it has no value; write {pair}=…"))?;
        let target = if ALIAS_SETTINGS.contains(&name) { &mut table } else { &mut options };
        target.insert(name.into(), plain_value(value));
    }
    if !options.is_empty() {
        table.insert("options".into(), options.into());
    }
    Ok(table)
}

/// Reads a value that has no quotes to tell what it is, as in addresses and environment variables: a number, `true`,
/// `false`, or else a text.
pub fn plain_value(text: &str) -> Value {
    if let Ok(number) = text.parse::<i64>() {
        return number.into();
    }
    match text {
        "true" => true.into(),
        "false" => false.into(),
        _ => text.parse::<f64>().map_or_else(|_| text.into(), Value::from),
    }
}
