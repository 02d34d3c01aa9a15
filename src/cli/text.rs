//! How the commands write for people: aligned tables, times, sizes.
//!
//! Pure. Invariant: a table's columns begin under their heads, and no line ends with spaces.

use std::time::{Duration, SystemTime};

use crate::admin::show::date_time;

/// Under a head, with two spaces between columns. Empty cells are a dash.
pub fn table<const COLUMNS: usize>(head: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let cell = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let mut all = vec![head.map(str::to_owned)];
    all.extend(rows.iter().map(|row| std::array::from_fn(|column| cell(&row[column]))));
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        all.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    });
    let mut text = String::new();
    for row in &all {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// In UTC, of milliseconds since 1970.
pub fn time(at_ms: u64) -> String {
    date_time(SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms))
}

/// `7 s`, `12 min`, `3 h`, `9 d`
pub fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// As `span`, with tenths below ten seconds.
pub fn short_span(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => span(ms),
    }
}

/// Behind a table that does not show everything.
pub fn of_these(shown: usize, total: usize, what: &str) -> String {
    match total {
        0 => format!("no {what} on this node; each node has its own, and --admin says which is asked\n"),
        total if shown < total => format!("{shown} of {total} {what}: --limit shows more\n"),
        _ => String::new(),
    }
}

pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut left, mut unit) = (bytes, 0);
    while left >= 10 * 1024 && unit + 1 < UNITS.len() {
        left /= 1024;
        unit += 1;
    }
    format!("{left} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_is_left_empty() {
        let rows = [["a".to_owned(), String::new()], ["größer".to_owned(), "x".to_owned()]];
        assert_eq!(table(["ID", "NOTE"], &rows), "ID      NOTE\na       -\ngrößer  x\n");
        assert_eq!(table(["ID"], &[]), "ID\n");
    }

    #[test]
    fn numbers_are_short() {
        let spans: Vec<_> = [999, 119_000, 120_000, 7_300_000, 400_000_000].map(span).to_vec();
        assert_eq!(spans, ["0 s", "119 s", "2 min", "2 h", "4 d"]);
        assert_eq!([0, 10_239, 10_240, 50 << 20].map(bytes), ["0 B", "10239 B", "10 KiB", "50 MiB"]);
        assert_eq!([0, 9_999, 10_000].map(short_span), ["0.0 s", "9.9 s", "10 s"]);
        assert_eq!(time(1_709_164_740_999), "2024-02-28 23:59:00");
    }
}
