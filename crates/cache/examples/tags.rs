//! Tags: one call makes everything stale that was made from what changed, also what is being made at that moment.
//!
//! `cargo run -p larder-cache --example tags`

use std::{convert::Infallible, sync::Mutex};

use larder_cache::{Caches, Load};

/// The data: the titles of some objects by their number.
static OBJECTS: Mutex<Vec<&str>> = Mutex::new(Vec::new());

fn objects() -> Vec<String> {
    let objects = OBJECTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    objects.iter().map(|title| (*title).to_owned()).collect()
}

fn rename(number: usize, title: &'static str) {
    OBJECTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[number] = title;
}

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    OBJECTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(["Crock", "Jam pan"]);
    let cache = Caches::local().default_cache().blocking();

    // Known beforehand: the list depends on every object, a title on one.
    let list = || cache.clone().tags(["object"]).get_or_set("list", 300, || Ok::<_, Infallible>(objects()));
    // Found out while loading: only the loader knows which object is the first.
    let first = || {
        cache.get_or_load("first", 300, |load: Load<String>| {
            load.tags(["object:0"]);
            Ok::<_, Infallible>(objects().swap_remove(0))
        })
    };
    println!("{:?}, first is {}", list()?, first()?);

    rename(1, "Preserving pan");
    cache.invalidate_tags(["object", "object:1"])?;
    println!("{:?}, first is still {} and did not have to be loaded", list()?, first()?);
    println!("{}\n", cache.explain("first")?);

    // The race that other caches lose: the loader reads, somebody commits and invalidates, the loader returns.
    cache.delete("first")?;
    let overtaken = cache.get_or_load("first", 300, |load: Load<String>| {
        let read = objects().swap_remove(0);
        load.tags(["object:0"]);
        rename(0, "Stoneware crock");
        cache.clone().because("somebody else").invalidate_tags(["object", "object:0"]).map(|()| read)
    })?;
    println!("the caller, who began before, has {overtaken:?}; the cache has {:?}", cache.get::<String>("first")?);
    println!("the next one has {:?}", first()?);
    Ok(())
}
