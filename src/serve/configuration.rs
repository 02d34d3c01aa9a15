//! The configuration in force: this node's file and, in a cluster, what all nodes agreed on.
//!
//! Invariant: once the cluster has a configuration, a node's own file gives it nothing but the keys that are each node's
//! own; a file that says otherwise is told of in the log, and changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::cluster::kept;
use crate::admin::Configured;
use crate::config::{self, Config, shared};
use crate::consensus::store::Applied;

pub struct Configuration {
    path: PathBuf,
    local: Config,
    /// The text that all nodes share, and its version; 0: the file's, as long as no other is known.
    text: String,
    version: u64,
    /// What that text says, whether or not this node could take all of it without a restart.
    agreed: Config,
    /// It is what the cluster had agreed on, and not only this node's file.
    is_kept: bool,
    /// The latest version there is, of which this node may be unable to use the text.
    latest: u64,
    current: Arc<Config>,
}

impl Configuration {
    /// With the file's configuration, or what the cluster had agreed on when this node was last there.
    pub fn begin(path: &Path, local: Config) -> Self {
        let text = config::file::read_text(path).unwrap_or_default();
        let mut configuration = Configuration {
            path: path.to_owned(),
            current: Arc::new(local.clone()),
            agreed: local.clone(),
            local,
            text,
            is_kept: false,
            version: 0,
            latest: 0,
        };
        if let Some(text) = configuration.local.cluster.as_ref().and_then(kept)
            && let Some(config) = configuration.shared(&text)
        {
            configuration.current = Arc::new(shared::in_force(&configuration.local, config.clone()));
            (configuration.text, configuration.agreed, configuration.is_kept) = (text, config, true);
        }
        configuration
    }

    pub fn in_force(&self) -> Arc<Config> {
        self.current.clone()
    }

    pub fn shared_text(&self) -> &str {
        &self.text
    }

    pub fn agreed(&self) -> &Config {
        &self.agreed
    }

    /// Of the text.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn latest(&self) -> u64 {
        self.latest
    }

    /// `config` is in force from now on.
    pub fn now(&mut self, config: Arc<Config>) {
        self.current = config;
    }

    /// For whoever asks what this node serves by.
    pub fn known(&self) -> Arc<Configured> {
        let (path, local) = (self.path.clone(), self.local.clone());
        Arc::new(Configured { path, local, in_force: self.current.clone() })
    }

    /// What is to be in force after the file was changed, and which keys of the cluster the file has otherwise. The
    /// words say why it cannot be used.
    pub fn read_file_again(&mut self) -> Result<(Config, Vec<String>), String> {
        let (local, warnings) = config::file::load(&self.path).map_err(|report| report.to_string())?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        if self.latest == 0 && !self.is_kept {
            self.agreed = local.clone();
            self.text = config::file::read_text(&self.path).unwrap_or_default();
            self.local = local.clone();
            return Ok((local, Vec::new()));
        }
        let unusable =
            || "the cluster's configuration cannot be used by this node: the log says why".to_owned();
        let agreed = self.shared(&self.text).ok_or_else(unusable)?;
        let differs = shared::differences(&local, &agreed);
        if !differs.is_empty() {
            tracing::warn!(
                keys = ?differs,
                "the file differs from what the cluster agreed on, which counts; `komainu config apply` changes it"
            );
        }
        self.local = local;
        Ok((shared::in_force(&self.local, agreed), differs))
    }

    /// What is to be in force now that the cluster has agreed on something.
    pub fn agree(&mut self, applied: &Applied) -> Option<Config> {
        let agreed = applied.state.configuration().current()?;
        self.latest = agreed.version;
        let config = self.shared(&agreed.text)?;
        self.text.clone_from(&agreed.text);
        self.version = agreed.version;
        self.agreed = config.clone();
        self.is_kept = true;
        tracing::info!(version = agreed.version, "the cluster's configuration is in force here");
        Some(shared::in_force(&self.local, config))
    }

    /// A text that other nodes may have checked with another version of komainu.
    fn shared(&self, text: &str) -> Option<Config> {
        match config::file::parse(text, &self.path, 1) {
            Ok((config, _)) => Some(config),
            Err(report) => {
                tracing::error!("the cluster's configuration cannot be used by this node:\n{report}");
                None
            }
        }
    }
}

/// Waits until the cluster has agreed on a configuration other than that version; for ever outside a cluster.
pub async fn next_agreed(applied: &mut Option<watch::Receiver<Arc<Applied>>>, version: u64) -> Arc<Applied> {
    if let Some(watch) = applied
        && let Ok(found) = watch.wait_for(|applied| applied.state.configuration().version() > version).await
    {
        return found.clone();
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::{Change, Command, Member, Outcome};

    const TEXT: &str = "[listen]\naddresses = ['127.0.0.1:1']\n[auth]\nhba_file = 'hba'\nuser_file = 'users'\n\
        [[server]]\nid = 's1'\nhost = 'db1'\n";

    fn apply(applied: &mut Applied, change: Change) {
        let (node, cause, reason) = ("a".to_owned(), "test".to_owned(), String::new());
        let outcome = applied.state.apply(Command { at_ms: 0, node, cause, reason, change });
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    }

    #[test]
    fn a_text_that_cannot_be_used_leaves_the_version_of_the_one_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("k.toml");
        for (name, text) in [("k.toml", TEXT), ("hba", "local all all trust\n"), ("users", "")] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let mut configuration = Configuration::begin(&path, config::file::load(&path).unwrap().0);
        let mut applied = Applied::default();
        let member = Member::voter("a", 1);
        let (cluster_id, members) = ("x".to_owned(), vec![member]);
        apply(&mut applied, Change::CreateCluster { cluster_id, members, configuration: TEXT.to_owned() });
        assert!(configuration.agree(&applied).is_some());
        assert_eq!((configuration.version(), configuration.latest()), (1, 1));
        let text = format!("{TEXT}[later]\nkey = 1\n");
        apply(&mut applied, Change::ApplyConfiguration { version: 1, text, servers: None });
        assert!(configuration.agree(&applied).is_none());
        assert_eq!((configuration.version(), configuration.latest()), (1, 2));
        // Read again, the file does not make the one before the agreed one.
        configuration.read_file_again().unwrap();
        assert_eq!(configuration.version(), 1);
    }
}
