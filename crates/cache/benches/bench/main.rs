//! How much of a raw handler's speed is left, by what answers instead of it, and what one look-up costs.
//!
//! A round measures everything once, and compares within the round, because machines are noisy. Each page variant is a
//! server of its own, a child process with one worker that ends with its standard input; `wrk` asks it.

#![expect(clippy::print_stdout, reason = "the table is what the program is for")]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends")]

mod cold;
mod pages;
mod report;
mod server;
mod values;

use std::{env, process::ExitCode};

use report::Report;
use server::Server;

/// What the page of each measurement holds: 2,048 bytes.
fn body() -> String {
    "<p>012345678</p>".repeat(128)
}

fn number(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() -> ExitCode {
    // Cargo says `--bench` to each target.
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", variant, memcached, ref fields @ ..] => server::serve(variant, memcached, fields),
        ["memcached"] => server::serve_memcached(),
        ["memory"] => println!("{}", values::bytes_beside_key_and_value()),
        [] => measure().print(),
        ["--check"] => {
            let report = measure();
            report.print();
            return report.check();
        }
        _ => {
            eprintln!("usage: bench [--check]");
            eprintln!("LARDER_BENCH_SECONDS is how long wrk asks (2), LARDER_BENCH_ROUNDS how often everything is");
            eprintln!("measured (5), LARDER_BENCH_ONLY how the names of what is measured begin.");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn measure() -> Report {
    let mut report = Report::new(&env::var("LARDER_BENCH_ONLY").unwrap_or_default());
    let memcached = Server::start_memcached();
    let pages = pages::Servers::start(&report, &memcached);
    let cold = cold::Servers::start(&report, &memcached);
    let values = values::Values::new();
    let rounds = number("LARDER_BENCH_ROUNDS", 5).max(1);
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        pages.measure(&mut report);
        cold.measure(&mut report, round);
        values.measure(&mut report);
    }
    report
}
