//! What is counted on the path of a query: relaxed atomics, one set for each core.
//!
//! Never formats or locks while counting, and allocates only for the first query of a server that is new. Invariant: a thread always counts in the same
//! shard, so cores do not fight for a cache line; only the sum over the shards means anything.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::topology::ServerIndex;

use super::labels::{
    CancelResult, Direction, HookLabel, HookResult, Label, LoginFailure, MetricsWay, PinReason, QueryClass,
    ReadToPrimary, Rule,
};

/// Upper bounds, in microseconds, of the buckets of `komainu_acquire_seconds`.
pub const ACQUIRE_BOUNDS_US: [u64; 10] =
    [100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 10_000_000];

/// More would only cost memory: beyond this, two cores share a shard.
const MAX_SHARDS: usize = 64;

#[derive(Debug)]
pub struct Counters {
    shards: Box<[Shard]>,
}

/// Two cache lines: processors fetch them in pairs.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Shard {
    bytes: [AtomicU64; Direction::COUNT],
    client_connections: AtomicU64,
    client_connections_total: AtomicU64,
    acquire: [AtomicU64; ACQUIRE_BOUNDS_US.len() + 1],
    acquire_us: AtomicU64,
    answered: AtomicU64,
    answered_ms: AtomicU64,
    floors_lowered: AtomicU64,
    pins: [AtomicU64; PinReason::COUNT],
    unpins: [AtomicU64; PinReason::COUNT],
    reads_to_primary: [AtomicU64; ReadToPrimary::COUNT],
    logins_failed: [AtomicU64; LoginFailure::COUNT],
    cancels: [AtomicU64; CancelResult::COUNT],
    hooks: [[AtomicU64; HookResult::COUNT]; HookLabel::COUNT],
    rejected: [AtomicU64; Rule::COUNT],
    metrics_dropped: [AtomicU64; MetricsWay::COUNT],
    queries: ByServer,
}

/// Counters of each server that ever was one: the first few, and then twice as many each time. None moves when others are
/// added.
#[derive(Debug, Default)]
struct ByServer([OnceLock<Box<[Classes]>>; BLOCKS]);

type Classes = [AtomicU64; QueryClass::COUNT];

const FIRST_BLOCK: usize = 8;
/// Enough for every `ServerIndex`.
const BLOCKS: usize = 14;

impl ByServer {
    fn of(&self, server: ServerIndex) -> &Classes {
        let (block, at) = place(server);
        let size = FIRST_BLOCK << block;
        &self.0[block].get_or_init(|| (0..size).map(|_| Classes::default()).collect())[at]
    }

    /// To the sums by the servers' numbers.
    fn add_to(&self, totals: &mut Vec<[u64; QueryClass::COUNT]>) {
        for (block, counters) in self.0.iter().enumerate() {
            let Some(counters) = counters.get() else { continue };
            let first = (FIRST_BLOCK << block) - FIRST_BLOCK;
            totals.resize(totals.len().max(first + counters.len()), Default::default());
            for (total, classes) in totals[first..].iter_mut().zip(counters) {
                add(total, classes);
            }
        }
    }
}

/// In which block a server is, and where in it.
fn place(server: ServerIndex) -> (usize, usize) {
    let number = usize::from(server.0) + FIRST_BLOCK;
    let block = (number / FIRST_BLOCK).ilog2() as usize;
    (block, number - (FIRST_BLOCK << block))
}

impl Default for Counters {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shards = 0..cores.next_power_of_two().min(MAX_SHARDS);
        Counters { shards: shards.map(|_| Shard::default()).collect() }
    }
}

impl Counters {
    pub fn queries(&self, server: ServerIndex, class: QueryClass, count: u64) {
        self.shard().queries.of(server)[class.index()].fetch_add(count, Relaxed);
    }

    pub fn bytes(&self, direction: Direction, count: u64) {
        self.shard().bytes[direction.index()].fetch_add(count, Relaxed);
    }

    pub fn client_connected(&self) {
        let shard = self.shard();
        shard.client_connections.fetch_add(1, Relaxed);
        shard.client_connections_total.fetch_add(1, Relaxed);
    }

    /// May be called on another thread than `client_connected`: shards wrap, their sum does not.
    pub fn client_gone(&self) {
        self.shard().client_connections.fetch_sub(1, Relaxed);
    }

    /// A server connection was there at once; no clock needs to be read to say so.
    pub fn acquired_at_once(&self) {
        self.shard().acquire[0].fetch_add(1, Relaxed);
    }

    pub fn acquired_after(&self, waited: Duration) {
        let us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        let bucket = ACQUIRE_BOUNDS_US.partition_point(|&bound| bound < us);
        let shard = self.shard();
        shard.acquire[bucket].fetch_add(1, Relaxed);
        shard.acquire_us.fetch_add(us, Relaxed);
    }

    /// A server answered what a session had sent. The clock goes in steps of 100 ms, so nearly all of them are 0, and
    /// cost one addition; what falls on a step weighs as much as those that did not, so the mean of many is right.
    pub fn answered_after_ms(&self, ms: u64) {
        let shard = self.shard();
        shard.answered.fetch_add(1, Relaxed);
        if ms > 0 {
            shard.answered_ms.fetch_add(ms, Relaxed);
        }
    }

    pub fn floor_lowered(&self) {
        self.shard().floors_lowered.fetch_add(1, Relaxed);
    }

    pub fn pinned(&self, reason: PinReason) {
        self.shard().pins[reason.index()].fetch_add(1, Relaxed);
    }

    pub fn unpinned(&self, reason: PinReason) {
        self.shard().unpins[reason.index()].fetch_add(1, Relaxed);
    }

