//! After a change: when has it spread, and when does DNS answer it? Measured, never waited for by anything.

use super::dns;
use crate::aws::Aws;
use crate::method::Confirmation;
use crate::status::Phase;
use aws_sdk_route53::types::ChangeStatus;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// AWS says that a change usually spreads within 60 s.
const DEADLINE: Duration = Duration::from_secs(90);
/// GetChange counts against the account's ten requests a second.
const ASK_SPREADING_EVERY: Duration = Duration::from_secs(2);
const ASK_RESOLVER_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn confirm(
    aws: &Aws,
    change: Option<String>,
    resolver: SocketAddr,
    name: &str,
    addresses: &[IpAddr],
) -> Confirmation {
    let started = Instant::now();
    let spread = async {
        match &change {
            Some(change) => tokio::time::timeout(DEADLINE, until_in_sync(aws, change)).await.is_ok(),
            None => false,
        }
        .then(|| started.elapsed())
    };
    let answered = async {
        tokio::time::timeout(DEADLINE, until_answered(resolver, name, addresses))
            .await
            .is_ok()
            .then(|| started.elapsed())
    };
    let (spread, answered) = tokio::join!(spread, answered);
    let mut confirmation = Confirmation::default();
    let mut missing = Vec::new();
    for (name, took, what) in [
        ("in sync", spread, "Route 53 does not say that all its name servers have it"),
        ("dns", answered, "the resolver does not answer the new address"),
    ] {
        match took {
            Some(took) => confirmation.phases.push(Phase { name, ms: took.as_secs_f64() * 1e3 }),
            None => missing.push(what),
        }
    }
    if !missing.is_empty() {
        confirmation.late = Some(format!("after {} s: {}", DEADLINE.as_secs(), missing.join("; ")));
    }
    confirmation
}

async fn until_in_sync(aws: &Aws, change: &str) {
    loop {
        let answer = aws.route53.get_change().id(change).send().await;
        let status = answer.ok().and_then(|answer| answer.change_info).map(|change| change.status);
        if status == Some(ChangeStatus::Insync) {
            return;
        }
        tokio::time::sleep(ASK_SPREADING_EVERY).await;
    }
}

async fn until_answered(resolver: SocketAddr, name: &str, addresses: &[IpAddr]) {
    for address in addresses {
        while !dns::ask(resolver, name, address.is_ipv6()).await.is_ok_and(|answer| answer.contains(address))
        {
            tokio::time::sleep(ASK_RESOLVER_EVERY).await;
        }
    }
}
