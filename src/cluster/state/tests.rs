mod late;

use proptest::prelude::*;

use crate::topology::Epoch;

use super::*;

fn command(change: Change) -> Command {
    Command {
        at_ms: 1000,
        node: "a".to_owned(),
        cause: "decision".to_owned(),
        reason: "test".to_owned(),
        change,
    }
}

fn member(id: &str, raft_id: u64, incarnation: u64) -> Member {
    let address = format!("{id}.example:7000");
    Member { id: id.to_owned(), raft_id, incarnation, address, role: MemberRole::Voter }
}

fn created() -> ClusterState {
    let mut state = ClusterState::default();
    let members = vec![member("a", 1, 1), member("b", 2, 1), member("c", 3, 1)];
    let create =
        Change::CreateCluster { cluster_id: "x1".to_owned(), members, configuration: "one".to_owned() };
    assert_eq!(state.apply(command(create)), Outcome::Accepted(Accepted::Changed));
    let servers = vec!["pg1".to_owned(), "pg2".to_owned()];
    assert_eq!(state.apply(command(Change::SetServers { servers })), Outcome::Accepted(Accepted::Changed));
    state
}

fn name(epoch: u64, server: &str) -> Command {
    command(Change::NamePrimary { epoch: Epoch(epoch), server: server.to_owned(), promotes: false })
}

fn assign(epoch: u64, owner: Option<&str>) -> Command {
    let (endpoint, owner) = ("main".to_owned(), owner.map(str::to_owned));
    command(Change::AssignEndpoint { endpoint, epoch: Epoch(epoch), owner })
}

fn epoch(epoch: u64) -> Outcome {
    Outcome::Accepted(Accepted::Epoch(Epoch(epoch)))
}

const CHANGED: Outcome = Outcome::Accepted(Accepted::Changed);
const UNCHANGED: Outcome = Outcome::Accepted(Accepted::Unchanged);

#[test]
fn a_primary_follows_another_only_over_a_fence_that_has_passed() {
    let mut state = created();
    assert_eq!(state.apply(name(0, "pg1")), epoch(1));
    let confirm = |epoch, timeline| command(Change::ConfirmPrimary { epoch: Epoch(epoch), timeline });
    assert_eq!(state.apply(confirm(1, 4)), CHANGED);
    assert_eq!(state.apply(confirm(1, 4)), UNCHANGED);
    assert_eq!(state.apply(confirm(1, 5)), Outcome::Refused(Refusal::OtherTimeline { current: 4 }));

    assert_eq!(state.apply(name(1, "pg2")), Outcome::Refused(Refusal::FenceNotPassed));
    let epoch_1 = Epoch(1);
    let open = command(Change::OpenFence { fenced: Fenced::Primary, epoch: epoch_1 });
    assert_eq!(state.apply(open.clone()), CHANGED);
    assert_eq!(state.apply(open), UNCHANGED);
    assert!(state.is_fenced(&Fenced::Primary));
    let node = "b".to_owned();
    let confirm_fence = Change::ConfirmFence { fenced: Fenced::Primary, epoch: epoch_1, node };
    assert_eq!(state.apply(command(confirm_fence)), CHANGED);
    assert!(state.fences()[0].confirmed_by.contains("b"));
    assert_eq!(state.apply(name(1, "pg2")), Outcome::Refused(Refusal::FenceNotPassed));
    let pass = Change::PassFence { fenced: Fenced::Primary, epoch: epoch_1 };
    assert_eq!(state.apply(command(pass)), CHANGED);

    assert_eq!(state.apply(name(1, "pg2")), epoch(2));
    let stale = Refusal::StaleEpoch { expected: Epoch(1), current: Epoch(2) };
    assert_eq!(state.apply(name(1, "pg1")), Outcome::Refused(stale), "one promotion for each epoch");
    assert!(!state.is_fenced(&Fenced::Primary));
    assert_eq!((state.primary().stage, state.primary().timeline), (Stage::Named, 0));
}

#[test]
fn a_named_primary_cannot_be_swapped_without_a_fence_either() {
    let mut state = created();
    state.apply(name(0, "pg1"));
    assert_eq!(state.apply(name(1, "pg2")), Outcome::Refused(Refusal::FenceNotPassed));
}

