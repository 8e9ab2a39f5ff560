//! Entries that a store gives back.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| larder_cache::fuzzing::entry(bytes));
