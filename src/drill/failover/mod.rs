//! `komainu drill failover`: breaks a server, and times how long no row was acknowledged, and how long until
//! all servers were back.
//!
//! Owns the order of a run: whole, clients, broken, recovered, mended, rejoined, counted. Invariant: the next
//! run begins only when every server is attached and streams again.

mod backlog;
mod beside;
mod clients;
mod load;
mod phases;
mod report;
mod servers;
mod sitters;
mod throughput;
mod waiting;

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use komainu_escalation::AwsSettings;
use komainu_escalation::aws::AwsError;
use komainu_escalation::rds::Rds;
use serde_json::json;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

use super::address::Address;
use super::attempts::{Attempt, acknowledged, longest_gap};
use super::clock::Clock;
use super::error::DrillError;
use super::event::FailoverEvent;
use super::nodes::Status;
use super::pgbouncer::PgBouncer;
use super::phases::{Incident, Phase};
use super::rows::{Table, WriteError};
use super::subject::{Place, Subject, random, sandbox};
use crate::sandbox::{
    AskError, FailoverOrder, FailoverTold, ManagedMode, Method, Request, StopSignals, Sync, admin,
};
use backlog::{Backlog, Replayed, Watch};
use beside::Beside;
use clients::Clients;
use load::Counters;
use phases::Steps;
use report::FailoverRun;
use servers::Whole;
use sitters::{Returned, Sitters};
use waiting::{RECOVERY_TIMEOUT, STEADY_TIMEOUT};

pub use report::FailoverReport;

/// One that is lost sooner makes the next failover wait longer on purpose, and that is not what is measured.
const STEADY_PRIMARY: Duration = Duration::from_secs(13);
const BEAT: Duration = Duration::from_secs(1);
const FINE_BEAT: Duration = Duration::from_millis(20);
/// By whoever kept it for its TTL.
const NAME_IS_FOLLOWED_WITHIN: Duration = Duration::from_secs(30);
/// A server may have to be copied.
const REJOIN_TIMEOUT: Duration = Duration::from_secs(180);
/// What a person gets for any of them.
const PERSON_TIMEOUT: Duration = Duration::from_secs(900);
const POLL: Duration = Duration::from_millis(50);
const GONE_POLL: Duration = Duration::from_millis(5);
/// Of throughput before and after.
const MARGIN: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
pub struct FailoverSettings {
    pub event: FailoverEvent,
    pub runs: u32,
    /// A row every 20 ms instead of every second.
    pub fine: bool,
    /// How many clients update and read beside the drill's own. 0: none.
    pub load: u32,
    /// For so long before the break standbys replay nothing of what the load writes.
    pub backlog: Duration,
    /// Of a sandbox made for the drill.
    pub nodes: u8,
    pub netns: bool,
    /// None: as the event needs it.
    pub sync: Option<Sync>,
    /// It is before an imitation of this.
    pub mode: Option<ManagedMode>,
    /// Of the imitated service, and of its names.
    pub server_seconds: u32,
    pub name_delay: u32,
    /// The same clients through a PgBouncer besides.
    pub pgbouncer: bool,
    /// Of a cluster that runs: its nodes' admin sockets. Empty: a sandbox is made.
    pub admin: Vec<PathBuf>,
    pub url: Option<String>,
    /// The cluster may be other than a sandbox.
    pub real_cluster: bool,
    /// AWS is asked for the failover of this cluster, or instance, instead of a person.
    pub ask_aws: Option<String>,
}

