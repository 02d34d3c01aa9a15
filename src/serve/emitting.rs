//! The ways by which metrics leave without being asked for: lines in the embedded metric format, and calls of CloudWatch.
//!
//! Owns a thread of their own, so that neither a pipe that nobody reads nor AWS keeps a client waiting. Invariant: what
//! does not get out in time is counted as dropped, and not told later.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use komainu_escalation::AwsSettings;
use komainu_escalation::aws::CloudWatch;
use komainu_escalation::metrics::{Dropped, Outbox, Round};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::admin::AdminState;
use crate::config::{Config, EmfTo, Log, Metrics};
use crate::telemetry::Counters;
use crate::telemetry::catalogue::{CLUSTER, NODE};
use crate::telemetry::cloudwatch::Rounds;
use crate::telemetry::emf::{self, Kept};
use crate::telemetry::labels::MetricsWay;
use crate::telemetry::log_file::LogFile;

/// Runs until it is dropped.
pub struct Emitting {
    /// Closing it ends the thread.
    _stop: oneshot::Sender<()>,
}

impl Emitting {
    /// None: nothing is to be told. `node`: this one, within a cluster.
    pub fn start(config: &Config, node: Option<&str>, state: AdminState) -> io::Result<Option<Emitting>> {
        let settings = config.metrics.clone();
        if settings.emf.is_none() && !settings.put_metric_data {
            return Ok(None);
        }
        let lines =
            settings.emf.as_ref().map(|to| Lines::open(to, &config.log, &state.counters)).transpose()?;
        let cluster = config.cluster.as_ref().map(|cluster| (CLUSTER, cluster.name.clone()));
        let node = (NODE, node.map_or_else(host_name, str::to_owned));
        let rounds = Rounds::new(cluster.into_iter().chain([node]).collect());
        let aws = config.aws.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = run(settings, aws, rounds, lines, state) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        })?;
        Ok(Some(Emitting { _stop: stop }))
    }
}

async fn run(
    settings: Metrics,
    aws: AwsSettings,
    mut rounds: Rounds,
    mut lines: Option<Lines>,
    state: AdminState,
) {
    let kept = Kept { namespace: &settings.namespace, high_resolution: settings.high_resolution };
    let mut interval = tokio::time::interval(Duration::from_millis(settings.period_ms));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let outbox = settings.put_metric_data.then(|| {
        let sink = CloudWatch::new(aws, &settings.namespace, settings.high_resolution);
        Outbox::start(sink, dropped(&state.counters, MetricsWay::PutMetricData))
    });
    loop {
        interval.tick().await;
        let (at, data) = (SystemTime::now(), rounds.next(&state.measured()));
        if let Some(lines) = &mut lines {
            lines.put(emf::lines(kept, at, &data), data.len());
        }
        if let Some(outbox) = &outbox {
            outbox.put(Round { at, data });
        }
    }
}

fn dropped(counters: &Arc<Counters>, way: MetricsWay) -> Dropped {
    let counters = counters.clone();
    Arc::new(move |count| counters.metrics_dropped(way, count as u64))
}

/// Of a node on its own, which has no other name.
fn host_name() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match read.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// Where the lines go.
struct Lines {
    to: Arc<To>,
    under_way: Option<JoinHandle<()>>,
    dropped: Dropped,
}

enum To {
    Stdout,
    File(LogFile),
}

impl Lines {
    fn open(to: &EmfTo, log: &Log, counters: &Arc<Counters>) -> io::Result<Lines> {
        let to = match to {
            EmfTo::Stdout => To::Stdout,
            EmfTo::File(path) => {
                let opened = LogFile::open(path, log.rotate_bytes, log.keep_files);
                let named = |error: io::Error| {
                    io::Error::new(error.kind(), format!("metrics.emf {}: {error}", path.display()))
                };
                To::File(opened.map_err(named)?)
            }
        };
        Ok(Lines { to: Arc::new(to), under_way: None, dropped: dropped(counters, MetricsWay::Emf) })
    }

    /// Writes them beside this, unless the last ones are not written yet.
    fn put(&mut self, lines: String, count: usize) {
        if self.under_way.as_ref().is_some_and(|under_way| !under_way.is_finished()) {
            (self.dropped)(count);
            return;
        }
        let (to, dropped) = (self.to.clone(), self.dropped.clone());
        self.under_way = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = to.write(&lines) {
                tracing::warn!(%error, "metrics are not written");
                dropped(count);
            }
        }));
    }
}

impl To {
    fn write(&self, lines: &str) -> io::Result<()> {
        match self {
            To::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(lines.as_bytes())?;
                stdout.flush()
            }
            To::File(file) => file.append(lines.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use crate::telemetry::emf::tests::by_the_book;

    fn log() -> Log {
        let level = "info".to_owned();
        Log { level, format: LogFormat::Text, file: None, rotate_bytes: 0, keep_files: 0 }
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_counted() {
        let counters = Arc::<Counters>::default();
        let to = EmfTo::File("/dev/full".into());
        let mut lines = Lines::open(&to, &log(), &counters).unwrap();
        lines.put("{}\n".to_owned(), 7);
        lines.under_way.take().unwrap().await.unwrap();
        assert_eq!(counters.totals().metrics_dropped, [7, 0]);
        let nowhere = EmfTo::File("/nowhere/emf".into());
        let error = Lines::open(&nowhere, &log(), &counters).err().unwrap();
        assert!(error.to_string().contains("metrics.emf /nowhere/emf"), "{error}");
    }

    #[tokio::test]
    async fn lines_are_appended_and_those_that_would_have_to_wait_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let (path, counters) = (directory.path().join("emf"), Arc::<Counters>::default());
        let mut lines = Lines::open(&EmfTo::File(path.clone()), &log(), &counters).unwrap();
        let datum = komainu_escalation::metrics::Datum {
            name: "PoolWaiters",
            unit: "Count",
            dimensions: vec![(NODE, "n1".to_owned())],
            value: 3.0,
        };
        let kept = Kept { namespace: "komainu", high_resolution: true };
        lines.under_way = Some(tokio::spawn(std::future::pending()));
        lines.put("never".to_owned(), 5);
        assert_eq!(counters.totals().metrics_dropped, [5, 0]);
        lines.under_way.take().unwrap().abort();
        for _ in 0..2 {
            lines.put(emf::lines(kept, SystemTime::now(), std::slice::from_ref(&datum)), 1);
            (&mut lines.under_way.as_mut().unwrap()).await.unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let told: Vec<_> = text.lines().flat_map(by_the_book).collect();
        assert_eq!(told, [("PoolWaiters".to_owned(), 3.0), ("PoolWaiters".to_owned(), 3.0)]);
        assert_eq!(counters.totals().metrics_dropped, [5, 0]);
    }
}
