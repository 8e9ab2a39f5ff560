//! The command line of the binary `larder`.

/// Prints a line on standard output. Nobody may be reading any more, as behind `| head`: that is no error.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($argument)*);
    }};
}

mod cache;
mod check;
mod data;
mod migrate;
mod serve;
mod users;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use larder_cache::backend::{Options, database};
use larder_models::{Database, Signals};

use crate::{app::Parts, logging, settings::Settings};

/// A web app whose pages are cached at four levels, and whose admin invalidates them.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    /// The settings file; larder.toml unless named. The environment goes before it
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the web server
    Serve {
        /// First migrate, load sample objects into an empty database, and make an admin account if there is none
        #[arg(long)]
        demo: bool,
    },
    /// Bring the database up to date
    Migrate {
        #[command(subcommand)]
        command: Option<migrate::Command>,
    },
    /// Write categories, labels and objects as JSON
    ///
    /// Accounts, sessions and the history are left out.
    Dumpdata {
        /// Which of category, label, object and object_label; all unless named
        models: Vec<String>,
        /// The file to write to; standard output unless named
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Store what dumpdata wrote, in place of rows with the same keys, and invalidate what shows them
    Loaddata {
        /// The file, or - for standard input
        file: PathBuf,
    },
    /// Make a staff account, or give it a new password
    ///
    /// The password is asked for, or taken from the environment variable LARDER_SUPERUSER_PASSWORD.
    Createsuperuser {
        /// The name to sign in with
        #[arg(long, default_value = "admin")]
        username: String,
    },
    /// Make the tables of all caches that have the database as their backend
    Createcachetable {
        /// Print the SQL instead of running it
        #[arg(long)]
        dry_run: bool,
    },
    /// Look into a cache and change it
    Cache {
        /// The cache, by its name in the settings
        #[arg(long, default_value = "default", global = true)]
        alias: String,
        #[command(subcommand)]
        command: cache::Command,
    },
    /// Find problems with the settings; fails if there is one
    Check,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(arguments.config.as_deref())?;
    match arguments.command {
        Command::Serve { demo } => serve::serve(settings, demo)?,
        Command::Migrate { command } => migrate::run(&open_with_caches(settings)?, command.as_ref())?,
        Command::Dumpdata { models, output } => {
            let database = open_database(&settings)?;
            require_migrations(&database)?;
            data::dump(&database, &models, output.as_deref())?;
        }
        Command::Loaddata { file } => {
            let database = open_with_caches(settings)?;
            require_migrations(&database)?;
            data::load(&database, &file)?;
        }
        Command::Createsuperuser { username } => {
            let database = open_database(&settings)?;
            require_migrations(&database)?;
            users::create_superuser(&database, &username)?;
        }
        Command::Createcachetable { dry_run } => create_cache_tables(&settings, dry_run)?,
        Command::Cache { alias, command } => return cache::run(&settings, &alias, command),
        Command::Check => return check::check(&settings),
    }
    Ok(ExitCode::SUCCESS)
}

fn open_database(settings: &Settings) -> anyhow::Result<Database> {
    Ok(Database::open(&settings.database_url, Signals::new())?)
}

/// Opens the database for commands whose writes the app is to hear of.
fn open_with_caches(settings: Settings) -> anyhow::Result<Database> {
    Ok(Parts::open(settings)?.database)
}

fn require_migrations(database: &Database) -> anyhow::Result<()> {
    match database.migrations_status()?.iter().find(|migration| !migration.applied) {
        Some(pending) => anyhow::bail!("the database lacks migration {}; run `larder migrate`", pending.name),
        None => Ok(()),
    }
}

fn create_cache_tables(settings: &Settings, dry_run: bool) -> anyhow::Result<()> {
    let aliases = settings.caches.iter().filter(|(_, alias)| alias.backend == "database");
    let mut found = false;
    for (alias, cache) in aliases {
        found = true;
        let [table] = cache.location.as_slice() else {
            anyhow::bail!("caches.{alias}.location: must be one table, as in db://cache_entry");
        };
        if dry_run {
            say!("{}", database::Database::create_table_sql(table)?);
            continue;
        }
        let url = cache.options.get("url").and_then(toml::Value::as_str).unwrap_or(&settings.database_url);
        let store = database::Database::open(url, table, Options::new())?;
        let what = if store.create_table()? { "created" } else { "was there already" };
        say!("table {table} of cache {alias} {what}");
    }
    if !found {
        say!("no cache has the database as its backend; set CACHE_URL=db://cache_entry for one");
    }
    Ok(())
}
