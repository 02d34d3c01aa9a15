//! Timeline history files: which timelines led to one, and where each was left.
//!
//! The format is that of `src/backend/access/transam/timeline.c`: number, position and reason by line. Pure.

use crate::topology::Lsn;

/// From the oldest on: each timeline and where it was left for the next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History(Vec<(u32, Lsn)>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no line of a timeline's history")]
pub struct HistoryError(String);

impl History {
    pub fn parse(text: &str) -> Result<Self, HistoryError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let entry = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        };
        lines
            .map(|line| entry(line).ok_or_else(|| HistoryError(line.to_owned())))
            .collect::<Result<_, _>>()
            .map(History)
    }

    /// Where `timeline` was left. None: it is no part of this history.
    pub fn left_at(&self, timeline: u32) -> Option<Lsn> {
        self.0.iter().find(|(number, _)| *number == timeline).map(|(_, at)| *at)
    }

    /// Where the timeline began whose history this is. None: it is the first.
    pub fn began_at(&self) -> Option<Lsn> {
        self.0.last().map(|(_, at)| *at)
    }

    /// Whether this one is the beginning of `other`.
    pub fn begins(&self, other: &History) -> bool {
        other.0.starts_with(&self.0)
    }
}

/// Of the file in `pg_wal`.
pub fn file_name(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_says_where_each_timeline_was_left() {
        let text = "# a comment\n1\t0/3000000\tno recovery target specified\n\n2\t0/5000A8\tx\n";
        let history = History::parse(text).unwrap();
        assert_eq!(history.left_at(1), Some(Lsn(0x300_0000)));
        assert_eq!(history.left_at(2), Some(Lsn(0x50_00A8)));
        assert_eq!((history.left_at(3), history.began_at()), (None, Some(Lsn(0x50_00A8))));
        let beginning = History::parse("1\t0/3000000\tother words\n").unwrap();
        assert!(beginning.begins(&history) && !history.begins(&beginning));
        assert!(History::default().begins(&beginning));
        assert!(!History::parse("1\t0/3000001\n").unwrap().begins(&history));
        assert!(History::parse("one 0/1").is_err());
        assert_eq!(file_name(18), "00000012.history");
    }
}
