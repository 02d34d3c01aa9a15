//! Torture: clients that write down everything, faults drawn from a seed, and a checker that knows nothing but the
//! clients' records. `make torture MINUTES=30 SEED=7` runs it for as long as one asks; a short one is run with all tests.

mod check;
mod clients;
mod faults;
mod ground;
mod history;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::*;
use clients::{ACCOUNTS, Common, INITIAL};
use faults::{Fault, KINDS, Kind};
use ground::{Ground, WHOLE_WITHIN};
use history::{End, History};

/// In `make test`: the same faults for everybody's change. New ones are looked for by `make torture`.
const SHORT: Duration = Duration::from_secs(40);
const SHORT_SEED: u64 = 3_556_717_090_318_415_196;
/// Rows that must be acknowledged before the next fault, so that it hits something.
const PROGRESS: u64 = 20;
/// Out of a hundred faults, so many are followed by another one before they are mended.
const DOUBLE_PERCENT: u32 = 30;

/// One fault, for the report.
struct Line {
    at_s: f64,
    fault: String,
    proof: String,
    lasted_ms: u128,
    gap_ms: u64,
    whole_after_ms: u128,
    unknown: u64,
}

struct Torture {
    ground: Ground,
    common: Arc<Common>,
    random: StdRng,
    /// Every kind comes before any comes again.
    deck: Vec<Kind>,
    lines: Vec<Line>,
}

impl Torture {
    fn next_kind(&mut self) -> Kind {
        if self.deck.is_empty() {
            self.deck = KINDS.into();
            self.deck.shuffle(&mut self.random);
        }
        self.deck.pop().unwrap()
    }

    #[track_caller]
    fn goes_on(&self) {
        let before = self.common.done.load(Ordering::Relaxed);
        let goes_on = || self.common.done.load(Ordering::Relaxed) >= before + PROGRESS;
        assert!(self.ground.waits_for(WHOLE_WITHIN, goes_on), "nothing is acknowledged any more");
    }

    /// One fault, at times two, and until all is well again.
    fn round(&mut self) {
        let phase = Duration::from_millis(self.random.random_range(0..1_500));
        std::thread::sleep(phase);
        let at_s = self.common.began.elapsed().as_secs_f64();
        let unknown = self.common.unknown.load(Ordering::Relaxed);
        self.common.gap_us.store(0, Ordering::Relaxed);
        let begun = Instant::now();
        let mut struck = Vec::new();
        let mut proofs = Vec::new();
        let two = self.random.random_range(0..100) < DOUBLE_PERCENT;
        for _ in 0..if two { 2 } else { 1 } {
            let kind = self.next_kind();
            let Some(fault) = Fault::draw(kind, &self.ground, &mut self.random) else {
                self.deck.insert(0, kind);
                continue;
            };
            // Whom the first one has hit the second one does not find.
            let hit = struck.iter().any(|(before, _): &(Fault, Duration)| {
                before.of == fault.of || before.kind == Kind::RestartAll
            });
            if hit || (!struck.is_empty() && kind == Kind::RestartAll) {
                self.deck.insert(0, kind);
                continue;
            }
            let proof = fault.strike(&self.ground);
            println!("{at_s:8.1} s  {fault}: {proof:?}");
            let lasts = fault.lasts(&mut self.random);
            struck.push((fault, lasts));
            proofs.push(proof);
        }
        if struck.is_empty() {
            // The nodes do not agree on anything yet.
            return;
        }
        for (fault, lasts) in &struck {
            std::thread::sleep(lasts.saturating_sub(begun.elapsed()));
            fault.mend(&self.ground);
        }
        let mended = Instant::now();
        let lasted_ms = mended.duration_since(begun).as_millis();
        let whole = self.ground.is_whole_within(WHOLE_WITHIN);
        let names: Vec<String> = struck.iter().map(|(fault, _)| fault.to_string()).collect();
        let why = self.ground.why_not_whole(mended).unwrap_or_default();
        if !whole {
            self.ground.tell_all();
        }
        assert!(whole, "after {names:?} not all is well within {WHOLE_WITHIN:?}: {why}");
        self.goes_on();
        // The second of two may find that the first one has taken it away.
        let proof: Vec<String> = proofs
            .iter()
            .enumerate()
            .map(|(at, proof)| match proof {
                Ok(proof) => proof.clone(),
                Err(why) if at > 0 => format!("came to nothing: {why}"),
                Err(why) => panic!("{} was not proven: {why}", names[at]),
            })
            .collect();
        self.lines.push(Line {
            at_s,
            fault: names.join(" and "),
            proof: proof.join("; "),
            lasted_ms,
            gap_ms: self.common.gap_us.load(Ordering::Relaxed) / 1_000,
            whole_after_ms: begun.elapsed().as_millis(),
            unknown: self.common.unknown.load(Ordering::Relaxed) - unknown,
        });
    }

