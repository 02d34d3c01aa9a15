//! A moment at which every metric has a sample, for the tests of the ways out.

use std::time::{Duration, SystemTime};

use komainu_escalation::status::MoveTime;

use super::{EndpointNumbers, Family, NodeNumbers, Numbers, PoolCensus, Rejoining, families};
use crate::cluster::model::View;
use crate::config;
use crate::telemetry::Counters;
use crate::telemetry::labels::{
    CancelResult, Direction, HookLabel, HookResult, InstancesTrouble, LoginFailure, MetricsWay, PinReason,
    QueryClass, ReadToPrimary, RejoinPhase, Rule, Standstill,
};
use crate::telemetry::process::Process;
use crate::topology::{Epoch, Health, Role, ServerIndex};

pub fn everything() -> Vec<Family> {
    let counters = Counters::default();
    count(&counters);
    everything_with(&counters)
}

/// What happens in a second.
pub fn count(counters: &Counters) {
    counters.client_connected();
    counters.login_failed(LoginFailure::Hba);
    counters.cancel_request(CancelResult::Sent);
    counters.queries(ServerIndex(1), QueryClass::Read, 1);
    counters.queries(ServerIndex(0), QueryClass::Write, 2);
    counters.read_to_primary(ReadToPrimary::Hint);
    counters.bytes(Direction::ToClients, 5);
    counters.pinned(PinReason::Listen);
    counters.pinned(PinReason::Listen);
    counters.unpinned(PinReason::Listen);
    counters.floor_lowered();
    counters.hook(HookLabel::OnDetach, HookResult::TimedOut);
    counters.plan_rejected(Rule::Fence);
    counters.acquired_at_once();
    counters.acquired_after(Duration::from_millis(2));
    counters.answered_after_ms(0);
    counters.answered_after_ms(100);
    counters.answered_after_ms(200);
    counters.metrics_dropped(MetricsWay::PutMetricData, 4);
}

pub fn everything_with(counters: &Counters) -> Vec<Family> {
    let server = |id: &str| config::Server::at(id, "localhost", 5432);
    let mut snapshot = View::new(&[server("a"), server("b\\\"\n")]).snapshot;
    snapshot.primary = Some(ServerIndex(0));
    snapshot.epoch = Epoch(7);
    snapshot.servers[0].health = Health::Up;
    snapshot.servers[0].role = Role::Primary;
    snapshot.servers[1].health = Health::Up;
    snapshot.servers[1].role = Role::Standby;
    snapshot.servers[1].lag_bytes = Some(8192);
    snapshot.servers[1].lag_ms = Some(1500);
    let endpoint = |name: &str, method, is_here| EndpointNumbers {
        name: name.to_owned(),
        method,
        epoch: Some(3),
        is_here,
        ..EndpointNumbers::default()
    };
    let spent = |phase, ms, count| MoveTime { phase, ms, count };
    let node = NodeNumbers {
        changes: Some([1, 2]),
        standstill: Some(Standstill::FailoverPaused),
        lease_remaining_ms: 1500,
        permissions_missing: 1,
        endpoints: vec![
            EndpointNumbers {
                problems: 1,
                drift_corrected: 5,
                throttled: 6,
                moves: vec![spent("total", 1500.0, 2), spent("associate", 200.0, 2)],
                ..endpoint("app", "elastic-ip", true)
            },
            EndpointNumbers {
                moves: vec![spent("total", 500.0, 1)],
                ..endpoint("reports", "elastic-ip", false)
            },
        ],
    };
    families(&Numbers {
        version: "1.2.3",
        totals: &counters.totals(),
        census: &PoolCensus {
            connections: [0, 1].map(|server| (ServerIndex(server), [1, 2, 3])).into(),
            waiters: 4,
            held: 6,
            held_bytes: 70,
        },
        snapshot: &snapshot,
        paused_primary: None,
        standbys_missing: Some(1),
        rejoining: &[Rejoining {
            server: "b",
            phase: Some(RejoinPhase::Copying),
            bytes: Some((10, 30)),
            failures: 2,
        }],
        archived_ms: &[Some(2500), None],
        password_troubles: [1, 0, 0, 0, 2, 0, 0],
        instances_trouble: Some(Some(InstancesTrouble::Throttled)),
        node: Some(&node),
        certificate_remaining_s: Some(-86_400.0),
        process: Process { cpu: Duration::from_millis(1250), resident_bytes: 99, dropped_lines: 3 },
        started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(10),
    })
}