#[test]
fn an_endpoint_changes_hands_over_a_fence() {
    let mut state = created();
    assert_eq!(state.apply(assign(0, Some("a"))), epoch(1));
    assert_eq!(state.apply(assign(1, Some("b"))), Outcome::Refused(Refusal::FenceNotPassed));
    let fenced = || Fenced::Endpoint("main".to_owned());
    state.apply(command(Change::OpenFence { fenced: fenced(), epoch: Epoch(1) }));
    state.apply(command(Change::PassFence { fenced: fenced(), epoch: Epoch(1) }));
    assert_eq!(state.apply(assign(1, None)), epoch(2));
    let open = Change::OpenFence { fenced: fenced(), epoch: Epoch(2) };
    assert_eq!(state.apply(command(open)), Outcome::Refused(Refusal::NothingToFence));
    assert_eq!(state.apply(assign(2, Some("nobody"))), {
        Outcome::Refused(Refusal::NoMember { id: "nobody".to_owned() })
    });
    // An endpoint that was removed and comes back does not begin anew.
    let remove = Change::RemoveEndpoint { endpoint: "main".to_owned(), epoch: Epoch(2) };
    assert_eq!(state.apply(command(remove)), CHANGED);
    assert_eq!(state.apply(assign(0, Some("b"))), epoch(3));
    let remove = Change::RemoveMember { id: "b".to_owned(), incarnation: 1 };
    let refusal = Refusal::OwnsEndpoint { id: "b".to_owned(), endpoint: "main".to_owned() };
    assert_eq!(state.apply(command(remove)), Outcome::Refused(refusal));
}

#[test]
fn a_server_is_what_most_voters_say_and_else_unknown() {
    let mut state = created();
    let report = |node: &str, observed| Command {
        node: node.to_owned(),
        ..command(Change::ServerReport {
            server: "pg1".to_owned(),
            claim: Claim {
                observed,
                primary_on: (observed == Observed::Up).then_some(1),
                ..Claim::default()
            },
        })
    };
    let observed = |state: &ClusterState| state.servers()["pg1"].observed;
    let incidents = state.incidents().last_id();
    state.apply(report("a", Observed::Up));
    assert_eq!(observed(&state), Observed::Unknown);
    assert_eq!(state.incidents().last_id(), incidents);
    state.apply(report("b", Observed::Up));
    assert_eq!(observed(&state), Observed::Up);
    assert!(state.servers()["pg1"].says_primary(&state.members));
    assert_eq!(state.incidents().last_id(), incidents + 1);
    state.apply(report("c", Observed::Down));
    assert_eq!((observed(&state), state.incidents().last_id()), (Observed::Up, incidents + 1));
    state.apply(report("b", Observed::Down));
    assert_eq!(observed(&state), Observed::Down);
    state.apply(command(Change::ForgetReports { node: "b".to_owned() }));
    assert_eq!(observed(&state), Observed::Unknown);
    let stranger = report("d", Observed::Up);
    assert_eq!(state.apply(stranger), Outcome::Refused(Refusal::NoMember { id: "d".to_owned() }));
}

#[test]
fn a_proxy_reports_nothing_and_voters_are_few() {
    let mut state = created();
    let proxy = |id: &str, raft_id| Member { role: MemberRole::Proxy, ..member(id, raft_id, 1) };
    assert_eq!(state.apply(command(Change::AddMember { member: proxy("p", 4) })), CHANGED);
    let claim = Claim { observed: Observed::Up, primary_on: None, ..Claim::default() };
    let report = command(Change::ServerReport { server: "pg1".to_owned(), claim });
    let report = Command { node: "p".to_owned(), ..report };
    assert_eq!(state.apply(report), Outcome::Refused(Refusal::NoVoter { id: "p".to_owned() }));
    for raft_id in 5..9 {
        let member = member(&format!("n{raft_id}"), raft_id, 1);
        assert_eq!(state.apply(command(Change::AddMember { member })), CHANGED);
    }
    let too_many = command(Change::AddMember { member: member("n9", 9, 1) });
    assert!(matches!(state.apply(too_many), Outcome::Refused(Refusal::TooMuch { .. })));
    assert_eq!(state.apply(command(Change::AddMember { member: proxy("n9", 9) })), CHANGED);
}

