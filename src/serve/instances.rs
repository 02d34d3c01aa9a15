//! What AWS's API says of the instances that are the servers: asked again and again, and kept for the next start.
//!
//! Never decides which of them are looked at: that is `cluster::instances`. Invariant: an API that is throttled, down or silent,
//! or that describes nothing one could connect to, changes nothing of what is known.

use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use komainu_escalation::Finding;
use komainu_escalation::rds::cluster::{AURORA, RDS};
use komainu_escalation::rds::{Cluster, ClusterWatch};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock;
use crate::cluster::instances::{Described, Listed};
use crate::config::{Config, FailoverMode};

/// In the cluster's directory; a node on its own has none.
pub const KEPT: &str = "instances.json";

/// Asks until it is dropped, if the configuration names a cluster.
pub struct Instances {
    listed: watch::Sender<Option<Arc<Listed>>>,
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
        let listed = watch::Sender::new(None);
        let Some(id) = config.failover.watched_cluster() else {
            return Instances { listed, asking: None };
        };
        let place = config.cluster.as_ref().map(|cluster| cluster.directory.join(KEPT));
        if let Some(kept) = place.as_deref().and_then(read).filter(|kept| kept.cluster_id == id) {
            listed.send_replace(Some(Arc::new(Listed { instances: kept.instances, said_at_ms: None })));
        }
        let engine = match config.failover.mode {
            FailoverMode::Aurora => AURORA,
            _ => RDS,
        };
        let cluster = ClusterWatch::new(id, engine);
        let every = Duration::from_millis(config.failover.cluster_refresh_ms);
        let (watch, aws, id, told) = (cluster.clone(), config.aws.clone(), id.to_owned(), listed.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = watch.keep(&aws, every) => {}
                () = take(&watch, &id, &told, place) => {}
            }
        });
        Instances { listed, asking: Some((cluster, task)) }
    }

    /// None: nothing is known yet.
    pub fn listed(&self) -> watch::Receiver<Option<Arc<Listed>>> {
        self.listed.subscribe()
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
    told: &watch::Sender<Option<Arc<Listed>>>,
    place: Option<PathBuf>,
) {
    let (mut before, mut seen) = (None, None);
    loop {
        let (cluster, at) = watch.later_than(seen).await;
        let instances = reachable(&cluster);
        let is_other = before.as_ref() != Some(&cluster);
        (before, seen) = (Some(cluster), Some(at));
        if instances.is_empty() {
            if is_other {
                tracing::warn!(id, "the API describes no instance that could be reached: nothing changes");
            }
            continue;
        }
        if !tell(told, &instances, said_at_ms(at)) {
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

/// By this process's clock.
fn said_at_ms(at: Instant) -> u64 {
    let ago_ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
    clock::now_ms().saturating_sub(ago_ms)
}

/// True: the list is another one. Said again it is as good as new.
fn tell(told: &watch::Sender<Option<Arc<Listed>>>, instances: &[Described], said_at_ms: u64) -> bool {
    let is_other = told.borrow().as_ref().is_none_or(|known| known.instances != instances);
    told.send_replace(Some(Arc::new(Listed { instances: instances.to_vec(), said_at_ms: Some(said_at_ms) })));
    is_other
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
    fn a_kept_list_is_the_apis_own_once_the_api_says_it_again() {
        let one = Described { id: "shop-1".to_owned(), host: "h".to_owned(), port: 5432, zone: None };
        let kept = Listed { instances: vec![one.clone()], said_at_ms: None };
        let told = watch::Sender::new(Some(Arc::new(kept)));
        let said_at_ms = || told.borrow().as_ref().and_then(|listed| listed.said_at_ms);
        assert!(!tell(&told, &[one], 5));
        assert_eq!(said_at_ms(), Some(5));
        assert!(tell(&told, &[], 6));
    }

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
