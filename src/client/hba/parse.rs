//! Reads the text of a `pg_hba.conf` into rules, or into a list of everything wrong with it.
//!
//! Owns the lexical rules (quotes, comments, commas, continued lines), which are PostgreSQL's own,
//! and the refusals. Pure. Invariant: a word this proxy does not honour is never skipped, since a
//! rule that is read more widely than it was written lets somebody in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{AddressMatch, ClientCert, DatabaseMatch, Method, Rule, Scope, UserMatch};

/// One thing wrong with the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {field}: {problem}; {remedy}")]
pub struct HbaError {
    pub line: usize,
    /// The column: `type`, `database`, `user`, `address`, `method`, `option`, or `line`.
    pub field: &'static str,
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

pub(super) fn parse(text: &str) -> Result<Vec<Rule>, Vec<HbaError>> {
    let mut rules = Vec::new();
    let mut errors = Vec::new();
    for (line, text) in logical_lines(text) {
        match fields(line, &text) {
            Err(error) => errors.push(error),
            Ok(fields) if fields.is_empty() => {}
            Ok(fields) => rules.extend(rule(line, &fields, &mut errors)),
        }
    }
    if errors.is_empty() { Ok(rules) } else { Err(errors) }
}

fn error(
    line: usize,
    field: &'static str,
    problem: impl Into<String>,
    remedy: impl Into<String>,
) -> HbaError {
    HbaError { line, field, problem: problem.into(), remedy: remedy.into() }
}

/// Joins lines that end in a backslash, in comments and quotes too, as PostgreSQL does.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut pending: Option<(usize, String)> = None;
    // An editor's byte order mark is no part of the first word.
    for (index, line) in text.trim_start_matches('\u{feff}').split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let (start, mut joined) = pending.take().unwrap_or((index + 1, String::new()));
        match line.strip_suffix('\\') {
            Some(head) => {
                joined.push_str(head);
                pending = Some((start, joined));
            }
            None => {
                joined.push_str(line);
                lines.push((start, joined));
            }
        }
    }
    lines.extend(pending);
    lines
}

/// A word of a comma list. A word that began with a quote is a name, whatever it spells.
#[derive(Debug, PartialEq, Eq)]
struct Token {
    text: String,
    quoted: bool,
}

impl Token {
    fn is_keyword(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }

    fn begins_with(&self, prefix: char) -> bool {
        !self.quoted && self.text.starts_with(prefix)
    }
}

/// Splits a line into columns, each a comma list of at least one word.
fn fields(line: usize, text: &str) -> Result<Vec<Vec<Token>>, HbaError> {
    if text.contains('\0') {
        return Err(error(line, "line", "it contains a zero byte", "save the file as plain text"));
    }
    let mut fields: Vec<Vec<Token>> = Vec::new();
    let mut goes_on = false;
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| is_blank(*c) || *c == ',').is_some() {}
        match chars.peek() {
            None | Some('#') => return Ok(fields),
            Some(_) => {}
        }
        let (token, comma) = token(line, &mut chars)?;
        match fields.last_mut() {
            Some(list) if goes_on => list.push(token),
            _ => fields.push(vec![token]),
        }
        goes_on = comma;
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

/// One word, and whether a comma ended it. Quotes may begin and end anywhere in it.
fn token(
    line: usize,
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
) -> Result<(Token, bool), HbaError> {
    let mut token = Token { text: String::new(), quoted: chars.peek() == Some(&'"') };
    let mut in_quote = false;
    let mut comma = false;
    while let Some(c) = chars.next_if(|c| in_quote || !(is_blank(*c) || *c == '#')) {
        match c {
            '"' if in_quote && chars.next_if_eq(&'"').is_some() => token.text.push('"'),
            '"' => in_quote = !in_quote,
            ',' if !in_quote => {
                comma = true;
                break;
            }
            _ => token.text.push(c),
        }
    }
    if in_quote {
        return Err(error(
            line,
            "line",
            "a quote is opened and never closed",
            "close it with \" on the same line; a quote inside a name is written twice",
        ));
    }
    Ok((token, comma))
}

/// Reads the columns of one line. Goes on after a bad one, to report them all.
fn rule(line: usize, fields: &[Vec<Token>], errors: &mut Vec<HbaError>) -> Option<Rule> {
    let before = errors.len();
    let mut columns = Columns { line, fields: fields.iter() };
    let keyword = columns.single("type", errors)?;
    let scope: fn(AddressMatch) -> Scope = match keyword.text.as_str() {
        "local" => |_| Scope::Local,
        "host" => Scope::Host,
        "hostssl" => Scope::HostSsl,
        "hostnossl" => Scope::HostNoSsl,
        other => {
            errors.push(unknown_type(line, other));
            return None;
        }
    };
    let databases = columns.list("database", errors)?;
    let databases = accept(databases.iter().map(|token| database(line, token)), errors);
    let users = columns.list("user", errors)?;
    let users = accept(users.iter().map(|token| user(line, token)), errors);
    let address = match keyword.text.as_str() {
        "local" => Ok(AddressMatch::All),
        _ => columns.address(errors)?,
    };
    let method = columns.single("method", errors)?;
    let method = method_named(line, method, &keyword.text, address.is_ok());
    let address = accept([address], errors);
    let method = accept([method], errors);
    let client_cert = match method.first() {
        Some(method) => columns.client_cert(*method, &keyword.text, errors),
        None => ClientCert::NotAsked,
    };
    if errors.len() > before {
        return None;
    }
    Some(Rule {
        line,
        scope: scope(*address.first()?),
        databases,
        users,
        method: *method.first()?,
        client_cert,
    })
}