#[test]
fn the_primary_is_neither_detached_nor_forgotten() {
    let mut state = created();
    state.apply(name(0, "pg1"));
    let refused = || Outcome::Refused(Refusal::PrimaryInUse { server: "pg1".to_owned() });
    let detach = |server: &str, version| {
        let (server, state) = (server.to_owned(), Administrative::Detached);
        command(Change::SetAdministrative { server, version, state, within_ms: None })
    };
    assert_eq!(state.apply(detach("pg1", 0)), refused());
    assert_eq!(state.apply(command(Change::SetServers { servers: vec!["pg2".to_owned()] })), refused());
    assert_eq!(state.apply(detach("pg2", 0)), Outcome::Accepted(Accepted::Version(1)));
    let stale = Refusal::StaleVersion { expected: 0, current: 1 };
    assert_eq!(state.apply(detach("pg2", 0)), Outcome::Refused(stale));
}

#[test]
fn a_configuration_and_its_servers_are_taken_as_one() {
    let mut state = created();
    state.apply(name(0, "pg1"));
    let servers = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let apply = |version, names: &[&str]| {
        let text = names.join(" ");
        command(Change::ApplyConfiguration { version, text, servers: servers(names) })
    };
    let refused = Refusal::PrimaryInUse { server: "pg1".to_owned() };
    assert_eq!(state.apply(apply(1, &["pg2"])), Outcome::Refused(refused.clone()));
    assert_eq!(state.configuration().version(), 1);
    assert_eq!(state.apply(apply(1, &["pg1", "pg9"])), Outcome::Accepted(Accepted::Version(2)));
    assert_eq!(state.servers().keys().collect::<Vec<_>>(), ["pg1", "pg9"]);
    assert_eq!(state.former_servers().iter().collect::<Vec<_>>(), ["pg2"]);
    let told = state.incidents().iter().next_back().unwrap().text.clone();
    assert_eq!(told, "version 2 is in force; the servers are pg1, pg9");

    let to = Some("pg9".to_owned());
    state.apply(command(Change::ConfirmPrimary { epoch: Epoch(1), timeline: 1 }));
    let begin = Change::BeginFailover { epoch: Epoch(1), kind: FailoverKind::Switchover, to };
    assert_eq!(state.apply(command(begin)), CHANGED);
    let under_way = Refusal::FailoverUnderWay { from: "pg1".to_owned() };
    assert_eq!(state.apply(apply(2, &["pg1", "pg2"])), Outcome::Refused(under_way), "its heir is needed");
    let back = Change::RollBackConfiguration { version: 2, to: 1, servers: servers(&["pg2"]) };
    assert_eq!(state.apply(command(back)), Outcome::Refused(refused));
}

#[test]
fn what_nodes_say_of_an_order_counts_until_the_next_one() {
    let mut state = created();
    let pause = |paused| command(Change::PauseServer { server: "pg1".to_owned(), paused });
    let quiet = |orders| {
        let (server, node) = ("pg1".to_owned(), "a".to_owned());
        command(Change::ConfirmQuiet { server, orders, node })
    };
    assert_eq!(state.apply(pause(true)), CHANGED);
    assert_eq!(state.apply(pause(true)), UNCHANGED);
    assert!(state.servers()["pg1"].empties());
    assert_eq!(state.apply(quiet(1)), CHANGED);
    assert_eq!(state.apply(quiet(1)), UNCHANGED);
    assert!(state.servers()["pg1"].quiet.contains("a"));
    assert_eq!(state.apply(pause(false)), CHANGED);
    assert!(state.servers()["pg1"].quiet.is_empty() && !state.servers()["pg1"].empties());
    let stale = Refusal::StaleVersion { expected: 1, current: 2 };
    assert_eq!(state.apply(quiet(1)), Outcome::Refused(stale));
    state.apply(pause(true));
    state.apply(quiet(3));
    state.apply(command(Change::ForgetReports { node: "a".to_owned() }));
    assert!(state.servers()["pg1"].quiet.is_empty(), "a node that is silent says nothing");
}

