//! A value that is slow to come by, loaded once however many ask for it.
//!
//! `cargo run -p larder-cache --example get_or_set`

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use larder_cache::{Cache, Caches, LoadError, LoadOptions};

/// Asks something slow, and counts how often.
async fn ask_upstream(asked: Arc<AtomicUsize>) -> io::Result<String> {
    asked.fetch_add(1, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok("Quince jelly".to_owned())
}

/// Returns the title, from the cache for five minutes.
async fn title(cache: &Cache, asked: &Arc<AtomicUsize>) -> Result<String, LoadError<io::Error>> {
    let asked = Arc::clone(asked);
    cache.get_or_set("title", 300, || ask_upstream(asked)).await
}

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cache = Caches::local().default_cache();
    let asked = Arc::default();

    let begun = Instant::now();
    let callers: Vec<_> = (0..200)
        .map(|_| {
            let (cache, asked) = (cache.clone(), Arc::clone(&asked));
            tokio::spawn(async move { title(&cache, &asked).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await??, "Quince jelly");
    }
    println!("200 callers: asked {} time, {} ms", asked.load(Ordering::Relaxed), begun.elapsed().as_millis());

    // One call of the loader for all that is missing.
    let load = |keys: Vec<String>| async move {
        println!("loading {keys:?}");
        Ok::<_, io::Error>(keys.into_iter().map(|key| (key.clone(), key.len())).collect::<HashMap<_, _>>())
    };
    cache.get_or_set_many(["jar", "shelf"], 300, load).await?;
    cache.get_or_set_many(["jar", "shelf", "lid"], 300, load).await?;

    // A loader that takes too long is an error for its caller, and its value is kept all the same.
    let hurried = cache.clone().load_options(LoadOptions::new().hard_limit(0.05));
    let asked_again = Arc::clone(&asked);
    if let Err(error) = hurried.get_or_set("slow", 300, || ask_upstream(asked_again)).await {
        println!("{error}");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    println!("a moment later: {:?}", cache.get::<String>("slow").await?);
    Ok(())
}
