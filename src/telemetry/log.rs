//! Sets tracing up: text or JSON lines on stderr or in a file, with a filter that can be changed while running.
//!
//! Invariants: a filter that does not parse changes nothing. Whoever logs never waits for a disk or a pipe: a thread
//! writes, and what it cannot write in time is dropped and counted.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use super::log_file::LogFile;
use crate::config::{Log, LogFormat};

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log.level {level:?} is no filter: {source}")]
    Filter { level: String, source: tracing_subscriber::filter::ParseError },
    #[error("log.file {} cannot be opened: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("log.file {} cannot be rotated: {source}", path.display())]
    Rotate { path: PathBuf, source: io::Error },
    #[error("this node logs to stderr: there is no file to rotate; log.file names one")]
    NoFile,
    #[error("logging is set up already: {0}")]
    Installed(#[from] TryInitError),
    #[error("the log filter cannot be replaced: {0}")]
    Replace(#[from] reload::Error),
}

/// That wait to be written. More come only while the disk or the pipe stands still.
const MAX_LINES_WAITING: usize = 20_000;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines that could not be written in time, since the process started.
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Changes the filter of a running process. What waits is written until it is dropped, and no line after that.
#[derive(Debug)]
#[must_use]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
    file: Option<(PathBuf, Arc<LogFile>)>,
    _writer: Option<WorkerGuard>,
    /// The level was given on the command line: a configuration does not change it.
    level_is_fixed: bool,
}

impl LogControl {
    /// Takes a new configuration's level and limits over, and opens the file anew. Format and file stay what they were
    /// at the start.
    pub fn reload(&self, log: &Log) -> Result<(), LogError> {
        if !self.level_is_fixed {
            self.filter.reload(parse(&log.level)?)?;
        }
        if let Some((_, file)) = &self.file {
            file.set_limits(log.rotate_bytes, log.keep_files);
        }
        self.reopen()
    }

    /// After somebody has moved the file away. On stderr there is nothing to do.
    pub fn reopen(&self) -> Result<(), LogError> {
        let Some((path, file)) = &self.file else { return Ok(()) };
        file.reopen().map_err(|source| LogError::Open { path: path.clone(), source })
    }

    /// Begins a new file, which is answered.
    pub fn rotate(&self) -> Result<PathBuf, LogError> {
        let (path, file) = self.file.as_ref().ok_or(LogError::NoFile)?;
        file.rotate().map_err(|source| LogError::Rotate { path: path.clone(), source })?;
        Ok(path.clone())
    }
}

/// To be called once, early in `main`.
pub fn init(log: &Log) -> Result<LogControl, LogError> {
    let (filter, control) = reload::Layer::new(parse(&log.level)?);
    let registry = tracing_subscriber::registry().with(filter);
    let file = match &log.file {
        Some(path) => {
            let opened = LogFile::open(path, log.rotate_bytes, log.keep_files);
            let file = Arc::new(opened.map_err(|source| LogError::Open { path: path.clone(), source })?);
            Some((path.clone(), file))
        }
        None => None,
    };
    let (lines_go, writer) = match &file {
        Some((_, file)) => in_the_background(Lines(file.clone())),
        None => in_the_background(io::stderr()),
    };
    registry.with(lines(log.format, lines_go)).try_init()?;
    Ok(LogControl { filter: control, file, _writer: Some(writer), level_is_fixed: false })
}

fn in_the_background(to: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    let (lines_go, writer) = NonBlockingBuilder::default()
        .buffered_lines_limit(MAX_LINES_WAITING)
        .thread_name("komainu-log")
        .finish(to);
    // There is one log in a process.
    let _ = DROPPED.set(lines_go.error_counter());
    (lines_go, writer)
}

struct Lines(Arc<LogFile>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        (&*self.0).write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.0).flush()
    }
}

/// Everything of komainu's own, as text on stderr, whatever the configuration says.
pub fn to_terminal() -> Result<LogControl, LogError> {
    let level = "info,komainu=debug,komainu_escalation=debug";
    let log =
        Log { level: level.to_owned(), format: LogFormat::Text, file: None, rotate_bytes: 0, keep_files: 0 };
    Ok(LogControl { level_is_fixed: true, ..init(&log)? })
}

