//! What the debug toolbar costs: pages of an app that shows it against those of one that does not. Off, it is no part of the
//! app.
//!
//! A round asks both, one after the other, and compares within the round, because machines are noisy.

#![expect(clippy::print_stdout, reason = "the table is what the program is for")]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends")]

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use reqwest::blocking::Client;
use tempfile::TempDir;

/// How many requests a slice has, and how many slices a round; the sides take turns.
const REQUESTS: u32 = 100;
const SLICES: u32 = 10;

struct Site {
    address: String,
    process: Child,
    _folder: TempDir,
}

impl Site {
    fn start(toolbar_allow: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut process = Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(["serve", "--demo"])
            .current_dir(folder.path())
            .env_clear()
            .env("LARDER__SERVER__BIND", "127.0.0.1:0")
            .env("LARDER__SERVER__DEBUG", "true")
            .env("LARDER__SERVER__WORKERS", "1")
            .env("LARDER__SERVER__TOOLBAR_ALLOW", toolbar_allow)
            .env("LARDER__SERVER__TEMPLATES", root.join("templates"))
            .env("LARDER__SERVER__STATIC_FILES", root.join("static"))
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.filter_map(|line| line.strip_prefix("Larder answers at ").map(str::to_owned)).next();
        Site { address: line.expect("the app did not start"), process, _folder: folder }
    }

    /// Asks for a page so often; returns how many seconds that took.
    fn ask(&self, client: &Client, path: &str, accept: &str) -> f64 {
        let address = format!("{}{path}", self.address);
        let begun = Instant::now();
        for _ in 0..REQUESTS {
            let answer = client.get(&address).header("accept", accept).send().unwrap();
            assert!(answer.status().is_success());
            answer.bytes().unwrap();
        }
        begun.elapsed().as_secs_f64()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn main() {
    let rounds = env::var("LARDER_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5_usize).max(1);
    let (on, off) = (Site::start(r#"["127.0.0.1"]"#), Site::start("[]"));
    let client = Client::new();
    println!("| requests in the same time, without the toolbar 1 | min | median | max |");
    println!("| --- | ---: | ---: | ---: |");
    for (name, path, accept) in [
        ("page from the cache, with its bar", "/objects/1/", "text/html"),
        ("page from the cache, recorded for a script", "/objects/1/", "*/*"),
        ("page with a fragment from the cache, with its bar", "/objects/", "text/html"),
    ] {
        for site in [&on, &off] {
            site.ask(&client, path, accept);
        }
        let mut shares: Vec<f64> = (0..rounds)
            .map(|_| {
                let (mut with, mut without) = (0.0, 0.0);
                for _ in 0..SLICES {
                    with += on.ask(&client, path, accept);
                    without += off.ask(&client, path, accept);
                }
                without / with
            })
            .collect();
        shares.sort_by(f64::total_cmp);
        println!("| {name} | {:.2} | {:.2} | {:.2} |", shares[0], shares[rounds / 2], shares[rounds - 1]);
    }
}
