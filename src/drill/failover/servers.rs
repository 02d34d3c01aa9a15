//! Who is the primary, and whether all servers are as they should be, by what the nodes say.
//!
//! Pure. Invariant: what one node does not say is not so.

use std::collections::BTreeSet;

use crate::drill::nodes::{Server, Status};

/// The servers while nothing is wrong with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    pub primary: String,
    pub epoch: u64,
    pub standbys: Vec<String>,
}

/// Or what is wrong. `streams`: standbys are to, which a managed service does not show.
pub fn whole(statuses: &[Option<Status>], streams: bool) -> Result<Whole, String> {
    let mut found: Option<Whole> = None;
    for status in statuses {
        let one = of_node(status.as_ref().ok_or("a node does not answer")?, streams)?;
        match &found {
            Some(first) if (&first.primary, first.epoch) != (&one.primary, one.epoch) => {
                return Err("the nodes do not agree on the primary".to_owned());
            }
            _ => found = Some(one),
        }
    }
    found.ok_or_else(|| "there are no nodes".to_owned())
}

fn of_node(status: &Status, streams: bool) -> Result<Whole, String> {
    let node = status.node.as_deref().unwrap_or("the node");
    let primary = status.primary.clone().ok_or_else(|| format!("{node} knows no primary"))?;
    let mut standbys = Vec::new();
    for server in &status.servers {
        if let Some(why) = complaint(server, &primary, streams) {
            return Err(format!("{node} says that {} {why}", server.id));
        }
        if server.id != primary {
            standbys.push(server.id.clone());
        }
    }
    Ok(Whole { primary, epoch: status.epoch, standbys })
}

/// Why a failover could not rely on each of the standbys, if it could not. `must`: commits wait for them; otherwise those
/// that it does rely on are not to be others.
pub fn unpromised(statuses: &[Option<Status>], whole: &Whole, must: bool) -> Option<String> {
    let standbys: BTreeSet<&str> = whole.standbys.iter().map(String::as_str).collect();
    statuses.iter().flatten().find_map(|status| {
        let node = status.node.as_deref().unwrap_or("the node");
        let set = status.failover.as_ref().map(|relied| &relied.synchronous)?;
        let names: BTreeSet<&str> = set.names.iter().map(String::as_str).collect();
        match set.promises() {
            true => {
                (names != standbys).then(|| format!("{node} says that commits are acknowledged by {set}"))
            }
            false => must.then(|| format!("{node} knows no standby that acknowledges commits yet")),
        }
    })
}

fn complaint(server: &Server, primary: &str, must_stream: bool) -> Option<String> {
    let administrative = server.administrative.as_deref().unwrap_or("attached");
    if server.health != "up" {
        return Some(format!("is {}", server.health));
    }
    if administrative != "attached" {
        return Some(format!("is {administrative}"));
    }
    let streams = server.replication_state.as_deref() == Some("streaming");
    (must_stream && server.id != primary && !streams).then(|| "does not stream".to_owned())
}

/// Who is the primary now, if another than before, in a later epoch. `same`: it may be called as the one before.
pub fn successor(statuses: &[Option<Status>], before: &Whole, same: bool) -> Option<String> {
    statuses.iter().flatten().find_map(|status| {
        let primary = status.primary.clone()?;
        (status.epoch > before.epoch && (same || primary != before.primary)).then_some(primary)
    })
}

/// Whether every node that answers knows no primary, or another than before.
pub fn is_lost(statuses: &[Option<Status>], before: &Whole) -> bool {
    let same =
        |status: &Status| (status.primary.as_ref(), status.epoch) == (Some(&before.primary), before.epoch);
    let mut known = statuses.iter().flatten().peekable();
    known.peek().is_some() && known.all(|status| !same(status))
}

/// Whether a server of that name is this instance: called so, or at its endpoint.
pub fn is_at(statuses: &[Option<Status>], server: &str, instance: &str, endpoint: Option<&str>) -> bool {
    let at_endpoint = |known: &Server| {
        known.id == server && endpoint.is_some_and(|endpoint| known.host.eq_ignore_ascii_case(endpoint))
    };
    server.eq_ignore_ascii_case(instance)
        || statuses.iter().flatten().any(|status| status.servers.iter().any(at_endpoint))
}

