//! What a sandbox may be told on the command line.

use std::path::PathBuf;

use super::error::SandboxError;
use super::managed::ManagedMode;

#[derive(Debug, Clone, clap::Args)]
pub struct SandboxArgs {
    /// Streaming standbys beside the primary
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=9))]
    pub standbys: u8,
    /// Further standbys of which komainu is not told, for `komainu server add`
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=9))]
    pub spares: u8,
    /// komainu nodes: 3 or 5 that watch each other, or 1 on its own
    #[arg(long, default_value_t = 3)]
    pub nodes: u8,
    /// Where data, configuration and logs go, and stay; by default a temporary directory
    #[arg(long, value_name = "PATH")]
    pub dir: Option<PathBuf>,
    /// Where clients connect, on 127.0.0.1
    #[arg(long, default_value_t = 9999, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Print one line of JSON when ready, and no log
    #[arg(long)]
    pub json: bool,
    /// Give each node a network namespace and an address of its own (as root), so that one can be cut off
    #[arg(long)]
    pub netns: bool,
    /// Before a double of AWS on this machine, with an endpoint for each of AWS's methods
    #[arg(long)]
    pub aws: bool,
    /// How a node takes the endpoint: `command` by default; `interface` needs --netns, and others than these two
    /// are AWS's, which make it --aws with that endpoint alone
    #[arg(long, value_enum)]
    pub method: Option<Method>,
    /// Whether a row is acknowledged only when a standby has it; `require` unless there are too few standbys
    #[arg(long, value_enum)]
    pub sync: Option<Sync>,
    /// Before an imitation of a managed service that makes the writer itself: RDS, as a Multi-AZ DB cluster, or Aurora; with
    /// --aws the nodes know its instances from AWS's API
    #[arg(long, value_enum)]
    pub mode: Option<ManagedMode>,
    /// How long its names may be kept, with --mode
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub name_ttl: u32,
    /// No agents beside the servers: what is lost is not rejoined
    #[arg(long)]
    pub no_agents: bool,
    /// A machine may stand still for four seconds, and no node loses its lease: for tests
    #[arg(long, hide = true)]
    pub patient: bool,
}

/// What an acknowledged row survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sync {
    /// The primary alone acknowledges it
    Off,
    /// So does a standby, while there is one
    Prefer,
    /// So does a standby, always: without one nothing is acknowledged
    Require,
}

impl Sync {
    /// As it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Prefer => "prefer",
            Self::Require => "require",
        }
    }
}

/// How a node takes an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// A program tells the sandbox, which leads clients there
    Command,
    /// A virtual address on the node's own interface
    Interface,
    /// An Elastic IP of the double of AWS
    ElasticIp,
    /// A record in a hosted zone of the double
    Route53,
    /// A route in two route tables of the double
    RouteTable,
    /// A secondary private address in the double
    SecondaryIp,
}

impl Method {
    /// The first is where clients are sent who do not choose.
    pub const AWS: [Self; 4] = [Self::ElasticIp, Self::Route53, Self::RouteTable, Self::SecondaryIp];

    /// As it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Interface => "interface",
            Self::ElasticIp => "elastic-ip",
            Self::Route53 => "route53",
            Self::RouteTable => "route-table",
            Self::SecondaryIp => "secondary-ip",
        }
    }

    pub fn is_aws(self) -> bool {
        !matches!(self, Self::Command | Self::Interface)
    }
}

impl SandboxArgs {
    /// As it was asked for, or as safe as it can be without stopping when one standby is lost.
    pub fn sync(&self) -> Sync {
        self.sync.unwrap_or(match self.standbys {
            _ if self.mode.is_some() => Sync::Off,
            0 => Sync::Off,
            1 => Sync::Prefer,
            _ => Sync::Require,
        })
    }

    /// All that stream.
    pub fn all_standbys(&self) -> usize {
        usize::from(self.standbys) + usize::from(self.spares)
    }

    /// Of each endpoint, clients' own first.
    pub fn methods(&self) -> Vec<Method> {
        match self.method {
            Some(method) => vec![method],
            None if self.aws => Method::AWS.to_vec(),
            None => vec![Method::Command],
        }
    }

