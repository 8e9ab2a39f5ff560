//! How much of a raw handler's speed is left, by what answers instead of it.
//!
//! Each variant is a server of its own, a child process with one worker; `wrk` asks it. A round measures all variants, the
//! raw handler first and last, and compares within the round, because machines are noisy. Prints a table of ratios.

#![expect(clippy::print_stdout, reason = "the table is what the program is for")]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends")]

mod pages;
mod values;

use std::env;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", variant, address] => pages::serve(variant, address),
        [] => {
            println!("| | reached | to reach |\n| --- | --- | --- |");
            values::print();
            pages::print();
        }
        _ => println!("usage: bench; LARDER_BENCH_SECONDS and LARDER_BENCH_ROUNDS say how long"),
    }
}
