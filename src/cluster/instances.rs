//! Which instances of RDS or Aurora there are, by what AWS's API and the instances themselves say, and how they are reached.
//!
//! Pure. Invariants: who is the primary stays, whatever is said of it; and an API that says nothing, or has said nothing for a
//! while, takes nobody away and brings nobody back. Of RDS the servers' own word brings in, and takes nobody out.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::aurora;
use super::model::View;
use crate::config::{self, FailoverMode};
use crate::topology::Health;

/// An answer may be late, or fail, now and then.
const FRESH_REFRESHES: u64 = 4;

/// As AWS's API describes it, or a member of the same cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    pub id: String,
    /// Its own endpoint, which leads to nobody else.
    pub host: String,
    pub port: u16,
    pub zone: Option<String>,
}

/// What the API has said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub instances: Vec<Described>,
    /// To this process, by its clock. None: to an earlier one, which has kept it.
    pub said_at_ms: Option<u64>,
}

impl Listed {
    /// Whether the API still says so, as far as one can know who asks it that often.
    pub fn is_fresh(&self, refresh_ms: u64, now_ms: u64) -> bool {
        self.said_at_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) <= FRESH_REFRESHES * refresh_ms)
    }
}

/// What is said of which instances there are.
pub struct Said<'a> {
    pub view: &'a View,
    /// Those so far. Empty: none was agreed on yet.
    pub known: &'a [String],
    pub configured: &'a [config::Server],
    /// None: the API has not said anything yet, or is not asked.
    pub described: Option<&'a [Described]>,
    /// It says so now. Others may have heard since whatever it said earlier.
    pub is_fresh: bool,
    pub primary: Option<&'a str>,
}

/// Their ids.
pub fn which(mode: FailoverMode, said: &Said<'_>) -> Vec<String> {
    let configured = || said.configured.iter().map(|server| server.id.clone()).collect::<Vec<_>>();
    let known = if said.known.is_empty() { configured() } else { said.known.to_vec() };
    let described = said.described.map(|all| all.iter().map(|one| one.called(said.configured)));
    match (mode, described) {
        // The API is later than the instances: it only brings in whom one can ask.
        (FailoverMode::Aurora, described) => {
            let known: Vec<String> = known.into_iter().chain(described.into_iter().flatten()).collect();
            aurora::discover(said.view, &known, said.primary)
        }
        (_, Some(described)) if said.is_fresh || said.known.is_empty() => {
            let primary = said.primary.map(str::to_owned);
            let mut ids: Vec<String> = described.chain(primary).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        }
        // What all have agreed on is later than what this node heard once.
        _ => {
            let told = members(said.view).into_iter().map(|one| one.called(said.configured));
            let told: BTreeSet<String> = told.filter(|id| !known.contains(id)).collect();
            let room = aurora::MAX_INSTANCES.saturating_sub(known.len());
            known.into_iter().chain(told.into_iter().take(room)).collect()
        }
    }
}

/// Of a Multi-AZ DB cluster, as those servers say that belong to it.
pub fn members(view: &View) -> Vec<Described> {
    let servers = view.snapshot.servers.iter().zip(&view.details);
    let up = servers.filter(|(state, _)| state.health == Health::Up);
    let told = up.filter_map(|(_, detail)| detail.facts.as_deref()).flat_map(|facts| &facts.members);
    let mut members: Vec<Described> = told.cloned().collect();
    members.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    members.dedup_by(|one, other| one.id == other.id);
    members
}

/// Where each of them is: as the API says, and the others as they say it of each other.
pub fn known_places(described: Option<&[Described]>, view: &View) -> Option<Vec<Described>> {
    let mut all = described.unwrap_or_default().to_vec();
    for member in members(view) {
        if all.iter().all(|known| known.id != member.id) {
            all.push(member);
        }
    }
    (described.is_some() || !all.is_empty()).then_some(all)
}

impl Described {
    /// The configuration may have another name for it.
    fn called(&self, configured: &[config::Server]) -> String {
        let leads_here = |server: &&config::Server| {
            server.host.eq_ignore_ascii_case(&self.host) && server.port == self.port
        };
        configured.iter().find(leads_here).map_or_else(|| self.id.clone(), |server| server.id.clone())
    }
}

/// How instances are reached.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    pub configured: Vec<config::Server>,
    pub described: Vec<Described>,
    /// With a `?` where an instance's name is. None: as the described ones.
    pub template: Option<String>,
}

impl Addresses {
    /// As configured, or described, or by the template of their endpoints. One that nothing leads to is left out.
    pub fn servers(&self, ids: &[String]) -> Vec<config::Server> {
        let template = self.template.clone().or_else(|| self.described.iter().find_map(Described::template));
        let first = self.configured.first().map(|server| server.port);
        let port = first.or(self.described.first().map(|one| one.port));
        let server = |id: &String| {
            if let Some(server) = self.configured.iter().find(|server| server.id == *id) {
                return Some(server.clone());
            }
            if let Some(found) = self.described.iter().find(|one| one.id == *id) {
                let server = config::Server::at(id, &*found.host, found.port);
                return Some(config::Server { zone: found.zone.clone(), ..server });
            }
            Some(config::Server::at(id, template.as_ref()?.replace('?', id), port?))
        };
        ids.iter().filter_map(server).collect()
    }
}

