//! What `pg_basebackup` and `pg_rewind` print with `--progress`.
//!
//! Pure.

use super::wire::Progress;

const KB: u64 = 1024;

/// `22953/45906 kB (50%), 0/1 tablespace`. None: it is something else.
pub fn parse(line: &str) -> Option<Progress> {
    let (numbers, _) = line.trim_start().split_once(" kB (")?;
    let (done, total) = numbers.split_once('/')?;
    let bytes = |text: &str| text.trim().parse::<u64>().ok()?.checked_mul(KB);
    Some(Progress { bytes_done: bytes(done)?, bytes_total: bytes(total)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_programs_are_understood() {
        let half = Some(Progress { bytes_done: 1024, bytes_total: 2048 });
        assert_eq!(parse("    1/2 kB (50%), 0/1 tablespace"), half);
        assert_eq!(parse(" 1/2 kB (50%) copied"), half);
        assert_eq!(parse("pg_rewind: Done!"), None);
        assert_eq!(parse("x/2 kB (50%)"), None);
    }
}
