//! The binary `larder`.

use std::process::ExitCode;

fn main() -> ExitCode {
    larder_web::cli::main()
}
