//! `komainu backup`: a base backup of one server, which is whole and verified, or is not there.
//!
//! Owns where it is written and how PostgreSQL's programs are run for it. Never talks to a node: it is told which server.
//! Invariant: the directory that was asked for holds a verified backup or nothing; what is not finished has another name.

pub mod choose;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent::WorkError;
use crate::agent::conninfo::Conninfo;
use crate::agent::programs::Programs;
use crate::agent::progress;
use crate::agent::wire::Progress;
use crate::postgres::InstallationError;
use choose::Server;

/// Behind the name of a backup that is not finished.
const PARTIAL: &str = "partial";
/// A server that does not answer is given up.
const CONNECT_TIMEOUT_S: u32 = 10;
/// The manifest that is verified exists from here on.
const MANIFESTS: u32 = 130_000;
/// While what was killed ends.
const REMOVE_TRIES: u32 = 100;
const REMOVE_AGAIN: Duration = Duration::from_millis(20);
/// Reading all of it again.
const VERIFY_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// How the server is reached.
#[derive(Debug, Clone, Default)]
pub struct Access {
    pub user: String,
    pub passfile: Option<PathBuf>,
    /// As libpq's.
    pub sslmode: Option<String>,
    pub sslrootcert: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// None: the server makes its checkpoint first, and has not said how much there is.
    Copying(Option<Progress>),
    Verifying,
}

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{} is not empty: a backup needs a directory of its own, which need not exist", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} is no directory", .0.display())]
    NoDirectory(PathBuf),
    #[error("{} is what is left of a backup that was killed: remove it, if no other is being taken now", .0.display())]
    Left(PathBuf),
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is a mount point: name a directory in it", .0.display())]
    MountPoint(PathBuf),
    #[error("the backup is whole and verified, but stays in {}: it cannot be moved to {}: {source}", partial.display(), directory.display())]
    Moved { partial: PathBuf, directory: PathBuf, source: io::Error },
    #[error("{server} runs PostgreSQL {}: backups can be verified from 13 on", version / 10_000)]
    TooOld { server: String, version: u32 },
    #[error("PostgreSQL's programs are not found: {0}; say --bin-dir")]
    Programs(InstallationError),
    #[error("{server} could not be copied, and nothing is left of it: {source}")]
    Copy { server: String, source: WorkError },
    #[error("the backup of {server} is not as its manifest says, and was left as {}: {source}", path.display())]
    Verify { server: String, path: PathBuf, source: WorkError },
}

/// Where a backup goes. Held while it is taken: removed, if it is not finished.
pub struct Target {
    directory: PathBuf,
    partial: PathBuf,
    keep: bool,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub directory: PathBuf,
    /// Of all files, write-ahead log included.
    pub bytes: u64,
    /// As `backup_label` has it.
    pub start_lsn: String,
    pub timeline: u32,
}

impl Target {
    /// Claims a directory that is empty or does not exist yet.
    pub fn claim(directory: &Path) -> Result<Target, BackupError> {
        let error = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| BackupError::Io { operation, path, source }
        };
        let directory = std::path::absolute(directory).map_err(error("find", directory))?;
        match fs::read_dir(&directory).map(|mut entries| entries.next().is_some()) {
            Ok(true) => return Err(BackupError::NotEmpty(directory)),
            Err(source) if source.kind() == io::ErrorKind::NotADirectory => {
                return Err(BackupError::NoDirectory(directory));
            }
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(error("read", &directory)(source));
            }
            Ok(false) => {
                // What is written beside it would be on another disk.
                let own = fs::metadata(&directory).map_err(error("look at", &directory))?;
                let above = fs::metadata(directory.join("..")).map_err(error("look at", &directory))?;
                if own.dev() != above.dev() || own.ino() == above.ino() {
                    return Err(BackupError::MountPoint(directory));
                }
            }
            Err(_) => {}
        }
        let mut name = directory.clone().into_os_string();
        name.push(format!(".{PARTIAL}"));
        let partial = PathBuf::from(name);
        match fs::DirBuilder::new().mode(0o700).create(&partial) {
            Ok(()) => Ok(Target { directory, partial, keep: false }),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Err(BackupError::Left(partial)),
            Err(source) => Err(error("create", &partial)(source)),
        }
    }

    /// Under the name that was asked for, unless somebody has put something there meanwhile.
    fn finish(mut self) -> Result<PathBuf, BackupError> {
        let moved = fs::rename(&self.partial, &self.directory);
        self.keep = true;
        moved.map_err(|source| BackupError::Moved {
            partial: self.partial.clone(),
            directory: self.directory.clone(),
            source,
        })?;
        let parent = self.directory.parent().unwrap_or(Path::new("/"));
        let synced = fs::File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(|source| BackupError::Io { operation: "sync", path: parent.to_owned(), source })?;
        Ok(self.directory.clone())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let mut tries = if self.keep { 0 } else { REMOVE_TRIES };
        while tries > 0 && fs::remove_dir_all(&self.partial).is_err() && self.partial.exists() {
            // A program that was killed may still be writing.
            std::thread::sleep(REMOVE_AGAIN);
            tries -= 1;
        }
    }
}

