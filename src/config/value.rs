//! One value of the file, of the kind its key asks for.
//!
//! Owns the kinds and their ranges. Pure. Invariant: a `Value` lies within its key's range; what does not
//! becomes a `Mismatch`, in words for the file's author.

use std::net::SocketAddr;

use komainu_escalation::MethodSettings;
use komainu_escalation::program::ProgramSettings;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeInteger, DeValue, ValueDeserializer};

use super::PreferenceTarget;
use super::keys::{Key, Kind};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Integer(u64),
    /// Text, choices and paths.
    Text(String),
    Names(Vec<String>),
    Address(SocketAddr),
    Addresses(Vec<SocketAddr>),
    Target(PreferenceTarget),
    Method(MethodSettings),
    Program(ProgramSettings),
}

/// What is wrong, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub problem: String,
    pub remedy: String,
    /// Where in the file, if it is known better than by the line of the key.
    pub offset: Option<usize>,
}

fn mismatch<T>(problem: impl Into<String>, remedy: impl Into<String>) -> Result<T, Mismatch> {
    Err(Mismatch { problem: problem.into(), remedy: remedy.into(), offset: None })
}

const PORT_EXAMPLE: &str = "write an IP address and a port, such as \"127.0.0.1:9999\" or \"[::1]:9999\"";
const TARGET_EXAMPLE: &str = "write \"primary\", \"standbys\", or servers by weight: { s2 = 3, s3 = 1 }";
const METHOD_EXAMPLE: &str =
    "write method.elastic-ip = { allocation_id = \"eipalloc-…\" }, or another one of docs/escalation.md";
const PROGRAM_EXAMPLE: &str = "write { command = [\"/path/to/program\"], deadline_ms = 5000 }";
const MODE_EXAMPLE: &str = "write it in octal, from 0o000 to 0o777";
const MAX_MODE: u64 = 0o777;
const MAX_SHARE: u64 = 10_000;

impl Value {
    pub(super) fn read(key: &Key, spanned: &Spanned<DeValue<'_>>) -> Result<Self, Mismatch> {
        let value = spanned.get_ref();
        match key.kind {
            Kind::Bool => match value.as_bool() {
                Some(value) => Ok(Self::Bool(value)),
                None => wrong_type("true or false", value, "write true or false, without quotes"),
            },
            Kind::Integer(min, max) => integer(key, value, min, max).map(Self::Integer),
            Kind::Text | Kind::Path => text(value).map(Self::Text),
            Kind::Choice(words) => choice(value, words).map(Self::Text),
            Kind::Mode => mode(value).map(Self::Integer),
            Kind::Address => address(value).map(Self::Address),
            Kind::Addresses => addresses(value).map(Self::Addresses),
            Kind::Names => list(value, "a list of names", "write it as [\"name\"]", text).map(Self::Names),
            Kind::Target => target(value).map(Self::Target),
            Kind::Method => method(spanned).map(Self::Method),
            Kind::Program => by_serde(spanned, PROGRAM_EXAMPLE).map(Self::Program),
        }
    }
}