fn accept<T>(results: impl IntoIterator<Item = Result<T, HbaError>>, errors: &mut Vec<HbaError>) -> Vec<T> {
    results.into_iter().filter_map(|result| result.map_err(|error| errors.push(error)).ok()).collect()
}

/// The columns not yet read.
struct Columns<'a> {
    line: usize,
    fields: std::slice::Iter<'a, Vec<Token>>,
}

impl<'a> Columns<'a> {
    fn list(&mut self, field: &'static str, errors: &mut Vec<HbaError>) -> Option<&'a [Token]> {
        let list = self.fields.next();
        if list.is_none() {
            errors.push(error(
                self.line,
                field,
                "the line ends before it",
                "write: local DATABASE USER METHOD, or host DATABASE USER ADDRESS METHOD",
            ));
        }
        list.map(Vec::as_slice)
    }

    fn single(&mut self, field: &'static str, errors: &mut Vec<HbaError>) -> Option<&'a Token> {
        let list = self.list(field, errors)?;
        if let [token] = list {
            return Some(token);
        }
        errors.push(error(self.line, field, "a list is not allowed here", "write a line for each"));
        None
    }

    /// One column, or two where the second is a mask. The outer None: the line is too short.
    fn address(&mut self, errors: &mut Vec<HbaError>) -> Option<Result<AddressMatch, HbaError>> {
        let token = self.single("address", errors)?;
        let Ok(address) = token.text.parse::<IpAddr>() else {
            return Some(address(self.line, token));
        };
        let hint = format!("write {address}/{}", if address.is_ipv4() { 32 } else { 128 });
        let mask = self.fields.clone().next().and_then(|list| match list.as_slice() {
            [token] => token.text.parse::<IpAddr>().ok(),
            _ => None,
        });
        let Some(mask) = mask else {
            let problem = format!("{address} has neither a prefix length nor a mask");
            return Some(Err(error(self.line, "address", problem, hint)));
        };
        self.fields.next();
        // ipnet takes a mask with holes for the prefix before the first one: a wider rule than written.
        let net = IpNet::with_netmask(address, mask).ok().filter(|net| net.netmask() == mask);
        Some(net.map(|net| AddressMatch::Net(canonical(net))).ok_or_else(|| {
            let problem = format!("{mask} is no mask for {address}");
            error(self.line, "address", problem, format!("{hint}, or a shorter prefix"))
        }))
    }

    /// The options, which are all that may follow the method.
    fn client_cert(&mut self, method: Method, keyword: &str, errors: &mut Vec<HbaError>) -> ClientCert {
        let mut asked = if method == Method::Cert { ClientCert::VerifyFull } else { ClientCert::NotAsked };
        for token in self.fields.by_ref().flatten() {
            let value = match token.text.split_once('=') {
                Some(("clientcert", value)) => value,
                Some((name, _)) => {
                    let problem = format!("the option \"{name}\" is not supported");
                    errors.push(error(
                        self.line,
                        "option",
                        problem,
                        "remove it, or use clientcert=verify-full",
                    ));
                    continue;
                }
                None => {
                    let problem = format!("\"{}\" is no option", token.text);
                    errors.push(error(
                        self.line,
                        "option",
                        problem,
                        "write options as name=value, or remove it",
                    ));
                    continue;
                }
            };
            asked = match (value, method) {
                ("verify-ca", Method::Cert) => {
                    errors.push(error(
                        self.line,
                        "option",
                        "cert always compares the certificate's name with the user's",
                        "remove clientcert=verify-ca",
                    ));
                    asked
                }
                ("verify-ca", _) => ClientCert::VerifyCa,
                ("verify-full", _) => ClientCert::VerifyFull,
                (other, _) => {
                    let problem = format!("clientcert cannot be \"{other}\"");
                    errors.push(error(self.line, "option", problem, "use verify-ca or verify-full"));
                    asked
                }
            };
            if keyword != "hostssl" {
                let problem = format!("a {keyword} line cannot ask for a certificate");
                errors.push(error(
                    self.line,
                    "option",
                    problem,
                    "make it a hostssl line, or remove clientcert",
                ));
            }
        }
        asked
    }
}

fn unknown_type(line: usize, word: &str) -> HbaError {
    let (problem, remedy) = match word {
        "hostgssenc" | "hostnogssenc" => (
            format!("\"{word}\" is not supported: GSSAPI encryption is never offered"),
            "use host, hostssl or hostnossl".to_owned(),
        ),
        "include" | "include_if_exists" | "include_dir" => {
            (format!("\"{word}\" is not supported"), "copy the lines of that file here".to_owned())
        }
        _ => (
            format!("\"{word}\" is no connection type"),
            "begin the line with local, host, hostssl or hostnossl".to_owned(),
        ),
    };
    error(line, "type", problem, remedy)
}

/// What both names of databases and of users cannot be here.
fn refuse_name(line: usize, field: &'static str, token: &Token) -> Result<(), HbaError> {
    if token.begins_with('@') {
        let problem = format!("\"{}\": names from another file are not supported", token.text);
        return Err(error(line, field, problem, "list the names here, separated by commas"));
    }
    if token.begins_with('/') {
        let problem = format!("\"{}\": regular expressions are not supported", token.text);
        return Err(error(line, field, problem, "list the names here, or put the name in quotes"));
    }
    if token.text.is_empty() {
        return Err(error(line, field, "a name is empty", "write the name, or all"));
    }
    Ok(())
}

fn database(line: usize, token: &Token) -> Result<DatabaseMatch, HbaError> {
    refuse_name(line, "database", token)?;
    Ok(match token.text.as_str() {
        _ if token.quoted => DatabaseMatch::Name(token.text.clone()),
        "all" => DatabaseMatch::All,
        "sameuser" => DatabaseMatch::SameUser,
        "replication" => DatabaseMatch::Replication,
        "samerole" | "samegroup" => {
            let problem =
                format!("\"{}\" is not supported: only the servers know a role's members", token.text);
            return Err(error(line, "database", problem, "name the databases and users, or use sameuser"));
        }
        name => DatabaseMatch::Name(name.to_owned()),
    })
}

fn user(line: usize, token: &Token) -> Result<UserMatch, HbaError> {
    refuse_name(line, "user", token)?;
    if token.begins_with('+') {
        let problem = format!("\"{}\" is not supported: only the servers know a role's members", token.text);
        return Err(error(line, "user", problem, "name the users, separated by commas"));
    }
    Ok(if token.is_keyword("all") { UserMatch::All } else { UserMatch::Name(token.text.clone()) })
}

fn address(line: usize, token: &Token) -> Result<AddressMatch, HbaError> {
    let word = token.text.as_str();
    if token.is_keyword("all") {
        return Ok(AddressMatch::All);
    }
    if let Ok(net) = word.parse::<IpNet>() {
        return Ok(AddressMatch::Net(canonical(net)));
    }
    let (problem, remedy) = if matches!(word, "samehost" | "samenet") {
        (format!("\"{word}\" is not supported"), "write the network, such as 10.0.0.0/16")
    } else if word.contains('/') {
        (format!("\"{word}\" is no network"), "write it as 10.0.0.0/16 or fd00::/8")
    } else {
        (
            format!("\"{word}\": host names are not supported, for each login would wait for DNS"),
            "write an address such as 10.0.0.7/32, a network, or all",
        )
    };
    Err(error(line, "address", problem, remedy))
}

/// IPv4 networks written in IPv6, as IPv4: clients' addresses are compared in that form.
fn canonical(net: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    match (net, net.addr()) {
        (IpNet::V6(v6), IpAddr::V6(address)) if v6.prefix_len() >= MAPPED_BITS => mapped(address)
            .and_then(|v4| Ipv4Net::new(v4, v6.prefix_len() - MAPPED_BITS).ok())
            .map_or(net, IpNet::V4),
        _ => net,
    }
}

fn mapped(address: Ipv6Addr) -> Option<Ipv4Addr> {
    address.to_ipv4_mapped()
}

/// `address_ok`: without an address the word here may be one, and blaming the method would mislead.
fn method_named(line: usize, token: &Token, keyword: &str, address_ok: bool) -> Result<Method, HbaError> {
    let word = token.text.as_str();
    let Some(method) = Method::ALL.into_iter().find(|method| method.name() == word) else {
        let problem = match word {
            "peer" | "ident" | "gss" | "sspi" | "ldap" | "radius" | "pam" | "bsd" | "oauth" => {
                format!("\"{word}\" is not supported")
            }
            _ if !address_ok => {
                format!("\"{word}\" is no authentication method (is the address one word too long?)")
            }
            _ => format!("\"{word}\" is no authentication method"),
        };
        return Err(error(
            line,
            "method",
            problem,
            "use scram-sha-256, cert, md5, password, trust or reject",
        ));
    };
    match method {
        Method::Password if !matches!(keyword, "hostssl" | "local") => Err(error(
            line,
            "method",
            format!("password on a {keyword} line would send it in clear over the network"),
            "make it a hostssl line, or use scram-sha-256",
        )),
        Method::Cert if keyword != "hostssl" => Err(error(
            line,
            "method",
            format!("cert on a {keyword} line cannot work: there is no certificate without TLS"),
            "make it a hostssl line",
        )),
        _ => Ok(method),
    }
}
