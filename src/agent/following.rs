//! What has a server follow a primary when it is started: its settings, and the file that says that it is a standby.

use std::fs;
use std::path::Path;

use super::conninfo::Conninfo;
use super::error::WorkError;
use super::recovery_settings::with_settings;

const SETTINGS_FILE: &str = "postgresql.auto.conf";

/// Has the server in a directory follow a primary when it starts.
pub fn follow(data: &Path, primary: &Conninfo, slot: &str) -> Result<(), WorkError> {
    let path = data.join(SETTINGS_FILE);
    let text = fs::read_to_string(&path).unwrap_or_default();
    let settings = [("primary_conninfo", Some(primary.as_str())), ("primary_slot_name", Some(slot))];
    write(&path, &with_settings(&text, &settings))?;
    write(&data.join("standby.signal"), "")
}

/// Durable, with the permissions that PostgreSQL gives its files.
fn write(path: &Path, text: &str) -> Result<(), WorkError> {
    use std::io::Write as _;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        fs::File::open(directory)?.sync_all()
    };
    write().map_err(WorkError::io("write", path))
}
