//! Asks for a cluster again and again, and keeps what is known.

use super::{Cluster, Rds};
use crate::aws::AwsSettings;
use crate::finding::Finding;
use crate::reason::Reason;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// After a failure; the API throttles whoever asks much more often.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Cheap to clone: all clones see the same.
#[derive(Debug, Clone)]
pub struct ClusterWatch {
    id: String,
    engine: String,
    known: watch::Sender<Known>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    cluster: Option<(Arc<Cluster>, Instant)>,
    trouble: Option<(Reason, String)>,
}

impl ClusterWatch {
    /// Nothing is known before `keep` runs, and nothing ever of a cluster of another engine.
    pub fn new(id: impl Into<String>, engine: impl Into<String>) -> ClusterWatch {
        ClusterWatch { id: id.into(), engine: engine.into(), known: watch::Sender::new(Known::default()) }
    }

    /// As last described. None: it never was.
    pub fn cluster(&self) -> Option<Arc<Cluster>> {
        self.known.borrow().cluster.as_ref().map(|(cluster, _)| cluster.clone())
    }

    /// Until it is described after that, if only as before; and when it was. Dropping it loses nothing.
    pub async fn later_than(&self, seen: Option<Instant>) -> (Arc<Cluster>, Instant) {
        let mut known = self.known.subscribe();
        let is_later = |known: &Known| known.cluster.as_ref().is_some_and(|(_, at)| Some(*at) > seen);
        let later = known.wait_for(is_later).await.expect("the sender is borrowed here").cluster.clone();
        later.expect("it was waited for")
    }

    /// Never ends.
    pub async fn keep(&self, settings: &AwsSettings, every: Duration) {
        let rds = Rds::connect(settings).await;
        loop {
            let described =
                rds.cluster(&self.id).await.map_err(|error| (error.fault.reason(), error.to_string()));
            let described = described.and_then(|cluster| self.of_the_engine(cluster));
            let pause = if described.is_ok() { every } else { ASK_AGAIN.min(every) };
            self.take(described);
            tokio::time::sleep(pause).await;
        }
    }

    fn of_the_engine(&self, cluster: Cluster) -> Result<Cluster, (Reason, String)> {
        match cluster.engine == self.engine {
            true => Ok(cluster),
            false => Err((Reason::OtherEngine, format!("it is {}, not {}", cluster.engine, self.engine))),
        }
    }

    fn take(&self, described: Result<Cluster, (Reason, String)>) {
        let id = &self.id;
        let trouble = self.known.borrow().trouble.as_ref().map(|(reason, _)| *reason);
        match &described {
            Err((reason, detail)) if trouble != Some(*reason) => {
                tracing::warn!(id, %reason, detail, "the API does not describe the cluster");
            }
            Ok(_) if trouble.is_some() => tracing::info!(id, "the API describes the cluster again"),
            _ => {}
        }
        self.known.send_modify(|known| match described {
            Ok(cluster) => {
                *known = Known { cluster: Some((Arc::new(cluster), Instant::now())), trouble: None }
            }
            Err(trouble) => known.trouble = Some(trouble),
        });
    }

    /// How that stands, for `doctor`.
    pub fn finding(&self) -> Finding {
        let subject = format!("rds:DescribeDBClusters, rds:DescribeDBInstances on {}", self.id);
        let known = self.known.borrow();
        match (&known.trouble, &known.cluster) {
            (Some((reason, detail)), _) => Finding::wrong(subject, *reason, detail),
            (None, Some(_)) => Finding::fine(subject),
            (None, None) => Finding::unknown(subject, "it is being asked for"),
        }
    }
}
