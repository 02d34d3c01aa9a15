//! The log's file: appended to, exchanged for a new one when it is full, or when it is told to.
//!
//! Owns the file and its older ones, `.1` the youngest. Invariants: a line is never torn apart by a rotation, and one that
//! cannot be written goes to stderr.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Log lines name users and addresses: not for everybody.
const MODE: u32 = 0o640;

#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
    /// 0: it grows until it is told to rotate.
    rotate_bytes: u64,
    /// How many older ones are kept.
    keep_files: usize,
    /// That it could not be rotated was said.
    complained: bool,
}

impl LogFile {
    pub fn open(path: &Path, rotate_bytes: u64, keep_files: usize) -> io::Result<LogFile> {
        let (file, length) = append_to(path)?;
        let open = Open { file, length, rotate_bytes, keep_files, complained: false };
        Ok(LogFile { path: path.to_owned(), open: Mutex::new(open) })
    }

    fn locked(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is written at once is not torn apart.
    pub fn append(&self, text: &[u8]) -> io::Result<()> {
        self.locked().write(&self.path, text)
    }

    pub fn set_limits(&self, rotate_bytes: u64, keep_files: usize) {
        let mut open = self.locked();
        (open.rotate_bytes, open.keep_files) = (rotate_bytes, keep_files);
    }

    /// Opens the file anew: whoever rotates from outside has moved it away.
    pub fn reopen(&self) -> io::Result<()> {
        let mut open = self.locked();
        (open.file, open.length) = append_to(&self.path)?;
        open.complained = false;
        Ok(())
    }

    /// Moves the file and its older ones up by one, and begins a new one.
    pub fn rotate(&self) -> io::Result<()> {
        self.locked().rotate(&self.path)
    }
}

impl Open {
    fn rotate(&mut self, path: &Path) -> io::Result<()> {
        match self.keep_files {
            0 => fs::remove_file(path).or_else(missing_is_fine)?,
            keep => {
                for number in (1..keep).rev() {
                    fs::rename(older(path, number), older(path, number + 1)).or_else(missing_is_fine)?;
                }
                fs::rename(path, older(path, 1)).or_else(missing_is_fine)?;
            }
        }
        (self.file, self.length) = append_to(path)?;
        self.complained = false;
        Ok(())
    }

    fn write(&mut self, path: &Path, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        let is_full = self.rotate_bytes > 0 && self.length > 0 && self.length + length > self.rotate_bytes;
        if is_full
            && let Err(error) = self.rotate(path)
            && !std::mem::replace(&mut self.complained, true)
        {
            // The log goes on in the file there is.
            let _ = writeln!(io::stderr(), "komainu: {} cannot be rotated: {error}", path.display());
        }
        self.length += length;
        self.file.write_all(line)
    }
}

fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

fn older(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn missing_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// What is written at once is one line, as the formatter does it.
impl Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.append(line).is_err() {
            io::stderr().write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(mut log: &LogFile, line: &str) {
        log.write_all(line.as_bytes()).unwrap();
    }

    fn texts(path: &Path) -> Vec<String> {
        let older = (1..9).map(|number| older(path, number));
        let all = std::iter::once(path.to_owned()).chain(older);
        all.map_while(|path| fs::read_to_string(path).ok()).collect()
    }

    #[test]
    fn a_full_file_is_exchanged_between_lines_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("k.log");
        fs::write(&path, "from before\n").unwrap();
        let log = LogFile::open(&path, 20, 2).unwrap();
        say(&log, "one\n");
        assert_eq!(texts(&path), ["from before\none\n"]);
        say(&log, "the second\n");
        say(&log, "the third\n");
        say(&log, "one that is longer than a file may be\n");
        assert_eq!(texts(&path), ["one that is longer than a file may be\n", "the third\n", "the second\n"]);
        log.set_limits(0, 1);
        say(&log, "no limit\n");
        log.rotate().unwrap();
        assert_eq!(texts(&path)[..2], ["", "one that is longer than a file may be\nno limit\n"]);
        log.set_limits(1, 0);
        say(&log, "none is kept\n");
        say(&log, "the last\n");
        assert_eq!(texts(&path)[0], "the last\n");
    }

    #[test]
    fn a_file_that_was_moved_away_is_left_once_it_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("k.log"), directory.path().join("k.log.old"));
        let log = LogFile::open(&path, 0, 5).unwrap();
        say(&log, "one\n");
        fs::rename(&path, &moved).unwrap();
        say(&log, "two\n");
        log.reopen().unwrap();
        say(&log, "three\n");
        assert_eq!(fs::read_to_string(&moved).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn where_no_new_file_can_be_made_the_old_one_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("k.log");
        let log = LogFile::open(&path, 5, 1).unwrap();
        say(&log, "one\n");
        // Not even root renames a file onto a directory.
        fs::create_dir_all(older(&path, 1).join("in the way")).unwrap();
        say(&log, "two\n");
        assert!(log.rotate().is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }
}
