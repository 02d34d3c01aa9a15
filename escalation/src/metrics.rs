//! Metrics as CloudWatch takes them, and their way there: batched, and never in anybody's way.
//!
//! Owns the queue and the batches. What does not get through in time is dropped and counted, never sent again: old
//! numbers help nobody, and a service that is slow is not helped by more requests. Invariant: whoever hands numbers over
//! waits for nothing.

use crate::aws::AwsError;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::mpsc;

/// What one call takes: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html>
pub const MAX_DATA: usize = 1_000;
pub const MAX_BYTES: usize = 1_000_000;
/// For what the form has around the names and values of a datum, and of each of its dimensions.
const DATUM_BYTES: usize = 512;
const DIMENSION_BYTES: usize = 128;
/// Rounds that wait while one is being sent.
const ROUNDS_WAITING: usize = 2;

#[derive(Debug, Clone, PartialEq)]
pub struct Datum {
    pub name: &'static str,
    /// As CloudWatch calls it.
    pub unit: &'static str,
    pub dimensions: Vec<(&'static str, String)>,
    pub value: f64,
}

impl Datum {
    fn bytes(&self) -> usize {
        // A byte may become three.
        let dimension = |(name, value): &(&str, String)| (name.len() + value.len()) * 3 + DIMENSION_BYTES;
        DATUM_BYTES + self.name.len() + self.dimensions.iter().map(dimension).sum::<usize>()
    }
}

/// All of one moment.
#[derive(Debug, Clone)]
pub struct Round {
    pub at: SystemTime,
    pub data: Vec<Datum>,
}

/// Where metrics go.
pub trait MetricSink: Send + Sync + 'static {
    /// One call's worth. Ends in bounded time.
    fn put(&self, at: SystemTime, data: &[Datum]) -> impl Future<Output = Result<(), AwsError>> + Send;
}

/// As few parts as each fit a call.
pub fn batches(data: &[Datum]) -> Vec<&[Datum]> {
    let mut batches = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (at, datum) in data.iter().enumerate() {
        if at - begin == MAX_DATA || bytes + datum.bytes() > MAX_BYTES && at > begin {
            batches.push(&data[begin..at]);
            (begin, bytes) = (at, 0);
        }
        bytes += datum.bytes();
    }
    if begin < data.len() {
        batches.push(&data[begin..]);
    }
    batches
}

/// Told how many values were lost.
pub type Dropped = Arc<dyn Fn(usize) + Send + Sync>;

/// The way in. The sending ends when it is dropped.
pub struct Outbox {
    rounds: mpsc::Sender<Round>,
    dropped: Dropped,
}

impl Outbox {
    /// Begins to send, on the runtime that this is called on.
    pub fn start<S: MetricSink>(sink: S, dropped: Dropped) -> Outbox {
        let (rounds, waiting) = mpsc::channel(ROUNDS_WAITING);
        tokio::spawn(send(sink, waiting, dropped.clone()));
        Outbox { rounds, dropped }
    }

    pub fn put(&self, round: Round) {
        if let Err(refused) = self.rounds.try_send(round) {
            (self.dropped)(refused.into_inner().data.len());
        }
    }
}

