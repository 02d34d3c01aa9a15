//! What a server of RDS or Aurora is asked of its blue/green deployment, and of the members of its Multi-AZ DB cluster, and
//! how its answer is read.
//!
//! Pure. The functions are those that AWS's own drivers read (aws-advanced-jdbc-wrapper, `RdsPgDialect`,
//! `RdsMultiAzDbClusterPgDialect` and `AuroraPgDialect`).
//! They are there on some versions only, and not for everybody: so one asks first whether there is anything to ask.

use serde::Deserialize;

use super::question::AnswerError;
use crate::cluster::blue_green::BlueGreen;
use crate::cluster::instances::Described;
use crate::config::FailoverMode;

macro_rules! exists {
    ($schema:literal, $function:literal) => {
        concat!(
            "SELECT pg_catalog.count(*) > 0 FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
              WHERE n.nspname = '", $schema, "' AND p.proname = '", $function, "' \
                AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')"
        )
    };
}

/// The argument says who asks.
macro_rules! rows {
    ($function:literal) => {
        concat!("SELECT pg_catalog.json_agg(pg_catalog.row_to_json(t)) FROM ", $function, "('komainu') AS t")
    };
}

pub struct Questions {
    /// Whether the other one may be asked: `t` or `f`.
    pub exists: &'static str,
    /// One row of one column, all that the function says.
    pub rows: &'static str,
}

pub const fn questions(mode: FailoverMode) -> Questions {
    match mode {
        FailoverMode::Aurora => Questions {
            exists: exists!("pg_catalog", "get_blue_green_fast_switchover_metadata"),
            rows: rows!("pg_catalog.get_blue_green_fast_switchover_metadata"),
        },
        _ => Questions {
            exists: exists!("rds_tools", "show_topology"),
            rows: rows!("rds_tools.show_topology"),
        },
    }
}

/// A Multi-AZ DB cluster has neither of the last two.
#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    endpoint: Option<String>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    status: Option<String>,
}

/// What one server tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub deployment: BlueGreen,
    /// Of its Multi-AZ DB cluster.
    pub members: Vec<Described>,
}

impl Told {
    pub fn nothing_but(deployment: BlueGreen) -> Told {
        Told { deployment, members: Vec::new() }
    }
}

const SOURCE: &str = "BLUE_GREEN_DEPLOYMENT_SOURCE";

/// Of a deployment as the blue side's row says; its row is gone once the switchover is over. Who has a role in a deployment
/// is no member: the green side is another cluster.
pub fn answer(json: Option<&str>) -> Result<Told, AnswerError> {
    let rows: Vec<Row> =
        json.map_or(Ok(Vec::new()), |json| serde_json::from_str(json).map_err(|_| AnswerError(0)))?;
    let told = || rows.iter().filter_map(|row| Some((row.role.as_deref()?, row.status.as_deref()?)));
    let source = told().find(|(role, _)| *role == SOURCE).or_else(|| told().next());
    let deployment = source.map_or(BlueGreen::None, |(_, status)| BlueGreen::of_status(status));
    Ok(Told { deployment, members: rows.iter().filter_map(member).collect() })
}

/// An instance's endpoint begins with its identifier.
fn member(row: &Row) -> Option<Described> {
    let (host, port) = (row.endpoint.as_deref()?, row.port?);
    let (id, domain) = host.split_once('.')?;
    let is_one = row.role.is_none() && !id.is_empty() && !domain.is_empty() && port != 0;
    is_one.then(|| Described { id: id.to_owned(), host: host.to_owned(), port, zone: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blue_sides_row_counts_and_a_multi_az_cluster_has_no_deployment() {
        let both = r#"[{"id": "2", "endpoint": "shop-green-x.abc", "port": 5432, "role": "BLUE_GREEN_DEPLOYMENT_TARGET",
            "status": "AVAILABLE", "version": "1.0"}, {"id": "1", "endpoint": "shop.abc", "port": 5432,
            "role": "BLUE_GREEN_DEPLOYMENT_SOURCE", "status": "SWITCHOVER_INITIATED", "version": "1.0"}]"#;
        let deployment = |json| answer(json).map(|told| told.deployment);
        assert_eq!(answer(Some(both)), Ok(Told::nothing_but(BlueGreen::Initiated)));
        let green = r#"[{"role": "BLUE_GREEN_DEPLOYMENT_TARGET", "status": "SWITCHOVER_COMPLETED"}]"#;
        assert_eq!(deployment(Some(green)), Ok(BlueGreen::Completed));
        let members = r#"[{"id": "db-ABC", "endpoint": "shop-instance-1.abc", "port": 5432}]"#;
        assert_eq!(deployment(Some(members)), Ok(BlueGreen::None));
        assert_eq!(answer(None), Ok(Told::nothing_but(BlueGreen::None)));
        assert_eq!(answer(Some("[7]")), Err(AnswerError(0)));
    }

    #[test]
    fn a_member_is_called_as_its_endpoint_begins() {
        let rows = r#"[{"id": "db-ABC", "endpoint": "shop-1.abc.test", "port": 5433}, {"id": "db-X", "endpoint": "bare", "port": 1},
            {"id": "db-Y", "endpoint": ".test", "port": 1}, {"id": "db-Z", "endpoint": "shop-2.test"}]"#;
        let (id, host) = ("shop-1".to_owned(), "shop-1.abc.test".to_owned());
        assert_eq!(answer(Some(rows)).unwrap().members, [Described { id, host, port: 5433, zone: None }]);
    }
}
