//! Unix sockets that are listened on, each in a file.
//!
//! Owns the file. Invariant: one that another process listens on, or that is no socket, is never removed, and ours is
//! never open to others than its mode says, not for a moment.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

#[derive(Debug, thiserror::Error)]
pub enum SocketFileError {
    #[error("another process listens there already")]
    InUse,
    #[error("it is in the way and is no socket")]
    NoSocket,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Removed when it is dropped, if it is still ours.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let still_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.device_and_inode);
        if still_ours {
            // If it cannot be removed, the next start finds it stale and removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens there; `mode` says who may connect.
pub async fn bind(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), SocketFileError> {
    remove_stale(path).await?;
    // Bound inside a directory only we can enter, its mode set, then linked to its place (which, unlike a
    // rename, replaces nothing): the umask belongs to the whole process and must not be changed beside other threads.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let private = tempfile::Builder::new().prefix(".komainu-").tempdir_in(parent)?;
    let staged = private.path().join("s");
    let listener = UnixListener::bind(&staged)?;
    fs::set_permissions(&staged, Permissions::from_mode(mode))?;
    let metadata = fs::symlink_metadata(&staged)?;
    fs::hard_link(&staged, path)?;
    Ok((listener, SocketFile { path: path.to_owned(), device_and_inode: (metadata.dev(), metadata.ino()) }))
}

/// What a process left that was killed.
async fn remove_stale(path: &Path) -> Result<(), SocketFileError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => Err(SocketFileError::NoSocket),
        Ok(_) => match UnixStream::connect(path).await {
            // Nobody listens any more.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // A full backlog says EAGAIN: somebody listens. In doubt it is in use.
            Ok(_) | Err(_) => Err(SocketFileError::InUse),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}
