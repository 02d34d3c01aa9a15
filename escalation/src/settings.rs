//! One endpoint's configuration. The same on every node: what differs is found by `Identity`.

use crate::elastic_ip::ElasticIpSettings;
use crate::interface::InterfaceSettings;
use crate::interface::plan::LIFETIME_MIN_S;
use crate::program::{ProgramSettings, ProgramSettingsError};
use crate::route_table::RouteTableSettings;
use crate::route53::{Route53Settings, TTL_MAX_S};
use crate::secondary_ip::SecondaryIpSettings;
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSettings {
    pub name: String,
    /// `method.elastic-ip = { allocation_id = "eipalloc-…" }`
    pub method: MethodSettings,
    /// The operator's programs around a move: they may delay it by their deadlines, and not prevent it.
    pub pre: Option<ProgramSettings>,
    pub post: Option<ProgramSettings>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MethodSettings {
    ElasticIp(ElasticIpSettings),
    Route53(Route53Settings),
    RouteTable(RouteTableSettings),
    SecondaryIp(SecondaryIpSettings),
    Interface(InterfaceSettings),
    Command(ProgramSettings),
}

/// Each method's name, and what it moves.
pub const METHODS: &[(&str, &str)] = &[
    ("elastic-ip", "an Elastic IP"),
    ("route53", "a Route 53 record"),
    ("route-table", "routes to an address outside of the network's range"),
    ("secondary-ip", "a secondary private address"),
    ("interface", "an address on a network interface"),
    ("command", "whatever the operator's program moves"),
];

impl MethodSettings {
    /// As it is written in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            MethodSettings::ElasticIp(_) => "elastic-ip",
            MethodSettings::Route53(_) => "route53",
            MethodSettings::RouteTable(_) => "route-table",
            MethodSettings::SecondaryIp(_) => "secondary-ip",
            MethodSettings::Interface(_) => "interface",
            MethodSettings::Command(_) => "command",
        }
    }

    pub fn needs_aws(&self) -> bool {
        !matches!(self, MethodSettings::Interface(_) | MethodSettings::Command(_))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("endpoint {endpoint}: {key} must be given")]
    Empty { endpoint: String, key: &'static str },
    #[error("endpoint {endpoint}: ttl_s must be from 0 to {TTL_MAX_S}, or clients stay with the old node")]
    TtlTooLong { endpoint: String },
    #[error(
        "endpoint {endpoint}: lifetime_s must be 0 or at least {LIFETIME_MIN_S}: it is renewed once a second"
    )]
    LifetimeTooShort { endpoint: String },
    #[error("endpoint {endpoint}: {error}")]
    Program { endpoint: String, error: ProgramSettingsError },
}

impl EndpointSettings {
    /// What can be judged without looking at the world.
    pub fn check(&self) -> Result<(), SettingsError> {
        let endpoint = || self.name.clone();
        let given = |key, is_empty: bool| {
            if is_empty { Err(SettingsError::Empty { endpoint: endpoint(), key }) } else { Ok(()) }
        };
        let program = |program: &ProgramSettings| {
            program.check().map_err(|error| SettingsError::Program { endpoint: endpoint(), error })
        };
        given("name", self.name.is_empty())?;
        for around in [&self.pre, &self.post].into_iter().flatten() {
            program(around)?;
        }
        match &self.method {
            MethodSettings::ElasticIp(method) => given("allocation_id", method.allocation_id.is_empty()),
            MethodSettings::Route53(method) => {
                given("hosted_zone_id", method.hosted_zone_id.is_empty())?;
                given("name of the record", method.name.trim_end_matches('.').is_empty())?;
                let fine = method.ttl_s <= TTL_MAX_S;
                if fine { Ok(()) } else { Err(SettingsError::TtlTooLong { endpoint: endpoint() }) }
            }
            MethodSettings::RouteTable(method) => {
                given("tables", method.tables.is_empty())?;
                given("destinations", method.destinations.is_empty())
            }
            MethodSettings::SecondaryIp(_) => Ok(()),
            MethodSettings::Interface(method) => {
                given("device", method.device.is_empty())?;
                let fine = method.lifetime_s == 0 || method.lifetime_s >= LIFETIME_MIN_S;
                if fine { Ok(()) } else { Err(SettingsError::LifetimeTooShort { endpoint: endpoint() }) }
            }
            MethodSettings::Command(method) => program(method),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<EndpointSettings, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn each_method_is_read() {
        for (name, method) in [
            ("elastic-ip", r#"{"allocation_id": "eipalloc-1"}"#),
            (
                "route53",
                r#"{"hosted_zone_id": "Z1", "name": "db.example.org", "address": "public", "ipv6": true}"#,
            ),
            ("route-table", r#"{"tables": ["rtb-1"], "destinations": ["192.0.2.1/32", "2001:db8::1/128"]}"#),
            ("secondary-ip", r#"{"address": "10.0.0.9"}"#),
            ("interface", r#"{"device": "eth0", "address": "10.0.0.9/24"}"#),
            ("command", r#"{"command": ["/bin/true"], "deadline_ms": 100}"#),
        ] {
            let settings = read(&format!(r#"{{"name": "app", "method": {{"{name}": {method}}}}}"#)).unwrap();
            assert_eq!(settings.method.name(), name);
            assert_eq!(settings.check(), Ok(()));
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for json in [
            r#"{"name": "app", "method": {"elastic-ip": {"allocation": "x"}}}"#,
            r#"{"name": "app", "method": {"teleport": {}}}"#,
            r#"{"name": "app", "methods": {}}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
        for json in [
            r#"{"name": "app", "method": {"elastic-ip": {"allocation_id": ""}}}"#,
            r#"{"name": "app", "method": {"route53": {"hosted_zone_id": "Z", "name": "x", "ttl_s": 60}}}"#,
            r#"{"name": "app", "method": {"route-table": {"tables": [], "destinations": ["192.0.2.1/32"]}}}"#,
            r#"{"name": "app", "method": {"interface": {"device": "x", "address": "10.0.0.9/24", "lifetime_s": 1}}}"#,
            r#"{"name": "app", "method": {"command": {"command": []}}}"#,
            r#"{"name": "app", "method": {"command": {"command": ["x"], "deadline_ms": 0}}}"#,
        ] {
            assert!(read(json).unwrap().check().is_err(), "{json}");
        }
    }
}
