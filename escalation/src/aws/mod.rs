//! The AWS clients, made once at the start and kept warm by the looks.
//!
//! The SDK never retries here: the reconcile loop looks again instead, which is the only safe answer to a lost reply.
//! Each request has a deadline, and one that changes something carries its permit (`transmit`).

pub mod checks;
pub(crate) mod client_error;
mod cloudwatch;
pub mod identity;
mod instances;
pub mod permissions;
pub mod quotas;
mod transmit;

pub use client_error::AwsError;
pub use cloudwatch::CloudWatch;
pub use identity::Identity;
pub use instances::Instances;
pub(crate) use transmit::OnlyWhile;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::{SdkConfig, imds};
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::timeout::TimeoutConfig;
use aws_sdk_ec2::config::{BehaviorVersion, Region};
use serde::Deserialize;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AwsSettings {
    /// Default: what the instance metadata says.
    pub region: Option<String>,
    /// Instead of AWS's own addresses: for a private endpoint, or a double.
    pub endpoint_url: Option<String>,
    /// Route 53's control plane is elsewhere (us-east-1), so it may need an address of its own.
    pub route53_endpoint_url: Option<String>,
    /// Default: the link-local address of every instance.
    pub metadata_endpoint: Option<String>,
    /// For one request, from the first byte to the last; at most 3 s, for a late request is what takes an endpoint
    /// from its new owner.
    pub attempt_timeout_ms: u64,
    pub connect_timeout_ms: u64,
}

/// The most `attempt_timeout_ms` may be.
pub const ATTEMPT_TIMEOUT_MAX_MS: u64 = 3_000;

impl Default for AwsSettings {
    fn default() -> AwsSettings {
        AwsSettings {
            region: None,
            endpoint_url: None,
            route53_endpoint_url: None,
            metadata_endpoint: None,
            attempt_timeout_ms: ATTEMPT_TIMEOUT_MAX_MS,
            connect_timeout_ms: 1_000,
        }
    }
}

impl AwsSettings {
    pub fn attempt_timeout(&self) -> Duration {
        Duration::from_millis(self.attempt_timeout_ms.min(ATTEMPT_TIMEOUT_MAX_MS))
    }
}

/// Cheap to clone: all clones share connections and credentials.
#[derive(Clone)]
pub struct Aws {
    pub(crate) ec2: aws_sdk_ec2::Client,
    pub(crate) route53: aws_sdk_route53::Client,
    pub(crate) quotas: aws_sdk_servicequotas::Client,
}

impl Aws {
    /// Prepares the clients; sends nothing but what finding credentials takes.
    pub async fn connect(settings: &AwsSettings, region: &str) -> Aws {
        let config = sdk_config(settings, Some(region)).await;
        let mut route53 = aws_sdk_route53::config::Builder::from(&config);
        if let Some(url) = &settings.route53_endpoint_url {
            route53 = route53.endpoint_url(url);
        }
        Aws {
            ec2: aws_sdk_ec2::Client::new(&config),
            route53: aws_sdk_route53::Client::from_conf(route53.build()),
            quotas: aws_sdk_servicequotas::Client::new(&config),
        }
    }
}

/// What every client is made of. No region: the one the environment or the instance says.
pub(crate) async fn sdk_config(settings: &AwsSettings, region: Option<&str>) -> SdkConfig {
    let mut credentials = DefaultCredentialsChain::builder();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts(settings));
    if let Some(region) = region {
        let region = Region::new(region.to_owned());
        credentials = credentials.region(region.clone());
        loader = loader.region(region);
    }
    if let Some(imds) = metadata_client(settings) {
        credentials = credentials.imds_client(imds);
    }
    if let Some(url) = &settings.endpoint_url {
        loader = loader.endpoint_url(url);
    }
    loader.credentials_provider(credentials.build().await).load().await
}

fn timeouts(settings: &AwsSettings) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
        .operation_attempt_timeout(settings.attempt_timeout())
        .operation_timeout(settings.attempt_timeout())
        .build()
}

/// None if the address is no URL; then the default one is asked, and its failure says what is wrong.
fn metadata_client(settings: &AwsSettings) -> Option<imds::Client> {
    let builder = imds::Client::builder();
    match &settings.metadata_endpoint {
        None => Some(builder.build()),
        Some(endpoint) => builder.endpoint(endpoint).ok().map(imds::client::Builder::build),
    }
}
