//! `larder check`: problems with the settings, before visitors find them.

use std::{net::IpAddr, path::Path, process::ExitCode};

use larder_models::{Database, Signals};

use crate::{settings::Settings, state::load_templates};

/// The settings were read without a problem when this is called; what is left is what they point to.
pub(super) fn check(settings: &Settings) -> anyhow::Result<ExitCode> {
    let mut problems = Vec::new();
    check_database(settings, &mut problems);
    match settings.open_caches() {
        Err(error) => {
            problems.extend(error.problems.iter().map(|problem| format!("{}: {}", problem.setting, problem.message)))
        }
        Ok(caches) => {
            for (alias, _, cache) in caches.iter() {
                if let Err(error) = cache.blocking().stats() {
                    problems.push(format!("caches.{alias}: {:#}", anyhow::Error::from(error)));
                }
            }
            if let Err(error) = load_templates(settings, caches) {
                problems.push(format!("server.templates: {error}"));
            }
        }
    }
    check_folders(settings, &mut problems);
    check_debug(settings, &mut problems);
    problems.iter().for_each(|problem| say!("{problem}"));
    Ok(if problems.is_empty() {
        say!("no problems found");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn check_database(settings: &Settings, problems: &mut Vec<String>) {
    let status =
        Database::open(&settings.database_url, Signals::new()).and_then(|database| database.migrations_status());
    match status {
        Err(error) => problems.push(format!("database.url: {:#}", anyhow::Error::from(error))),
        Ok(migrations) => {
            let pending = migrations.iter().filter(|migration| !migration.applied).count();
            if pending > 0 {
                problems.push(format!("database.url: {pending} migrations are not applied; run `larder migrate`"));
            }
        }
    }
}

/// Django's caches.W002 and W003: cached files must not be served, and must not depend on where the process started.
fn check_folders(settings: &Settings, problems: &mut Vec<String>) {
    let served = &settings.server.static_files;
    if !served.is_dir() {
        problems.push(format!("server.static_files: there is no folder {}", served.display()));
    }
    let folders = settings.caches.iter().filter(|(_, cache)| cache.backend == "file");
    for (alias, folder) in folders.filter_map(|(alias, cache)| Some((alias, Path::new(cache.location.first()?)))) {
        if folder.is_relative() {
            problems.push(format!("caches.{alias}.location: must be an absolute folder, is {}", folder.display()));
        }
        let same = |a: &Path, b: &Path| {
            a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a.starts_with(b))
        };
        if same(folder, served) || same(served, folder) {
            problems.push(format!("caches.{alias}.location: lies in server.static_files, so everyone could read it"));
        }
    }
}

fn check_debug(settings: &Settings, problems: &mut Vec<String>) {
    let host = settings.server.bind.rsplit_once(':').map_or("", |(host, _)| host);
    let is_local =
        host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if settings.server.debug && !is_local {
        problems.push(format!("server.debug: must be false where others can reach the server, as at {host}"));
    }
}