/// Copies the server and verifies the copy. `tell` hears how far it is. If it is dropped, nothing is left.
pub async fn take(
    server: &Server,
    access: &Access,
    programs: &Programs,
    target: Target,
    max_rate: Option<&str>,
    mut tell: impl FnMut(Step),
) -> Result<Made, BackupError> {
    let mut target = target;
    let conninfo = conninfo(server, access);
    let into = target.partial.display().to_string();
    // A standby's own checkpoint disturbs nobody; the primary's is spread over time.
    let checkpoint = if server.is_primary() { "--checkpoint=spread" } else { "--checkpoint=fast" };
    let rate = max_rate.map(|rate| format!("--max-rate={rate}"));
    let mut arguments =
        vec!["--pgdata", &into, "--dbname", conninfo.as_str(), "--wal-method=stream", checkpoint];
    arguments.extend(["--label=komainu backup", "--progress", "--no-password"]);
    arguments.extend(rate.as_deref());
    tell(Step::Copying(None));
    let mut heard = |line: &str| {
        if let Some(progress) = progress::parse(line) {
            tell(Step::Copying(Some(progress)));
        }
    };
    let copied = programs.follow("pg_basebackup", &arguments, &mut heard).await;
    copied.map_err(|source| BackupError::Copy { server: server.id.clone(), source })?;
    tell(Step::Verifying);
    let verified = programs.run("pg_verifybackup", &["--exit-on-error", &into], VERIFY_WITHIN).await;
    if let Err(source) = verified {
        // Evidence: of a broken disk, here or there.
        target.keep = true;
        return Err(BackupError::Verify { server: server.id.clone(), path: target.partial.clone(), source });
    }
    let label = target.partial.join("backup_label");
    let read = |source| BackupError::Io { operation: "read", path: target.partial.clone(), source };
    let (start_lsn, timeline) = labelled(&fs::read_to_string(label).map_err(read)?);
    let bytes = size(&target.partial).map_err(read)?;
    Ok(Made { directory: target.finish()?, bytes, start_lsn, timeline })
}

/// Programs that understand the server: of its own version, if they are there.
pub fn programs_for(server: &Server, named: Option<&Path>, target: &Target) -> Result<Programs, BackupError> {
    let version = server.postgres_version.unwrap_or(MANIFESTS);
    if version < MANIFESTS {
        return Err(BackupError::TooOld { server: server.id.clone(), version });
    }
    Programs::of_version(named, &(version / 10_000).to_string(), &target.partial)
        .map_err(BackupError::Programs)
}

fn conninfo(server: &Server, access: &Access) -> Conninfo {
    let mut conninfo = Conninfo::default()
        .with("host", &server.host)
        .with("port", &server.port.to_string())
        .with("user", &access.user)
        .with("application_name", "komainu backup")
        .with("connect_timeout", &CONNECT_TIMEOUT_S.to_string());
    if let Some(sslmode) = &access.sslmode {
        conninfo = conninfo.with("sslmode", sslmode);
    }
    for (name, path) in [("passfile", &access.passfile), ("sslrootcert", &access.sslrootcert)] {
        if let Some(path) = path {
            // The program runs elsewhere.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            conninfo = conninfo.with(name, &path.display().to_string());
        }
    }
    conninfo
}

/// Of `backup_label`: where its write-ahead log begins, and on which timeline.
fn labelled(text: &str) -> (String, u32) {
    let after = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    let start = after("START WAL LOCATION: ").split(' ').next().unwrap_or_default().to_owned();
    (start, after("START TIMELINE: ").parse().unwrap_or_default())
}

fn size(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let about = fs::metadata(entry.path())?;
        bytes += if about.is_dir() { size(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_directory_is_claimed_and_what_is_not_finished_goes() {
        let place = tempfile::tempdir().unwrap();
        let (new, empty, full) =
            (place.path().join("new"), place.path().join("empty"), place.path().join("full"));
        fs::create_dir(&empty).unwrap();
        fs::create_dir(&full).unwrap();
        fs::write(full.join("x"), "").unwrap();
        assert!(matches!(Target::claim(&full), Err(BackupError::NotEmpty(_))));
        assert!(matches!(Target::claim(&full.join("x")), Err(BackupError::NoDirectory(_))));
        let nowhere = Target::claim(&place.path().join("a/b")).err().unwrap();
        assert!(nowhere.to_string().contains("a/b.partial"), "{nowhere}");
        for directory in [&new, &empty] {
            let target = Target::claim(directory).unwrap();
            assert!(matches!(Target::claim(directory), Err(BackupError::Left(_))), "one at a time");
            fs::write(target.partial.join("x"), "").unwrap();
            let partial = target.partial.clone();
            drop(target);
            assert!(!partial.exists());
            let target = Target::claim(directory).unwrap();
            fs::write(target.partial.join("x"), "").unwrap();
            assert_eq!(target.finish().unwrap(), *directory);
            assert!(directory.join("x").exists() && !partial.exists());
        }
    }

    #[test]
    fn what_came_there_meanwhile_is_not_touched() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("d");
        let target = Target::claim(&directory).unwrap();
        let partial = target.partial.clone();
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("theirs"), "").unwrap();
        assert!(matches!(target.finish(), Err(BackupError::Moved { .. })));
        assert!(directory.join("theirs").exists() && partial.exists(), "both are there");
    }

    #[test]
    fn the_label_is_read() {
        let text = "START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\n\
            CHECKPOINT LOCATION: 0/6000060\nBACKUP FROM: standby\nSTART TIMELINE: 3\n";
        assert_eq!(labelled(text), ("0/6000028".to_owned(), 3));
    }
}