    pub fn before_aws(&self) -> bool {
        self.methods().iter().any(|method| method.is_aws())
    }

    /// What cannot be, before anything is started.
    pub(super) fn check(&self) -> Result<(), SandboxError> {
        match self.nodes {
            1 | 3 | 5 => {}
            other => return Err(SandboxError::Nodes(other)),
        }
        let plain = !self.aws && self.method.is_none_or(|method| method == Method::Command);
        if self.nodes == 1 && (self.netns || !plain) {
            let why = "--netns, --aws and --method are for several nodes: leave --nodes 1 away";
            return Err(SandboxError::Method(why));
        }
        if self.aws && !self.before_aws() {
            return Err(SandboxError::Method(
                "--aws is for AWS's methods: leave --method away, or choose one",
            ));
        }
        if self.method == Some(Method::Interface) && !self.netns {
            let why =
                "--method interface needs --netns: a virtual address moves between hosts, not within one";
            return Err(SandboxError::Method(why));
        }
        if self.mode.is_some() {
            if self.netns || self.spares > 0 {
                let why = "--mode goes with neither --netns nor --spares: leave them away";
                return Err(SandboxError::Method(why));
            }
            if self.sync.is_some_and(|sync| sync != Sync::Off) {
                return Err(SandboxError::Method("--mode brings its own kind of commit: leave --sync away"));
            }
            if self.standbys == 0 {
                return Err(SandboxError::Method("--mode needs a reader: leave --standbys 0 away"));
            }
        }
        if self.sync.is_some_and(|sync| sync != Sync::Off) && self.standbys == 0 {
            return Err(SandboxError::Method("--sync needs a standby: leave --standbys 0 away"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: SandboxArgs,
    }

    fn checked(words: &str) -> Result<(), String> {
        let line = Line::try_parse_from(["x"].into_iter().chain(words.split_whitespace())).unwrap();
        line.args.check().map_err(|error| error.to_string())
    }

    #[test]
    fn aws_has_all_of_its_methods_unless_one_is_named() {
        let args = |words: &str| {
            Line::try_parse_from(["x"].into_iter().chain(words.split_whitespace())).unwrap().args
        };
        assert_eq!(args("").methods(), [Method::Command]);
        assert_eq!(args("--aws").methods(), Method::AWS);
        assert_eq!(args("--method route53").methods(), [Method::Route53]);
        assert!(args("--method route53").before_aws() && !args("").before_aws());
    }

    #[test]
    fn three_five_and_one_are_allowed_and_others_say_why_not() {
        for fine in [
            "",
            "--nodes 5",
            "--nodes 1",
            "--netns",
            "--netns --method interface",
            "--aws",
            "--aws --netns --method route53",
            "--method elastic-ip",
            "--mode rds --nodes 1",
            "--mode aurora --standbys 1",
            "--mode rds --aws",
            "--mode aurora --method route53",
        ] {
            assert_eq!(checked(fine), Ok(()), "{fine}");
        }
        for (wrong, why) in [
            ("--nodes 2", "losing either one leaves no majority"),
            ("--nodes 4", "no more may be lost than with three"),
            ("--nodes 0", "nobody to connect to"),
            ("--nodes 7", "choose 1, 3 or 5"),
            ("--method interface", "needs --netns"),
            ("--nodes 1 --netns", "leave --nodes 1 away"),
            ("--nodes 1 --aws", "leave --nodes 1 away"),
            ("--mode rds --netns", "leave them away"),
            ("--mode aurora --spares 1", "leave them away"),
            ("--mode aurora --aws --nodes 1", "leave --nodes 1 away"),
            ("--mode rds --method interface", "needs --netns"),
            ("--mode aurora --sync require", "leave --sync away"),
            ("--mode rds --standbys 0", "needs a reader"),
            ("--aws --method command", "AWS's methods"),
            ("--standbys 0 --sync prefer", "needs a standby"),
        ] {
            let said = checked(wrong).unwrap_err();
            assert!(said.contains(why), "{wrong}: {said}");
        }
    }
}
