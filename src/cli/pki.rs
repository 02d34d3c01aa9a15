//! `komainu pki`: the cluster's authority, and certificates for its nodes.
//!
//! Owns what is printed. Never shows a key.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde_json::json;

use super::EXIT_USAGE;
use super::text::table;
use crate::admin::show::date_time;
use crate::pki::{self, Authority, Certificate, Issued, PkiError};

#[derive(Debug, Args)]
pub struct Pki {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the cluster's certificate authority
    #[command(after_help = "Example:\n  komainu pki init --dir pki --cluster shop\n\n\
        The directory then holds the authority's key. Whoever has that can make a node: keep the directory off the nodes.")]
    Init(Init),
    /// Make a node's certificate and key
    #[command(after_help = "Example:\n  komainu pki node --dir pki --id a")]
    Node(Node),
    /// Show the certificates in a directory, and how long they last
    #[command(after_help = "Example:\n  komainu pki show --dir /etc/komainu/pki --json")]
    Show(Show),
    /// Replace nodes' certificates and keys by new ones for the same names
    #[command(
        after_help = "Examples:\n  komainu pki renew --dir pki --id a\n  komainu pki renew --dir pki --all"
    )]
    Renew(Renew),
}

#[derive(Debug, Args)]
struct Init {
    /// Where to make it; made itself if it does not exist
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The cluster's name: lower-case letters, digits and hyphens
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// How long it lasts
    #[arg(long, value_name = "N", default_value_t = pki::AUTHORITY_DAYS, value_parser = days())]
    days: u32,
}

#[derive(Debug, Args)]
struct Node {
    /// Where `komainu pki init` made the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The node, as it is called in the configuration
    #[arg(long, value_name = "ID")]
    id: String,
    /// A DNS name of the node, for whoever else is to be shown this certificate; may be repeated
    #[arg(long = "name", value_name = "DNS")]
    names: Vec<String>,
    /// An address of the node, likewise
    #[arg(long = "ip", value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,
    /// How long it lasts
    #[arg(long, value_name = "N", default_value_t = pki::NODE_DAYS, value_parser = days())]
    days: u32,
}

#[derive(Debug, Args)]
struct Show {
    /// The directory; every `.crt` in it is shown
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Renew {
    /// Where `komainu pki init` made the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The node; may be repeated
    #[arg(long = "id", value_name = "ID", required_unless_present = "all")]
    ids: Vec<String>,
    /// Every node whose certificate is in the directory
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// How long the new ones last
    #[arg(long, value_name = "N", default_value_t = pki::NODE_DAYS, value_parser = days())]
    days: u32,
}

/// A century is for ever; longer ones do not fit a certificate's date.
fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=36_500)
}

