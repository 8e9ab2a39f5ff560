//! `larder serve`: the web server, and with `--demo` all that a first visit needs.

use std::{fs, path::Path};

use actix_web::rt::System;
use larder_cache::backend::Sharing;
use larder_models::{Category, Database, Label, Link, Model, NewUser, Object, ObjectLabel, Password, User, sample};
use log::info;

use super::{create_cache_tables, open_database, require_migrations};
use crate::{
    app::{self, Parts},
    secrets::write_private,
    settings::Settings,
};

const ADMIN: &str = "admin";

/// Keeps the password that was made up for the demo, so that it can be shown again. Git ignores the folder.
const PASSWORD_FILE: &str = "var/admin-password";

/// Without letters that look alike.
const PASSWORD_LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

const PASSWORD_LENGTH: usize = 16;

pub(super) fn serve(settings: Settings, demo: bool) -> anyhow::Result<()> {
    let parts = Parts::open(settings)?;
    let password = if demo { set_up(&parts)? } else { None };
    require_migrations(&parts.database)?;
    let left_behind = parts.database.deliver_left_behind()?;
    if left_behind > 0 {
        info!(transactions = left_behind; "invalidated what was changed when the last process ended");
    }
    let static_files = &parts.settings.server.static_files;
    anyhow::ensure!(static_files.is_dir(), "server.static_files: there is no folder {}", static_files.display());
    for (alias, settings, _) in parts.caches.iter() {
        info!(alias, address = settings.address(); "opened cache");
    }
    System::new().block_on(async {
        let (address, server) = app::server(parts)?;
        let admin = match (password, demo) {
            (Some(password), _) => format!("Admin: {address}/admin/  username {ADMIN}  password {password}\n"),
            (None, true) => format!(
                "Admin: {address}/admin/  (forgot the password? run `larder createsuperuser --username {ADMIN}`)\n"
            ),
            (None, false) => String::new(),
        };
        say!("Larder answers at {address}\n{admin}Stop it with Ctrl-C");
        server.await?;
        info!("stopped");
        Ok(())
    })
}

/// Makes an empty place ready for visitors; returns the password of the account that was made up for it.
fn set_up(parts: &Parts) -> anyhow::Result<Option<String>> {
    // In this order: migrations may invalidate.
    create_cache_tables_if_any(&parts.settings)?;
    parts.database.migrate()?;
    load_sample(parts)?;
    admin_password(&parts.database)
}

/// Loads the sample without the hooks, whose lines for each object would hide what a newcomer should read.
fn load_sample(parts: &Parts) -> anyhow::Result<()> {
    let objects = open_database(&parts.settings)?.write(sample::load)?;
    if objects == 0 {
        return Ok(());
    }
    info!(objects; "loaded sample data");
    // A store that others share may hold pages of a database that was here before.
    let is_shared = parts.caches.iter().any(|(_, _, cache)| cache.capabilities().sharing != Sharing::Process);
    if is_shared {
        parts.database.write(|db| {
            for table in [Object::TABLE, Category::TABLE, Label::TABLE, ObjectLabel::TABLE] {
                db.invalidate_table(table);
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn create_cache_tables_if_any(settings: &Settings) -> anyhow::Result<()> {
    let any = settings.caches.values().any(|cache| cache.backend == "database");
    if any { create_cache_tables(settings, false) } else { Ok(()) }
}

fn admin_password(database: &Database) -> anyhow::Result<Option<String>> {
    let file = Path::new(PASSWORD_FILE);
    if database.read(|db| User::by_username(db, ADMIN))?.is_some() {
        let Ok(kept) = fs::read_to_string(file) else { return Ok(None) };
        let user = database.read(|db| User::verify(db, ADMIN, &kept))?;
        return Ok(user.map(|_| kept));
    }
    let password = made_up_password()?;
    let new =
        NewUser { username: ADMIN.to_owned(), password: Password::new(&password)?, is_staff: true, is_superuser: true };
    write_private(file, password.as_bytes())?;
    database.write(|db| User::create(db, new))?;
    Ok(Some(password))
}

fn made_up_password() -> anyhow::Result<String> {
    let mut random = [0; PASSWORD_LENGTH];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    Ok(random.iter().map(|byte| char::from(PASSWORD_LETTERS[usize::from(byte % 32)])).collect())
}
