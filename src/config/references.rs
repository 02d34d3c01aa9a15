//! What the files that the configuration names say, and whether they can be used.
//!
//! Owns the reading of these files for a check, and of their permissions. Never keeps what it reads.
//! Invariant: a file that passes here is read the same way when komainu serves.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};

use super::document::Document;
use super::file::read_text;
use super::report::Findings;
use super::{ClientTlsMode, Config};
use crate::admin::token::Token;
use crate::client::hba::{AddressMatch, ClientCert, DatabaseMatch, Hba, Method, Rule, Scope};
use crate::client::userfile::{Secret, UserFile};
use crate::pki::AUTHORITY_CERTIFICATE;

/// Where in the configuration file another is named.
struct Named<'a> {
    document: &'a Document,
    section: &'static str,
    key: &'static str,
}

impl Named<'_> {
    fn line(&self) -> Option<usize> {
        self.document.table(self.section).line(self.key)
    }

    fn qualified(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    fn problem(&self, findings: &mut Findings, problem: impl Into<String>, remedy: impl Into<String>) {
        findings.problems.add(self.line(), self.qualified(), problem, remedy);
    }

    fn warn(&self, findings: &mut Findings, problem: impl Into<String>, remedy: impl Into<String>) {
        findings.warnings.add(self.line(), self.qualified(), problem, remedy);
    }

    /// The file's text, or a problem.
    fn read(&self, path: &Path, findings: &mut Findings) -> Option<String> {
        read_text(path)
            .map_err(|error| {
                let problem = format!("{} cannot be read: {error}", path.display());
                self.problem(
                    findings,
                    problem,
                    "correct the path, which is relative to this file, or its permissions",
                );
            })
            .ok()
    }

    /// A secret that others than its owner can read. As PostgreSQL, it lets the group read root's files.
    fn check_private(&self, path: &Path, findings: &mut Findings) {
        const GROUP: u32 = 0o070;
        const OTHERS: u32 = 0o007;
        let Ok(metadata) = path.metadata() else { return };
        let mode = metadata.mode();
        if mode & OTHERS != 0 || (mode & GROUP != 0 && metadata.uid() != 0) {
            let problem = format!("{} can be read by others than its owner", path.display());
            self.warn(findings, problem, format!("chmod 600 {}", path.display()));
        }
    }
}

pub(super) fn check(document: &Document, config: &Config, findings: &mut Findings) {
    let named = |section, key| Named { document, section, key };
    let users =
        config.auth.user_file.as_ref().map(|path| user_file(&named("auth", "user_file"), path, findings));
    // The outer None: there is no user file. The inner: it is unusable, and that was reported.
    let known = users.as_ref().map_or(Some(UserFile::default()), Clone::clone);
    let aws_has = |user: &str| config.server_users.iter().any(|known| known.name == user);
    if let Some(users) = known {
        if !config.auth.query.as_ref().is_some_and(|query| aws_has(&query.user)) {
            auth_query_user(document, config, &users, findings);
        }
        if !aws_has(&config.health.user) {
            health_user(document, config, &users, findings);
        }
        if config.failover.mode.promotes() && !aws_has(&config.failover.user) {
            operating_user(document, config, &users, findings);
        }
    }
    if !config.auth.hba_file.as_os_str().is_empty() {
        hba_file(&named("auth", "hba_file"), config, findings);
    }
    let (client, server) = (&config.client_tls, &config.server_tls);
    if client.mode != ClientTlsMode::Off {
        let pair = (client.cert_file.as_deref(), client.key_file.as_deref());
        certificate(&named("client_tls", "cert_file"), &named("client_tls", "key_file"), pair, findings);
    }
    let pair = (server.cert_file.as_deref(), server.key_file.as_deref());
    certificate(&named("server_tls", "cert_file"), &named("server_tls", "key_file"), pair, findings);
    if let Some(path) = &client.client_ca_file {
        authorities(&named("client_tls", "client_ca_file"), path, findings);
    }
    if let Some(path) = &server.ca_file {
        authorities(&named("server_tls", "ca_file"), path, findings);
    }
    if let Some(path) = &config.listen.unix_socket_directory {
        directory(&named("listen", "unix_socket_directory"), path, findings);
    }
    if let Some(parent) = config.admin.socket.as_deref().and_then(Path::parent) {
        directory(&named("admin", "socket"), parent, findings);
    }
    let admin = &config.admin;
    let pair = (admin.cert_file.as_deref(), admin.key_file.as_deref());
    certificate(&named("admin", "cert_file"), &named("admin", "key_file"), pair, findings);
    if let Some(path) = &admin.token_file {
        let named = named("admin", "token_file");
        named.check_private(path, findings);
        if let Err(error) = Token::read(path) {
            named.problem(findings, error.to_string(), "write a token into that file");
        }
    }
    if let Some(cluster) = &config.cluster {
        // Its own certificate is looked at by the node itself: here nobody knows which node it is.
        let path = cluster.pki_directory.join(AUTHORITY_CERTIFICATE);
        authorities(&named("cluster", "pki_directory"), &path, findings);
    }
}

