//! `komainu drill endpoint`: breaks the owner again and again, and times how long no row was acknowledged.
//!
//! Owns the order of a run: whole, writing, broken, recovered, mended, whole, counted. Invariant: the next
//! run begins only when nothing of the last one is left.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::address::Address;
use super::attempts::{acknowledged, first_begun_after, longest_gap};
use super::client::Client;
use super::clock::Clock;
use super::error::DrillError;
use super::event::Event;
use super::nodes::{self, Endpoint, Status, complaint_of};
use super::phases::{Move, phases};
use super::report::{Report, Run};
use super::rows::{Present, Table};
use super::subject::{Place, Subject, random, sandbox};
use crate::sandbox::{Method, SandboxArgs, StopSignals};

const BEAT: Duration = Duration::from_secs(1);
const FINE_BEAT: Duration = Duration::from_millis(20);
const WHOLE_TIMEOUT: Duration = Duration::from_secs(60);
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// What a person gets for either.
const PERSON_TIMEOUT: Duration = Duration::from_secs(600);
/// Until a name has spread, which is looked for and not waited for longer than this.
const CONFIRMED_TIMEOUT: Duration = Duration::from_secs(10);
const CONFIRMED: &str = "dns";
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug, Clone)]
pub struct Settings {
    pub event: Event,
    pub runs: u32,
    /// A row every 20 ms instead of every second.
    pub fine: bool,
    /// Of the sandboxes made for the drill, one after the other.
    pub methods: Vec<Method>,
    pub nodes: u8,
    pub netns: bool,
    /// Of a cluster that runs: its nodes' admin sockets. Empty: a sandbox is made.
    pub admin: Vec<PathBuf>,
    pub url: Option<String>,
    /// None: the first.
    pub endpoint: Option<String>,
}

/// All runs, one after the other. `say` tells a person how far it is.
pub async fn run(settings: &Settings, say: &dyn Fn(&str)) -> Result<Report, DrillError> {
    let in_its_own = settings.admin.is_empty();
    if in_its_own && settings.nodes == 1 {
        return Err(DrillError::Alone);
    }
    if in_its_own && settings.event == Event::Partition && !settings.netns {
        return Err(DrillError::PartitionNeedsNetwork);
    }
    let mut stop = StopSignals::listen().map_err(DrillError::Signals)?;
    let mut report = Report::default();
    // What runs already has its own.
    let methods = if in_its_own { settings.methods.as_slice() } else { &[Method::Command] };
    for method in methods {
        let place = Place {
            admin: &settings.admin,
            url: settings.url.as_deref(),
            endpoint: settings.endpoint.as_deref(),
            // The endpoint is what is drilled; one server has all the rows.
            own: SandboxArgs {
                standbys: 0,
                spares: 0,
                no_agents: true,
                ..sandbox(settings.nodes, settings.netns, *method)
            },
        };
        let subject = tokio::select! {
            found = Subject::find(place, say) => found?,
            () = stop.received() => return Err(DrillError::Interrupted),
        };
        let outcome = drill(&subject, settings, say, &mut stop).await;
        let ended = subject.end().await;
        report.runs.extend(outcome?.runs);
        ended?;
    }
    Ok(report)
}

async fn drill(
    subject: &Subject,
    settings: &Settings,
    say: &dyn Fn(&str),
    stop: &mut StopSignals,
) -> Result<Report, DrillError> {
    let name = format!("komainu_drill_{:08x}", random());
    let table = Table { address: Address::parse(&subject.url)?, name };
    let drill = Drill { subject, settings, say, table, clock: Clock::start(), broken: Mutex::new(None) };
    let outcome = tokio::select! {
        outcome = drill.runs() => outcome,
        () = stop.received() => Err(DrillError::Interrupted),
    };
    drill.tidy_up().await;
    outcome
}

struct Drill<'a> {
    subject: &'a Subject,
    settings: &'a Settings,
    say: &'a dyn Fn(&str),
    table: Table,
    clock: Clock,
    /// Who is, until it is mended.
    broken: Mutex<Option<String>>,
}

