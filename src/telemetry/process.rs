//! What the kernel knows of this process, read when somebody asks.
//!
//! Linux only, like komainu. Invariant: what cannot be read is 0, never an error of the page.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Process {
    pub cpu: Duration,
    pub resident_bytes: u64,
    /// Of the log, that could not be written in time.
    pub dropped_lines: u64,
}

impl Process {
    pub fn read() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        Process {
            cpu: Duration::new(cpu.tv_sec.unsigned_abs(), u32::try_from(cpu.tv_nsec).unwrap_or(0)),
            resident_bytes: std::fs::read_to_string("/proc/self/status")
                .ok()
                .and_then(|status| resident(&status))
                .unwrap_or(0),
            dropped_lines: super::log::dropped_lines(),
        }
    }
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_some_of_each() {
        let process = Process::read();
        assert!(process.cpu > Duration::ZERO);
        assert!(process.resident_bytes > 100_000, "{}", process.resident_bytes);
        assert_eq!(resident("VmPeak:\t  1 kB\nVmRSS:\t   4 kB\n"), Some(4096));
        assert_eq!(resident("VmRSS:\t 4"), None);
    }
}
