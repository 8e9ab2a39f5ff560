//! Queries of which some parameters do not count.

#![no_main]

use larder_cache::page::{TRACKING, policy::query};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let ignored: Vec<String> = TRACKING.iter().map(|name| (*name).to_owned()).collect();
    let kept = query::kept(text, &ignored, None);
    assert_eq!(query::kept(&kept, &ignored, None), kept, "what is left counts");
    let only = ["page".to_owned()];
    let kept = query::kept(text, &ignored, Some(&only));
    assert_eq!(query::kept(&kept, &ignored, Some(&only)), kept);
});