/// All runs, one after the other. `say` tells a person how far it is.
pub async fn run(settings: &FailoverSettings, say: &dyn Fn(&str)) -> Result<FailoverReport, DrillError> {
    let in_its_own = settings.admin.is_empty();
    if in_its_own && settings.nodes == 1 {
        return Err(DrillError::Alone);
    }
    if in_its_own && settings.event == FailoverEvent::Partition && !settings.netns {
        return Err(DrillError::PartitionNeedsNetwork);
    }
    if !settings.backlog.is_zero() && settings.event.is_a_standby_s() {
        return Err(DrillError::BacklogNeedsFailover);
    }
    let is_of_service = settings.event == FailoverEvent::AwsFailover;
    if in_its_own && settings.mode.is_some() != is_of_service {
        return Err(if is_of_service { DrillError::NoService } else { DrillError::Service });
    }
    let mut stop = StopSignals::listen().map_err(DrillError::Signals)?;
    let (standbys, sync) = shape(settings.event);
    let mut own = sandbox(settings.nodes, settings.netns, Method::Command);
    own.standbys = standbys;
    own.sync = Some(settings.sync.unwrap_or(sync));
    own.mode = settings.mode;
    let place = Place { admin: &settings.admin, url: settings.url.as_deref(), endpoint: None, own };
    let subject = tokio::select! {
        found = Subject::find(place, say) => found?,
        () = stop.received() => return Err(DrillError::Interrupted),
    };
    let outcome = if settings.ask_aws.is_some() && !(is_of_service && subject.is_a_person_s()) {
        Err(DrillError::NotAws)
    } else if subject.is_a_person_s() && !settings.real_cluster {
        Err(DrillError::Real)
    } else if subject.is_a_person_s() && !settings.backlog.is_zero() {
        Err(DrillError::BacklogNeedsSandbox)
    } else if !subject.is_a_person_s() && subject.managed.is_some() != is_of_service {
        Err(if is_of_service { DrillError::NoService } else { DrillError::Service })
    } else if settings.pgbouncer && subject.managed.is_none() {
        Err(DrillError::NoNames)
    } else {
        drill(&subject, settings, say, stop).await
    };
    let ended = subject.end().await;
    let report = outcome?;
    ended?;
    Ok(report)
}

/// How many standbys a sandbox for an event has, and what an acknowledged row survives there.
fn shape(event: FailoverEvent) -> (u8, Sync) {
    match event {
        // The one whose acknowledgement commits wait for is the one that hangs.
        FailoverEvent::SyncStandbyFreeze => (1, Sync::Prefer),
        // The service's servers are as it makes them.
        FailoverEvent::AsyncStandbyFreeze | FailoverEvent::AwsFailover => (2, Sync::Off),
        _ => (2, Sync::Require),
    }
}

async fn drill(
    subject: &Subject,
    settings: &FailoverSettings,
    say: &dyn Fn(&str),
    mut stop: StopSignals,
) -> Result<FailoverReport, DrillError> {
    let in_its_own = settings.admin.is_empty();
    let sync = settings.sync.unwrap_or(shape(settings.event).1);
    let name = format!("komainu_drill_{:08x}", random());
    let table = Table { address: Address::parse(&subject.url)?, name };
    let counters = Counters::beside(&table, settings.load);
    let drill = Drill {
        subject,
        settings,
        say,
        table,
        counters,
        clock: Clock::start(),
        must_promise: in_its_own && sync != Sync::Off,
        broken: Mutex::new(None),
        held: Mutex::new(None),
    };
    let outcome = tokio::select! {
        outcome = drill.runs() => outcome,
        () = stop.received() => Err(DrillError::Interrupted),
    };
    drill.tidy_up().await;
    outcome
}

struct Drill<'a> {
    subject: &'a Subject,
    settings: &'a FailoverSettings,
    say: &'a dyn Fn(&str),
    table: Table,
    counters: Counters,
    clock: Clock,
    /// Commits are to wait for standbys.
    must_promise: bool,
    /// Which server is, until it is mended.
    broken: Mutex<Option<String>>,
    /// Whose replay is, until it goes on.
    held: Mutex<Option<Backlog>>,
}

/// What goes on since it was broken.
struct Broken {
    returning: JoinHandle<Returned>,
    /// Of the imitated service.
    service: Option<JoinHandle<Result<FailoverTold, AskError>>>,
}

