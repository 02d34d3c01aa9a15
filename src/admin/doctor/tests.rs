use std::sync::Arc;
use std::time::{Duration, SystemTime};

use komainu_escalation::{Finding as Probe, Reason as Why};

use super::*;
use crate::cluster::model::{Archive, Facts, Receiver, ReplicationTimeouts, View};
use crate::cluster::operate::privilege::Privilege;
use crate::cluster::reason::Reason;
use crate::cluster::state::{Change, ClusterState, Command, Member};
use crate::config::{CertificateFile, file};
use crate::consensus::node::{About, Known, NodeStatus, PeerStatus};
use crate::pki::{Certificate, Found};
use crate::topology::{Epoch, Role, ServerIndex};

const TEXT: &str = "[listen]\naddresses = ['127.0.0.1:5432']\n[auth]\nhba_file = 'hba'\n[health]\nuser = 'k'\n\
    [cluster]\nname = 'shop'\n[[node]]\nid = 'a'\nhost = 'ha'\n[[node]]\nid = 'b'\nhost = 'hb'\n\
    [[node]]\nid = 'c'\nhost = 'hc'\n[[server]]\nid = 'pg1'\nhost = 'db'\n";

fn config(text: &str) -> Config {
    file::parse(text, std::path::Path::new("/etc/komainu/komainu.toml"), 1).unwrap().0
}

fn apply(state: &mut ClusterState, change: Change) {
    let (node, cause, reason) = ("a".to_owned(), String::new(), String::new());
    state.apply(Command { at_ms: 0, node, cause, reason, change });
}

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn certificate_of(days: u64) -> Certificate {
    Certificate {
        subject: format!("CN=of-{days}-days"),
        is_authority: true,
        node: None,
        names: Vec::new(),
        addresses: Vec::new(),
        not_before: NOW,
        not_after: NOW + Duration::from_secs(days * 86_400),
        public_key: Vec::new(),
    }
}

/// One whose certificates end in so many days.
fn file_with(path: &str, ends_in_days: &[u64]) -> Found {
    let file = CertificateFile { key: "cluster.pki_directory", path: path.into(), of_authorities: true };
    Found { file, certificates: Ok(ends_in_days.iter().copied().map(certificate_of).collect()) }
}

/// A cluster in which all is well.
struct Night {
    view: View,
    node: NodeStatus,
    state: ClusterState,
    endpoints: Vec<EndpointHere>,
    certificate: Option<String>,
    local: Config,
    in_force: Config,
    agreed: Result<Config, String>,
    hosts: Vec<(String, Vec<komainu_escalation::Finding>)>,
    readiness: Vec<Readiness>,
    files: Certificates,
}

impl Night {
    fn quiet(voters: &[&str]) -> Self {
        let in_force = config(TEXT);
        let mut view = View::new(&in_force.servers);
        view.snapshot.primary = Some(ServerIndex(0));
        view.snapshot.epoch = Epoch(1);
        view.snapshot.servers[0].health = Health::Up;
        view.snapshot.servers[0].role = Role::Primary;
        view.details[0].reason = None;
        view.no_primary = None;
        let member = |(index, id): (usize, &&str)| Member {
            id: (*id).to_owned(),
            raft_id: index as u64 + 1,
            incarnation: 1,
            address: format!("h{id}:7400"),
            role: MemberRole::Voter,
        };
        let members = voters.iter().enumerate().map(member).collect();
        let mut state = ClusterState::default();
        let (cluster_id, configuration) = ("x".to_owned(), TEXT.to_owned());
        apply(&mut state, Change::CreateCluster { cluster_id, members, configuration });
        let (endpoint, owner) = ("app".to_owned(), Some("a".to_owned()));
        apply(&mut state, Change::AssignEndpoint { endpoint, epoch: Epoch(0), owner });
        let peer = |id: &&str| PeerStatus {
            id: (*id).to_owned(),
            address: format!("h{id}:7400"),
            failure: None,
            known: None,
        };
        let node = NodeStatus {
            node: "a".to_owned(),
            raft_id: Some(1),
            leader: Some("b".to_owned()),
            term: 2,
            lease_remaining_ms: 700,
            peers: voters[1..].iter().map(peer).collect(),
            ..NodeStatus::default()
        };
        let here = EndpointHere {
            name: "app".to_owned(),
            method: "elastic-ip",
            status: None,
            error: None,
            findings: vec![Probe::fine("ec2:AssociateAddress")],
        };
        Night {
            view,
            node,
            state,
            endpoints: vec![here],
            certificate: None,
            local: in_force.clone(),
            agreed: Ok(in_force.clone()),
            hosts: Vec::new(),
            readiness: Vec::new(),
            files: Certificates { found: vec![file_with("/k/pki/ca.crt", &[400])], at: NOW },
            in_force,
        }
    }