async fn send<S: MetricSink>(sink: S, mut waiting: mpsc::Receiver<Round>, dropped: Dropped) {
    let mut fails = false;
    while let Some(Round { at, data }) = waiting.recv().await {
        for batch in batches(&data) {
            match sink.put(at, batch).await {
                Ok(()) if fails => {
                    fails = false;
                    tracing::info!("CloudWatch takes metrics again");
                }
                Ok(()) => {}
                Err(error) => {
                    dropped(batch.len());
                    // Once, and not with every round.
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!(%error, "metrics do not reach CloudWatch, and are dropped until they do");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Semaphore;

    fn data(count: usize, value_len: usize) -> Vec<Datum> {
        let dimensions = vec![("Server", "x".repeat(value_len))];
        let datum = Datum { name: "ReadsByServer", unit: "Count", dimensions, value: 1.0 };
        vec![datum; count]
    }

    #[test]
    fn a_call_takes_a_thousand_values_or_a_megabyte() {
        let sizes = |data: &[Datum]| batches(data).iter().map(|batch| batch.len()).collect::<Vec<_>>();
        assert_eq!(batches(&[]).len(), 0);
        assert_eq!(sizes(&data(1000, 5)), [1000]);
        assert_eq!(sizes(&data(2001, 5)), [1000, 1000, 1]);
        let long = data(1000, 4000);
        assert_eq!(sizes(&long).iter().sum::<usize>(), 1000);
        for batch in batches(&long) {
            assert!(batch.iter().map(Datum::bytes).sum::<usize>() <= MAX_BYTES);
        }
        assert_eq!(sizes(&data(2, MAX_BYTES)), [1, 1], "one too long for any call is tried by itself");
    }

    /// Takes a batch for each permit, and fails if it is told to.
    struct Slow {
        permits: Arc<Semaphore>,
        taken: Arc<Mutex<Vec<usize>>>,
        fails: bool,
    }

    impl MetricSink for Slow {
        async fn put(&self, _: SystemTime, data: &[Datum]) -> Result<(), AwsError> {
            self.permits.acquire().await.unwrap().forget();
            self.taken.lock().unwrap().push(data.len());
            match self.fails {
                false => Ok(()),
                true => Err(AwsError {
                    operation: "PutMetricData",
                    subject: "komainu".into(),
                    fault: Fault::Throttled,
                    code: None,
                    message: "slower".into(),
                }),
            }
        }
    }

    async fn outbox(fails: bool) -> (Outbox, Arc<Semaphore>, Arc<Mutex<Vec<usize>>>, Arc<AtomicUsize>) {
        let (permits, taken, lost) =
            (Arc::new(Semaphore::new(0)), Arc::default(), Arc::<AtomicUsize>::default());
        let sink = Slow { permits: permits.clone(), taken: Arc::clone(&taken), fails };
        let counted = lost.clone();
        let dropped: Dropped = Arc::new(move |count| {
            counted.fetch_add(count, Ordering::SeqCst);
        });
        (Outbox::start(sink, dropped), permits, taken, lost)
    }

    async fn until(is_so: impl Fn() -> bool) {
        let waited = tokio::time::timeout(std::time::Duration::from_secs(60), async {
            while !is_so() {
                tokio::task::yield_now().await;
            }
        });
        waited.await.expect("waited in vain");
    }

    fn round(count: usize) -> Round {
        Round { at: SystemTime::now(), data: data(count, 1) }
    }

    #[tokio::test]
    async fn what_a_slow_service_does_not_take_is_dropped_and_counted_at_once() {
        let (outbox, permits, taken, lost) = outbox(false).await;
        outbox.put(round(1));
        until(|| outbox.rounds.capacity() == ROUNDS_WAITING).await;
        // One is under way now, two wait, and nobody else is kept waiting.
        for count in [2, 3, 10, 20] {
            outbox.put(round(count));
        }
        assert_eq!(lost.load(Ordering::SeqCst), 30);
        permits.add_permits(100);
        until(|| *taken.lock().unwrap() == [1, 2, 3]).await;
        outbox.put(round(4));
        until(|| *taken.lock().unwrap() == [1, 2, 3, 4]).await;
        assert_eq!(lost.load(Ordering::SeqCst), 30);
    }

    #[tokio::test]
    async fn what_is_refused_is_counted_and_not_sent_again() {
        let (outbox, permits, taken, lost) = outbox(true).await;
        permits.add_permits(100);
        outbox.put(round(1500));
        until(|| lost.load(Ordering::SeqCst) == 1500).await;
        assert_eq!(*taken.lock().unwrap(), [1000, 500]);
    }
}
