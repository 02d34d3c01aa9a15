//! All that is measured, gathered when it is to be shown.
//!
//! Never changes anything. Invariant: what cannot be known now has no sample, rather than a wrong one.

use std::time::SystemTime;

use komainu_escalation::finding::Verdict;
use komainu_escalation::{Finding, Reason, State};

use super::cluster_status::EndpointHere;
use super::{AdminState, ClusterPages, rejoining, server_users};
use crate::cluster::missing_standbys::missing_standbys;
use crate::cluster::state::ClusterState;
use crate::telemetry::labels::{InstancesTrouble, Label as _, PrimaryChange, Standstill};
use crate::telemetry::process::Process;
use crate::telemetry::samples::{self, EndpointNumbers, Family, NodeNumbers, Numbers};

impl AdminState {
    pub fn measured(&self) -> Vec<Family> {
        let view = self.view.borrow().clone();
        let jobs = self.cluster.as_ref().map(|cluster| cluster.jobs.borrow().clone()).unwrap_or_default();
        let rejoining: Vec<_> = jobs.iter().map(|(server, job)| rejoining::numbers(server, job)).collect();
        let now_ms = self.clock.now_ms();
        let facts = view.details.iter().map(|detail| detail.facts.as_deref());
        let archived_ms: Vec<_> = facts.map(|facts| facts?.archived_ms_ago(now_ms)).collect();
        let node = self.cluster.as_ref().map(of_node);
        let own = self.cluster.as_ref().and_then(|cluster| cluster.handle.certificate_ends());
        samples::families(&Numbers {
            version: env!("CARGO_PKG_VERSION"),
            totals: &self.counters.totals(),
            census: &(self.activity.census)(),
            snapshot: &view.snapshot,
            paused_primary: view.paused_primary,
            standbys_missing: missing_standbys(&view),
            rejoining: &rejoining,
            archived_ms: &archived_ms,
            password_troubles: server_users::troubles(&(self.server_users)()),
            instances_trouble: (self.instances)().as_ref().map(instances_trouble),
            node: node.as_ref(),
            certificate_remaining_s: own.into_iter().chain(*self.certificates_end.borrow()).min().map(until),
            process: Process::read(),
            started_at: self.clock.wall_time(0),
        })
    }
}

fn instances_trouble(finding: &Finding) -> Option<InstancesTrouble> {
    let Verdict::Wrong { reason, .. } = finding.verdict else { return None };
    Some(InstancesTrouble::of(reason))
}

fn of_node(cluster: &ClusterPages) -> NodeNumbers {
    let (handle, applied) = (&cluster.handle, cluster.handle.applied());
    let endpoints = (cluster.endpoints)();
    let of_hosts: usize = (cluster.hosts)().iter().map(|(_, findings)| missing(findings)).sum();
    let of_endpoints: usize = endpoints.iter().map(|endpoint| missing(&endpoint.findings)).sum();
    NodeNumbers {
        changes: (!applied.state.members().is_empty()).then(|| changes(&applied.state)),
        standstill: applied.state.standstill().and_then(Standstill::of),
        lease_remaining_ms: handle.lease().remaining_ms(),
        permissions_missing: (of_hosts + of_endpoints) as u64,
        endpoints: endpoints.into_iter().map(|endpoint| of_endpoint(&applied.state, endpoint)).collect(),
    }
}

/// In seconds; negative: it is past.
fn until(then: SystemTime) -> f64 {
    match then.duration_since(SystemTime::now()) {
        Ok(left) => left.as_secs_f64(),
        Err(ended) => -ended.duration().as_secs_f64(),
    }
}

fn changes(state: &ClusterState) -> [u64; PrimaryChange::COUNT] {
    let told = state.hooks().changes();
    let mut changes = [0; PrimaryChange::COUNT];
    changes[PrimaryChange::Failover.index()] = told.failovers;
    changes[PrimaryChange::Switchover.index()] = told.switchovers;
    changes
}

fn missing(findings: &[Finding]) -> usize {
    let lacks = |finding: &&Finding| {
        let Verdict::Wrong { reason, .. } = &finding.verdict else { return false };
        matches!(reason, Reason::PermissionMissing | Reason::NotPermitted)
    };
    findings.iter().filter(lacks).count()
}

fn of_endpoint(state: &ClusterState, here: EndpointHere) -> EndpointNumbers {
    let wrong = here.findings.iter().filter(|finding| finding.is_wrong()).count();
    let status = here.status.as_ref();
    let counts = status.map(|status| status.counts.clone()).unwrap_or_default();
    EndpointNumbers {
        epoch: state.endpoints().get(&here.name).map(|endpoint| endpoint.epoch.0),
        is_here: status.is_some_and(|status| status.state == State::Held && status.holding.all()),
        problems: wrong as u64 + u64::from(here.error.is_some()),
        drift_corrected: counts.drift_corrected,
        throttled: counts.throttled,
        moves: counts.moves,
        name: here.name,
        method: here.method,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_permissions_count_as_missing_ones() {
        let findings = [
            Finding::wrong("ec2:ReplaceRoute", Reason::PermissionMissing, "denied"),
            Finding::wrong("ec2:DescribeRouteTables", Reason::NotPermitted, "denied"),
            Finding::wrong("rtb-1", Reason::TargetMissing, "no such table"),
            Finding::fine("ec2:CreateRoute"),
            Finding::unknown("eni-1", "no answer"),
        ];
        assert_eq!(missing(&findings), 2);
        let here = EndpointHere {
            name: "app".to_owned(),
            method: "route-table",
            status: None,
            error: Some("no metadata".to_owned()),
            findings: findings.to_vec(),
        };
        let numbers = of_endpoint(&ClusterState::default(), here);
        assert_eq!((numbers.problems, numbers.is_here, numbers.epoch), (4, false, None));
    }
}
