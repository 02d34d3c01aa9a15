//! The operator's programs: as a method of their own, and around a move.

use crate::support::world::{Contender, quick};
use crate::support::{Fault, Kind, World, until};
use komainu_escalation::endpoint::Host;
use komainu_escalation::program::ProgramSettings;
use komainu_escalation::{EndpointSettings, MethodSettings, Owner, Reason, State};
use std::path::Path;

fn shell(script: &str, deadline_ms: u64) -> ProgramSettings {
    ProgramSettings { command: ["/bin/sh", "-c", script].map(String::from).to_vec(), deadline_ms }
}

/// Appends what it is told to a file.
fn recorder(file: &Path) -> ProgramSettings {
    shell(&format!("cat >> {}; echo noted", file.display()), 20_000)
}

fn told(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .map(|line| {
            let call: serde_json::Value = serde_json::from_str(line).unwrap();
            let when = call.get("when").and_then(|when| when.as_str()).unwrap_or("itself");
            format!("{} {when} {}", call["action"].as_str().unwrap(), call["epoch"])
        })
        .collect()
}

fn command(program: ProgramSettings) -> Contender {
    let settings = EndpointSettings {
        name: "app".into(),
        method: MethodSettings::Command(program),
        pre: None,
        post: None,
    };
    Contender::start(&settings, &Host { node: "n1".into(), cloud: None, pace: quick() })
}

#[tokio::test]
async fn a_program_is_told_of_taking_releasing_and_doubt() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("told");
    let mut contender = command(recorder(&file));
    contender.take(3).await;
    assert!(contender.event(Reason::ProgramRan).await.detail.contains("noted"));
    contender.lease(false);
    until("it is told of the doubt", async || told(&file).len() == 2).await;
    contender.lease(true);
    contender.until_state(State::Held).await;
    contender.release(4).await;
    contender.take(5).await;
    let expected = ["take itself 3", "drop itself 3", "take itself 3", "release itself 4", "take itself 5"];
    assert_eq!(told(&file), expected);
}

#[tokio::test]
async fn a_program_that_fails_is_run_again_and_its_words_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let flag = directory.path().join("flag");
    let script = format!("test -e {} || {{ echo not yet >&2; exit 7; }}", flag.display());
    let mut contender = command(shell(&script, 20_000));
    contender.claim(Owner::This, 1);
    let event = contender.event(Reason::ProgramFailed).await;
    assert!(event.detail.contains("exit status: 7") && event.detail.contains("not yet"), "{event:?}");
    std::fs::write(&flag, "").unwrap();
    contender.until_state(State::Held).await;
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_and_said() {
    let mut contender = command(shell("sleep 1000", 200));
    contender.claim(Owner::This, 1);
    contender.event(Reason::ProgramTimedOut).await;
    contender.until_state(State::Failed).await;
}

#[tokio::test]
async fn programs_stand_around_a_move() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("told");
    let world = World::new().await;
    let settings = EndpointSettings {
        name: "app".into(),
        method: world.method(Kind::ElasticIp),
        pre: Some(recorder(&file)),
        post: Some(recorder(&file)),
    };
    let contender = world.contend_with(0, &settings);
    contender.take(1).await;
    until("both were told", async || told(&file).len() == 2).await;
    contender.release(2).await;
    until("both were told again", async || told(&file).len() == 4).await;
    let expected = ["take before 1", "take after 1", "release before 2", "release after 2"];
    assert_eq!(told(&file), expected);
}

#[tokio::test]
async fn they_hear_of_the_end_though_nothing_is_left_to_give_up() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("told");
    let world = World::new().await;
    let settings = EndpointSettings {
        name: "app".into(),
        method: world.method(Kind::RouteTable),
        pre: Some(recorder(&file)),
        post: Some(recorder(&file)),
    };
    let contender = world.contend_with(0, &settings);
    contender.take(1).await;
    until("both were told", async || told(&file).len() == 2).await;
    contender.release(2).await;
    until("both were told again", async || told(&file).len() == 4).await;
    assert_eq!(told(&file)[2..], ["release before 2", "release after 2"]);
}

#[tokio::test]
async fn a_program_that_hangs_or_fails_does_not_prevent_the_move() {
    let world = World::new().await;
    let settings = EndpointSettings {
        name: "app".into(),
        method: world.method(Kind::ElasticIp),
        pre: Some(shell("sleep 1000", 200)),
        post: Some(shell("exit 1", 20_000)),
    };
    let mut contender = world.contend_with(0, &settings);
    contender.take(1).await;
    contender.event(Reason::ProgramTimedOut).await;
    contender.event(Reason::ProgramFailed).await;
    assert_eq!(contender.status().state, State::Held);
    assert_eq!(world.holder(Kind::ElasticIp).await, Some(0));
}

#[tokio::test]
async fn a_program_before_it_is_cut_short_when_the_owner_changes() {
    let world = World::new().await;
    let settings = EndpointSettings {
        name: "app".into(),
        method: world.method(Kind::ElasticIp),
        pre: Some(shell("sleep 1000", 60_000)),
        post: None,
    };
    let contender = world.contend_with(0, &settings);
    contender.claim(Owner::This, 1);
    contender.until_state(State::Taking).await;
    contender.release(2).await;
    assert!(world.proxy.changes(&world.nodes[0].access_key).is_empty());
}

#[tokio::test]
async fn they_hear_of_a_move_whose_answer_was_lost() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("told");
    let world = World::new().await;
    world.proxy.fault(&["AssociateAddress"], Fault::LoseReply, Some(1));
    let settings = EndpointSettings {
        name: "app".into(),
        method: world.method(Kind::ElasticIp),
        pre: None,
        post: Some(recorder(&file)),
    };
    let contender = world.contend_with(0, &settings);
    contender.take(1).await;
    until("it was told", async || told(&file) == ["take after 1"]).await;
}
