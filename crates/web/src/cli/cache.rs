//! `larder cache`: values of the low-level API from the command line.

use std::process::ExitCode;

use clap::Subcommand;
use larder_cache::{Timeout, backend::Sharing};
use serde_json::Value;

use crate::settings::Settings;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print a value as JSON; fails if it is not there
    Get {
        /// The key
        key: String,
    },
    /// Store a value
    Set {
        /// The key
        key: String,
        /// The value, as JSON or as a plain text
        value: String,
        /// Seconds until it expires, or "never"; what the settings say if left out
        #[arg(long, value_parser = timeout, allow_negative_numbers = true)]
        timeout: Option<Timeout>,
    },
    /// Remove a value; fails if it was not there
    Delete {
        /// The key
        key: String,
    },
    /// Make a value stale: who may serve it stale still does, while it is loaded anew
    Expire {
        /// The key
        key: String,
    },
    /// Make everything stale that carries one of these tags
    Invalidate {
        /// The tags
        #[arg(required = true)]
        tags: Vec<String>,
    },
    /// Remove the pages of an address, all variants of them, from every cache; with a * at its end all pages whose address
    /// begins so
    Purge {
        /// The address, as in http://localhost:8000/objects/7/
        url: String,
    },
    /// Tell why a key hits or misses
    Explain {
        /// The key
        key: String,
    },
    /// Remove everything from the store, also what others keep in it
    Clear {
        /// Only what stands under the key prefix of this cache; counters stay
        #[arg(long)]
        prefix: bool,
    },
    /// Print what the store tells about itself
    Stats,
}

pub(super) fn run(settings: &Settings, alias: &str, command: Command) -> anyhow::Result<ExitCode> {
    let caches = settings.open_caches()?;
    let cache = caches.get(alias)?;
    if cache.capabilities().sharing == Sharing::Process {
        eprintln!(
            "note: cache {alias} lives in the memory of its process; this command has one of its own, not the server's"
        );
    }
    let cache = cache.blocking().because("command line");
    // A read takes a store that is away for a miss; here the difference matters.
    let stats = cache.stats()?;
    let was_there = match command {
        Command::Get { key } => match cache.get::<Value>(&key)? {
            Some(value) => {
                say!("{value}");
                true
            }
            None => {
                eprintln!("{key} is not there");
                false
            }
        },
        Command::Set { key, value, timeout } => {
            let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
            cache.set(&key, &value, timeout.unwrap_or_default())?;
            true
        }
        Command::Delete { key } => {
            let was_there = cache.delete(&key)?;
            if !was_there {
                eprintln!("{key} is not there");
            }
            was_there
        }
        Command::Expire { key } => {
            let was_there = cache.expire(&key)?;
            if !was_there {
                eprintln!("{key} is not there");
            }
            was_there
        }
        Command::Invalidate { tags } => {
            cache.invalidate_tags(tags)?;
            true
        }
        Command::Purge { url } => {
            let pages = crate::app::page_cache(&caches, settings);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            match url.strip_suffix('*') {
                Some(prefix) => {
                    runtime.block_on(pages.purge_prefix(prefix))?;
                    true
                }
                None => {
                    let removed = runtime.block_on(pages.purge_url(&url))?;
                    say!("removed {removed} entries");
                    removed > 0
                }
            }
        }
        Command::Explain { key } => {
            say!("{}", cache.explain(&key)?);
            true
        }
        Command::Clear { prefix: false } => {
            cache.clear()?;
            true
        }
        Command::Clear { prefix: true } => {
            cache.clear_prefix()?;
            true
        }
        Command::Stats => {
            stats.iter().for_each(|(name, value)| say!("{name}: {value}"));
            true
        }
    };
    Ok(if was_there { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn timeout(text: &str) -> Result<Timeout, String> {
    match text {
        "never" | "none" => Ok(Timeout::Never),
        _ => text.parse::<f64>().map(Timeout::from).map_err(|_| "must be a number of seconds or \"never\"".to_owned()),
    }
}
