//! Templates with `{% cache %}` blocks.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| larder_cache::fuzzing::template(source));
