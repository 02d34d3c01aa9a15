//! What AWS's API says of the instances that are the servers: asked again and again, and kept for the next start.
//!
//! Never decides which of them are looked at: that is `cluster::instances`. Invariant: an API that is throttled, down or silent,
//! or that describes nothing one could connect to, changes nothing of what is known.

use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use komainu_escalation::Finding;
use komainu_escalation::rds::cluster::{AURORA, RDS};
use komainu_escalation::rds::{Cluster, ClusterWatch};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cluster::instances::Described;
use crate::config::{Config, FailoverMode};

/// In the cluster's directory; a node on its own has none.
pub const KEPT: &str = "instances.json";

/// Asks until it is dropped, if the configuration names a cluster.
pub struct Instances {
    described: watch::Sender<Option<Arc<Vec<Described>>>>,
    asking: Option<(ClusterWatch, JoinHandle<()>)>,
}

/// As the last start has known them.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    cluster_id: String,
    instances: Vec<Described>,
}

impl Instances {
    /// To be called within a runtime.
    pub fn start(config: &Config) -> Instances {
        let described = watch::Sender::new(None);
        let Some(id) = config.failover.watched_cluster() else {
            return Instances { described, asking: None };
        };
        let place = config.cluster.as_ref().map(|cluster| cluster.directory.join(KEPT));
        if let Some(kept) = place.as_deref().and_then(read).filter(|kept| kept.cluster_id == id) {
            described.send_replace(Some(Arc::new(kept.instances)));
        }
        let engine = match config.failover.mode {
            FailoverMode::Aurora => AURORA,
            _ => RDS,
        };
        let cluster = ClusterWatch::new(id, engine);
        let every = Duration::from_millis(config.failover.cluster_refresh_ms);
        let (watch, aws, id, told) = (cluster.clone(), config.aws.clone(), id.to_owned(), described.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = watch.keep(&aws, every) => {}
                () = take(&watch, &id, &told, place) => {}
            }
        });
        Instances { described, asking: Some((cluster, task)) }
    }

    /// None: nothing is known yet.
    pub fn described(&self) -> watch::Receiver<Option<Arc<Vec<Described>>>> {
        self.described.subscribe()
    }

    /// How it stands with the API; none: it is not asked.
    pub fn finding(&self) -> Option<Finding> {
        self.asking.as_ref().map(|(cluster, _)| cluster.finding())
    }
}

impl Drop for Instances {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.asking {
            task.abort();
        }
    }
}

async fn take(
    watch: &ClusterWatch,
    id: &str,
    told: &watch::Sender<Option<Arc<Vec<Described>>>>,
    place: Option<PathBuf>,
) {
    let mut seen = None;
    loop {
        let cluster = watch.other_than(seen.as_ref()).await;
        let instances = reachable(&cluster);
        seen = Some(cluster);
        if instances.is_empty() {
            tracing::warn!(id, "the API describes no instance that could be reached: nothing changes");
            continue;
        }
        let is_new = told.send_if_modified(|known| {
            let is_new = known.as_deref() != Some(&instances);
            if is_new {
                *known = Some(Arc::new(instances.clone()));
            }
            is_new
        });
        if !is_new {
            continue;
        }
        let ids: Vec<&str> = instances.iter().map(|one| one.id.as_str()).collect();
        tracing::info!(id, instances = ?ids, "the API describes the instances");
        let kept = Kept { cluster_id: id.to_owned(), instances };
        if let Some(Err(error)) = place.as_deref().map(|place| keep(place, &kept)) {
            tracing::warn!(%error, "the instances are not kept for the next start");
        }
    }
}

fn reachable(cluster: &Cluster) -> Vec<Described> {
    let described = |instance: &komainu_escalation::rds::Instance| {
        let (id, host) = (instance.id.clone(), instance.host.clone()?);
        Some(Described { id, host, port: instance.port, zone: instance.zone.clone() })
    };
    cluster.reachable().filter_map(described).collect()
}

fn keep(place: &Path, kept: &Kept) -> io::Result<()> {
    let directory = place.parent().ok_or(io::ErrorKind::NotFound)?;
    // The API may answer before the log is opened there.
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&serde_json::to_vec_pretty(kept)?)?;
    file.as_file().sync_all()?;
    file.persist(place).map_err(|error| error.error)?;
    Ok(())
}

/// None: nothing was kept, or it cannot be read, which only costs that it is asked for.
fn read(place: &Path) -> Option<Kept> {
    let text = match fs::read(place) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, path = %place.display(), "the instances of the last start cannot be read");
            return None;
        }
    };
    let kept = serde_json::from_slice(&text);
    kept.inspect_err(|error| tracing::warn!(%error, path = %place.display(), "the instances of the last start are not understood")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_there_at_the_next_start_and_nonsense_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("raft").join(KEPT);
        assert_eq!(read(&place), None);
        let one = Described { id: "shop-1".to_owned(), host: "h".to_owned(), port: 5432, zone: None };
        let kept = Kept { cluster_id: "shop".to_owned(), instances: vec![one] };
        keep(&place, &kept).unwrap();
        assert_eq!(read(&place), Some(kept));
        fs::write(&place, "{").unwrap();
        assert_eq!(read(&place), None);
    }
}
