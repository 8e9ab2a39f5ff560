//! Stale serving: nobody waits for a refresh, and nobody sees an upstream that is down.
//!
//! `cargo run -p larder-cache --example stale`

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use larder_cache::{Caches, LoadOptions, clock::Clock, settings::AliasSettings};

static ASKED: AtomicUsize = AtomicUsize::new(0);
static IS_DOWN: AtomicBool = AtomicBool::new(false);

async fn upstream() -> Result<String, String> {
    let number = ASKED.fetch_add(1, Ordering::Relaxed) + 1;
    tokio::time::sleep(Duration::from_millis(200)).await;
    if IS_DOWN.load(Ordering::Relaxed) { Err("upstream is down".to_owned()) } else { Ok(format!("answer {number}")) }
}

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A clock that is moved by hand: the example takes no minutes.
    let (clock, hand) = Clock::manual();
    let caches = Caches::builder().clock(clock).alias("default", AliasSettings::default()).build()?;
    let options = LoadOptions::new().stale_while_revalidate(60).stale_if_error(3600).retry_after(30);
    let cache = caches.default_cache().load_options(options);
    let ask = async || {
        let begun = Instant::now();
        let answer = cache.get_or_set("answer", 300, upstream).await;
        println!("{answer:?} after {} ms", begun.elapsed().as_millis());
    };

    println!("the first one waits:");
    ask().await;

    hand.advance(Duration::from_secs(310));
    println!("ten seconds past its time it is served, and refreshed meanwhile:");
    ask().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    ask().await;

    IS_DOWN.store(true, Ordering::Relaxed);
    hand.advance(Duration::from_secs(600));
    println!("five minutes past its time it is loaded anew, and served if that fails; then upstream is left alone:");
    ask().await;
    ask().await;

    println!("made stale by hand it may still be served, deleted it may not:");
    cache.expire("answer").await?;
    ask().await;
    cache.delete("answer").await?;
    ask().await;
    println!("upstream was asked {} times", ASKED.load(Ordering::Relaxed));
    Ok(())
}
