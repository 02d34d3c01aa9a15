//! Ends what others started in a sandbox's directories, also when we are killed.
//!
//! Owns one shell that waits for our end. A postmaster that an agent started is no child of ours, so no
//! parent-death signal reaches it. Never ends anything but PostgreSQL's own processes below one directory.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Its standard input closes when we end, however we do. It then looks for some rounds, since one may be
/// starting just now. The directory's end may have come first: then a link says so behind the path.
const SWEEP: &str = r#"cat >/dev/null; round=0; quiet=0
while [ $round -lt 50 ] && [ $quiet -lt 5 ]; do
    quiet=$((quiet+1)); signal=QUIT; [ $round -lt 25 ] || signal=KILL
    places=$(find /proc/[0-9]*/cwd -maxdepth 0 -printf '%h %l\n')
    while read -r process place; do
        case "$place" in "$1"/*) ;; *) continue ;; esac
        [ "$(cat "$process/comm")" = postgres ] || continue
        quiet=0; kill -$signal "${process#/proc/}"; kill -CONT "${process#/proc/}"
    done <<PLACES
$places
PLACES
    round=$((round+1)); sleep 0.2
done"#;

#[derive(Debug)]
pub struct Sweeper {
    shell: Child,
    _lifeline: Option<ChildStdin>,
}

impl Sweeper {
    pub fn of(directory: &Path) -> io::Result<Self> {
        let mut shell = Command::new("sh")
            .args(["-c", SWEEP, "sweep"])
            .arg(std::fs::canonicalize(directory)?)
            // Not ours on the terminal: Ctrl-C must not end it before the servers.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { _lifeline: shell.stdin.take(), shell })
    }
}

impl Drop for Sweeper {
    /// Whoever lives to drop it has ended the servers before.
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
