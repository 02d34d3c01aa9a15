//! Whether a failover tonight would come off: what it needs of the servers, of the operating role and of the agents.
//!
//! Pure.

use std::sync::Arc;

use super::{Examined, Finding, Verdict, add};
use crate::cluster::model::{Facts, View};
use crate::cluster::operate::privilege::Privilege;
use crate::config::{Failover, FailoverMode, SyncMode};
use crate::pki::Certificate;
use crate::topology::ServerState;

/// What komainu can do to one server, as far as it was tried.
#[derive(Debug, Clone)]
pub struct Readiness {
    pub server: String,
    /// What the operating role may not do there, or why that is not known.
    pub operating: Result<Vec<Privilege>, String>,
    /// Whether the agent answers. None: the server has none.
    pub agent: Option<Result<(), String>>,
    /// That the agent showed last. None: it was never reached.
    pub certificate: Option<Certificate>,
}

pub(super) fn failover(findings: &mut Vec<Finding>, view: &View, examined: &Examined<'_>) {
    let settings = &examined.in_force.failover;
    if settings.mode != FailoverMode::Streaming {
        return;
    }
    let (verdict, text) = match (examined.now.state.failover_paused(), settings.automatic) {
        (true, _) => (
            Verdict::Wrong,
            "automatic failover is paused, so nobody is promoted: `komainu failover resume` ends that",
        ),
        (false, false) => (Verdict::Fine, "only orders promote (failover.automatic is off)"),
        (false, true) => (Verdict::Fine, "a primary that is lost is replaced"),
    };
    add(findings, "cluster", "failover", verdict, text);
    for (server, detail) in view.snapshot.servers.iter().zip(&view.details) {
        let mut say = |verdict, text| add(findings, "server", &server.id, verdict, text);
        rewinds(&mut say, &detail.facts);
        speaks(&mut say, &detail.facts, settings);
        is_named(&mut say, view, &server.id, &detail.facts, settings);
    }
    for ready in &examined.readiness {
        let mut say = |verdict, text| add(findings, "server", &ready.server, verdict, text);
        operating(&mut say, ready, &settings.user);
        agent(&mut say, ready);
    }
}

fn rewinds(say: &mut impl FnMut(Verdict, String), facts: &Option<Arc<Facts>>) {
    let Some(facts) = facts else { return };
    if !facts.wal_log_hints && !facts.data_checksums {
        let text = "it has neither data checksums nor wal_log_hints, so as a former primary it can never be rewound and is \
                    copied whole: set wal_log_hints = on and restart it";
        say(Verdict::Wrong, text.to_owned());
    }
}

/// An end of a replication connection asks the other after half of its timeout: only so there is news of a primary that
/// has nothing to send, and its standbys are witnesses that it lives.
fn speaks(say: &mut impl FnMut(Verdict, String), facts: &Option<Arc<Facts>>, settings: &Failover) {
    let Some(facts) = facts else { return };
    let timeouts = [
        ("wal_sender_timeout", facts.timeouts.sender_ms),
        ("wal_receiver_timeout", facts.timeouts.receiver_ms),
    ];
    for (name, ms) in timeouts {
        if ms == 0 || ms > settings.silence_ms {
            let now = if ms == 0 { "off".to_owned() } else { format!("{ms} ms") };
            let text = format!(
                "{name} is {now}: an idle primary is heard of too seldom to count as alive, and who vanished is noticed late; \
                 set it to {} ms or less (failover.silence_ms) and reload",
                settings.silence_ms
            );
            say(Verdict::Wrong, text);
        }
    }
}

/// PostgreSQL waits for names, and komainu names servers by their ids. Nobody waits for one behind another standby.
fn is_named(
    say: &mut impl FnMut(Verdict, String),
    view: &View,
    id: &str,
    facts: &Option<Arc<Facts>>,
    settings: &Failover,
) {
    let Some(facts) = facts.as_deref().filter(|_| settings.sync_mode != SyncMode::Off) else { return };
    let Some(receiver) = facts.receiver.as_ref().filter(|receiver| receiver.name != id) else { return };
    let standbys = view.snapshot.indexed().filter(|(index, _)| view.snapshot.primary != Some(*index));
    let is_behind = |(_, other): (_, &ServerState)| {
        let upstream = facts.upstream.as_ref();
        upstream.is_some_and(|upstream| upstream.host == *other.host && upstream.port == other.port)
    };
    if standbys.into_iter().any(is_behind) {
        return;
    }
    let text = format!(
        "it streams as {}, so no commit can wait for it: the leader sets application_name={id} in its primary_conninfo; if \
         this stays, `komainu events` has an action_failed that says why",
        receiver.name
    );
    say(Verdict::Wrong, text);
}

fn operating(say: &mut impl FnMut(Verdict, String), ready: &Readiness, role: &str) {
    match &ready.operating {
        Ok(lacking) if lacking.is_empty() => {
            say(Verdict::Fine, format!("{role} may do there what a failover needs"));
        }
        Ok(lacking) => {
            let grants: Vec<String> = lacking.iter().map(|privilege| privilege.grant(role)).collect();
            let grants = grants.join(" ");
            say(
                Verdict::Wrong,
                format!("{role} may not do all that a failover needs; a superuser allows it: {grants}"),
            );
        }
        Err(error) => say(Verdict::Unknown, error.clone()),
    }
}

fn agent(say: &mut impl FnMut(Verdict, String), ready: &Readiness) {
    match &ready.agent {
        Some(Ok(())) => say(Verdict::Fine, "its agent answers".to_owned()),
        Some(Err(error)) => say(Verdict::Wrong, format!("its agent does not answer: {error}")),
        None => {
            let text = "it has no agent (server.agent): once it is a former primary nobody brings it back, and it cannot be \
                        switched over from";
            say(Verdict::Wrong, text.to_owned());
        }
    }
}
