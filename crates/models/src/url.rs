//! Reads database urls: what they may say is decided here.

use larder_cache::settings::redacted;

use crate::error::{Error, Result};

/// Where a database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// In the memory of one connection.
    Memory,
    /// In this file.
    File(String),
    /// On the PostgreSQL server of this address.
    Postgres(String),
}

impl Target {
    /// Returns it with the wish to be told, within eight seconds, that a server is silent.
    pub(crate) fn noticing_silence(&self) -> Self {
        let Target::Postgres(url) = self else { return self.clone() };
        if url.contains("tcp_user_timeout") {
            return self.clone();
        }
        let separator = if url.contains('?') { '&' } else { '?' };
        let wishes =
            "connect_timeout=5&tcp_user_timeout=8000&keepalives_idle=2&keepalives_interval=2&keepalives_count=3";
        Target::Postgres(format!("{url}{separator}{wishes}"))
    }
}

/// Reads a database url.
pub(crate) fn parse(url: &str) -> Result<Target> {
    let unsupported = |reason: String| Err(Error::UnsupportedUrl { url: redacted(url), reason });
    if matches!(url, "sqlite::memory:" | "sqlite://:memory:") {
        return Ok(Target::Memory);
    }
    if let Some(path) = url.strip_prefix("sqlite://") {
        return match path {
            "" => unsupported("it names no file; write sqlite://path/to/file".to_owned()),
            _ if path.contains('?') => {
                unsupported("options after \"?\" are not understood; write sqlite://path/to/file".to_owned())
            }
            // SQLite reads a name that starts with "file:" as a URI.
            _ if path.starts_with("file:") => Ok(Target::File(format!("./{path}"))),
            _ => Ok(Target::File(path.to_owned())),
        };
    }
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok(Target::Postgres(url.to_owned()));
    }
    let way_out = "write sqlite://path/to/file or postgres://user:password@host/database";
    match url.split_once(':') {
        Some((scheme, _)) => unsupported(format!("its scheme \"{scheme}\" is not known; {way_out}")),
        None => unsupported(format!("it has no scheme; {way_out}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_be_relative_or_absolute() {
        assert_eq!(parse("sqlite://var/larder.db").unwrap(), Target::File("var/larder.db".to_owned()));
        assert_eq!(parse("sqlite:///srv/larder.db").unwrap(), Target::File("/srv/larder.db".to_owned()));
        assert_eq!(parse("sqlite::memory:").unwrap(), Target::Memory);
        assert!(matches!(parse("postgresql://db/larder?sslmode=require").unwrap(), Target::Postgres(_)));
        assert_eq!(parse("sqlite://file:x").unwrap(), Target::File("./file:x".to_owned()));
    }

    #[test]
    fn other_urls_are_refused_with_the_way_out() {
        for url in ["postgres:larder", "mysql://x", "larder.db", "sqlite://", "sqlite://x?mode=ro"] {
            let message = parse(url).unwrap_err().to_string();
            assert!(message.contains("sqlite://path/to/file"), "{message}");
        }
        let message = parse("mysql://larder:secret@localhost/larder").unwrap_err().to_string();
        assert!(!message.contains("secret"), "{message}");
    }
}