/// Whether `log.level` would be accepted, for the check of a configuration.
pub fn check_level(level: &str) -> Result<(), LogError> {
    parse(level).map(drop)
}

fn parse(level: &str) -> Result<EnvFilter, LogError> {
    // The replication library tells at `info` what it does for each vote and each change of membership, and of a peer
    // that is away with every heartbeat; that one is away is told elsewhere.
    let filter = if level == "off" {
        level.to_owned()
    } else {
        format!("openraft=error,openraft::replication=off,{level}")
    };
    EnvFilter::try_new(filter).map_err(|source| LogError::Filter { level: level.to_owned(), source })
}

fn lines<S, W>(format: LogFormat, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer);
    match format {
        // Colours would end up in files and journals.
        LogFormat::Text => layer.with_ansi(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Captured {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn the_filter_can_be_changed_and_a_bad_one_changes_nothing() {
        let captured = Captured::default();
        let writer = captured.clone();
        let (filter, control) = reload::Layer::new(parse("info").unwrap());
        let control = LogControl { filter: control, file: None, _writer: None, level_is_fixed: false };
        let level = |level: &str| Log {
            level: level.to_owned(),
            format: LogFormat::Json,
            file: None,
            rotate_bytes: 0,
            keep_files: 0,
        };
        let subscriber =
            tracing_subscriber::registry().with(filter).with(lines(LogFormat::Json, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("hidden");
            control.reload(&level("debug")).unwrap();
            tracing::debug!(server = "pg1", "shown");
            assert!(control.reload(&level("komainu=loud")).is_err());
            tracing::debug!("still shown");
            control.reload(&level("warn")).unwrap();
            tracing::info!("hidden again");
        });
        let lines: Vec<serde_json::Value> =
            captured.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
        assert_eq!(messages, ["shown", "still shown"]);
        assert_eq!(lines[0]["server"], "pg1");
    }

    /// A pipe that nobody reads.
    struct Stuck(std::sync::mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_logs_does_not_wait_for_a_pipe_that_nobody_reads() {
        let (reads, stuck) = std::sync::mpsc::channel();
        let (lines_go, writer) = in_the_background(Stuck(stuck));
        let dropped = lines_go.error_counter();
        let subscriber = tracing_subscriber::registry().with(lines(LogFormat::Text, lines_go));
        tracing::subscriber::with_default(subscriber, || {
            (0..MAX_LINES_WAITING + 100).for_each(|n| tracing::warn!(n, "gone"));
        });
        assert!((1..=100).contains(&dropped.dropped_lines()), "{}", dropped.dropped_lines());
        drop(reads);
        drop(writer);
    }

    #[test]
    fn text_lines_carry_no_escape_sequences() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::registry().with(lines(LogFormat::Text, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || tracing::warn!(server = "pg1", "gone"));
        assert!(captured.text().contains("WARN") && captured.text().ends_with("gone server=\"pg1\"\n"));
        assert!(!captured.text().contains('\u{1b}'));
    }

    #[test]
    fn what_is_logged_about_a_client_names_it_at_every_level() {
        for (format, expected) in [
            (LogFormat::Text, "client{session=7 peer=\"10.0.0.1:5\" user=\"app\\n\" database=\"shop\"}"),
            (LogFormat::Json, "\"session\":7"),
        ] {
            let captured = Captured::default();
            let writer = captured.clone();
            let subscriber = tracing_subscriber::registry()
                .with(parse("error").unwrap())
                .with(lines(format, move || writer.clone()));
            tracing::subscriber::with_default(subscriber, || {
                let span = crate::telemetry::span::client(Some(7), "10.0.0.1:5", "app\n", "shop");
                tracing::error!(parent: &span, "server broke the protocol");
            });
            assert!(captured.text().contains(expected), "{}", captured.text());
        }
    }
}