impl Drill<'_> {
    async fn runs(&self) -> Result<Report, DrillError> {
        self.whole(1).await?;
        self.table.create().await.map_err(|source| DrillError::Rows { doing: "prepared", source })?;
        let mut report = Report::default();
        for run in 1..=self.settings.runs {
            report.runs.push(self.one(run).await?);
        }
        Ok(report)
    }

    async fn one(&self, run: u32) -> Result<Run, DrillError> {
        let before = self.whole(run).await?;
        let last_incident = self.last_incident(&before).await;
        let beat = if self.settings.fine { FINE_BEAT } else { BEAT };
        let writer = Client::writing(self.table.clone(), run, beat, self.clock.origin);
        let writer = writer.map_err(DrillError::Client)?;
        self.steady(run, &writer, Duration::ZERO, "before the break").await?;
        // Not always at the same moment between two rows.
        sleep(beat.mul_f64(f64::from(random()) / f64::from(u32::MAX))).await;

        if !self.subject.is_a_person_s() {
            let led = if before.leads { ", which also leads" } else { "" };
            self.tell(format_args!("run {run}: {} {}{led}", self.settings.event.name(), before.owner));
        }
        *self.broken() = Some(before.owner.clone());
        let broken = self.clock.now();
        let please = format!("please do this to {} now: {}", before.owner, self.settings.event.name());
        self.subject.tell(&[self.settings.event.breaks(&before.owner)], &please, self.say).await?;
        let (recovered, after) = self.recovered(run, &writer, &before, broken).await?;
        self.steady(run, &writer, self.clock.now(), "after the move").await?;
        let after = self.confirmed(&before, after).await;
        let mut moved = self.moved(&after, last_incident).await;
        if before.leads {
            moved.elected_ms = self.elected_after(&before.owner).await;
        }
        self.mend().await?;
        self.whole(run).await?;
        let finishing = spawn_blocking(move || writer.finish());
        let attempts = finishing.await.map_err(|_| DrillError::Panicked)?;

        let gap = longest_gap(&attempts, broken, recovered);
        let gap = gap.ok_or_else(|| self.no_recovery(run, &before.owner))?;
        // When a person broke it is not known any better.
        let broken = if self.subject.is_a_person_s() { gap.from } else { broken };
        let written = acknowledged(&attempts);
        let present = self.present(run).await?;
        let result = Run {
            method: after.endpoint.method.clone(),
            event: self.settings.event.name(),
            owner: before.owner.clone(),
            owner_led: before.leads,
            outage_ms: gap.length().as_secs_f64() * 1e3,
            phases: phases(
                self.clock.wall_ms(broken),
                moved,
                &after.endpoint.phases,
                self.clock.wall_ms(gap.to),
            ),
            acknowledged: written.len(),
            lost: written.difference(&present.numbers).count(),
            twice: present.twice.len(),
        };
        self.tell(format_args!("run {run}: no row for {:.0} ms, {} lost", result.outage_ms, result.lost));
        Ok(result)
    }

    /// Waits until all nodes agree.
    async fn whole(&self, run: u32) -> Result<Owned, DrillError> {
        let patience = if self.subject.is_a_person_s() { PERSON_TIMEOUT } else { WHOLE_TIMEOUT };
        let deadline = Instant::now() + patience;
        let name = self.settings.endpoint.as_deref();
        loop {
            let statuses = nodes::statuses(&self.subject.nodes).await;
            let complaint = complaint_of(&statuses, name);
            let owned = self
                .subject
                .nodes
                .iter()
                .zip(&statuses)
                .find_map(|(socket, status)| Owned::found(status.as_ref()?, socket, name));
            match (complaint, owned) {
                (None, Some(owned)) => return Ok(owned),
                (complaint, _) if Instant::now() >= deadline => {
                    let complaint = complaint.unwrap_or("nobody owns the endpoint").to_owned();
                    return Err(DrillError::NotWhole { run, complaint, seconds: patience.as_secs() });
                }
                _ => sleep(POLL).await,
            }
        }
    }

    /// Waits for some rows in a row, of those begun after a moment.
    async fn steady(
        &self,
        run: u32,
        writer: &Client,
        after: Duration,
        doing: &'static str,
    ) -> Result<(), DrillError> {
        match writer.is_steady(after, RECOVERY_TIMEOUT).await {
            true => Ok(()),
            false => Err(DrillError::NoWrites { run, doing, seconds: RECOVERY_TIMEOUT.as_secs() }),
        }
    }

    /// Waits until another node owns the endpoint and a row was written since; tells when that was, and what
    /// the new owner says of its move.
    async fn recovered(
        &self,
        run: u32,
        writer: &Client,
        before: &Owned,
        broken: Duration,
    ) -> Result<(Duration, Owned), DrillError> {
        let patience = if self.subject.is_a_person_s() { PERSON_TIMEOUT } else { RECOVERY_TIMEOUT };
        let deadline = Instant::now() + patience;
        let mut seen = None;
        loop {
            if seen.is_none() && self.owner_after(before).await.is_some() {
                seen = Some(self.clock.now());
            }
            if let Some(seen) = seen
                && let Some(attempt) = first_begun_after(&writer.attempts(), seen.max(broken))
                && let Some(after) = self.owner_after(before).await
            {
                return Ok((attempt.ended, after));
            }
            if Instant::now() >= deadline {
                return Err(self.no_recovery(run, &before.owner));
            }
            sleep(POLL).await;
        }
    }

    /// Who owns the endpoint in a later epoch, as that node says itself.
    async fn owner_after(&self, before: &Owned) -> Option<Owned> {
        let statuses = nodes::statuses(&self.subject.nodes).await;
        self.subject.nodes.iter().zip(&statuses).find_map(|(socket, status)| {
            let status = status.as_ref()?;
            let owned = Owned::found(status, socket, Some(&before.endpoint.name))?;
            let is_itself = status.node.as_deref() == Some(owned.owner.as_str());
            let is_later = owned.endpoint.epoch > before.endpoint.epoch && owned.owner != before.owner;
            (is_itself && is_later).then_some(owned)
        })
    }

    /// What the new owner says when it has also seen its name answered, if it moves by one; that ends nothing.
    async fn confirmed(&self, before: &Owned, mut after: Owned) -> Owned {
        let deadline = Instant::now() + CONFIRMED_TIMEOUT;
        let by_name = after.endpoint.method == Method::Route53.name();
        let is_confirmed = |owned: &Owned| owned.endpoint.phases.iter().any(|phase| phase.name == CONFIRMED);
        while by_name && !is_confirmed(&after) && Instant::now() < deadline {
            sleep(POLL).await;
            if let Some(now) = self.owner_after(before).await {
                after = now;
            }
        }
        after
    }

    async fn last_incident(&self, at: &Owned) -> u64 {
        nodes::incidents(&at.socket, 0).await.map_or(0, |(_, last)| last)
    }

    async fn moved(&self, at: &Owned, after: u64) -> Move {
        let (incidents, _) = nodes::incidents(&at.socket, after).await.unwrap_or_default();
        Move::find(&at.endpoint.name, &incidents)
    }

    /// When the node that leads now was elected. One that was cut off may think that it still leads.
    async fn elected_after(&self, before: &str) -> Option<u64> {
        for socket in &self.subject.nodes {
            let status = nodes::status(socket).await;
            let now_ms = self.clock.wall_ms(self.clock.now());
            let leads = status.filter(|status| status.node.as_deref() != Some(before));
            if let Some(for_ms) = leads.and_then(|status| status.leading_for_ms) {
                return Some((now_ms - for_ms as f64) as u64);
            }
        }
        None
    }

    async fn present(&self, run: u32) -> Result<Present, DrillError> {
        self.table.present(run).await.map_err(|source| DrillError::Rows { doing: "counted", source })
    }

    async fn mend(&self) -> Result<(), DrillError> {
        let broken = self.broken().clone();
        if let Some(id) = broken {
            let please = format!("please bring {id} back now");
            self.subject.tell(&[self.settings.event.mends(&id)], &please, self.say).await?;
            *self.broken() = None;
        }
        Ok(())
    }

    /// Whatever went wrong, as much as possible is as it was.
    async fn tidy_up(&self) {
        if let Err(error) = self.mend().await {
            self.tell(format_args!("what was broken could not be mended: {error}"));
        }
        if let Err(error) = self.table.remove().await {
            self.tell(format_args!("the drill's table {} is left behind: {error}", self.table.name));
        }
    }

    fn no_recovery(&self, run: u32, owner: &str) -> DrillError {
        let patience = if self.subject.is_a_person_s() { PERSON_TIMEOUT } else { RECOVERY_TIMEOUT };
        DrillError::NoRecovery { run, owner: owner.to_owned(), seconds: patience.as_secs() }
    }

    fn broken(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, text: impl Display) {
        (self.say)(&text.to_string());
    }
}

/// The endpoint while somebody owns it, and a node that says so.
struct Owned {
    owner: String,
    endpoint: Endpoint,
    /// The owner leads, too.
    leads: bool,
    socket: PathBuf,
}

impl Owned {
    fn found(status: &Status, socket: &std::path::Path, name: Option<&str>) -> Option<Self> {
        let endpoint = status.endpoint(name)?.clone();
        let owner = endpoint.owner.clone()?;
        let leads = status.leader.as_deref() == Some(owner.as_str());
        Some(Self { owner, endpoint, leads, socket: socket.to_owned() })
    }
}