    pub fn read_to_primary(&self, reason: ReadToPrimary) {
        self.shard().reads_to_primary[reason.index()].fetch_add(1, Relaxed);
    }

    pub fn login_failed(&self, reason: LoginFailure) {
        self.shard().logins_failed[reason.index()].fetch_add(1, Relaxed);
    }

    pub fn cancel_request(&self, result: CancelResult) {
        self.shard().cancels[result.index()].fetch_add(1, Relaxed);
    }

    pub fn hook(&self, hook: HookLabel, result: HookResult) {
        self.shard().hooks[hook.index()][result.index()].fetch_add(1, Relaxed);
    }

    pub fn plan_rejected(&self, rule: Rule) {
        self.shard().rejected[rule.index()].fetch_add(1, Relaxed);
    }

    pub fn metrics_dropped(&self, way: MetricsWay, count: u64) {
        self.shard().metrics_dropped[way.index()].fetch_add(count, Relaxed);
    }

    /// All of it, added up.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in &self.shards {
            add(&mut totals.bytes, &shard.bytes);
            add_one(&mut totals.client_connections, &shard.client_connections);
            add_one(&mut totals.client_connections_total, &shard.client_connections_total);
            add(&mut totals.acquire, &shard.acquire);
            add_one(&mut totals.acquire_us, &shard.acquire_us);
            add_one(&mut totals.answered, &shard.answered);
            add_one(&mut totals.answered_ms, &shard.answered_ms);
            add(&mut totals.metrics_dropped, &shard.metrics_dropped);
            add_one(&mut totals.floors_lowered, &shard.floors_lowered);
            add(&mut totals.pins, &shard.pins);
            add(&mut totals.unpins, &shard.unpins);
            add(&mut totals.reads_to_primary, &shard.reads_to_primary);
            add(&mut totals.logins_failed, &shard.logins_failed);
            add(&mut totals.cancels, &shard.cancels);
            for (total, results) in totals.hooks.iter_mut().zip(&shard.hooks) {
                add(total, results);
            }
            add(&mut totals.rejected, &shard.rejected);
            shard.queries.add_to(&mut totals.queries);
        }
        totals
    }

    fn shard(&self) -> &Shard {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
        }
        let mine = MINE.get();
        let mine = if mine == usize::MAX {
            let next = NEXT.fetch_add(1, Relaxed);
            MINE.set(next);
            next
        } else {
            mine
        };
        // The length is a power of two.
        &self.shards[mine & (self.shards.len() - 1)]
    }
}

/// The sums of one moment, as good as counters that go on counting can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    pub bytes: [u64; Direction::COUNT],
    pub client_connections: u64,
    pub client_connections_total: u64,
    /// The last one is of what exceeds every bound.
    pub acquire: [u64; ACQUIRE_BOUNDS_US.len() + 1],
    pub acquire_us: u64,
    pub answered: u64,
    pub answered_ms: u64,
    pub metrics_dropped: [u64; MetricsWay::COUNT],
    pub floors_lowered: u64,
    pub pins: [u64; PinReason::COUNT],
    pub unpins: [u64; PinReason::COUNT],
    pub reads_to_primary: [u64; ReadToPrimary::COUNT],
    pub logins_failed: [u64; LoginFailure::COUNT],
    pub cancels: [u64; CancelResult::COUNT],
    pub hooks: [[u64; HookResult::COUNT]; HookLabel::COUNT],
    pub rejected: [u64; Rule::COUNT],
    /// By server.
    queries: Vec<[u64; QueryClass::COUNT]>,
}

impl Totals {
    /// Statements of one class sent to a server.
    pub fn queries_of(&self, server: ServerIndex, class: QueryClass) -> u64 {
        self.queries.get(usize::from(server.0)).map_or(0, |classes| classes[class.index()])
    }
}

fn add(totals: &mut [u64], counters: &[AtomicU64]) {
    for (total, counter) in totals.iter_mut().zip(counters) {
        add_one(total, counter);
    }
}

fn add_one(total: &mut u64, counter: &AtomicU64) {
    *total = total.wrapping_add(counter.load(Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_count_adds_up_wherever_they_count_it() {
        let counters = Counters::default();
        std::thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        counters.queries(ServerIndex(1), QueryClass::Write, 1);
                        counters.queries(ServerIndex(900), QueryClass::Write, 1);
                        counters.bytes(Direction::ToClients, 3);
                        counters.client_connected();
                    }
                });
            }
        });
        // Another thread than those that added.
        for _ in 0..4999 {
            counters.client_gone();
        }
        let totals = counters.totals();
        let writes = |server| totals.queries_of(ServerIndex(server), QueryClass::Write);
        assert_eq!((writes(1), writes(2), writes(900), writes(901)), (5000, 0, 5000, 0));
        assert_eq!(totals.queries_of(ServerIndex(1), QueryClass::Read), 0);
        assert_eq!(totals.bytes, [0, 15_000]);
        assert_eq!((totals.client_connections, totals.client_connections_total), (1, 5000));
    }

    #[test]
    fn every_server_has_a_place_of_its_own() {
        let places: Vec<_> = (0..=u16::MAX).map(|server| place(ServerIndex(server))).collect();
        assert!(places.is_sorted_by(|a, b| a < b));
        assert!(places.iter().all(|&(block, at)| block < BLOCKS && at < FIRST_BLOCK << block));
    }

    #[test]
    fn waits_fall_into_the_bucket_that_is_named_after_their_upper_bound() {
        let counters = Counters::default();
        counters.acquired_at_once();
        for us in [100, 101, 10_000_000, 10_000_001] {
            counters.acquired_after(Duration::from_micros(us));
        }
        let totals = counters.totals();
        assert_eq!(totals.acquire, [2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(totals.acquire_us, 20_000_202);
    }
}
