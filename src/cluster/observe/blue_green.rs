//! What a server of RDS or Aurora is asked of its blue/green deployment, and how its answer is read.
//!
//! Pure. The functions are those that AWS's own drivers read (aws-advanced-jdbc-wrapper, `RdsPgDialect` and `AuroraPgDialect`).
//! They are there on some versions only, and not for everybody: so one asks first whether there is anything to ask.

use serde::Deserialize;

use super::question::AnswerError;
use crate::cluster::blue_green::BlueGreen;
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

/// A Multi-AZ DB cluster has neither column.
#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    status: Option<String>,
}

const SOURCE: &str = "BLUE_GREEN_DEPLOYMENT_SOURCE";

/// As the blue side's row says; its row is gone once the switchover is over.
pub fn answer(json: Option<&str>) -> Result<BlueGreen, AnswerError> {
    let rows: Vec<Row> =
        json.map_or(Ok(Vec::new()), |json| serde_json::from_str(json).map_err(|_| AnswerError(0)))?;
    let told = || rows.iter().filter_map(|row| Some((row.role.as_deref()?, row.status.as_deref()?)));
    let source = told().find(|(role, _)| *role == SOURCE);
    Ok(source.or_else(|| told().next()).map_or(BlueGreen::None, |(_, status)| BlueGreen::of_status(status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blue_sides_row_counts_and_a_multi_az_cluster_has_no_deployment() {
        let both = r#"[{"id": "2", "endpoint": "shop-green-x.abc", "port": 5432, "role": "BLUE_GREEN_DEPLOYMENT_TARGET",
            "status": "AVAILABLE", "version": "1.0"}, {"id": "1", "endpoint": "shop.abc", "port": 5432,
            "role": "BLUE_GREEN_DEPLOYMENT_SOURCE", "status": "SWITCHOVER_INITIATED", "version": "1.0"}]"#;
        assert_eq!(answer(Some(both)), Ok(BlueGreen::Initiated));
        let green = r#"[{"role": "BLUE_GREEN_DEPLOYMENT_TARGET", "status": "SWITCHOVER_COMPLETED"}]"#;
        assert_eq!(answer(Some(green)), Ok(BlueGreen::Completed));
        let members = r#"[{"id": "db-ABC", "endpoint": "shop-instance-1.abc", "port": 5432}]"#;
        assert_eq!(answer(Some(members)), Ok(BlueGreen::None));
        assert_eq!(answer(None), Ok(BlueGreen::None));
        assert_eq!(answer(Some("[7]")), Err(AnswerError(0)));
    }
}