/// The type in an author's words.
fn found(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text in quotes",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

fn wrong_type<T>(expected: &str, value: &DeValue<'_>, remedy: impl Into<String>) -> Result<T, Mismatch> {
    mismatch(format!("expected {expected}, found {}", found(value)), remedy)
}

fn integer(key: &Key, value: &DeValue<'_>, min: u64, max: u64) -> Result<u64, Mismatch> {
    let unit = match key.unit {
        "ms" => "milliseconds",
        other => other,
    };
    let DeValue::Integer(number) = value else {
        let of = if unit.is_empty() { String::new() } else { format!(" ({unit})") };
        return wrong_type(
            &format!("a whole number{of}"),
            value,
            "write the digits alone, without quotes or unit",
        );
    };
    match parse(number).filter(|number| (min..=max).contains(number)) {
        Some(number) => Ok(number),
        None => mismatch(
            format!("{number} is out of range"),
            format!("choose from {min} to {max} {unit}").trim_end(),
        ),
    }
}

fn parse(number: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn text(value: &DeValue<'_>) -> Result<String, Mismatch> {
    match value {
        DeValue::String(text) if text.is_empty() => {
            mismatch("it is empty", "write a value, or remove the key")
        }
        DeValue::String(text) if text.chars().any(char::is_control) => {
            mismatch("it contains a control character", "write it on one line, without tabs")
        }
        DeValue::String(text) => Ok(text.to_string()),
        other => wrong_type("text in quotes", other, "put it in quotes"),
    }
}

fn choice(value: &DeValue<'_>, words: &[&str]) -> Result<String, Mismatch> {
    let remedy = format!("use {}", one_of(words));
    match value {
        DeValue::String(text) if words.contains(&text.as_ref()) => Ok(text.to_string()),
        DeValue::String(text) => mismatch(format!("\"{text}\" is not known here"), remedy),
        // `mode = off` and `mode = false` are what newcomers write.
        other => wrong_type("a word in quotes", other, remedy),
    }
}

/// `"a", "b" or "c"`.
fn one_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.as_slice() {
        [head @ .., last] if !head.is_empty() => format!("{} or {last}", head.join(", ")),
        all => all.join(""),
    }
}

/// Decimal digits are refused: 777 would be 0o1411.
fn mode(value: &DeValue<'_>) -> Result<u64, Mismatch> {
    const OCTAL: u32 = 8;
    let bits = match value {
        DeValue::Integer(number) if number.radix() == OCTAL => parse(number),
        DeValue::String(text) => u64::from_str_radix(text.strip_prefix("0o").unwrap_or(text), OCTAL).ok(),
        DeValue::Integer(number) => return mismatch(format!("{number} is not octal"), MODE_EXAMPLE),
        other => return wrong_type("permission bits", other, MODE_EXAMPLE),
    };
    match bits.filter(|bits| *bits <= MAX_MODE) {
        Some(bits) => Ok(bits),
        None => mismatch("these are no permission bits", MODE_EXAMPLE),
    }
}

fn address(value: &DeValue<'_>) -> Result<SocketAddr, Mismatch> {
    let DeValue::String(text) = value else {
        return wrong_type("an address in quotes", value, PORT_EXAMPLE);
    };
    let Ok(address) = text.parse::<SocketAddr>() else {
        let problem = match text.split_once(':') {
            _ if text.parse::<std::net::IpAddr>().is_ok() => format!("\"{text}\" has no port"),
            Some(("" | "*", port)) => {
                return mismatch(
                    format!("\"{text}\" has no address"),
                    format!("write \"0.0.0.0:{port}\" for all"),
                );
            }
            Some(("localhost", port)) => {
                let remedy = format!("write \"127.0.0.1:{port}\"");
                return mismatch(format!("\"{text}\" is a name"), remedy);
            }
            _ => format!("\"{text}\" is not an address with a port"),
        };
        return mismatch(problem, PORT_EXAMPLE);
    };
    if address.port() == 0 {
        return mismatch(format!("\"{text}\" has port 0, which clients could not find"), PORT_EXAMPLE);
    }
    Ok(address)
}

fn addresses(value: &DeValue<'_>) -> Result<Vec<SocketAddr>, Mismatch> {
    let remedy = "write it as [\"127.0.0.1:9999\"]";
    let list = list(value, "a list of addresses", remedy, address)?;
    if list.is_empty() { mismatch("the list is empty", remedy) } else { Ok(list) }
}

fn list<T>(
    value: &DeValue<'_>,
    expected: &str,
    remedy: &str,
    read: fn(&DeValue<'_>) -> Result<T, Mismatch>,
) -> Result<Vec<T>, Mismatch> {
    match value {
        DeValue::Array(items) => items.iter().map(|item| read(item.get_ref())).collect(),
        other => wrong_type(expected, other, remedy),
    }
}

fn target(value: &DeValue<'_>) -> Result<PreferenceTarget, Mismatch> {
    let servers = match value {
        DeValue::String(text) if text == "primary" => return Ok(PreferenceTarget::Primary),
        DeValue::String(text) if text == "standbys" => return Ok(PreferenceTarget::Standbys),
        DeValue::String(text) => return mismatch(format!("\"{text}\" is not known here"), TARGET_EXAMPLE),
        DeValue::Table(servers) => servers,
        other => return wrong_type("a word or servers by weight", other, TARGET_EXAMPLE),
    };
    let share = |(id, weight): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let id: &std::borrow::Cow<'_, str> = id.get_ref();
        let weight = weight.get_ref().as_integer().and_then(parse).filter(|weight| *weight <= MAX_SHARE);
        match weight.and_then(|weight| u32::try_from(weight).ok()) {
            Some(weight) => Ok((id.to_string(), weight)),
            None => mismatch(
                format!("the weight of \"{id}\" is no number"),
                format!("choose from 0 to {MAX_SHARE}"),
            ),
        }
    };
    let servers: Vec<_> = servers.iter().map(share).collect::<Result<_, _>>()?;
    if servers.iter().all(|(_, weight)| *weight == 0) {
        return mismatch("no server has a weight above 0", TARGET_EXAMPLE);
    }
    Ok(PreferenceTarget::Servers(servers))
}

fn method(value: &Spanned<DeValue<'_>>) -> Result<MethodSettings, Mismatch> {
    match value.get_ref() {
        DeValue::Table(methods) if methods.len() == 1 => by_serde(value, METHOD_EXAMPLE),
        DeValue::Table(methods) => {
            mismatch(format!("expected one method, found {}", methods.len()), METHOD_EXAMPLE)
        }
        other => wrong_type("a method with its keys", other, METHOD_EXAMPLE),
    }
}

/// What another crate defines and reads: its words for what is wrong, and the place.
fn by_serde<T: DeserializeOwned>(value: &Spanned<DeValue<'_>>, example: &str) -> Result<T, Mismatch> {
    if !value.get_ref().is_table() {
        return wrong_type("keys with values", value.get_ref(), example);
    }
    T::deserialize(ValueDeserializer::from(value.clone())).map_err(|error| Mismatch {
        // The message, and on a line of its own the name of the key it is about.
        problem: error.to_string().trim_end().replace('\n', ", "),
        remedy: example.to_owned(),
        offset: error.span().map(|span| span.start),
    })
}

#[cfg(test)]
mod tests {
    use komainu_escalation::elastic_ip::ElasticIpSettings;

    use super::*;
    use crate::config::keys::{self, Preset, SECTIONS};

    fn read(key: &str, text: &str) -> Result<Value, String> {
        let value = DeValue::parse(text).unwrap();
        Value::read(keys::key(key).unwrap(), &value).map_err(|m| format!("{}; {}", m.problem, m.remedy))
    }

    #[test]
    fn every_default_is_a_value_of_its_key() {
        for section in SECTIONS {
            for key in section.keys {
                let name = section.qualified(key.name);
                match key.default {
                    Preset::Value(text) => {
                        assert!(read(&name, text).is_ok(), "{name}: {:?}", read(&name, text))
                    }
                    Preset::As(other) => {
                        assert_eq!(keys::key(other).map(|other| other.kind), Some(key.kind), "{name}")
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn values_are_read_by_kind() {
        for (key, text, expected) in [
            ("split.enabled", "false", Value::Bool(false)),
            ("pool.size", "1_000", Value::Integer(1000)),
            ("pool.size", "0x10", Value::Integer(16)),
            ("limits.client_idle_timeout_ms", "0", Value::Integer(0)),
            ("zone", "'eu-west-1a'", Value::Text("eu-west-1a".into())),
            ("pool.mode", "'session'", Value::Text("session".into())),
            ("listen.unix_socket_mode", "0o660", Value::Integer(0o660)),
            ("listen.unix_socket_mode", "'0660'", Value::Integer(0o660)),
            ("admin.address", "'[::1]:80'", Value::Address("[::1]:80".parse().unwrap())),
            ("split.write_functions", "['a', 'b.c']", Value::Names(vec!["a".into(), "b.c".into()])),
            ("split.preference.target", "'primary'", Value::Target(PreferenceTarget::Primary)),
            (
                "split.preference.target",
                "{ b = 3, a = 0 }",
                Value::Target(PreferenceTarget::Servers(vec![("a".into(), 0), ("b".into(), 3)])),
            ),
            (
                "endpoint.method",
                "{ elastic-ip = { allocation_id = 'eipalloc-1' } }",
                Value::Method(MethodSettings::ElasticIp(ElasticIpSettings {
                    allocation_id: "eipalloc-1".into(),
                })),
            ),
            ("endpoint.method", "{ command = { command = ['/m', '-v'], deadline_ms = 9 } }", {
                let command = vec!["/m".into(), "-v".into()];
                Value::Method(MethodSettings::Command(ProgramSettings { command, deadline_ms: 9 }))
            }),
            ("endpoint.pre", "{ command = ['/p'] }", {
                Value::Program(ProgramSettings { command: vec!["/p".into()], deadline_ms: 5000 })
            }),
        ] {
            assert_eq!(read(key, text), Ok(expected), "{key} = {text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_would() {
        for (key, text, says) in [
            ("split.enabled", "'yes'", "expected true or false, found text in quotes; write true or false"),
            (
                "limits.startup_timeout_ms",
                "'15s'",
                "expected a whole number (milliseconds), found text in quotes",
            ),
            ("limits.startup_timeout_ms", "1.5", "found a number with a fraction"),
            ("pool.size", "0", "0 is out of range; choose from 1 to 1000000 connections"),
            ("pool.size", "-1", "-1 is out of range"),
            ("pool.size", "99999999999999999999999", "is out of range"),
            ("server.port", "65536", "65536 is out of range; choose from 1 to 65535"),
            ("zone", "''", "it is empty"),
            ("zone", "\"a\\nb\"", "a control character"),
            ("zone", "7", "put it in quotes"),
            (
                "pool.mode",
                "'statement'",
                "\"statement\" is not known here; use \"transaction\" or \"session\"",
            ),
            ("client_tls.mode", "false", "use \"off\", \"allow\", \"require\" or \"verify\""),
            ("listen.unix_socket_mode", "777", "777 is not octal; write it in octal"),
            ("listen.unix_socket_mode", "0o1777", "no permission bits"),
            ("listen.unix_socket_mode", "'0888'", "no permission bits"),
            ("listen.addresses", "'127.0.0.1:1'", "expected a list of addresses"),
            ("listen.addresses", "[]", "the list is empty"),
            ("listen.addresses", "['127.0.0.1']", "\"127.0.0.1\" has no port"),
            ("listen.addresses", "['::1']", "\"::1\" has no port"),
            ("listen.addresses", "['*:5432']", "write \"0.0.0.0:5432\""),
            ("listen.addresses", "['localhost:5432']", "write \"127.0.0.1:5432\""),
            ("listen.addresses", "['127.0.0.1:0']", "port 0"),
            ("listen.addresses", "['db:port']", "not an address with a port"),
            ("split.preference.target", "'standby'", "\"standby\" is not known here"),
            ("split.preference.target", "{ a = 0 }", "no server has a weight above 0"),
            ("split.preference.target", "{ a = 'x' }", "the weight of \"a\" is no number"),
            ("split.preference.target", "['a']", "expected a word or servers by weight"),
            (
                "endpoint.method",
                "'elastic-ip'",
                "expected a method with its keys, found text in quotes; write",
            ),
            ("endpoint.method", "{}", "expected one method, found 0"),
            ("endpoint.method", "{ command = {}, route53 = {} }", "expected one method, found 2"),
            (
                "endpoint.method",
                "{ teleport = {} }",
                "unknown variant `teleport`, expected one of `elastic-ip`, ",
            ),
            (
                "endpoint.method",
                "{ elastic-ip = { id = 'x' } }",
                "unknown field `id`, expected `allocation_id`",
            ),
            (
                "endpoint.method",
                "{ elastic-ip = {} }",
                "missing field `allocation_id`; write method.elastic-ip",
            ),
            (
                "endpoint.method",
                "{ elastic-ip = { allocation_id = 3 } }",
                "expected a string, in `allocation_id`; ",
            ),
            ("endpoint.method", "{ secondary-ip = { address = '10.0.0' } }", "invalid IPv4 address"),
            (
                "endpoint.pre",
                "'/bin/true'",
                "expected keys with values, found text in quotes; write { command",
            ),
            ("endpoint.pre", "['/bin/true']", "expected keys with values, found a list"),
            (
                "endpoint.pre",
                "{ command = '/bin/true' }",
                "expected a sequence, in `command`; write { command",
            ),
            ("endpoint.pre", "{ command = ['x'], deadline_ms = -1 }", "`-1`, expected u64, in `deadline_ms`"),
            (
                "endpoint.post",
                "{ command = ['x'], deadline = 1 }",
                "unknown field `deadline`, expected `command`",
            ),
        ] {
            let error = read(key, text).unwrap_err();
            assert!(error.contains(says), "{key} = {text}: {error}");
        }
    }
}