/// Whether all nodes that answer have noticed that something is wrong with a server.
pub fn is_noticed(statuses: &[Option<Status>], server: &str) -> bool {
    let says_up = |status: &Status| {
        let known = status.servers.iter().find(|known| known.id == server);
        known.is_some_and(|known| {
            complaint(known, status.primary.as_deref().unwrap_or_default(), true).is_none()
        })
    };
    statuses.iter().flatten().next().is_some() && !statuses.iter().flatten().any(says_up)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(primary: &str, epoch: u64, pg2: &str) -> Option<Status> {
        let text = format!(
            r#"{{"node":"node1","primary":"{primary}","epoch":{epoch},"servers":[
                {{"id":"pg1","role":"primary","health":"up","replication_state":null,"administrative":"attached"}},
                {{"id":"pg2","role":"standby",{pg2}}}]}}"#
        );
        Some(serde_json::from_str(&text).unwrap())
    }

    const WELL: &str = r#""health":"up","replication_state":"streaming","administrative":"attached""#;

    #[test]
    fn all_is_well_when_every_node_says_so() {
        let found = whole(&[says("pg1", 3, WELL), says("pg1", 3, WELL)], true).unwrap();
        assert_eq!(found, Whole { primary: "pg1".into(), epoch: 3, standbys: vec!["pg2".into()] });
        for (other, why) in [
            (None, "does not answer"),
            (says("pg1", 4, WELL), "do not agree"),
            (says("pg1", 3, r#""health":"down","replication_state":null"#), "pg2 is down"),
            (says("pg1", 3, r#""health":"up","replication_state":"catchup""#), "does not stream"),
            (
                says(
                    "pg1",
                    3,
                    r#""health":"up","replication_state":"streaming","administrative":"quarantined""#,
                ),
                "is quarantined",
            ),
        ] {
            let said = whole(&[says("pg1", 3, WELL), other], true).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        let unseen = r#""health":"up","replication_state":null"#;
        assert!(
            whole(&[says("pg1", 3, unseen)], true).is_err()
                && whole(&[says("pg1", 3, unseen)], false).is_ok()
        );
    }

    #[test]
    fn a_failover_relies_on_all_standbys_and_on_nobody_else() {
        let with = |names: &str, count: u32| {
            let mut status = says("pg1", 3, WELL).unwrap();
            let relied = format!(r#"{{"synchronous":{{"names":{names},"count":{count}}}}}"#);
            status.failover = serde_json::from_str(&relied).unwrap();
            Some(status)
        };
        let good = || with(r#"["pg2"]"#, 1);
        let found = whole(&[good()], true).unwrap();
        assert_eq!(unpromised(&[good(), good()], &found, true), None);
        for other in [r#"["pg1","pg2"]"#, r#"["pg1"]"#] {
            let said = unpromised(&[good(), with(other, 1)], &found, false).unwrap();
            assert!(said.contains("acknowledged by ANY 1"), "{said}");
        }
        assert_eq!(unpromised(&[with("[]", 0)], &found, false), None, "nothing is to be promised");
        assert!(unpromised(&[with("[]", 0)], &found, true).unwrap().contains("no standby"));
    }

    #[test]
    fn a_successor_is_another_server_in_a_later_epoch() {
        let before = whole(&[says("pg1", 3, WELL)], true).unwrap();
        assert_eq!(successor(&[None, says("pg1", 4, WELL)], &before, false), None);
        assert_eq!(successor(&[None, says("pg2", 3, WELL)], &before, false), None);
        assert_eq!(successor(&[None, says("pg2", 4, WELL)], &before, false).as_deref(), Some("pg2"));
        assert_eq!(successor(&[says("pg1", 4, WELL)], &before, true).as_deref(), Some("pg1"));
        assert_eq!(successor(&[says("pg1", 3, WELL)], &before, true), None);
        assert!(!is_lost(&[None, None], &before), "who does not answer says nothing");
        assert!(!is_lost(&[says("pg1", 3, WELL), says("pg1", 4, WELL)], &before));
        assert!(is_lost(&[None, says("pg1", 4, WELL)], &before));
    }

    #[test]
    fn a_server_is_out_when_no_node_serves_it() {
        let down = r#""health":"down","replication_state":null"#;
        assert!(is_noticed(&[says("pg1", 3, down), None], "pg2"));
        assert!(!is_noticed(&[says("pg1", 3, down), says("pg1", 3, WELL)], "pg2"));
        assert!(!is_noticed(&[None], "pg2"));
    }

    #[test]
    fn an_instance_is_known_by_its_name_or_by_its_endpoint() {
        let text = r#"{"node":"node1","servers":[{"id":"First","host":"shop-1.abc.rds","role":"primary","health":"up"}]}"#;
        let statuses = [None, Some(serde_json::from_str(text).unwrap())];
        assert!(is_at(&statuses, "First", "first", None), "by its name");
        assert!(is_at(&statuses, "First", "shop-1", Some("Shop-1.abc.rds")));
        assert!(!is_at(&statuses, "First", "shop-2", Some("shop-2.abc.rds")));
        assert!(!is_at(&statuses, "pg2", "shop-1", Some("shop-1.abc.rds")), "that is another server");
    }
}
