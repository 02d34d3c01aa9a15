//! The same clients before something else than komainu, at the same time.
//!
//! Never compares. Invariant: they are broken by the same moment, and measured by the same measure.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinHandle;

use super::sitters::{Returned, Sitters};
use crate::drill::attempts::{Gap, longest_gap};
use crate::drill::client::Client;
use crate::drill::error::DrillError;
use crate::drill::report::tenths;
use crate::drill::rows::Table;

/// Its rows are told from komainu's by their run.
const RUNS: u32 = 1_000_000;
const STEADY_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Beside {
    table: Table,
    run: u32,
    writer: Client,
    sitters: Sitters,
}

/// After the break.
pub struct Broken {
    writer: Client,
    returning: JoinHandle<Returned>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    #[serde(serialize_with = "tenths")]
    pub outage_ms: f64,
    /// Otherwise the outage was not over when it was given up.
    pub recovered: bool,
    /// Seen by clients that sat between two transactions.
    pub errors: usize,
    pub error_texts: Vec<String>,
}

impl Beside {
    /// Returns when its rows are acknowledged.
    pub async fn start(table: Table, run: u32, beat: Duration, origin: Instant) -> Result<Self, DrillError> {
        let writer = Client::writing(table.clone(), RUNS + run, beat, origin).map_err(DrillError::Client)?;
        if !writer.is_steady(Duration::ZERO, STEADY_TIMEOUT).await {
            let (doing, seconds) = ("beside komainu, before the break", STEADY_TIMEOUT.as_secs());
            return Err(DrillError::NoWrites { run, doing, seconds });
        }
        let sitters = Sitters::sit(&table.address).await;
        let sitters = sitters.map_err(|source| DrillError::Rows { doing: "waited for", source })?;
        Ok(Self { table, run, writer, sitters })
    }

    /// It happens now.
    pub fn go_on(self) -> Broken {
        let Self { table, run, writer, sitters } = self;
        Broken { writer, returning: tokio::spawn(sitters.go_on(table, RUNS + run)) }
    }
}

impl Broken {
    /// Waits until its rows are acknowledged again, of those that are tried from `now` on, but not for ever.
    pub async fn finish(
        self,
        broken: Duration,
        now: Duration,
        within: Duration,
    ) -> Result<Found, DrillError> {
        let Self { writer, returning } = self;
        let begun = Instant::now();
        let recovered = writer.is_steady(now, within).await;
        let given_up = now + begun.elapsed();
        let returned = returning.await.map_err(|_| DrillError::Panicked)?;
        let attempts = tokio::task::spawn_blocking(move || writer.finish());
        let attempts = attempts.await.map_err(|_| DrillError::Panicked)?;
        let outage = match recovered {
            true => longest_gap(&attempts, broken, Duration::MAX).map(Gap::length),
            false => {
                let last = attempts.iter().rev().find(|one| one.acknowledged && one.ended < given_up);
                last.map(|last| given_up.saturating_sub(last.ended))
            }
        };
        Ok(Found {
            outage_ms: outage.unwrap_or_default().as_secs_f64() * 1e3,
            recovered,
            errors: returned.errors.len(),
            error_texts: returned.errors,
        })
    }
}