#[test]
fn a_replaced_member_is_somebody_new() {
    let mut state = created();
    let replace = |member| command(Change::ReplaceMember { incarnation: 1, member });
    let used = Refusal::RaftIdUsed { raft_id: 2, next: 4 };
    assert_eq!(state.apply(replace(member("b", 2, 2))), Outcome::Refused(used));
    let not_new = Refusal::IncarnationNotNew { id: "b".to_owned(), current: 1 };
    assert_eq!(state.apply(replace(member("b", 4, 1))), Outcome::Refused(not_new));
    assert_eq!(state.apply(replace(member("b", 4, 2))), CHANGED);
    let stale = Refusal::StaleIncarnation { id: "b".to_owned(), expected: 1, current: 2 };
    assert_eq!(state.apply(replace(member("b", 5, 3))), Outcome::Refused(stale));
}

#[test]
fn a_configuration_goes_back_by_going_on() {
    let mut state = created();
    let apply = |version, text: &str| {
        command(Change::ApplyConfiguration { version, text: text.to_owned(), servers: None })
    };
    assert_eq!(state.apply(apply(1, "two")), Outcome::Accepted(Accepted::Version(2)));
    assert_eq!(state.apply(apply(2, "two")), UNCHANGED);
    let stale = Refusal::StaleVersion { expected: 1, current: 2 };
    assert_eq!(state.apply(apply(1, "three")), Outcome::Refused(stale));
    let back = Change::RollBackConfiguration { version: 2, to: 1, servers: None };
    assert_eq!(state.apply(command(back)), Outcome::Accepted(Accepted::Version(3)));
    let current = state.configuration().current().unwrap();
    assert_eq!((current.text.as_str(), current.back_to), ("one", Some(1)));
    for version in 3..40 {
        state.apply(apply(version, &version.to_string()));
    }
    assert_eq!(state.configuration().versions().count(), MAX_CONFIGURATION_VERSIONS);
    let back = Change::RollBackConfiguration { version: 40, to: 1, servers: None };
    assert_eq!(state.apply(command(back)), Outcome::Refused(Refusal::NoSuchVersion { version: 1 }));
}

#[test]
fn what_is_too_much_is_refused_or_cut() {
    let mut state = created();
    let text = "x".repeat(MAX_CONFIGURATION_BYTES + 1);
    let apply = Change::ApplyConfiguration { version: 1, text, servers: None };
    assert!(matches!(state.apply(command(apply)), Outcome::Refused(Refusal::TooMuch { .. })));
    for _ in 0..MAX_INCIDENTS + 10 {
        let note = Change::NoteIncident { subject: "s".to_owned(), text: "狛".repeat(500) };
        assert_eq!(state.apply(command(note)), CHANGED);
    }
    let last = state.incidents().iter().next_back().unwrap();
    assert_eq!(last.text.chars().count(), MAX_INCIDENT_TEXT / 3);
    assert_eq!(state.incidents().iter().count(), MAX_INCIDENTS);
    assert_eq!(state.incidents().after(last.id - 2).count(), 2);
    let unnamed = Change::AddMember { member: member("a b", 9, 1) };
    assert!(matches!(state.apply(command(unnamed)), Outcome::Refused(Refusal::BadName { .. })));
}

#[test]
fn a_newer_format_and_a_contradiction_are_refused() {
    let newer = ClusterState::from_bytes(b"{\"format\":99,\"state\":7}").unwrap_err();
    assert!(newer.to_string().contains("format 99"), "{newer}");
    let mut bytes = created().to_bytes().unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    bytes = text.replace("\"raft_id\":2", "\"raft_id\":1").into_bytes();
    assert!(matches!(ClusterState::from_bytes(&bytes), Err(ReadError::Contradiction(_))));
    assert!(matches!(ClusterState::from_bytes(b"{"), Err(ReadError::Unreadable(_))));
    // A field that a later version of the same format adds is no obstacle.
    let later = text.replacen("\"state\":{", "\"state\":{\"later\":1,", 1);
    assert_eq!(ClusterState::from_bytes(later.as_bytes()).unwrap(), created());
}

