//! Values of each kind, as they are written and as they are not to be.

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
        ("pool.mode", "'statement'", "\"statement\" is not known here; use \"transaction\" or \"session\""),
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
        ("endpoint.method", "'elastic-ip'", "expected a method with its keys, found text in quotes; write"),
        ("endpoint.method", "{}", "expected one method, found 0"),
        ("endpoint.method", "{ command = {}, route53 = {} }", "expected one method, found 2"),
        (
            "endpoint.method",
            "{ teleport = {} }",
            "unknown variant `teleport`, expected one of `elastic-ip`, ",
        ),
        ("endpoint.method", "{ elastic-ip = { id = 'x' } }", "unknown field `id`, expected `allocation_id`"),
        ("endpoint.method", "{ elastic-ip = {} }", "missing field `allocation_id`; docs/escalation.md shows"),
        (
            "endpoint.method",
            "{ elastic-ip = { allocation_id = 3 } }",
            "expected a string, in `allocation_id`; ",
        ),
        ("endpoint.method", "{ secondary-ip = { address = '10.0.0' } }", "invalid IPv4 address"),
        ("endpoint.pre", "'/bin/true'", "expected keys with values, found text in quotes; write { command"),
        ("endpoint.pre", "['/bin/true']", "expected keys with values, found a list"),
        ("endpoint.pre", "{ command = '/bin/true' }", "expected a sequence, in `command`; write { command"),
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
