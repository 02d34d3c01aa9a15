//! What an agent must not forget: the highest epoch it was given, and the job it is at.
//!
//! Owns one file in the state directory, and a lock that keeps a second agent out. Invariant: what is acted on was
//! written, and synced, before.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{AgentError, WorkError};
use super::wire::Job;

const FILE: &str = "agent.json";
const LOCK: &str = "lock";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub highest_epoch: u64,
    #[serde(default)]
    pub job: Option<Job>,
    /// A rewind was begun in the data directory: until it is finished, or the directory replaced, its server must not run.
    #[serde(default)]
    pub half_rewound: bool,
    /// The server's own files in the data directory may be the primary's by now; ours were set aside.
    #[serde(default)]
    pub files_set_aside: bool,
    /// Where the old directory goes and the new one comes from, while they change places.
    #[serde(default)]
    pub swap: Option<Swap>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    pub new: PathBuf,
    pub old: PathBuf,
}

#[derive(Debug)]
pub struct Memory {
    directory: PathBuf,
    now: Remembered,
    _lock: File,
}

impl Memory {
    pub fn open(directory: &Path) -> Result<Self, AgentError> {
        let memory = AgentError::Memory;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| memory(WorkError::io("create", directory)(source)))?;
        let lock_path = directory.join(LOCK);
        let lock =
            File::create(&lock_path).map_err(|error| memory(WorkError::io("open", &lock_path)(error)))?;
        if lock.try_lock().is_err() {
            return Err(AgentError::Taken(directory.to_owned()));
        }
        let path = directory.join(FILE);
        let now = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|source| memory(WorkError::Memory { path: path.clone(), source }))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Remembered::default(),
            Err(error) => return Err(memory(WorkError::io("read", &path)(error))),
        };
        Ok(Memory { directory: directory.to_owned(), now, _lock: lock })
    }

    pub fn get(&self) -> &Remembered {
        &self.now
    }

    /// Changes it, on disk first. An error leaves it as it was.
    pub fn change(&mut self, change: impl FnOnce(&mut Remembered)) -> Result<(), WorkError> {
        let mut new = self.now.clone();
        change(&mut new);
        if new == self.now {
            return Ok(());
        }
        let path = self.directory.join(FILE);
        let text = serde_json::to_vec_pretty(&new)
            .map_err(|source| WorkError::Memory { path: path.clone(), source })?;
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
            file.write_all(&text)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(WorkError::io("write", &path))?;
        self.now = new;
        Ok(())
    }

    /// What is only shown, and need not outlive the agent: progress.
    pub fn show(&mut self, change: impl FnOnce(&mut Job)) {
        if let Some(job) = &mut self.now.job {
            change(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_there_after_a_restart_and_nobody_else_gets_in() {
        let directory = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(directory.path()).unwrap();
        assert_eq!(memory.get(), &Remembered::default());
        memory.change(|now| now.highest_epoch = 7).unwrap();
        assert!(matches!(Memory::open(directory.path()), Err(AgentError::Taken(_))));
        drop(memory);
        let memory = Memory::open(directory.path()).unwrap();
        assert_eq!(memory.get().highest_epoch, 7);
        drop(memory);
        fs::write(directory.path().join(FILE), "{}").unwrap();
        assert!(
            matches!(Memory::open(directory.path()), Err(AgentError::Memory(_))),
            "an epoch is not guessed"
        );
    }
}
