//! The instances of an Aurora cluster, as its instances tell: who there is, who writes, and how far each is behind.
//!
//! Pure. Invariant: an instance is dropped only on the word of the one that proves that it writes; whatever others say, or
//! nobody, takes nobody away.

use std::collections::{BTreeMap, BTreeSet};

use super::model::View;
use crate::topology::Health;

/// A writer and Aurora's fifteen readers.
pub const MAX_INSTANCES: usize = 16;

/// What one instance says of the cluster: its rows of `aurora_replica_status()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instances {
    /// The instance that says it.
    pub me: String,
    pub all: Vec<Instance>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub id: String,
    pub writes: bool,
}

impl Instances {
    /// Whether it names itself as the writer.
    pub fn name_me_writer(&self) -> bool {
        self.all.iter().any(|instance| instance.writes && instance.id == self.me)
    }

    fn ids(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|instance| instance.id.as_str())
    }
}

/// Which instances there are, sorted. `known` are those so far; `needed` stays, whatever is said of it. A configuration may
/// call an instance otherwise than Aurora does: it is found under that name then.
pub fn discover(view: &View, known: &[String], needed: Option<&str>) -> Vec<String> {
    let servers = view.snapshot.servers.iter().zip(&view.details);
    let names = servers.clone().filter_map(|(state, detail)| {
        let instances = detail.facts.as_ref()?.aurora.as_ref()?;
        (*state.id != *instances.me).then(|| (instances.me.as_str(), &*state.id))
    });
    let names: BTreeMap<&str, &str> = names.collect();
    let facts = servers
        .filter(|(state, _)| state.health == Health::Up)
        .filter_map(|(_, detail)| detail.facts.as_deref());
    let answers: Vec<_> =
        facts.filter_map(|facts| Some((facts.says_primary(), facts.aurora.as_ref()?))).collect();
    let mut proven = answers.iter().filter(|(writes, _)| *writes).map(|(_, instances)| instances);
    let mut ids: BTreeSet<&str> = match (proven.next(), proven.next()) {
        (Some(writer), None) => writer.ids().collect(),
        // Nobody proves that it writes, or two do.
        _ => {
            let said = answers.iter().flat_map(|(_, instances)| instances.ids());
            known.iter().map(String::as_str).chain(said).collect()
        }
    };
    ids = ids.into_iter().map(|id| names.get(id).copied().unwrap_or(id)).collect();
    while ids.len() > MAX_INSTANCES {
        ids.pop_last();
    }
    ids.extend(needed);
    ids.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::model::Facts;
    use crate::cluster::observe::aurora::{self, tests::row};
    use crate::config;

    fn server(id: &str) -> config::Server {
        config::Server {
            weight: 3,
            zone: Some("a".to_owned()),
            ..config::Server::at(id, format!("{id}.configured"), 5433)
        }
    }

    fn says(me: &'static str, in_recovery: bool, rows: &str) -> Facts {
        let row = row(me, in_recovery, rows);
        aurora::answer(|column| row[column].as_deref(), 5, 8).unwrap()
    }

    fn view(answers: &[(&str, Option<Facts>)]) -> View {
        let servers: Vec<_> = answers.iter().map(|(id, _)| server(id)).collect();
        let mut view = View::new(&servers);
        for (index, (_, facts)) in answers.iter().enumerate() {
            if let Some(facts) = facts {
                view.snapshot.servers[index].health = Health::Up;
                view.details[index].facts = Some(Arc::new(facts.clone()));
            }
        }
        view
    }

    const ABC: &str = "a*,b,c";

    #[test]
    fn the_writers_word_brings_instances_in_and_takes_them_out() {
        let known = ["a".to_owned(), "b".to_owned(), "x".to_owned()];
        let told = view(&[("a", Some(says("a", false, ABC))), ("b", Some(says("b", true, "a*,b,x")))]);
        assert_eq!(discover(&told, &known, None), ["a", "b", "c"]);
        assert_eq!(
            discover(&told, &known, Some("x")),
            ["a", "b", "c", "x"],
            "it is still the primary's name"
        );
    }

    #[test]
    fn without_a_proven_writer_nobody_is_taken_out() {
        let known = ["a".to_owned(), "x".to_owned()];
        let readers = view(&[("a", None), ("b", Some(says("b", true, "b*,c")))]);
        assert_eq!(discover(&readers, &known, None), ["a", "b", "c", "x"]);
        // It takes writes, but its own answer names another one.
        let unproven = view(&[("a", Some(says("a", false, "a,b*")))]);
        assert_eq!(discover(&unproven, &known, None), ["a", "b", "x"]);
        let two = view(&[("a", Some(says("a", false, "a*"))), ("b", Some(says("b", false, "b*")))]);
        assert_eq!(discover(&two, &known, None), ["a", "b", "x"]);
        assert_eq!(discover(&view(&[("a", None)]), &known, None), ["a", "x"]);
    }

    #[test]
    fn an_instance_that_is_called_otherwise_here_is_not_there_twice() {
        let known = ["First".to_owned(), "b".to_owned()];
        let told = view(&[("First", Some(says("a", false, ABC))), ("b", Some(says("b", true, ABC)))]);
        assert_eq!(discover(&told, &known, None), ["First", "b", "c"]);
        // It is down, and was known to be called so.
        let mut told = told;
        told.snapshot.servers[0].health = Health::Down;
        assert_eq!(discover(&told, &known, None), ["First", "b", "c"]);
        // It is there twice: the one that nobody needs leaves.
        let twice = view(&[("First", Some(says("a", false, ABC))), ("a", Some(says("a", false, ABC)))]);
        assert_eq!(discover(&twice, &["First".to_owned(), "a".to_owned()], None), ["First", "b", "c"]);
    }

    #[test]
    fn there_are_no_more_than_aurora_can_have() {
        let rows: Vec<String> = (10..40).map(|n| format!("i{n}")).collect();
        let told = view(&[("i10", Some(says("i10", false, &rows.join(",").replacen("i10", "i10*", 1))))]);
        assert_eq!(discover(&told, &[], None).len(), MAX_INSTANCES);
    }
}
