//! The data directory: what is in it, whether a postmaster runs in it, and how another takes its place.
//!
//! Owns its name and those beside it. Invariant: nothing is removed but what lies beside the data directory under a name
//! that only an agent gives, and nothing changes places while a postmaster runs.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::WorkError;
use super::history::{self, History};
use super::memory::Swap;
use super::wal;

const NEW: &str = "komainu-new";
const OLD: &str = "komainu-old";
const BY_HAND: &str = "the two directories change places by renaming, which takes no links along: docs/agent.md (Rebuilding by hand) tells how";

#[derive(Debug, Clone)]
pub struct DataDirectory(PathBuf);

/// As `postmaster.pid` and `/proc` have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Postmaster {
    pub pid: u32,
    /// It takes connections, as a primary or as a standby.
    pub ready: bool,
    /// In milliseconds since 1970, of which it says the seconds.
    pub started_at_ms: Option<u64>,
}

impl DataDirectory {
    /// Links on the way are followed once, so that what is beside it is on its own disk.
    pub fn new(path: &Path) -> Self {
        let real = path.canonicalize().ok();
        let beside = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
        DataDirectory(real.or_else(beside).unwrap_or_else(|| path.to_owned()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn is_empty(&self) -> Result<bool, WorkError> {
        match fs::read_dir(&self.0) {
            Ok(mut entries) => Ok(entries.next().is_none()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(WorkError::io("read", &self.0)(error)),
        }
    }

    pub fn owner(&self) -> Option<u32> {
        fs::metadata(&self.0).ok().map(|found| found.uid())
    }

    /// Whoever has started it: a service manager, an operator, this agent or the one before it.
    pub fn postmaster(&self) -> Option<Postmaster> {
        let text = fs::read_to_string(self.join("postmaster.pid")).ok()?;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        // In single-user mode it is negative; that is a postmaster's like as well.
        let pid = lines.first()?.trim_start_matches('-').parse().ok()?;
        // The file may be stale and the number another's by now; a postmaster works in its data directory.
        let works_in = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let ready = matches!(lines.get(7), Some(&"ready" | &"standby"));
        let started_at_ms = lines.get(2).and_then(|line| line.parse::<u64>().ok()?.checked_mul(1000));
        (works_in == self.0).then_some(Postmaster { pid, ready, started_at_ms })
    }

    pub fn must_not_run(&self) -> Result<(), WorkError> {
        match self.postmaster() {
            Some(Postmaster { pid, .. }) => {
                Err(WorkError::Not(format!("a server runs in {} (pid {pid})", self.0.display())))
            }
            None => Ok(()),
        }
    }

    pub fn is_standby(&self) -> bool {
        self.join("standby.signal").exists()
    }

    /// The highest timeline of which there is WAL. 0: there is none.
    pub fn newest_timeline(&self, segment_bytes: u64) -> u32 {
        let entries = fs::read_dir(self.join("pg_wal")).into_iter().flatten().flatten();
        let timelines = entries
            .filter_map(|entry| wal::segment(entry.file_name().to_str()?, segment_bytes))
            .map(|(timeline, _)| timeline);
        timelines.max().unwrap_or_default()
    }

    /// Which timelines led to this one, as the directory has it. The first has none before it.
    pub fn history(&self, timeline: u32) -> Result<History, WorkError> {
        let path = self.join("pg_wal").join(history::file_name(timeline));
        match fs::read_to_string(&path) {
            Ok(text) => Ok(History::parse(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(History::default()),
            Err(error) => Err(WorkError::io("read", &path)(error)),
        }
    }

    /// Why a base backup could not take this directory's place. None: it could.
    pub fn why_not_replaceable(&self) -> Result<Option<String>, WorkError> {
        let parent = self.0.parent().unwrap_or(Path::new("/"));
        let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
        let beside = device(parent).map_err(WorkError::io("look at", parent))?;
        if device(&self.0).is_ok_and(|own| own != beside) {
            return Ok(Some(format!(
                "{} is a mount point: the data directory must be a directory on the mounted disk",
                self.0.display()
            )));
        }
        let link = |path: &Path| fs::read_link(path).map(|target| target.display().to_string());
        if let Ok(target) = link(&self.join("pg_wal")) {
            return Ok(Some(format!("pg_wal is a link to {target}, and {BY_HAND}")));
        }
        let spaces = fs::read_dir(self.join("pg_tblspc")).into_iter().flatten().flatten();
        let targets: Vec<_> = spaces.filter_map(|entry| link(&entry.path()).ok()).collect();
        Ok((!targets.is_empty())
            .then(|| format!("it has tablespaces elsewhere ({}), and {BY_HAND}", targets.join(", "))))
    }

    /// A name beside it that nobody has used: a program of an agent that was killed may still write to an earlier one.
    pub fn new_beside(&self) -> PathBuf {
        self.beside(NEW)
    }

    pub fn old_beside(&self) -> PathBuf {
        self.beside(OLD)
    }

    fn beside(&self, word: &str) -> PathBuf {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.0.with_file_name(format!("{}.{word}-{now}", self.name()))
    }

    /// What a rebuild that did not come to its end has left.
    pub fn unfinished(&self) -> Vec<PathBuf> {
        self.named(NEW)
    }

    /// What rebuilds have replaced, the oldest first.
    pub fn replaced(&self) -> Vec<PathBuf> {
        self.named(OLD)
    }

    fn named(&self, word: &str) -> Vec<PathBuf> {
        let prefix = format!("{}.{word}-", self.name());
        let entries = fs::read_dir(self.0.parent().unwrap_or(Path::new("/"))).into_iter().flatten().flatten();
        let ours = |name: &str| {
            let number = name.strip_prefix(&prefix)?;
            (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(())
        };
        let mut found: Vec<_> = entries
            .filter(|entry| entry.file_name().to_str().and_then(ours).is_some())
            .map(|entry| entry.path())
            .collect();
        found.sort();
        found
    }

    fn name(&self) -> String {
        self.0.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The new directory takes this one's place. To be called again after having been cut short anywhere.
    pub fn swap(&self, swap: &Swap) -> Result<(), WorkError> {
        if swap.new.exists() {
            self.must_not_run()?;
            if self.0.exists() && !swap.old.exists() {
                fs::rename(&self.0, &swap.old).map_err(WorkError::io("move aside", &self.0))?;
            }
            fs::rename(&swap.new, &self.0).map_err(WorkError::io("move into place", &swap.new))?;
        }
        let parent = self.0.parent().unwrap_or(Path::new("/"));
        fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(WorkError::io("sync", parent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_that_was_cut_short_anywhere_is_finished() {
        for done in 0..3 {
            let scratch = tempfile::tempdir().unwrap();
            let data = DataDirectory::new(&scratch.path().join("data"));
            let swap = Swap { new: data.new_beside(), old: data.old_beside() };
            fs::create_dir(data.path()).unwrap();
            fs::write(data.join("which"), "old").unwrap();
            fs::create_dir(&swap.new).unwrap();
            fs::write(swap.new.join("which"), "new").unwrap();
            if done > 0 {
                fs::rename(data.path(), &swap.old).unwrap();
            }
            if done > 1 {
                fs::rename(&swap.new, data.path()).unwrap();
            }
            data.swap(&swap).unwrap();
            assert_eq!(fs::read_to_string(data.join("which")).unwrap(), "new", "{done}");
            assert_eq!(data.replaced(), std::slice::from_ref(&swap.old));
            assert_eq!(fs::read_to_string(swap.old.join("which")).unwrap(), "old", "{done}");
            assert!(data.unfinished().is_empty());
        }
    }

    #[test]
    fn what_lies_elsewhere_is_named_and_not_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let data = DataDirectory::new(&scratch.path().join("data"));
        fs::create_dir_all(data.join("pg_tblspc")).unwrap();
        fs::create_dir(data.join("pg_wal")).unwrap();
        assert_eq!(data.why_not_replaceable().unwrap(), None);
        std::os::unix::fs::symlink("/disk2/space", data.join("pg_tblspc/16400")).unwrap();
        let reason = data.why_not_replaceable().unwrap().unwrap();
        assert!(reason.contains("(/disk2/space)") && reason.contains("by hand"), "{reason}");
        fs::remove_dir(data.join("pg_wal")).unwrap();
        std::os::unix::fs::symlink("/disk3/wal", data.join("pg_wal")).unwrap();
        assert!(data.why_not_replaceable().unwrap().unwrap().starts_with("pg_wal is a link to /disk3/wal"));
    }

    #[test]
    fn names_that_an_agent_does_not_give_are_not_its_own() {
        let scratch = tempfile::tempdir().unwrap();
        let data = DataDirectory::new(&scratch.path().join("data"));
        for name in ["data.komainu-old-", "data.komainu-old-1x", "data2.komainu-old-1", "data.komainu-new-5"]
        {
            fs::create_dir(scratch.path().join(name)).unwrap();
        }
        assert!(data.replaced().is_empty());
        assert_eq!(data.unfinished().len(), 1);
    }

    #[test]
    fn a_pid_file_counts_only_if_its_process_works_here() {
        let scratch = tempfile::tempdir().unwrap();
        let data = DataDirectory::new(scratch.path());
        assert!(data.is_empty().unwrap());
        fs::write(data.join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(data.postmaster(), None);
        let sleep = |directory: &Path| {
            std::process::Command::new("sleep").arg("60").current_dir(directory).spawn().unwrap()
        };
        let mut child = sleep(data.path());
        let text = format!("{}\n{}\n1\n5432\n/tmp\n\n\nready   \n", child.id(), data.path().display());
        fs::write(data.join("postmaster.pid"), text).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let expected = Postmaster { pid: child.id(), ready: true, started_at_ms: Some(1000) };
        while data.postmaster() != Some(expected) {
            assert!(std::time::Instant::now() < deadline);
        }
        assert!(data.must_not_run().is_err());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(data.postmaster(), None);
    }
}
