//! Directories of this user's in the system's temporary one, known to all processes by their name.
//!
//! Never holds data that matters. Invariant: nobody but this user (and root) can enter one, or has put
//! anything into it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;

/// Made if it is not there; each user has its own, as a shared one could not be written by all.
pub fn directory(name: &str) -> io::Result<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let directory = std::env::temp_dir().join(format!("{name}-{user}"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    // Anyone may have made it first, with links in it for us to write through.
    let found = fs::symlink_metadata(&directory)?;
    if found.uid() != user || !found.is_dir() {
        let message = format!("{} belongs to another user", directory.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_each_time_and_closed_to_others() {
        let first = directory("komainu-private-test").unwrap();
        assert_eq!(directory("komainu-private-test").unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().mode() & 0o777, 0o700);
        fs::remove_dir(&first).unwrap();
    }
}
