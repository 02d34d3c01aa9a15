//! Which server a base backup is taken from.
//!
//! Pure. The standby that is least behind; a primary never, unless that is allowed and there is no standby. Invariant: why
//! each server is not taken can be told.

use serde::Deserialize;

/// `/status`, as far as it matters here.
#[derive(Debug, Clone, Deserialize)]
pub struct Known {
    pub servers: Vec<Server>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Server {
    pub id: String,
    pub host: String,
    pub port: u16,
    pub role: String,
    /// What it says itself, whether or not it is used.
    pub says: String,
    pub health: String,
    pub reason: Option<String>,
    pub administrative: Option<String>,
    pub lag_bytes: Option<u64>,
    pub postgres_version: Option<u32>,
}

/// What the operator says about it.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// This one and no other.
    pub from: Option<String>,
    pub allow_primary: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSource {
    #[error("there is no server {id}; there are {known}")]
    Unknown { id: String, known: String },
    #[error("{id} cannot be copied: {why}")]
    Unfit { id: String, why: String },
    #[error("{id} is the primary, which is left alone: name a standby, or say --allow-primary")]
    Primary { id: String },
    #[error("no standby can be copied: {each}. Bring one back, or say --allow-primary to copy the primary")]
    Nobody { each: String },
    #[error("neither a standby nor the primary can be copied: {each}")]
    NobodyAtAll { each: String },
}

impl Server {
    pub fn is_primary(&self) -> bool {
        self.role == "primary"
    }

    /// Why it is not taken without being named. None: it is fit.
    fn unfit(&self) -> Option<String> {
        let ordered = self.administrative.as_deref().filter(|ordered| *ordered != "attached");
        match ordered.or_else(|| (self.health != "up").then_some(&*self.health)) {
            Some(state) => Some(match self.reason.as_deref().filter(|reason| *reason != state) {
                Some(reason) => format!("{state} ({reason})"),
                None => state.to_owned(),
            }),
            None if self.role == "unknown" => {
                Some(self.reason.clone().unwrap_or_else(|| "its role is not known".to_owned()))
            }
            None => None,
        }
    }

    /// Of one that is named, what an order keeps out of use will do.
    fn unfit_when_named(&self) -> Option<String> {
        let ordered = self.administrative.as_deref();
        match (ordered, &*self.says) {
            (Some("quarantined"), _) => Some("it is quarantined: what it holds is not trusted".to_owned()),
            (Some("detached" | "draining"), "standby") => None,
            _ => self.unfit(),
        }
    }
}

pub fn choose<'a>(known: &'a Known, wish: &Wish) -> Result<&'a Server, NoSource> {
    let servers = &known.servers;
    if let Some(id) = &wish.from {
        let names = || servers.iter().map(|server| server.id.as_str()).collect::<Vec<_>>().join(", ");
        let named = servers.iter().find(|server| server.id == *id);
        let named = named.ok_or_else(|| NoSource::Unknown { id: id.clone(), known: names() })?;
        return match named.unfit_when_named() {
            Some(why) => Err(NoSource::Unfit { id: id.clone(), why }),
            None if named.is_primary() && !wish.allow_primary => Err(NoSource::Primary { id: id.clone() }),
            None => Ok(named),
        };
    }
    let fit = servers.iter().filter(|server| server.unfit().is_none());
    let (primaries, standbys): (Vec<_>, Vec<_>) = fit.partition(|server| server.is_primary());
    let lag = |server: &&&Server| (server.lag_bytes.unwrap_or(u64::MAX), server.id.clone());
    if let Some(standby) = standbys.iter().min_by_key(lag) {
        return Ok(standby);
    }
    let each = |server: &Server| match server.unfit() {
        Some(why) => format!("{} is {why}", server.id),
        None => format!("{} is the primary", server.id),
    };
    let each = servers.iter().map(each).collect::<Vec<_>>().join(", ");
    match primaries.first() {
        Some(primary) if wish.allow_primary => Ok(primary),
        Some(_) => Err(NoSource::Nobody { each }),
        None => Err(NoSource::NobodyAtAll { each }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(id: &str, role: &str, lag_bytes: Option<u64>) -> Server {
        Server {
            id: id.to_owned(),
            host: "h".to_owned(),
            port: 1,
            role: role.to_owned(),
            says: role.to_owned(),
            health: "up".to_owned(),
            reason: None,
            administrative: Some("attached".to_owned()),
            lag_bytes,
            postgres_version: Some(150_018),
        }
    }

    fn known() -> Known {
        let all = [
            server("pg1", "primary", None),
            server("pg2", "standby", Some(9)),
            server("pg3", "standby", Some(3)),
            server("pg4", "standby", None),
        ];
        Known { servers: all.to_vec() }
    }

    fn chosen(known: &Known, from: Option<&str>, allow_primary: bool) -> Result<String, String> {
        let wish = Wish { from: from.map(str::to_owned), allow_primary };
        choose(known, &wish).map(|server| server.id.clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_standby_that_is_least_behind_is_taken() {
        let mut known = known();
        assert_eq!(chosen(&known, None, true).unwrap(), "pg3");
        known.servers[2].health = "down".to_owned();
        assert_eq!(chosen(&known, None, true).unwrap(), "pg2");
        known.servers[1].administrative = Some("detached".to_owned());
        assert_eq!(chosen(&known, None, false).unwrap(), "pg4", "one whose lag is not known is the last");
    }

    #[test]
    fn the_primary_is_taken_only_if_that_is_allowed() {
        let mut known = known();
        known.servers.truncate(3);
        known.servers[1].administrative = Some("quarantined".to_owned());
        known.servers[2].health = "down".to_owned();
        known.servers[2].reason = Some("timeout".to_owned());
        let error = chosen(&known, None, false).unwrap_err();
        let expected =
            "no standby can be copied: pg1 is the primary, pg2 is quarantined, pg3 is down (timeout).";
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(chosen(&known, None, true).unwrap(), "pg1");
        known.servers[0].health = "down".to_owned();
        assert!(chosen(&known, None, true).unwrap_err().starts_with("neither a standby nor the primary"));
    }

    #[test]
    fn one_that_is_named_is_taken_if_it_can_be_trusted() {
        let mut known = known();
        assert_eq!(chosen(&known, Some("pg2"), false).unwrap(), "pg2");
        assert!(chosen(&known, Some("pg1"), false).unwrap_err().contains("say --allow-primary"));
        assert_eq!(chosen(&known, Some("pg1"), true).unwrap(), "pg1");
        assert!(chosen(&known, Some("pg9"), true).unwrap_err().contains("there are pg1, pg2, pg3, pg4"));
        known.servers[1].administrative = Some("detached".to_owned());
        known.servers[1].health = "down".to_owned();
        known.servers[1].role = "unknown".to_owned();
        assert_eq!(chosen(&known, Some("pg2"), false).unwrap(), "pg2", "it serves nobody else");
        known.servers[1].administrative = Some("quarantined".to_owned());
        assert!(chosen(&known, Some("pg2"), false).unwrap_err().contains("not trusted"));
        known.servers[2].health = "down".to_owned();
        assert_eq!(chosen(&known, Some("pg3"), false).unwrap_err(), "pg3 cannot be copied: down");
    }
}
