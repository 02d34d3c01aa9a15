//! `komainu serve --discard-state`: gives up what a node promised, for a directory that cannot be used any more.
//!
//! Owns the asking. Invariants: nothing is removed without a person's word, or `--yes`; and never while a node uses it.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use crate::consensus::store::{self, StoreError};
use crate::serve::{self, ServeError, Who};

#[derive(Debug, thiserror::Error)]
pub enum DiscardError {
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("a node on its own keeps no state: there is nothing to discard; leave --discard-state out")]
    OnItsOwn,
    #[error(
        "--discard-state asks before it removes anything, and there is no terminal to ask on; --yes is for scripts"
    )]
    NoTerminal,
    #[error("nothing was removed")]
    No,
    #[error("the answer cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("the state in {} cannot be discarded: {source}", directory.display())]
    Store { directory: PathBuf, source: StoreError },
}

/// Removes this node's state if that is wanted. The node then starts with an empty directory.
pub fn run(path: &Path, who: &Who, yes: bool) -> Result<(), DiscardError> {
    let (id, directory) = serve::state_of(path, who)?.ok_or(DiscardError::OnItsOwn)?;
    if !store::exists(&directory) {
        eprintln!("komainu: {} holds no state: there is nothing to discard", directory.display());
        return Ok(());
    }
    eprint!("{}", what_is_lost(&id, &directory));
    if !yes {
        if !io::stdin().is_terminal() {
            return Err(DiscardError::NoTerminal);
        }
        eprint!("Type the node's id to go on: ");
        io::stderr().flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        if answer.trim() != id {
            return Err(DiscardError::No);
        }
    }
    let failed = |source| DiscardError::Store { directory: directory.clone(), source };
    store::discard(&directory).map_err(failed)?;
    serve::forget_kept(&directory)
        .map_err(|error| failed(StoreError::io("removing the kept configuration", &error)))?;
    eprintln!("komainu: the state in {} was discarded", directory.display());
    Ok(())
}

fn what_is_lost(id: &str, directory: &Path) -> String {
    format!(
        "This discards what node {id} keeps in {}:\n  \
         - its vote: it could give another in the same election, so it votes no more;\n  \
         - its copy of the log: members, epochs, the configuration and its history, the timeline;\n  \
         - its identity: the cluster knows a node {id} that this one then no longer is.\n\
         It takes part again once `komainu node replace {id}` was run on another node, which takes most of the others\n\
         to live. If most nodes discard theirs, the cluster itself is lost. Certificates and the configuration file stay.\n",
        directory.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_said_with_what_to_do_next() {
        let text = what_is_lost("b", Path::new("/var/lib/komainu"));
        for part in ["/var/lib/komainu", "its vote", "log", "identity", "komainu node replace b"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