fn directory(named: &Named<'_>, path: &Path, findings: &mut Findings) {
    // The parent of a bare name is empty, and means here.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    if !path.is_dir() {
        named.problem(
            findings,
            format!("{} is no directory", path.display()),
            "create it, or correct the path",
        );
    }
}

fn user_file(named: &Named<'_>, path: &Path, findings: &mut Findings) -> Option<UserFile> {
    let text = named.read(path, findings)?;
    named.check_private(path, findings);
    match UserFile::parse(&text) {
        Ok(users) => Some(users),
        Err(errors) => {
            for error in errors {
                let (problem, remedy) = (error.problem.to_string(), error.problem.remedy());
                findings.problems.add_in(path, Some(error.line), "user", problem, remedy);
            }
            None
        }
    }
}

fn auth_query_user(document: &Document, config: &Config, users: &UserFile, findings: &mut Findings) {
    let (Some(table), Some(query)) = (document.optional("auth.query"), &config.auth.query) else { return };
    if !table.has("user") || config.auth.user_file.is_none() {
        return;
    }
    let problem = match users.get(&query.user) {
        Some(Secret::Plain(_)) => return,
        Some(other) => format!("auth.user_file has only {} of \"{}\"", other.kind(), query.user),
        None => format!("auth.user_file does not name \"{}\"", query.user),
    };
    findings.problems.add(table.line("user"), "auth.query.user", problem, "put its plain password there");
}

fn health_user(document: &Document, config: &Config, users: &UserFile, findings: &mut Findings) {
    let health = &config.health;
    let whose = (&*health.user, "who looks at the servers");
    own_user(document, "health", whose, health.password_file.as_deref(), users, findings);
}

fn operating_user(document: &Document, config: &Config, users: &UserFile, findings: &mut Findings) {
    let failover = &config.failover;
    let whose = (&*failover.user, "who promotes and repoints");
    own_user(document, "failover", whose, failover.password_file.as_deref(), users, findings);
}

/// The role of a section, as which komainu itself logs in.
fn own_user(
    document: &Document,
    section: &'static str,
    (user, who): (&str, &str),
    password_file: Option<&Path>,
    users: &UserFile,
    findings: &mut Findings,
) {
    let named = Named { document, section, key: "password_file" };
    if let Some(path) = password_file {
        if let Some(text) = named.read(path, findings) {
            named.check_private(path, findings);
            if text.trim_end_matches(['\r', '\n']).is_empty() {
                named.problem(findings, format!("{} is empty", path.display()), "write the password into it");
            }
        }
        return;
    }
    let problem = match users.get(user) {
        Some(Secret::Plain(_) | Secret::Md5(_)) => return,
        Some(Secret::Scram(_)) => {
            format!("a SCRAM verifier of \"{user}\" is not enough to log in to a server")
        }
        None => format!("there is no password for \"{user}\", {who}"),
    };
    let remedy = format!(
        "set {section}.password_file, or put the plain password into auth.user_file (unless the servers trust it)"
    );
    findings.warnings.add(document.table(section).line("user"), format!("{section}.user"), problem, remedy);
}

fn hba_file(named: &Named<'_>, config: &Config, findings: &mut Findings) {
    let path = &config.auth.hba_file;
    let Some(text) = named.read(path, findings) else { return };
    let hba = match Hba::parse(&text) {
        Ok(hba) => hba,
        Err(errors) => {
            for error in errors {
                findings.problems.add_in(path, Some(error.line), error.field, error.problem, error.remedy);
            }
            return;
        }
    };
    if hba.rules.is_empty() {
        let remedy = "add a line such as: host all all 10.0.0.0/8 scram-sha-256";
        findings.warnings.add_in(path, None, "", "it has no rule, so nobody may connect", remedy);
    }
    for rule in &hba.rules {
        hba_rule(path, rule, config, findings);
    }
}

