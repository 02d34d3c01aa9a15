//! Where a sandbox keeps its files, and the sockets that need a short path.
//!
//! Invariant: a directory that was named is empty at the start and kept at the end; any other is removed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::error::SandboxError;
use super::scratch::Scratch;

/// A Unix socket's path holds 107 bytes, its name included.
const MAX_SOCKET_DIRECTORY_BYTES: usize = 90;

#[derive(Debug)]
pub struct Place {
    pub directory: PathBuf,
    pub sockets: PathBuf,
    pub kept: bool,
    _scratch: Option<Scratch>,
}

impl Place {
    pub fn prepare(wanted: Option<&Path>) -> Result<Self, SandboxError> {
        let Some(wanted) = wanted else {
            let scratch = scratch()?;
            let directory = scratch.path().to_owned();
            return Ok(Self { sockets: directory.clone(), directory, kept: false, _scratch: Some(scratch) });
        };
        let directory = named_directory(wanted)?;
        if directory.as_os_str().len() <= MAX_SOCKET_DIRECTORY_BYTES {
            return Ok(Self { sockets: directory.clone(), directory, kept: true, _scratch: None });
        }
        let scratch = scratch()?;
        Ok(Self { sockets: scratch.path().to_owned(), directory, kept: true, _scratch: Some(scratch) })
    }
}

fn scratch() -> Result<Scratch, SandboxError> {
    Scratch::create("komainu-sandbox-").map_err(|source| {
        let path = std::env::temp_dir();
        SandboxError::Io { operation: "create a directory in", path, source }
    })
}

/// The empty directory the user named, made if it does not exist.
fn named_directory(wanted: &Path) -> Result<PathBuf, SandboxError> {
    let error = |operation, source| SandboxError::Io { operation, path: wanted.to_owned(), source };
    if !wanted.exists() {
        fs::create_dir_all(wanted).map_err(|e| error("create", e))?;
        // The servers' user passes through it, whatever our umask is.
        fs::set_permissions(wanted, fs::Permissions::from_mode(0o711)).map_err(|e| error("open", e))?;
    }
    // The servers' working directory is not ours.
    let directory = fs::canonicalize(wanted).map_err(|e| error("find", e))?;
    if fs::read_dir(&directory).map_err(|e| error("list", e))?.next().is_some() {
        return Err(SandboxError::NotEmpty(directory));
    }
    Ok(directory)
}