fn changes() -> impl Strategy<Value = Change> {
    let node = || prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(str::to_owned);
    let server = || prop::sample::select(vec!["pg1", "pg2", "pg3"]).prop_map(str::to_owned);
    let servers = move || prop::collection::vec(server(), 1..4);
    let endpoint = || prop::sample::select(vec!["main", "reads"]).prop_map(str::to_owned);
    let fenced = || prop_oneof![Just(Fenced::Primary), endpoint().prop_map(Fenced::Endpoint)];
    let epoch = || (0u64..6).prop_map(Epoch);
    let observed = prop::sample::select(vec![Observed::Up, Observed::Down, Observed::Unknown]);
    let administrative = prop::sample::select(vec![Administrative::Attached, Administrative::Quarantined]);
    let role = prop::sample::select(vec![MemberRole::Voter, MemberRole::Proxy]);
    let kinds = vec![FailoverKind::Automatic, FailoverKind::Forced, FailoverKind::Switchover];
    let kind = prop::sample::select(kinds);
    let somebody = (node(), 1u64..12, 1u64..4).prop_map(|(id, raft_id, life)| member(&id, raft_id, life));
    let replacement = (node(), 4u64..12, 1u64..4).prop_map(|(id, raft_id, life)| member(&id, raft_id, life));
    prop_oneof![
        Just(Change::CreateCluster {
            cluster_id: "y".to_owned(),
            members: Vec::new(),
            configuration: "z".to_owned()
        }),
        somebody.prop_map(|member| Change::AddMember { member }),
        (1u64..3, replacement)
            .prop_map(|(incarnation, member)| Change::ReplaceMember { incarnation, member }),
        (node(), 1u64..3).prop_map(|(id, incarnation)| Change::RemoveMember { id, incarnation }),
        (node(), 1u64..3, role).prop_map(|(id, incarnation, role)| {
            Change::UpdateMember { id, incarnation, address: "new:1".to_owned(), role }
        }),
        servers().prop_map(|servers| Change::SetServers { servers }),
        (server(), 0u64..3, administrative).prop_map(|(server, version, state)| Change::SetAdministrative {
            server,
            version,
            state,
            within_ms: None
        }),
        (server(), observed, prop::option::of(1u32..3)).prop_map(|(server, observed, primary_on)| {
            Change::ServerReport { server, claim: Claim { observed, primary_on, ..Claim::default() } }
        }),
        node().prop_map(|node| Change::ForgetReports { node }),
        (fenced(), epoch()).prop_map(|(fenced, epoch)| Change::OpenFence { fenced, epoch }),
        (fenced(), epoch(), node()).prop_map(|(fenced, epoch, node)| Change::ConfirmFence {
            fenced,
            epoch,
            node
        }),
        (fenced(), epoch()).prop_map(|(fenced, epoch)| Change::PassFence { fenced, epoch }),
        (epoch(), server(), any::<bool>()).prop_map(|(epoch, server, promotes)| Change::NamePrimary {
            epoch,
            server,
            promotes
        }),
        (epoch(), kind, prop::option::of(server())).prop_map(|(epoch, kind, to)| Change::BeginFailover {
            epoch,
            kind,
            to
        }),
        (epoch(), node()).prop_map(|(epoch, node)| Change::ConfirmHold { epoch, node }),
        epoch().prop_map(|epoch| Change::HoldTransactions { epoch }),
        epoch().prop_map(|epoch| Change::AbandonFailover { epoch }),
        any::<bool>().prop_map(|paused| Change::PauseFailover { paused }),
        (epoch(), prop::option::of("[a-c]"))
            .prop_map(|(epoch, sentence)| Change::StandStill { epoch, sentence }),
        (epoch(), 1u32..3).prop_map(|(epoch, timeline)| Change::ConfirmPrimary { epoch, timeline }),
        (endpoint(), epoch(), prop::option::of(node()))
            .prop_map(|(endpoint, epoch, owner)| Change::AssignEndpoint { endpoint, epoch, owner }),
        (endpoint(), epoch()).prop_map(|(endpoint, epoch)| Change::RemoveEndpoint { endpoint, epoch }),
        (0u64..6, "[a-c]", prop::option::of(servers()))
            .prop_map(|(version, text, servers)| Change::ApplyConfiguration { version, text, servers }),
        (0u64..6, 0u64..6, prop::option::of(servers()))
            .prop_map(|(version, to, servers)| Change::RollBackConfiguration { version, to, servers }),
        server().prop_map(|server| Change::ForgetServer { server }),
        (server(), any::<bool>()).prop_map(|(server, paused)| Change::PauseServer { server, paused }),
        (server(), 0u64..3, node()).prop_map(|(server, orders, node)| Change::ConfirmQuiet {
            server,
            orders,
            node
        }),
        "[a-z狛]{0,9}".prop_map(|text| Change::NoteIncident { subject: "s".to_owned(), text }),
    ]
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let node = prop::sample::select(vec!["a", "b", "c", "d", ""]);
    let command = (any::<u64>(), node, changes()).prop_map(|(at_ms, node, change)| Command {
        at_ms,
        node: node.to_owned(),
        ..command(change)
    });
    prop::collection::vec(command, 0..120)
}

