//! All clients of a run: one that writes, some that read, and those of the load.
//!
//! Owns that they start and end together.

use std::io;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::load::{Counters, Load};
use super::throughput::Tally;
use crate::drill::attempts::Attempt;
use crate::drill::client::Client;
use crate::drill::error::DrillError;
use crate::drill::rows::Table;

/// So that one is on each server, most likely: a session stays on its standby.
const READERS: usize = 8;

/// All that run while something is broken.
pub struct Clients {
    pub writer: Client,
    readers: Vec<Client>,
    load: Option<Load>,
}

/// What they saw.
pub struct Seen {
    pub writes: Vec<Attempt>,
    pub reads: Vec<Vec<Attempt>>,
    load: Tally,
}

impl Clients {
    pub fn start(
        table: &Table,
        run: u32,
        beat: Duration,
        load: Option<Counters>,
        origin: Instant,
    ) -> io::Result<Self> {
        let writer = Client::writing(table.clone(), run, beat, origin)?;
        let reading = |_| Client::reading(table.clone(), beat, origin);
        let readers = (0..READERS).map(reading).collect::<Result<_, _>>()?;
        let load = load.map(|counters| Load::start(counters, origin)).transpose()?;
        Ok(Self { writer, readers, load })
    }

    pub async fn finish(self) -> Result<Seen, DrillError> {
        let finishing = spawn_blocking(move || Seen {
            writes: self.writer.finish(),
            reads: self.readers.into_iter().map(Client::finish).collect(),
            load: self.load.map(Load::finish).unwrap_or_default(),
        });
        finishing.await.map_err(|_| DrillError::Panicked)
    }
}

impl Seen {
    /// What all of them were answered.
    pub fn all(&self) -> Tally {
        let mut own = Tally::default();
        let answered = |attempts: &[Attempt]| -> Vec<Duration> {
            attempts.iter().filter(|one| one.acknowledged).map(|one| one.ended).collect()
        };
        answered(&self.writes).into_iter().for_each(|at| own.note(at, true));
        self.reads.iter().flat_map(|reads| answered(reads)).for_each(|at| own.note(at, false));
        own.and(self.load.clone())
    }
}
