//! A temporary directory that goes away with the process, also when that is killed.
//!
//! Owns one directory and the shell that waits for our end to remove it. Never removes a directory
//! it did not create.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use tempfile::TempDir;

/// Waits until its standard input closes, which the kernel does however we end, then removes `$1`.
/// It tries for a while: servers that die with us may still be writing.
const REMOVE_AT_END: &str = r#"cat >/dev/null; n=0
while [ -d "$1" ] && [ $n -lt 100 ]; do rm -rf -- "$1" 2>/dev/null || sleep 0.1; n=$((n+1)); done"#;

#[derive(Debug)]
pub struct Scratch {
    directory: TempDir,
    lifeline: Option<ChildStdin>,
    remover: Child,
}

impl Scratch {
    /// Others may pass through the directory but not list it: an unprivileged server has its own
    /// directory inside.
    pub fn create(prefix: &str) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix(prefix).tempdir()?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711))?;
        let mut remover = Command::new("sh")
            .args(["-c", REMOVE_AT_END, "scratch"])
            .arg(directory.path())
            // Not ours on the terminal: Ctrl-C must not end it before the servers.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { directory, lifeline: remover.stdin.take(), remover })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.lifeline.take();
        let _ = self.remover.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_removed_with_all_it_holds() {
        let scratch = Scratch::create("komainu-scratch-").unwrap();
        let path = scratch.path().to_owned();
        fs::create_dir(path.join("inner")).unwrap();
        fs::write(path.join("inner/file"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn the_lifeline_alone_removes_it() {
        let mut scratch = Scratch::create("komainu-scratch-").unwrap();
        fs::write(scratch.path().join("file"), "x").unwrap();
        scratch.lifeline.take();
        scratch.remover.wait().unwrap();
        assert!(!scratch.path().exists());
    }
}