/// What no command may do to a state, whatever it says.
fn assert_follows(before: &ClusterState, after: &ClusterState, outcome: &Outcome) {
    after.check().unwrap();
    if !matches!(outcome, Outcome::Accepted(_)) {
        assert_eq!(before, after, "a refusal changes nothing");
    }
    let (old, new) = (before.primary(), after.primary());
    assert!(new.epoch >= old.epoch && new.epoch.0 <= old.epoch.0 + 1);
    if new.epoch == old.epoch {
        assert_eq!(new.server, old.server, "one primary for each epoch");
        assert!(old.timeline == 0 || new.timeline == old.timeline);
    } else if old.server.is_some() {
        let passed =
            |fence: &Fence| fence.fenced == Fenced::Primary && fence.epoch == old.epoch && fence.passed;
        assert!(before.fences().iter().any(passed), "a fence before a promotion");
    }
    for (name, old) in before.endpoints() {
        match after.endpoints().get(name) {
            Some(new) if new.epoch == old.epoch => {
                assert_eq!(new.owner, old.owner, "one owner for each epoch")
            }
            Some(new) => {
                assert!(new.epoch > old.epoch);
                let fenced = Fenced::Endpoint(name.clone());
                let passed = |fence: &Fence| fence.fenced == fenced && fence.passed;
                assert!(old.owner.is_none() || before.fences().iter().any(passed));
            }
            None => assert!(old.owner.is_none()),
        }
    }
    assert!(after.configuration().version() >= before.configuration().version());
    assert!(after.incidents().last_id() >= before.incidents().last_id());
    for (id, member) in before.members() {
        if let Some(new) = after.members().get(id) {
            assert!(new.incarnation >= member.incarnation && new.raft_id >= member.raft_id);
        }
    }
}

proptest! {
    #![proptest_config(crate::properties::properties_of(200))]

    #[test]
    fn any_log_keeps_the_invariants_replays_and_comes_back(log in commands()) {
        let mut state = created();
        let mut endpoints = std::collections::BTreeMap::new();
        for command in &log {
            let written = serde_json::to_vec(command).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<Command>(&written).unwrap(), command);
            let before = state.clone();
            let outcome = state.apply(command.clone());
            assert_follows(&before, &state, &outcome);
            let written = serde_json::to_vec(&outcome).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Outcome>(&written).unwrap(), outcome);
            // Over removals too.
            for (name, endpoint) in state.endpoints() {
                let key = (name.clone(), endpoint.epoch);
                let owner = endpoints.entry(key).or_insert_with(|| endpoint.owner.clone());
                prop_assert_eq!(&*owner, &endpoint.owner);
            }
        }
        let mut again = created();
        log.into_iter().for_each(|command| { again.apply(command); });
        prop_assert_eq!(&again, &state);
        prop_assert_eq!(ClusterState::from_bytes(&state.to_bytes().unwrap()).unwrap(), state);
    }

    #[test]
    fn any_log_of_a_cluster_that_was_never_created_does_nothing(log in commands()) {
        let mut state = ClusterState::default();
        for command in log.into_iter().filter(|command| !matches!(command.change, Change::CreateCluster { .. })) {
            prop_assert_eq!(state.apply(command), Outcome::Refused(Refusal::NoCluster));
        }
    }
}
