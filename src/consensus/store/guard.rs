//! The first two pages of the file: its format, and how many transactions were acknowledged.
//!
//! redb survives a torn commit by going back to the one before. That is right for a crash and wrong for damage: a single
//! bit that flips in the last commit, or in the flag that says which commit is the last, would take back a vote that was
//! given or an entry that was acknowledged, and nobody would notice. So the number of each transaction is written here
//! once redb has made it durable, and only then it is acknowledged. Invariant: a file whose last transaction is older
//! than this number is damaged, never used.
//!
//! The number goes to the two pages in turn, so a torn write destroys the older one of them at most.

use std::io;
use std::sync::Arc;

use aws_lc_rs::digest;
use redb::StorageBackend;

use super::StoreError;

/// Of the file as a whole: tables, their keys, the encoding of what is in them.
pub const FORMAT: u32 = 1;

const MAGIC: &[u8; 16] = b"komainu raft log";
const PAGE: usize = 4096;
const PAGES: usize = 2;
pub const LENGTH: u64 = (PAGES * PAGE) as u64;
/// Magic, format, number; then the checksum.
const CHECKED: usize = 16 + 4 + 8;
const CHECKSUM: usize = 8;

#[derive(Debug)]
pub struct Guard {
    backend: Arc<dyn StorageBackend>,
    sealed: u64,
}

impl Guard {
    pub fn open(backend: Arc<dyn StorageBackend>) -> Result<Self, StoreError> {
        let operation = "reading the guard";
        let failed = |error| StoreError::io(operation, &error);
        let length = backend.len().map_err(failed)?;
        let mut numbers = Vec::new();
        for page in 0..PAGES {
            let at = (page * PAGE) as u64;
            if at + PAGE as u64 <= length {
                let mut bytes = [0; CHECKED + CHECKSUM];
                backend.read(at, &mut bytes).map_err(failed)?;
                numbers.extend(parse(&bytes)?);
            }
        }
        match numbers.into_iter().max() {
            Some(sealed) if length > LENGTH || sealed == 0 => Ok(Guard { backend, sealed }),
            Some(_) => Err(StoreError::Damaged("the file is cut off".to_owned())),
            // A crash while the file was made: nothing was written behind the guard yet.
            None if length <= LENGTH => Self::create(backend),
            None => Err(StoreError::Damaged("the guard is not readable".to_owned())),
        }
    }

    fn create(backend: Arc<dyn StorageBackend>) -> Result<Self, StoreError> {
        let failed = |error| StoreError::io("creating the file", &error);
        backend.set_len(LENGTH).map_err(failed)?;
        for page in 0..PAGES {
            backend.write((page * PAGE) as u64, &bytes(0)).map_err(failed)?;
        }
        backend.sync_data().map_err(failed)?;
        Ok(Guard { backend, sealed: 0 })
    }

    /// The number of the last transaction that was acknowledged. 0: none ever was.
    pub fn sealed(&self) -> u64 {
        self.sealed
    }

    /// To be called with each number when redb has made the transaction durable, before it is acknowledged.
    pub fn seal(&mut self, number: u64) -> Result<(), StoreError> {
        let failed = |error| StoreError::io("sealing a transaction", &error);
        let page = number % PAGES as u64;
        self.backend.write(page * PAGE as u64, &bytes(number)).map_err(failed)?;
        self.backend.sync_data().map_err(failed)?;
        self.sealed = number;
        Ok(())
    }

    /// The rest of the file, for redb.
    pub fn guarded(&self) -> Guarded {
        Guarded(Arc::clone(&self.backend))
    }
}

fn bytes(number: u64) -> Vec<u8> {
    page(FORMAT, number)
}

fn page(format: u32, number: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(format.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend(checksum(&bytes));
    bytes
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut checksum = [0; CHECKSUM];
    checksum.copy_from_slice(&digest::digest(&digest::SHA256, bytes).as_ref()[..CHECKSUM]);
    checksum
}

/// A file of another format, as far as this one would look.
#[cfg(test)]
pub(super) fn with_format(format: u32) -> Vec<u8> {
    let mut bytes = page(format, 1);
    bytes.resize(LENGTH as usize * 2, 0);
    bytes
}

/// None: the page is torn or damaged.
fn parse(bytes: &[u8; CHECKED + CHECKSUM]) -> Result<Option<u64>, StoreError> {
    let (checked, sum) = bytes.split_at(CHECKED);
    if checksum(checked) != sum || !checked.starts_with(MAGIC) {
        return Ok(None);
    }
    let mut format = [0; 4];
    format.copy_from_slice(&checked[16..20]);
    let mut number = [0; 8];
    number.copy_from_slice(&checked[20..28]);
    match u32::from_le_bytes(format) {
        FORMAT => Ok(Some(u64::from_le_bytes(number))),
        found if found > FORMAT => Err(StoreError::Newer { found, known: FORMAT }),
        found => Err(StoreError::Damaged(format!("there is no format {found}"))),
    }
}

/// The file behind the guard. It is locked by the directory's lock file, not here.
#[derive(Debug)]
pub struct Guarded(Arc<dyn StorageBackend>);

impl StorageBackend for Guarded {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len()?.saturating_sub(LENGTH))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset + LENGTH, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len + LENGTH)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset + LENGTH, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}
