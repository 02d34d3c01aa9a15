//! A disk in memory that loses what was not synced, tears writes, fills up and fails.

use std::io;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

/// What the disk does from operation `at` on. Operations are writes, changes of the length and syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The power goes, and with it what was not synced, as far as `Survivors` does not say otherwise.
    PowerLost { at: usize, survivors: Survivors },
    /// Changes of the length and writes fail.
    Full { at: usize },
    /// Syncs fail.
    SyncFails { at: usize },
}

/// Which of the writes since the last sync reach the disk all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survivors {
    None,
    All,
    /// All, but only half of the last.
    AllButTorn,
    /// Some, in no order, by this seed; the last of them torn.
    Some(u64),
}

#[derive(Debug, Clone)]
enum Unsynced {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Default)]
struct Inner {
    /// What a power loss leaves for sure.
    synced: Vec<u8>,
    /// What is read back as long as there is power.
    cached: Vec<u8>,
    unsynced: Vec<Unsynced>,
    operations: usize,
    fault: Option<Fault>,
    powerless: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<Inner>>);

impl Disk {
    pub fn holding(bytes: Vec<u8>) -> Self {
        let disk = Disk::default();
        disk.0.lock().unwrap().synced = bytes.clone();
        disk.0.lock().unwrap().cached = bytes;
        disk
    }

    /// Takes the place of the fault before; counting begins anew.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut inner = self.0.lock().unwrap();
        inner.fault = fault;
        inner.operations = 0;
    }

    pub fn operations(&self) -> usize {
        self.0.lock().unwrap().operations
    }

    /// What is on the disk after the power was lost, now if it has not been yet.
    pub fn after_power_loss(&self, survivors: Survivors) -> Vec<u8> {
        let mut inner = self.0.lock().unwrap();
        if !inner.powerless {
            inner.lose_power(survivors);
        }
        inner.synced.clone()
    }

    /// What a process reads that opens it again without a power loss.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().cached.clone()
    }
}

impl Inner {
    fn operation(&mut self, is_sync: bool, does: impl FnOnce(&mut Self)) -> io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        match self.fault {
            _ if self.powerless => Err(io::Error::other("no power")),
            Some(Fault::PowerLost { at, survivors }) if number >= at => {
                // What was asked for last may have been on its way.
                if !is_sync {
                    does(self);
                }
                self.lose_power(survivors);
                Err(io::Error::other("no power"))
            }
            Some(Fault::Full { at }) if number >= at && !is_sync => {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            Some(Fault::SyncFails { at }) if number >= at && is_sync => {
                Err(io::Error::other("input/output error"))
            }
            _ => {
                does(self);
                Ok(())
            }
        }
    }

    fn lose_power(&mut self, survivors: Survivors) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let last = unsynced.len().saturating_sub(1);
        let mut random = match survivors {
            Survivors::Some(seed) => seed,
            _ => 0,
        };
        for (at, change) in unsynced.into_iter().enumerate() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (survives, torn) = match survivors {
                Survivors::None => (false, false),
                Survivors::All => (true, false),
                Survivors::AllButTorn => (true, at == last),
                Survivors::Some(_) => (random >> 62 != 0, at == last),
            };
            match change {
                Unsynced::Write(offset, data) if survives => {
                    let end = if torn { data.len() / 2 } else { data.len() };
                    put(&mut self.synced, offset, &data[..end]);
                }
                Unsynced::Length(length) if survives => self.synced.resize(length, 0),
                _ => {}
            }
        }
        self.powerless = true;
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.0.lock().unwrap();
        let offset = offset as usize;
        let from = inner.cached.get(offset..offset + out.len());
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().operation(false, |inner| {
            inner.cached.resize(len as usize, 0);
            inner.unsynced.push(Unsynced::Length(len as usize));
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.lock().unwrap().operation(true, |inner| {
            for change in std::mem::take(&mut inner.unsynced) {
                match change {
                    Unsynced::Write(offset, data) => put(&mut inner.synced, offset, &data),
                    Unsynced::Length(length) => inner.synced.resize(length, 0),
                }
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().operation(false, |inner| {
            put(&mut inner.cached, offset as usize, data);
            inner.unsynced.push(Unsynced::Write(offset as usize, data.to_vec()));
        })
    }
}