    fn not_fine(&self) -> Vec<String> {
        let Night {
            view,
            node,
            state,
            endpoints,
            certificate,
            local,
            in_force,
            agreed,
            hosts,
            readiness,
            files,
        } = self;
        let examined = Examined {
            now: ClusterNow { node, state, endpoints, jobs: &Default::default() },
            certificate: certificate.clone(),
            local,
            in_force,
            agreed: agreed.clone(),
            hosts: hosts.clone(),
            readiness: readiness.clone(),
        };
        let findings = examine(view, files, Some(&examined)).into_iter();
        let not_fine = findings.filter(|finding| finding.verdict != Verdict::Fine);
        not_fine
            .map(|finding| {
                format!("{:?} {} {}: {}", finding.verdict, finding.about, finding.subject, finding.text)
            })
            .collect()
    }
}

#[test]
fn a_quiet_night_has_nothing_to_tell() {
    assert_eq!(Night::quiet(&["a", "b", "c"]).not_fine(), [""; 0]);
    let alone = Night::quiet(&["a", "b", "c"]);
    assert!(examine(&alone.view, &alone.files, None).iter().all(|finding| finding.verdict == Verdict::Fine));
}

/// What is done to a quiet night, and what is told of it then.
type Case = (fn(&mut Night), &'static str);

#[test]
fn each_thing_that_would_go_wrong_is_told() {
    let cases: &[Case] = &[
        (|night| night.node.leader = None, "Wrong cluster x: no leader is known"),
        (|night| night.node.waiting_for = "the disk is full".to_owned(), "take part: the disk is full"),
        (|night| night.node.lease_remaining_ms = 0, "Wrong lease a: this node has no lease"),
        (
            |night| night.node.peers[0].failure = Some("connection refused".to_owned()),
            "Wrong node b: hb:7400 cannot be reached from here: connection refused",
        ),
        (
            |night| night.certificate = Some("a expires in 3 days".to_owned()),
            "Wrong certificate a: a expires",
        ),
        (
            |night| night.files.found.push(file_with("/k/admin.crt", &[90, 12])),
            "Wrong certificate cluster.pki_directory: /k/admin.crt: the certificate of CN=of-12-days ends: 12 days left",
        ),
        (
            |night| night.files.found[0].certificates = Err("/k/pki/ca.crt: no such file".to_owned()),
            "Unknown certificate cluster.pki_directory: /k/pki/ca.crt: no such file",
        ),
        (
            |night| {
                night.view.details[0].facts =
                    Some(Arc::new(Facts { connections: Some(269), ..Facts::bare(false, 1, 1) }));
            },
            "Wrong server pg1: 3 nodes may open 270 connections to it, and it has 269 (max_connections less the reserved \
             ones): lower pool.max_server_connections from 90 to less than 89, or raise max_connections",
        ),
        (
            |night| {
                night.view.snapshot.primary = None;
                night.view.no_primary = Some(Reason::Paused);
                night.view.paused_primary = Some(ServerIndex(0));
            },
            "Wrong server pg1: it is the primary and paused by order: what begins there waits; `komainu server resume pg1`",
        ),
        (
            |night| {
                night.view.snapshot.primary = None;
                night.view.no_primary = Some(Reason::NoLease);
            },
            "Wrong server primary: there is none: this node has no lease",
        ),
        (
            |night| {
                night.view.snapshot.servers[0].health = Health::Down;
                night.view.snapshot.servers[0].reason = "it is gone".into();
            },
            "Wrong server pg1: it is gone",
        ),
        (
            |night| night.view.snapshot.servers[0].health = Health::Unknown,
            "Unknown server pg1: the server has not been looked at yet",
        ),
        (
            |night| {
                let missing = komainu_escalation::Reason::PermissionMissing;
                let finding = komainu_escalation::Finding::wrong("ec2:StopInstances on i-1", missing, "");
                night.hosts.push(("pg1".to_owned(), vec![finding]));
            },
            "Wrong server pg1: ec2:StopInstances on i-1: it could not be done tonight",
        ),
        (
            |night| night.endpoints[0].error = Some("no metadata".to_owned()),
            "Wrong endpoint app: this node could not take it: no metadata",
        ),
        (
            |night| {
                let missing = Probe::wrong("ec2:AssociateAddress", Why::PermissionMissing, "DryRun");
                night.endpoints[0].findings = vec![missing, Probe::unknown("eipalloc-1", "throttled")];
            },
            "Wrong endpoint app: ec2:AssociateAddress: it could not be done tonight: a permission is \
             missing (DryRun); Unknown endpoint app: eipalloc-1: throttled",
        ),
        (|night| night.endpoints[0].name = "web".to_owned(), "Wrong endpoint web: nobody owns it"),
        (
            |night| night.local = config(&format!("{TEXT}[pool]\nsize = 3\n")),
            "Wrong configuration version 1: this node's file says otherwise, which does not count: pool.size",
        ),
        (
            |night| {
                let new = config(&format!("{TEXT}[split]\ncatalog_max_age_ms = 7000\n"));
                (night.local, night.agreed) = (new.clone(), Ok(new));
            },
            "must be restarted before these are in force: split.catalog_max_age_ms",
        ),
        (
            |night| night.agreed = Err("this node cannot use it: …".to_owned()),
            "Wrong configuration version 1: this node cannot use it: …",
        ),
    ];
    for (change, expected) in cases {
        let mut night = Night::quiet(&["a", "b", "c"]);
        change(&mut night);
        let told = night.not_fine().join("; ");
        assert!(told.contains(expected), "{expected:?} is not in {told:?}");
    }
    let few = Night::quiet(&["a"]).not_fine();
    assert_eq!(few.len(), 1, "{few:?}");
    assert!(few[0].contains("1 voter(s): the loss of one stops all"), "{few:?}");
}

#[test]
fn a_primary_whose_number_is_not_its_place_is_found() {
    let mut night = Night::quiet(&["a", "b", "c"]);
    // Others were removed before it.
    night.view.snapshot.servers[0].index = ServerIndex(7);
    night.view.snapshot.primary = Some(ServerIndex(7));
    assert_eq!(night.not_fine(), [""; 0]);
}

#[test]
fn an_endpoint_that_moves_is_not_yet_known_to_be_well() {
    let mut night = Night::quiet(&["a", "b", "c"]);
    let fenced = Fenced::Endpoint("app".to_owned());
    apply(&mut night.state, Change::OpenFence { fenced, epoch: Epoch(1) });
    assert_eq!(night.not_fine(), ["Unknown endpoint app: it is on its way to another node"]);
}

#[test]
fn clocks_and_versions_of_those_that_answer_are_compared() {
    let with = |version: &str, wall_ms, took_ms| {
        let mut night = Night::quiet(&["a", "b", "c"]);
        let about = About { version: version.to_owned(), wall_ms };
        night.node.peers[0].known = Some(Known::new(about, 1_000_000, took_ms));
        night
    };
    let ours = env!("CARGO_PKG_VERSION");
    assert_eq!(with(ours, 1_000_900, 0).not_fine(), [""; 0]);
    assert_eq!(with(ours, 1_003_000, 6_000).not_fine(), [""; 0], "a slow answer shows nothing");
    let ahead = with(ours, 1_002_500, 10).not_fine();
    assert!(ahead.len() == 1 && ahead[0].contains("2.5 s ahead of"), "{ahead:?}");
    let behind = with(ours, 990_000, 10).not_fine();
    assert!(behind[0].contains("10.0 s behind"), "{behind:?}");
    let other = with("0.0.9", 1_000_000, 0).not_fine();
    assert!(other.len() == 1 && other[0].contains("komainu 0.0.9"), "{other:?}");
    let mut gone = with("0.0.9", 0, 0);
    gone.node.peers[0].failure = Some("connection refused".to_owned());
    assert_eq!(gone.not_fine().len(), 1, "what it said before it went is not held against it");
}

#[test]
fn a_standby_that_reads_the_archive_needs_one_that_is_filled() {
    let with = |archive: Option<Archive>, reads_archive: bool| {
        let text = format!("{TEXT}[[server]]\nid = 'pg2'\nhost = 'db2'\n");
        let mut night = Night::quiet(&["a", "b", "c"]);
        (night.in_force, night.local, night.agreed) = (config(&text), config(&text), Ok(config(&text)));
        let primary = (night.view.snapshot.clone(), night.view.details[0].clone());
        night.view = View { snapshot: primary.0, ..View::new(&night.in_force.servers) };
        let standby = View::new(&night.in_force.servers).snapshot.servers[1].clone();
        night.view.snapshot.servers.push(standby);
        night.view.snapshot.servers[1].health = Health::Up;
        (night.view.details[0], night.view.details[1].reason) = (primary.1, None);
        night.view.no_primary = None;
        night.view.details[1].replication_state = reads_archive.then(|| "archive".to_owned());
        night.view.details[0].facts =
            archive.map(|archive| Arc::new(Facts { archive: Some(archive), ..facts() }));
        night.not_fine()
    };
    let archive = |fails| Archive { last: Some("1".to_owned()), age_ms: Some(7), fails };
    assert_eq!(with(None, false), [""; 0]);
    assert_eq!(with(Some(archive(false)), true), [""; 0]);
    let nothing = with(None, true);
    assert!(nothing.len() == 1 && nothing[0].contains("pg1: it archives nothing, and pg2"), "{nothing:?}");
    let failing = with(Some(archive(true)), true);
    assert!(failing.len() == 1 && failing[0].contains("archive_command fails"), "{failing:?}");
}

fn facts() -> Facts {
    Facts {
        timeouts: ReplicationTimeouts { sender_ms: 2_000, receiver_ms: 2_000 },
        ..Facts::bare(false, 1, 1)
    }
}

#[test]
fn what_a_failover_needs_is_found_out_before() {
    let with = |text: &str, change: &dyn Fn(&mut Facts, &mut Readiness, &mut ClusterState)| {
        let mut night = Night::quiet(&["a", "b", "c"]);
        let text = format!("{TEXT}[failover]\n{text}\n");
        (night.in_force, night.local, night.agreed) = (config(&text), config(&text), Ok(config(&text)));
        let mut facts = facts();
        let mut ready = Readiness {
            server: "pg1".to_owned(),
            operating: Ok(Vec::new()),
            agent: Some(Ok(())),
            certificate: Some(certificate_of(300)),
        };
        change(&mut facts, &mut ready, &mut night.state);
        night.view.details[0].facts = Some(Arc::new(facts));
        night.readiness = vec![ready];
        night.not_fine()
    };
    const STREAMING: &str = "mode = 'streaming'\nuser = 'ops'\nreplication_user = 'rep'";
    assert_eq!(with(STREAMING, &|_, _, _| {}), [""; 0]);
    let checksums = |facts: &mut Facts| (facts.wal_log_hints, facts.data_checksums) = (false, true);
    assert_eq!(with(STREAMING, &|facts, _, _| checksums(facts)), [""; 0]);

    type Spoil = fn(&mut Facts, &mut Readiness, &mut ClusterState);
    let cases: [(Spoil, &str); 8] = [
        (|facts, _, _| facts.wal_log_hints = false, "Wrong server pg1: it has neither data checksums nor"),
        (|facts, _, _| facts.timeouts.sender_ms = 60_000, "Wrong server pg1: wal_sender_timeout is 60000 ms"),
        (|facts, _, _| facts.timeouts.receiver_ms = 0, "Wrong server pg1: wal_receiver_timeout is off"),
        (
            |_, ready, _| ready.operating = Ok(vec![Privilege::Promote, Privilege::Checkpoint]),
            "pg_promote(boolean, integer) TO ops; GRANT pg_checkpoint TO ops;",
        ),
        (|_, ready, _| ready.operating = Err("no way".to_owned()), "Unknown server pg1: no way"),
        (|_, ready, _| ready.agent = Some(Err("refused".to_owned())), "agent does not answer: refused"),
        (|_, ready, _| ready.agent = None, "it has no agent (server.agent)"),
        (|_, _, state| apply(state, Change::PauseFailover { paused: true }), "`komainu failover resume`"),
    ];
    for (spoil, told) in cases {
        let found = with(STREAMING, &spoil);
        assert!(found.len() == 1 && found[0].contains(told), "{told}: {found:?}");
        assert_eq!(with("mode = 'off'", &spoil), [""; 0], "somebody else fails over");
    }
    let misnamed = |facts: &mut Facts| {
        let (status, name) = ("streaming".to_owned(), "15/main".to_owned());
        facts.receiver = Some(Receiver { status, name, message_age_ms: None, timeline: Some(1) });
    };
    assert_eq!(with(STREAMING, &|facts, _, _| misnamed(facts)), [""; 0], "no commit waits");
    let found = with(&format!("{STREAMING}\nsync_mode = 'prefer'"), &|facts, _, _| misnamed(facts));
    assert!(found.len() == 1 && found[0].contains("it streams as 15/main"), "{found:?}");
    assert_eq!(
        with(STREAMING, &|_, ready, _| ready.certificate = Some(certificate_of(12))),
        ["Wrong certificate pg1: its agent: the certificate of CN=of-12-days ends: 12 days left"]
    );
}
