//! Addresses of caches, as in `CACHE_URL`.

#![no_main]

use larder_cache::settings::AliasSettings;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|address: &str| {
    let _ = AliasSettings::from_address("default", address);
});