#[derive(Debug, thiserror::Error)]
enum PkiCommandError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("cannot read {}: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("no certificates in {}", path.display())]
    Nothing { path: PathBuf },
    #[error("nothing can be printed: {0}")]
    Print(#[from] io::Error),
}

pub fn run(args: &Pki) -> ExitCode {
    let done = match &args.command {
        Command::Init(args) => init(args),
        Command::Node(args) => node(args),
        Command::Show(args) => show(args),
        Command::Renew(args) => renew(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "komainu pki: {error}");
            match error {
                PkiCommandError::Pki(PkiError::Name(_)) => ExitCode::from(EXIT_USAGE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn init(args: &Init) -> Result<(), PkiCommandError> {
    let authority = Authority::create(&args.dir, &args.cluster, args.days)?;
    let mut out = io::stdout();
    writeln!(out, "authority of cluster {}, until {}", args.cluster, date_time(authority.not_after()))?;
    writeln!(out, "  {}   copy to every node", authority.certificate().display())?;
    writeln!(out, "  {}   copy nowhere: whoever has it can make a node", args.dir.join("ca.key").display())?;
    writeln!(out, "next: komainu pki node --dir {} --id ID, for each node", args.dir.display())?;
    Ok(())
}

fn node(args: &Node) -> Result<(), PkiCommandError> {
    let authority = Authority::open(&args.dir)?;
    let issued = authority.issue(&args.id, &args.names, &args.addresses, args.days)?;
    print_issued(&issued, &authority)
}

fn renew(args: &Renew) -> Result<(), PkiCommandError> {
    let authority = Authority::open(&args.dir)?;
    let ids = if args.all { nodes(&args.dir, authority.cluster())? } else { args.ids.clone() };
    for id in ids {
        let issued = authority.renew(&id, args.days)?;
        print_issued(&issued, &authority)?;
    }
    Ok(())
}

fn print_issued(issued: &Issued, authority: &Authority) -> Result<(), PkiCommandError> {
    let mut out = io::stdout();
    writeln!(
        out,
        "{}, until {}; copy to that node, and to no other:",
        issued.name,
        date_time(issued.not_after)
    )?;
    writeln!(out, "  {}", authority.certificate().display())?;
    writeln!(out, "  {}", issued.certificate.display())?;
    writeln!(out, "  {}   readable by komainu's user only", issued.key.display())?;
    Ok(())
}

fn nodes(directory: &Path, cluster: &str) -> Result<Vec<String>, PkiCommandError> {
    let names = certificates(directory)?.into_iter().filter_map(|(_, certificate)| certificate.node);
    Ok(names.filter(|name| name.cluster == cluster).map(|name| name.node).collect())
}

/// Every certificate in the directory, in the order of the files' names.
fn certificates(directory: &Path) -> Result<Vec<(PathBuf, Certificate)>, PkiCommandError> {
    let unreadable = |source| PkiCommandError::Directory { path: directory.to_owned(), source };
    let mut paths = fs::read_dir(directory)
        .map_err(unreadable)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "crt"));
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        found.extend(pki::read_all(&path)?.into_iter().map(|certificate| (path.clone(), certificate)));
    }
    match found.is_empty() {
        true => Err(PkiCommandError::Nothing { path: directory.to_owned() }),
        false => Ok(found),
    }
}

fn show(args: &Show) -> Result<(), PkiCommandError> {
    let now = SystemTime::now();
    let certificates = certificates(&args.dir)?;
    let mut out = io::stdout();
    if args.json {
        let list: Vec<_> = certificates.iter().map(|(path, one)| to_json(path, one, now)).collect();
        writeln!(out, "{}", json!({ "certificates": list }))?;
    } else {
        let head = ["FILE", "KIND", "CLUSTER", "NODE", "NAMES", "UNTIL (UTC)", "DAYS"];
        let rows: Vec<_> = certificates.iter().map(|(path, one)| row(path, one, now)).collect();
        write!(out, "{}", table(head, &rows))?;
    }
    for (_, certificate) in &certificates {
        if let Some(warning) = certificate.expiry_warning(now) {
            writeln!(io::stderr(), "warning: {warning}")?;
        }
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn kind(certificate: &Certificate) -> &'static str {
    match (certificate.is_authority, &certificate.node) {
        (true, _) => "authority",
        (false, Some(_)) => "node",
        (false, None) => "other",
    }
}

/// Names and addresses other than the node's own.
fn further(certificate: &Certificate) -> Vec<String> {
    let own = certificate.node.as_ref().map(pki::NodeName::dns);
    let names = certificate.names.iter().filter(|name| Some(*name) != own.as_ref()).cloned();
    names.chain(certificate.addresses.iter().map(ToString::to_string)).collect()
}

fn cluster(certificate: &Certificate) -> Option<&str> {
    certificate.node.as_ref().map(|name| name.cluster.as_str()).or_else(|| certificate.authority_of())
}

fn row(path: &Path, certificate: &Certificate, now: SystemTime) -> [String; 7] {
    [
        file_name(path),
        kind(certificate).to_owned(),
        cluster(certificate).unwrap_or_default().to_owned(),
        certificate.node.as_ref().map(|name| name.node.clone()).unwrap_or_default(),
        further(certificate).join(" "),
        date_time(certificate.not_after),
        certificate.days_left(now).to_string(),
    ]
}

fn to_json(path: &Path, certificate: &Certificate, now: SystemTime) -> serde_json::Value {
    let seconds =
        |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    json!({
        "file": path.display().to_string(),
        "kind": kind(certificate),
        "subject": certificate.subject,
        "cluster": cluster(certificate),
        "node": certificate.node.as_ref().map(|name| &name.node),
        "names": certificate.names,
        "addresses": certificate.addresses,
        "not_before": seconds(certificate.not_before),
        "not_after": seconds(certificate.not_after),
        "days_left": certificate.days_left(now),
    })
}
