//! Who is the primary, and whether all servers are as they should be, by what the nodes say.
//!
//! Pure. Invariant: what one node does not say is not so.

use crate::drill::nodes::{Server, Status};

/// The servers while nothing is wrong with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    pub primary: String,
    pub epoch: u64,
    pub standbys: Vec<String>,
}

/// Or what is wrong.
pub fn whole(statuses: &[Option<Status>]) -> Result<Whole, String> {
    let mut found: Option<Whole> = None;
    for status in statuses {
        let one = of_node(status.as_ref().ok_or("a node does not answer")?)?;
        match &found {
            Some(first) if (&first.primary, first.epoch) != (&one.primary, one.epoch) => {
                return Err("the nodes do not agree on the primary".to_owned());
            }
            _ => found = Some(one),
        }
    }
    found.ok_or_else(|| "there are no nodes".to_owned())
}

fn of_node(status: &Status) -> Result<Whole, String> {
    let node = status.node.as_deref().unwrap_or("the node");
    let primary = status.primary.clone().ok_or_else(|| format!("{node} knows no primary"))?;
    let mut standbys = Vec::new();
    for server in &status.servers {
        if let Some(why) = complaint(server, &primary) {
            return Err(format!("{node} says that {} {why}", server.id));
        }
        if server.id != primary {
            standbys.push(server.id.clone());
        }
    }
    Ok(Whole { primary, epoch: status.epoch, standbys })
}

fn complaint(server: &Server, primary: &str) -> Option<String> {
    let administrative = server.administrative.as_deref().unwrap_or("attached");
    if server.health != "up" {
        return Some(format!("is {}", server.health));
    }
    if administrative != "attached" {
        return Some(format!("is {administrative}"));
    }
    let streams = server.replication_state.as_deref() == Some("streaming");
    (server.id != primary && !streams).then(|| "does not stream".to_owned())
}

/// Who is the primary now, if another than before, in a later epoch.
pub fn successor(statuses: &[Option<Status>], before: &Whole) -> Option<String> {
    statuses.iter().flatten().find_map(|status| {
        let primary = status.primary.clone()?;
        (status.epoch > before.epoch && primary != before.primary).then_some(primary)
    })
}

/// Whether all nodes that answer have noticed that something is wrong with a server.
pub fn is_noticed(statuses: &[Option<Status>], server: &str) -> bool {
    let says_up = |status: &Status| {
        let known = status.servers.iter().find(|known| known.id == server);
        known.is_some_and(|known| complaint(known, status.primary.as_deref().unwrap_or_default()).is_none())
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
        let found = whole(&[says("pg1", 3, WELL), says("pg1", 3, WELL)]).unwrap();
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
            let said = whole(&[says("pg1", 3, WELL), other]).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn a_successor_is_another_server_in_a_later_epoch() {
        let before = whole(&[says("pg1", 3, WELL)]).unwrap();
        assert_eq!(successor(&[None, says("pg1", 4, WELL)], &before), None);
        assert_eq!(successor(&[None, says("pg2", 3, WELL)], &before), None);
        assert_eq!(successor(&[None, says("pg2", 4, WELL)], &before).as_deref(), Some("pg2"));
    }

    #[test]
    fn a_server_is_out_when_no_node_serves_it() {
        let down = r#""health":"down","replication_state":null"#;
        assert!(is_noticed(&[says("pg1", 3, down), None], "pg2"));
        assert!(!is_noticed(&[says("pg1", 3, down), says("pg1", 3, WELL)], "pg2"));
        assert!(!is_noticed(&[None], "pg2"));
    }
}
