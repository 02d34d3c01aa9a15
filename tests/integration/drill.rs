//! `komainu drill endpoint` as a newcomer meets it.

use std::process::Command;

use crate::support::{Finished, run};

/// More than three runs would take; a drill that hangs fails.
const LIMIT_S: &str = "240";

fn drill(arguments: &[&str]) -> Finished {
    let komainu = env!("CARGO_BIN_EXE_komainu");
    run(Command::new("timeout").args([LIMIT_S, komainu, "drill", "endpoint"]).args(arguments))
}

#[test]
fn what_cannot_be_drilled_is_said_at_once() {
    for (arguments, says) in [
        (&["--partition"][..], "add --netns"),
        (&["--nodes", "1"], "--nodes 1"),
        (&["--admin", "/nowhere"], "add --url"),
        (&["--method", "interface"], "needs --netns"),
    ] {
        let refused = drill(arguments);
        assert!(!refused.success && refused.stderr.contains(says), "{arguments:?}: {}", refused.stderr);
    }
}