/// When a new primary was seen, or that a standby is out, and when the first row after it was written.
struct Recovered {
    noticed: Duration,
    at: Duration,
}

impl Drill<'_> {
    async fn runs(&self) -> Result<FailoverReport, DrillError> {
        self.whole(1, STEADY_TIMEOUT).await.map_err(|complaint| self.not_whole(1, complaint))?;
        let prepared = |source| DrillError::Rows { doing: "prepared", source };
        self.table.create().await.map_err(prepared)?;
        if self.settings.load > 0 {
            self.counters.create(&self.table).await.map_err(prepared)?;
        }
        let mut report = FailoverReport::default();
        for run in 1..=self.settings.runs {
            let result = self.one(run).await?;
            let is_steady = result.to.is_none() || self.is_of_service();
            if !is_steady && run < self.settings.runs {
                sleep(STEADY_PRIMARY).await;
            }
            report.runs.push(result);
        }
        Ok(report)
    }

    async fn one(&self, run: u32) -> Result<FailoverRun, DrillError> {
        let event = self.settings.event;
        let before = self.promised(run).await.map_err(|why| self.not_whole(run, why))?;
        let target = match event.is_a_standby_s() {
            false => before.primary.clone(),
            true => before.standbys.first().cloned().ok_or(DrillError::NoStandby { run })?,
        };
        let last_incident = self.last_incident().await;
        let load = (self.settings.load > 0).then(|| self.counters.clone());
        let clients = Clients::start(&self.table, run, self.beat(), load, self.clock.origin);
        let clients = clients.map_err(DrillError::Client)?;
        self.steady(run, &clients, Duration::ZERO, "before the break").await?;
        self.hold_replay(run, &before.standbys).await?;
        let sitters = Sitters::sit(&self.table.address).await;
        let sitters = sitters.map_err(|source| DrillError::Rows { doing: "waited for", source })?;
        // Of each run another one: what it held on to in the last run is not this one's.
        let rival = match &self.subject.managed {
            Some(managed) if self.settings.pgbouncer => {
                Some(PgBouncer::start(&self.table.address, managed).await?)
            }
            _ => None,
        };
        let beside = match &rival {
            Some(rival) => Some(self.beside(run, rival).await?),
            None => None,
        };
        let lead_in = if self.settings.load > 0 { MARGIN } else { Duration::ZERO };
        // Not always at the same moment between two rows.
        sleep(lead_in + self.beat().mul_f64(f64::from(random()) / f64::from(u32::MAX))).await;

        if !self.subject.is_a_person_s() {
            self.tell(format_args!("run {run}: {} of {target}", event.name()));
        }
        let backlog_bytes = self.backlog_bytes().await?;
        let broken = self.clock.now();
        let Broken { returning, service } = self.break_it(run, &before, &target, sitters).await?;
        let beside = beside.map(Beside::go_on);
        let replaying = self.release_replay().await?;
        let recovered = self.recovered(run, &clients, &before, &target, broken, last_incident).await;
        let told = match service {
            // Why there was no failover it says best.
            Some(service) if recovered.is_ok() || service.is_finished() => {
                Some(service.await.map_err(|_| DrillError::Panicked)??)
            }
            _ => None,
        };
        let Recovered { noticed, at: recovered } = recovered?;
        self.steady(run, &clients, self.clock.now(), "after the failover").await?;
        let returned = returning.await.map_err(|_| DrillError::Panicked)?;
        let pgbouncer = match beside {
            Some(beside) => {
                Some(beside.finish(broken, self.clock.now(), self.name_is_followed_within()).await?)
            }
            None => None,
        };
        let replayed = match replaying {
            Some(watch) => watch.seen().await,
            None => Replayed::new(),
        };
        let incidents = self.incidents(last_incident).await;
        let mending = self.clock.now();
        self.mend().await?;
        let after = self.whole(run, REJOIN_TIMEOUT).await;
        let after = after.map_err(|complaint| self.no_rejoin(run, complaint))?;
        let rejoined = self.clock.now();
        let finished = self.clock.now();
        let seen = clients.finish().await?;

        let gap = longest_gap(&seen.writes, broken, recovered);
        let gap = gap.ok_or_else(|| self.no_failover(run, &target, "no row is acknowledged", &incidents))?;
        // When a person broke it is not known any better.
        let began = if self.subject.is_a_person_s() { gap.from } else { broken };
        let (from_ms, to_ms) = (self.clock.wall_ms(began), self.clock.wall_ms(gap.to));
        let phases = match &told {
            // There may be no outage at all.
            _ if event.is_a_standby_s() => {
                vec![Phase { name: "detection".to_owned(), ms: ms(noticed.saturating_sub(broken)) }]
            }
            Some(told) => {
                let killed_ms = told.killed_at_ms as f64;
                Steps::of_service(killed_ms, killed_ms + told.accepted_after_ms as f64, to_ms)
            }
            None => {
                let replayed = replayed.get(&after.primary);
                let steps = Steps {
                    replayed_ms: replayed.map(|&at| self.clock.wall_ms(at) as u64),
                    ..Steps::find(&before.primary, &incidents)
                };
                steps.phases(from_ms, to_ms)
            }
        };
        let read_gap = |reads: &Vec<Attempt>| longest_gap(reads, broken, recovered.max(gap.to));
        let mut written = acknowledged(&seen.writes);
        written.extend(&returned.acknowledged);
        let present = self.present(run).await?;
        let lost: Vec<u64> = written.difference(&present.numbers).copied().collect();
        for number in &lost {
            let attempt = seen.writes.iter().find(|attempt| attempt.number == *number);
            let when = attempt.map_or("by a client that had waited".to_owned(), |attempt| {
                format!(
                    "{:+.1} ms from the break",
                    (attempt.ended.as_secs_f64() - broken.as_secs_f64()) * 1000.0
                )
            });
            self.tell(format_args!("run {run}: row {number} is missing; acknowledged {when}"));
        }
        let all = seen.all();
        let result = FailoverRun {
            event: event.name(),
            from: target,
            to: (after.primary != before.primary).then_some(after.primary),
            outage_ms: ms(gap.length()),
            phases,
            read_outage_ms: seen
                .reads
                .iter()
                .filter_map(read_gap)
                .map(|gap| ms(gap.length()))
                .fold(0.0, f64::max),
            backlog_bytes,
            rejoin_ms: ms(rejoined.saturating_sub(mending)),
            acknowledged: written.len(),
            lost: lost.len(),
            twice: present.twice.len(),
            errors: returned.errors.len(),
            error_texts: returned.errors,
            load_errors: all.kinds.clone(),
            throughput: all.seconds(broken.saturating_sub(MARGIN), broken, finished.min(recovered + MARGIN)),
            pgbouncer,
            loaded: self.settings.load > 0,
        };
        self.tell(format_args!(
            "run {run}: no row for {:.0} ms, {} lost; all back after {:.0} ms",
            result.outage_ms, result.lost, result.rejoin_ms
        ));
        Ok(result)
    }

    /// If that is wanted: from now on the standbys only receive, for as long as it is wanted.
    async fn hold_replay(&self, run: u32, standbys: &[String]) -> Result<(), DrillError> {
        let Some(control) = self.subject.control().filter(|_| !self.settings.backlog.is_zero()) else {
            return Ok(());
        };
        let backlog = Backlog::of(control, standbys);
        *self.held() = Some(backlog.clone());
        backlog.hold().await?;
        let seconds = self.settings.backlog.as_secs();
        self.tell(format_args!("run {run}: for {seconds} s the standbys replay nothing"));
        sleep(self.settings.backlog).await;
        Ok(())
    }

    async fn backlog_bytes(&self) -> Result<Option<u64>, DrillError> {
        let held = self.held().clone();
        match held {
            Some(backlog) => backlog.bytes().await.map(Some),
            None => Ok(None),
        }
    }

    async fn release_replay(&self) -> Result<Option<Watch>, DrillError> {
        let held = self.held().clone();
        let Some(backlog) = held else { return Ok(None) };
        backlog.release().await?;
        *self.held() = None;
        Ok(Some(backlog.watch(self.clock)))
    }

    /// Breaks it; those that sat go on at that moment.
    async fn break_it(
        &self,
        run: u32,
        before: &Whole,
        target: &str,
        sitters: Sitters,
    ) -> Result<Broken, DrillError> {
        let event = self.settings.event;
        if self.is_of_service() {
            let service = self.subject.fail_over(FailoverOrder {
                to: None,
                name_delay_ms: u64::from(self.settings.name_delay) * 1000,
                server_ms: u64::from(self.settings.server_seconds) * 1000,
            });
            match &service {
                None => {
                    self.have_aws_fail_over(target).await?;
                    self.until_lost(before).await;
                }
                // It looks around before it does anything, and those that sit must not run into that.
                Some(service) => {
                    while !service.is_finished() && self.subject.runs(target).await {
                        sleep(GONE_POLL).await;
                    }
                }
            }
            return Ok(Broken { returning: tokio::spawn(sitters.go_on(self.table.clone(), run)), service });
        }
        *self.broken() = Some(target.to_owned());
        if event == FailoverEvent::Switchover {
            let returning = tokio::spawn(sitters.go_on(self.table.clone(), run));
            self.order_switchover().await?;
            return Ok(Broken { returning, service: None });
        }
        let please = format!("please do this to the server {target} now: {}", event.name());
        let requests = event.breaks(target, self.subject.has_agents());
        self.subject.tell(&requests, &please, self.say).await?;
        Ok(Broken { returning: tokio::spawn(sitters.go_on(self.table.clone(), run)), service: None })
    }

    /// By whoever may. Of another cluster than the one that is drilled nothing is asked.
    async fn have_aws_fail_over(&self, primary: &str) -> Result<(), DrillError> {
        let Some(id) = &self.settings.ask_aws else {
            self.tell("please have AWS fail over now: `aws rds failover-db-cluster`");
            return Ok(());
        };
        let aws = |error: AwsError| DrillError::Aws(error.to_string());
        let rds = Rds::connect(&AwsSettings::default()).await;
        let described = rds.cluster(id).await.map_err(aws)?;
        let statuses = self.statuses().await;
        if !described
            .instances
            .iter()
            .any(|one| servers::is_at(&statuses, primary, &one.id, one.host.as_deref()))
        {
            return Err(DrillError::OtherCluster { id: id.clone(), primary: primary.to_owned() });
        }
        let call = rds.fail_over(id).await.map_err(aws)?;
        self.tell(format_args!("AWS was asked: {call} of {id}"));
        Ok(())
    }

    /// AWS begins when it likes, and those that sit must not run into that. Whether it has, recovery tells.
    async fn until_lost(&self, before: &Whole) {
        let deadline = Instant::now() + self.patience(RECOVERY_TIMEOUT);
        while !servers::is_lost(&self.statuses().await, before) && Instant::now() < deadline {
            sleep(POLL).await;
        }
    }

    async fn order_switchover(&self) -> Result<(), DrillError> {
        let statuses = self.statuses().await;
        let leads = |status: &&Option<Status>| {
            status.as_ref().is_some_and(|status| status.node.is_some() && status.node == status.leader)
        };
        let leader = statuses.iter().position(|status| leads(&status)).unwrap_or(0);
        let socket = self.subject.nodes[leader].clone();
        let order = json!({ "to": null, "cause": "operator:drill" }).to_string();
        let asking = spawn_blocking(move || admin::post(&socket, "/switchover", &order));
        match asking.await.map_err(|_| DrillError::Panicked)? {
            Ok(answer) if answer.status < 300 => Ok(()),
            Ok(answer) => Err(DrillError::Refused(answer.body.trim().to_owned())),
            Err(error) => Err(DrillError::Refused(error.to_string())),
        }
    }

    async fn mend(&self) -> Result<(), DrillError> {
        let broken = self.broken().clone();
        if let Some(server) = broken {
            let requests = self.settings.event.mends(&server, self.subject.has_agents());
            let please = format!("please bring {server} back now, if it does not come by itself");
            self.subject.tell(&requests, &please, self.say).await?;
            *self.broken() = None;
        }
        Ok(())
    }

    /// Whatever went wrong, as much as possible is as it was.
    async fn tidy_up(&self) {
        if let Err(error) = self.release_replay().await {
            self.tell(format_args!("the standbys could not be told to replay again: {error}"));
        }
        let broken = self.broken().clone();
        if let Err(error) = self.mend().await {
            self.tell(format_args!("what was broken could not be mended: {error}"));
        }
        if let Some(server) = broken.filter(|_| !self.subject.is_a_person_s()) {
            // Its agent may not have come to it yet; that it runs already is fine.
            let start = Request::Start { id: server };
            let _ = self.subject.tell(&[start], "", self.say).await;
        }
        for removed in [self.table.remove().await, self.remove_counters().await] {
            if let Err(error) = removed {
                self.tell(format_args!(
                    "a table of the drill's, {}, is left behind: {error}",
                    self.table.name
                ));
            }
        }
    }

    async fn remove_counters(&self) -> Result<(), WriteError> {
        self.counters.remove(&self.table).await
    }

    fn is_of_service(&self) -> bool {
        self.settings.event == FailoverEvent::AwsFailover
    }

    async fn beside(&self, run: u32, pgbouncer: &PgBouncer) -> Result<Beside, DrillError> {
        let table = Table { address: pgbouncer.address.clone(), name: self.table.name.clone() };
        Beside::start(table, run, self.beat(), self.clock.origin).await
    }

    /// Whoever goes by the name gets as long as it is stale, and then some.
    fn name_is_followed_within(&self) -> Duration {
        Duration::from_secs(self.settings.name_delay.into()) + NAME_IS_FOLLOWED_WITHIN
    }

    fn beat(&self) -> Duration {
        if self.settings.fine { FINE_BEAT } else { BEAT }
    }

    fn patience(&self, with_a_sandbox: Duration) -> Duration {
        if self.subject.is_a_person_s() { PERSON_TIMEOUT } else { with_a_sandbox }
    }

    fn not_whole(&self, run: u32, complaint: String) -> DrillError {
        DrillError::NotWhole { run, complaint, seconds: self.patience(STEADY_TIMEOUT).as_secs() }
    }

    fn no_rejoin(&self, run: u32, complaint: String) -> DrillError {
        DrillError::NoRejoin { run, complaint, seconds: self.patience(REJOIN_TIMEOUT).as_secs() }
    }

    fn no_failover(&self, run: u32, server: &str, lacks: &'static str, incidents: &[Incident]) -> DrillError {
        let seconds = self.patience(RECOVERY_TIMEOUT).as_secs();
        let timeline: String =
            incidents.iter().map(|one| format!("\n  {}: {}", one.subject, one.text)).collect();
        let timeline = if timeline.is_empty() { " nothing".to_owned() } else { timeline };
        DrillError::NoFailover { run, server: server.to_owned(), lacks, seconds, timeline }
    }

    fn broken(&self) -> MutexGuard<'_, Option<String>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Option<Backlog>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, text: impl Display) {
        (self.say)(&text.to_string());
    }
}

fn ms(length: Duration) -> f64 {
    length.as_secs_f64() * 1e3
}
