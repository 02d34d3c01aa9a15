//! Whether commits on the primary wait for standbys that are not there.
//!
//! Pure. PostgreSQL says nothing of it: whoever commits sees a statement that does not end, and nothing else is wrong.

use super::model::View;
use super::sync_set::SyncSet;
use crate::topology::Health;

/// How many more standbys commits wait for than stream from the primary. None: it does not answer, or commits wait for
/// nobody by name.
pub fn missing_standbys(view: &View) -> Option<u32> {
    missing_at(view, &view.snapshot.primary_server()?.id)
}

/// The same of the server that is the primary by the log.
pub fn missing_at(view: &View, primary: &str) -> Option<u32> {
    let (_, detail) = view.find(primary).filter(|(server, _)| server.health == Health::Up)?;
    let facts = detail.facts.as_deref().filter(|facts| !facts.in_recovery)?;
    let wanted = SyncSet::parse(&facts.synchronous_standby_names).filter(SyncSet::promises)?;
    // The walsender of a host that hangs streams for as long as the primary has not noticed.
    let hangs = |name: &str| view.find(name).is_some_and(|(server, _)| server.health == Health::Down);
    let streaming = wanted.names.iter().filter(|name| facts.sends_to(name) && !hangs(name));
    Some(wanted.count.saturating_sub(streaming.count() as u32))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::model::{Facts, Sender};
    use crate::config;
    use crate::topology::ServerIndex;

    fn view(names: &str, streaming: &[&str]) -> View {
        let servers = ["pg1", "pg2", "pg3"].map(|id| config::Server::at(id, id, 5432));
        let mut view = View::new(&servers);
        let sender = |name: &&str| Sender {
            name: (*name).to_owned(),
            state: "streaming".to_owned(),
            sync_state: "quorum".to_owned(),
            sent_lsn: None,
            flush_lsn: None,
        };
        let senders = streaming.iter().map(sender).collect();
        let facts =
            Facts { synchronous_standby_names: names.to_owned(), senders, ..Facts::bare(false, 1, 5000) };
        view.snapshot.primary = Some(ServerIndex(0));
        view.snapshot.servers.iter_mut().for_each(|server| server.health = Health::Up);
        view.details[0].facts = Some(Arc::new(facts));
        view
    }

    #[test]
    fn commits_miss_who_is_named_and_does_not_stream() {
        let missing = |names: &str, streaming: &[&str]| missing_standbys(&view(names, streaming));
        assert_eq!(missing("ANY 1 (\"pg2\", \"pg3\")", &["pg3"]), Some(0));
        assert_eq!(missing("ANY 2 (\"pg2\", \"pg3\")", &["pg3", "walreceiver"]), Some(1));
        assert_eq!(missing("ANY 2 (\"pg2\", \"pg3\")", &[]), Some(2));
        assert_eq!(missing("ANY 1 (elsewhere)", &["elsewhere"]), Some(0), "one that komainu does not know");
        assert_eq!(missing("", &[]), None);
        assert_eq!(missing("*", &[]), None, "nobody is named");
    }

    #[test]
    fn who_hangs_is_missing_and_without_a_primary_nobody_is() {
        let mut view = view("ANY 1 (pg2)", &["pg2"]);
        view.snapshot.servers[1].health = Health::Unknown;
        assert_eq!(missing_standbys(&view), Some(0));
        view.snapshot.servers[1].health = Health::Down;
        assert_eq!(missing_standbys(&view), Some(1));
        view.snapshot.servers[0].health = Health::Down;
        assert_eq!(missing_standbys(&view), None);
        view.snapshot.primary = None;
        assert_eq!(missing_standbys(&view), None);
    }
}
