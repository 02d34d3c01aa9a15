//! Which `primary_conninfo` a standby gets.
//!
//! Pure. Invariant: what somebody else wrote into it, TLS options and passwords above all, stays.

use crate::cluster::conninfo::{Conninfo, NOWHERE};
use crate::config;

/// The server that is to be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    pub id: String,
    pub host: String,
    pub port: u16,
}

/// The same options, leading nowhere. None: there is nobody to receive from as it is.
pub fn nowhere(now: &Conninfo) -> Option<String> {
    now.upstream()?;
    let mut next = now.clone();
    next.remove("hostaddr");
    next.set("host", NOWHERE);
    Some(next.to_string())
}

/// `id` is the standby's own: the name under which its primary is to know it.
pub fn following(now: &Conninfo, id: &str, upstream: &Followed, failover: &config::Failover) -> Conninfo {
    let mut next = now.clone();
    next.remove("hostaddr");
    next.set("host", &upstream.host);
    next.set("port", &upstream.port.to_string());
    next.set("application_name", id);
    // A password that somebody wrote there belongs to the user beside it.
    if next.get("password").is_none() || next.get("user").is_none() {
        next.set("user", &failover.replication_user);
    }
    if let Some(passfile) = &failover.replication_passfile {
        next.set("passfile", passfile);
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FailoverMode, SyncMode};

    fn failover(passfile: Option<&str>) -> config::Failover {
        config::Failover {
            mode: FailoverMode::Streaming,
            automatic: true,
            user: "op".to_owned(),
            password_file: None,
            database: "postgres".to_owned(),
            replication_user: "replicator".to_owned(),
            replication_passfile: passfile.map(str::to_owned),
            sync_mode: SyncMode::Off,
            sync_count: 1,
            max_lag_bytes: 0,
            promote_log_shipped: false,
            crash_recovery_grace_ms: 0,
            promote_timeout_ms: 0,
            silence_ms: 0,
            max_slot_bytes: 0,
            write_timeout_ms: 0,
            fence_host: config::FenceHost::Off,
            fence_host_wait_ms: 0,
            cluster_id: None,
            cluster_refresh_ms: 30_000,
        }
    }

    fn followed(now: &str, passfile: Option<&str>) -> String {
        let upstream = Followed { id: "pg2".to_owned(), host: "db2".to_owned(), port: 5433 };
        following(&Conninfo::parse(now).unwrap(), "pg3", &upstream, &failover(passfile)).to_string()
    }

    #[test]
    fn host_port_name_and_user_change_and_the_rest_stays() {
        let fresh = "host=db2 port=5433 application_name=pg3 user=replicator";
        assert_eq!(followed("", None), fresh);
        assert_eq!(followed(fresh, None), fresh);
        assert_eq!(followed("", Some("/p")), format!("{fresh} passfile=/p"));
        assert_eq!(
            followed("hostaddr=10.0.0.1 sslmode=verify-full user=old passfile='/a b'", None),
            "sslmode=verify-full user=replicator passfile='/a b' host=db2 port=5433 application_name=pg3"
        );
        assert_eq!(
            followed("postgres://me:it%27s@db1:1/?sslmode=require", None),
            r"user=me password='it\'s' host=db2 port=5433 sslmode=require application_name=pg3"
        );
    }

    #[test]
    fn a_standby_that_was_stopped_has_its_options_when_it_goes_on() {
        let now = Conninfo::parse("host=db1 port=5432 user=me password=x sslmode=require").unwrap();
        let stopped = Conninfo::parse(&nowhere(&now).unwrap()).unwrap();
        assert!(stopped.upstream().unwrap().is_nowhere());
        assert_eq!(nowhere(&stopped), Some(stopped.to_string()), "twice is once");
        assert_eq!(stopped.get("password"), Some("x"));
        assert_eq!(nowhere(&Conninfo::default()), None);
    }
}
