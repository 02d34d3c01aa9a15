//! The files in a data directory that are the server's own: configuration, certificates, how it was started.
//!
//! `pg_rewind` and `pg_basebackup` bring the other server's. Owns a copy of ours in the state directory while they do.
//! Invariant: what is set aside is ours: never what a rewind may have brought.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::WorkError;

const DIRECTORY: &str = "own-files";
/// Besides what ends like a certificate or a configuration.
const NAMED: &[&str] = &["postmaster.opts"];
const ENDINGS: &[&str] = &["conf", "crt", "key", "crl", "pem"];
/// Included by a `postgresql.conf` that says so.
const INCLUDED: &str = "conf.d";

pub struct OwnFiles(PathBuf);

impl OwnFiles {
    pub fn new(state_directory: &Path) -> Self {
        OwnFiles(state_directory.join(DIRECTORY))
    }

    pub fn set_aside(&self, data: &Path) -> Result<(), WorkError> {
        self.forget()?;
        copy(data, &self.0)
    }

    /// Puts them into a directory, in place of what is there under their names. None were set aside: nothing.
    pub fn put_back(&self, data: &Path) -> Result<(), WorkError> {
        copy(&self.0, data)
    }

    pub fn forget(&self) -> Result<(), WorkError> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(WorkError::io("remove", &self.0)(error))
            }
            _ => Ok(()),
        }
    }
}

fn is_own(name: &str) -> bool {
    NAMED.contains(&name) || name.rsplit_once('.').is_some_and(|(_, ending)| ENDINGS.contains(&ending))
}

fn copy(from: &Path, to: &Path) -> Result<(), WorkError> {
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(WorkError::io("read", from))?,
    };
    fs::create_dir_all(to).map_err(WorkError::io("create", to))?;
    for entry in entries {
        let entry = entry.map_err(WorkError::io("read", from))?;
        let (name, path) = (entry.file_name(), entry.path());
        let Some(text) = name.to_str() else { continue };
        if path.is_dir() && text == INCLUDED {
            copy(&path, &to.join(INCLUDED))?;
        } else if path.is_file() && is_own(text) {
            let target = to.join(&name);
            // Permissions come along: a server refuses a key that others can read.
            fs::copy(&path, &target).map_err(WorkError::io("copy", &path))?;
            fs::File::open(&target)
                .and_then(|file| file.sync_all())
                .map_err(WorkError::io("sync", &target))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_comes_back_and_the_rest_is_left() {
        let scratch = tempfile::tempdir().unwrap();
        let (state, data) = (scratch.path().join("state"), scratch.path().join("data"));
        fs::create_dir_all(data.join("conf.d")).unwrap();
        fs::create_dir_all(data.join("base")).unwrap();
        let ours = ["postgresql.conf", "conf.d/a.conf", "server.key", "postmaster.opts"];
        for name in ours.iter().chain(&["PG_VERSION", "base/1.conf"]) {
            fs::write(data.join(name), "ours").unwrap();
        }
        let own = OwnFiles::new(&state);
        own.set_aside(&data).unwrap();
        for name in ours.iter().chain(&["PG_VERSION", "base/1.conf"]) {
            fs::write(data.join(name), "theirs").unwrap();
        }
        own.put_back(&data).unwrap();
        for name in ours {
            assert_eq!(fs::read_to_string(data.join(name)).unwrap(), "ours", "{name}");
        }
        for name in ["PG_VERSION", "base/1.conf"] {
            assert_eq!(fs::read_to_string(data.join(name)).unwrap(), "theirs", "{name}");
        }
        own.forget().unwrap();
        own.forget().unwrap();
        own.put_back(&data).unwrap();
    }
}