    fn report(&self) {
        println!(
            "{:>8}  {:<40} {:>8} {:>11} {:>10} {:>8}  proof",
            "at s", "fault", "ms", "no ack, ms", "well, ms", "unknown"
        );
        for Line { at_s, fault, proof, lasted_ms, gap_ms, whole_after_ms, unknown } in &self.lines {
            println!(
                "{at_s:>8.1}  {fault:<40} {lasted_ms:>8} {gap_ms:>11} {whole_after_ms:>10} {unknown:>8}  {proof}"
            );
        }
    }
}

fn prepare(ground: &Ground) {
    let accounts = ACCOUNTS - 1;
    let statements = [
        "CREATE TABLE torture_log (client int, session int, number bigint)",
        "CREATE TABLE torture_account (id int PRIMARY KEY, balance bigint)",
        "CREATE TABLE torture_transfer (id bigint)",
        &format!("INSERT INTO torture_account SELECT id, {INITIAL} FROM generate_series(0, {accounts}) id"),
    ];
    psql(ground.sandbox.url(), &statements).output();
}

fn end(ground: &Ground) -> End {
    let primary = ground.primary().unwrap();
    let rows = ground.psql(&primary, "SELECT client, number FROM torture_log");
    let pair = |line: &str| {
        let (left, right) = line.split_once('|')?;
        Some((left.parse::<u32>().ok()?, right.parse::<i64>().ok()?))
    };
    let accounts = ground.psql(&primary, "SELECT id, balance FROM torture_account");
    let transfers = ground.psql(&primary, "SELECT id FROM torture_transfer");
    End {
        rows: rows.lines().filter_map(pair).map(|(client, number)| (client, number as u64)).collect(),
        transfers: transfers.lines().filter_map(|line| line.parse().ok()).collect(),
        balances: accounts.lines().filter_map(pair).collect::<BTreeMap<_, _>>(),
        initial: INITIAL,
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn what_clients_were_told_is_so_whatever_breaks() {
    assert!(rustix::process::geteuid().is_root(), "network namespaces need root");
    let minutes = number("KOMAINU_TORTURE_MINUTES");
    let seed = number("KOMAINU_SEED").unwrap_or_else(|| minutes.map_or(SHORT_SEED, |_| rand::random()));
    let time = minutes.map_or(SHORT, |minutes| Duration::from_secs(60 * minutes));
    println!("torture for {time:?}; the same faults again: make torture SEED={seed}");
    let ground = Ground::start();
    prepare(&ground);
    let common = Arc::new(Common::new(ground.node_urls()));
    let clients = {
        let common = common.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(clients::run(common, seed))
        })
    };
    let random = StdRng::seed_from_u64(seed);
    let mut torture = Torture { ground, common: common.clone(), random, deck: Vec::new(), lines: Vec::new() };
    torture.goes_on();
    let until = Instant::now() + time;
    while Instant::now() < until {
        torture.round();
    }
    common.stop.store(true, Ordering::Relaxed);
    let history: History = clients.join().unwrap();
    let violations = check::check(&history, &end(&torture.ground));
    torture.report();
    let lost = |what: &str| format!("{what}; seed {seed}");
    println!(
        "{} rows and {} transfers, {} of them unknown; {} looks, {} sums; {} violations",
        history.appends.len(),
        history.transfers.len(),
        common.unknown.load(Ordering::Relaxed),
        history.looks.len(),
        history.sums.len(),
        violations.len()
    );
    for violation in violations.iter().take(20) {
        println!("{violation}");
    }
    assert!(
        violations.is_empty(),
        "{}",
        lost(&format!("{} violations, the first: {}", violations.len(), violations[0]))
    );
    assert!(!history.looks.is_empty() && !history.sums.is_empty(), "{}", lost("nothing was read"));
}
