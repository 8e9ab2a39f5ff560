//! Commands that change the tables.

use clap::Subcommand;
use larder_models::Database;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Apply all migrations that are missing; the same as no command
    Up,
    /// Revert the newest migrations, with what is in their tables
    Down {
        /// How many
        #[arg(long, default_value_t = 1)]
        steps: u32,
    },
    /// List all migrations and whether they are applied
    Status,
}

pub(super) fn run(database: &Database, command: Option<&Command>) -> anyhow::Result<()> {
    match command.unwrap_or(&Command::Up) {
        Command::Up => up(database),
        Command::Down { steps } => down(database, *steps),
        Command::Status => status(database),
    }
}

fn up(database: &Database) -> anyhow::Result<()> {
    let applied = database.migrate()?;
    applied.iter().for_each(|name| say!("applied migration {name}"));
    if applied.is_empty() {
        say!("the database is up to date");
    }
    Ok(())
}

fn down(database: &Database, steps: u32) -> anyhow::Result<()> {
    for _ in 0..steps {
        match database.revert_last_migration()? {
            Some(name) => say!("reverted migration {name}"),
            None => {
                say!("no migration is applied");
                break;
            }
        }
    }
    Ok(())
}

fn status(database: &Database) -> anyhow::Result<()> {
    for migration in database.migrations_status()? {
        say!("{} {}", if migration.applied { "applied" } else { "missing" }, migration.name);
    }
    Ok(())
}