/// What a rule needs from the rest of the configuration.
fn hba_rule(path: &Path, rule: &Rule, config: &Config, findings: &mut Findings) {
    let line = Some(rule.line);
    let tls = config.client_tls.mode != ClientTlsMode::Off;
    if matches!(rule.scope, Scope::HostSsl(_)) && !tls {
        let problem = "nobody ever matches this line, since client_tls.mode is \"off\"";
        findings.warnings.add_in(path, line, "type", problem, "set client_tls.mode, cert_file and key_file");
    }
    if rule.client_cert != ClientCert::NotAsked && config.client_tls.client_ca_file.is_none() && tls {
        let problem = "certificates cannot be verified without client_tls.client_ca_file";
        findings.problems.add_in(path, line, "method", problem, "name the authorities there");
    }
    if rule.method.needs_secret() && config.auth.user_file.is_none() && config.auth.query.is_none() {
        let problem = format!("{} needs the users' secrets, and there are none", rule.method.name());
        findings.problems.add_in(path, line, "method", problem, "set auth.user_file, or [auth.query]");
    }
    if rule.databases.contains(&DatabaseMatch::Replication) && rule.method != Method::Reject {
        let problem =
            "komainu passes no replication connection on: whoever this lets in is refused all the same";
        findings.warnings.add_in(path, line, "database", problem, "leave replication out, or reject it");
    }
    let open = rule.method == Method::Trust && rule.client_cert == ClientCert::NotAsked;
    if open && reaches_beyond_loopback(&rule.scope) {
        let problem = "trust lets in whoever comes from these addresses, under any name the line allows";
        findings.warnings.add_in(path, line, "method", problem, "use scram-sha-256");
    }
}

fn reaches_beyond_loopback(scope: &Scope) -> bool {
    match scope {
        Scope::Local => false,
        Scope::Host(address) | Scope::HostSsl(address) | Scope::HostNoSsl(address) => match address {
            AddressMatch::All => true,
            AddressMatch::Net(net) => !(net.network().is_loopback() && net.broadcast().is_loopback()),
        },
    }
}

fn certificates(
    named: &Named<'_>,
    path: &Path,
    findings: &mut Findings,
) -> Option<Vec<CertificateDer<'static>>> {
    let text = named.read(path, findings)?;
    match CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>() {
        Ok(chain) if !chain.is_empty() => Some(chain),
        Ok(_) => {
            let problem = format!("{} has no certificate", path.display());
            named.problem(findings, problem, "it must hold -----BEGIN CERTIFICATE-----");
            None
        }
        Err(error) => {
            named.problem(findings, format!("{} is malformed: {error}", path.display()), "it must be PEM");
            None
        }
    }
}

fn private_key(named: &Named<'_>, path: &Path, findings: &mut Findings) -> Option<PrivateKeyDer<'static>> {
    let text = named.read(path, findings)?;
    named.check_private(path, findings);
    match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
        Ok(key) => Some(key),
        Err(_) => {
            let problem = format!("{} has no private key", path.display());
            named.problem(findings, problem, "it must be PEM, without a passphrase");
            None
        }
    }
}

/// The chain, the key, and that they belong together.
fn certificate(
    cert: &Named<'_>,
    key: &Named<'_>,
    (cert_path, key_path): (Option<&Path>, Option<&Path>),
    findings: &mut Findings,
) {
    let chain = cert_path.and_then(|path| certificates(cert, path, findings));
    let private = key_path.and_then(|path| private_key(key, path, findings));
    if let (Some(chain), Some(path)) = (&chain, cert_path) {
        validity(cert, path, &chain[0], findings);
    }
    let (Some(chain), Some(private)) = (chain, private) else { return };
    let provider: CryptoProvider = rustls::crypto::aws_lc_rs::default_provider();
    match CertifiedKey::from_der(chain, private, &provider) {
        Ok(_) => {}
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            key.problem(
                findings,
                "it is not the key of the first certificate of cert_file",
                "name the two that belong together",
            );
        }
        Err(error) => {
            key.problem(findings, format!("certificate and key cannot be used: {error}"), "make them anew");
        }
    }
}

/// Certificates expire; one that has is used all the same, and clients refuse it.
fn validity(named: &Named<'_>, path: &Path, certificate: &CertificateDer<'_>, findings: &mut Findings) {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        let problem = format!("{} is no X.509 certificate", path.display());
        return named.problem(findings, problem, "make it anew");
    };
    let (validity, now) = (parsed.validity(), x509_parser::time::ASN1Time::now());
    if now > validity.not_after {
        let problem = format!("{} expired on {}", path.display(), validity.not_after);
        named.warn(findings, problem, "renew it: clients that verify refuse it");
    } else if now < validity.not_before {
        let problem = format!("{} is valid only from {} on", path.display(), validity.not_before);
        named.warn(findings, problem, "check this machine's clock: clients that verify refuse it");
    }
}

fn authorities(named: &Named<'_>, path: &Path, findings: &mut Findings) {
    let Some(certificates) = certificates(named, path, findings) else { return };
    let mut store = RootCertStore::empty();
    let errors: BTreeSet<_> = certificates
        .into_iter()
        .filter_map(|one| store.add(one).err())
        .map(|error| error.to_string())
        .collect();
    for error in errors {
        let problem = format!("{} has a certificate that cannot be used: {error}", path.display());
        named.problem(findings, problem, "remove it, or make it anew");
    }
}
