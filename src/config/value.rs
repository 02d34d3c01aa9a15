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
        DeValue::Table(methods) if methods.len() == 1 => {
            by_serde(value, "docs/escalation.md shows each method with its keys")
        }
        DeValue::Table(methods) => {
            mismatch(format!("expected one method, found {}", methods.len()), METHOD_EXAMPLE)
        }
        other => wrong_type("a method with its keys", other, METHOD_EXAMPLE),
    }
}

/// What another crate defines and reads: its words for what is wrong, and the place.
fn by_serde<T: DeserializeOwned>(value: &Spanned<DeValue<'_>>, remedy: &str) -> Result<T, Mismatch> {
    if !value.get_ref().is_table() {
        return wrong_type("keys with values", value.get_ref(), remedy);
    }
    T::deserialize(ValueDeserializer::from(value.clone())).map_err(|error| Mismatch {
        // The message, and on a line of its own the name of the key it is about.
        problem: error.to_string().trim_end().replace('\n', ", "),
        remedy: remedy.to_owned(),
        offset: error.span().map(|span| span.start),
    })
}

#[cfg(test)]
mod tests;
