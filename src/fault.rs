//! Where a test lets a node die, exactly between two steps, as by `kill -9`.
//!
//! The file that `KOMAINU_DEBUG_DIE_AT` names says at which point: the first process that comes there removes the file
//! and ends; or, if its first word is `panic`, the task that comes there panics. Invariant: in builds without debug
//! assertions, so in every release, there is nothing of it.

use std::fmt::Debug;

/// `kind` and the variant's name are what the file says, as in `log NamePrimary`.
#[cfg(debug_assertions)]
pub fn may_die(kind: &str, step: &impl Debug) {
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::{env, fs, process, thread};

    static FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| env::var_os("KOMAINU_DEBUG_DIE_AT").map(PathBuf::from));
    let Some(file) = &*FILE else { return };
    let Ok(wanted) = fs::read_to_string(file) else { return };
    let step = format!("{step:?}");
    let name = step.split([' ', '(', '{']).next().unwrap_or_default();
    let wanted = wanted.trim();
    let panics = wanted.strip_prefix("panic ");
    if panics.unwrap_or(wanted) != format!("{kind} {name}") || fs::remove_file(file).is_err() {
        return;
    }
    assert!(panics.is_none(), "at {kind} {name}, as a test has it");
    tracing::error!(kind, name, "dies, as a test has it");
    match rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL) {
        Ok(()) => loop {
            thread::park();
        },
        Err(_) => process::abort(),
    }
}

#[cfg(not(debug_assertions))]
pub fn may_die(_: &str, _: &impl Debug) {}