impl Described {
    /// Of one account and region all endpoints differ in the name only.
    fn template(&self) -> Option<String> {
        let domain = self.host.strip_prefix(&self.id)?;
        domain.starts_with('.').then(|| format!("?{domain}"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::model::Facts;

    fn described(ids: &[&str]) -> Vec<Described> {
        let one = |id: &&str| Described {
            id: (*id).to_owned(),
            host: format!("{id}.abc.rds.test"),
            port: 5433,
            zone: Some("z".to_owned()),
        };
        ids.iter().map(one).collect()
    }

    fn configured(id: &str, host: &str) -> config::Server {
        config::Server { weight: 3, zone: Some("a".to_owned()), ..config::Server::at(id, host, 5433) }
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|&id| id.to_owned()).collect()
    }

    #[test]
    fn of_rds_they_are_as_the_api_says_and_the_primary_stays() {
        let view = View::new(&[]);
        let known = ids(&["a", "b"]);
        let first = [configured("first", "A.abc.rds.test")];
        let said = |described, known, configured, primary| {
            let said = Said { view: &view, known, configured, described, is_fresh: true, primary };
            which(FailoverMode::Rds, &said)
        };
        assert_eq!(said(None, &known, &first, None), ["a", "b"]);
        assert_eq!(said(None, &[], &first, None), ["first"], "where the search begins");
        let all = described(&["a", "c"]);
        assert_eq!(said(Some(&all), &known, &[], None), ["a", "c"]);
        assert_eq!(said(Some(&all), &known, &[], Some("b")), ["a", "b", "c"]);
        assert_eq!(said(Some(&all), &known, &first, None), ["c", "first"], "the same by another name");
    }

    #[test]
    fn of_rds_a_list_of_earlier_is_only_where_a_cluster_begins() {
        let view = View::new(&[]);
        let (known, all) = (ids(&["a", "new"]), described(&["a", "deleted"]));
        let said = |known, is_fresh| {
            let described = Some(&*all);
            let said = Said { view: &view, known, configured: &[], described, is_fresh, primary: Some("a") };
            which(FailoverMode::Rds, &said)
        };
        assert_eq!(said(&known, false), ["a", "new"], "another leader knew better");
        assert_eq!(said(&known, true), ["a", "deleted"]);
        assert_eq!(said(&[], false), ["a", "deleted"]);
    }

    #[test]
    fn of_rds_members_are_brought_in_while_the_api_is_silent() {
        let mut view = View::new(&[configured("a", "a.abc.rds.test"), configured("x", "x.abc.rds.test")]);
        let told = |members: &[&str]| {
            let facts = Facts { members: described(members), ..Facts::bare(false, 1, 7) };
            Some(Arc::new(facts))
        };
        view.details[0].facts = told(&["a", "b", "c"]);
        view.details[1].facts = told(&["y"]);
        view.snapshot.servers[0].health = Health::Up;
        let said = |described, known: &[String], is_fresh| {
            let configured = [configured("second", "b.abc.rds.test")];
            let primary = Some("a");
            let said = Said { view: &view, known, configured: &configured, described, is_fresh, primary };
            which(FailoverMode::Rds, &said)
        };
        let known = ids(&["a", "d"]);
        assert_eq!(said(None, &known, false), ["a", "d", "c", "second"], "x is not one of theirs");
        let listed = described(&["a", "d"]);
        assert_eq!(said(Some(&listed), &known, false), ["a", "d", "c", "second"]);
        assert_eq!(said(Some(&listed), &known, true), ["a", "d"], "the API may know better who is going");
        let places = known_places(Some(&listed), &view).unwrap();
        assert_eq!(places.iter().map(|one| &*one.id).collect::<Vec<_>>(), ["a", "d", "b", "c"]);
        assert_eq!(known_places(None, &View::new(&[])), None);
    }

    #[test]
    fn a_list_is_fresh_while_this_process_has_heard_it_lately() {
        let listed = |said_at_ms| Listed { instances: described(&["a"]), said_at_ms };
        assert!(!listed(None).is_fresh(1_000, 0), "kept");
        assert!(listed(Some(500)).is_fresh(1_000, 4_500));
        assert!(!listed(Some(500)).is_fresh(1_000, 4_501));
    }

    #[test]
    fn of_aurora_the_api_brings_in_and_takes_nobody_out() {
        let view = View::new(&[]);
        let (known, all) = (ids(&["a", "b"]), described(&["a", "c"]));
        let said = |described| {
            let (known, configured, primary) = (&*known, &[][..], None);
            let said = Said { view: &view, known, configured, described, is_fresh: false, primary };
            which(FailoverMode::Aurora, &said)
        };
        assert_eq!(said(Some(&all)), ["a", "b", "c"]);
        assert_eq!(said(None), ["a", "b"]);
    }

    #[test]
    fn an_instance_is_reached_as_configured_or_described_or_by_the_template() {
        let mut addresses = Addresses {
            configured: vec![configured("a", "a.configured")],
            described: described(&["a", "b"]),
            template: None,
        };
        let wanted = ids(&["a", "b", "n"]);
        let found = addresses.servers(&wanted);
        assert_eq!(found[0], configured("a", "a.configured"));
        let reached = |server: &config::Server| (server.host.clone(), server.port, server.weight);
        assert_eq!(reached(&found[1]), ("b.abc.rds.test".to_owned(), 5433, 1));
        assert_eq!(found[1].zone.as_deref(), Some("z"));
        assert_eq!(reached(&found[2]), ("n.abc.rds.test".to_owned(), 5433, 1));
        assert_eq!(found[2].zone, None);
        addresses.template = Some("?.written".to_owned());
        assert_eq!(addresses.servers(&wanted)[2].host, "n.written");
        let nothing = Addresses::default();
        assert_eq!(nothing.servers(&wanted), [], "nobody knows where");
    }
}
