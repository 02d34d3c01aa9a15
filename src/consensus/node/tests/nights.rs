//! Runs a night for each seed, on every core, or the one that somebody asks for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::consensus::node::core::lock;

type Night<T> = Pin<Box<dyn Future<Output = T>>>;

/// What came of `count` nights, if the environment asks for no other number; in no order. Panics when all are over, if
/// one of them has: with the seeds.
pub fn nights<T: Send>(count: u64, begin: impl Fn(u64) -> Night<T> + Sync) -> Vec<T> {
    let seeds = match (number("KOMAINU_SEED"), number("KOMAINU_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, asked) => 0..asked.unwrap_or(count),
    };
    let next = AtomicU64::new(seeds.start);
    let (passed, failed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    match night(seed, &begin) {
                        Some(outcome) => lock(&passed).push(outcome),
                        None => lock(&failed).push(seed),
                    }
                }
            });
        }
    });
    let failed = lock(&failed);
    assert!(
        failed.is_empty(),
        "{} of {} nights failed; to see one again: make simulate SEED=N, with N one of {failed:?}",
        failed.len(),
        seeds.end - seeds.start
    );
    passed.into_inner().unwrap()
}

/// None: it has panicked, and said why.
fn night<T>(seed: u64, begin: &impl Fn(u64) -> Night<T>) -> Option<T> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    // A night is made inside: it begins tasks.
    catch_unwind(AssertUnwindSafe(|| runtime.block_on(async { begin(seed).await }))).ok()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
