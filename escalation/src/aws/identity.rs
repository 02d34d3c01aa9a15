//! Which instance this is: from the instance metadata service (IMDSv2), unless the configuration says.
//!
//! Asked once at the start. A session token is fetched and renewed by the SDK's client; a service that was restarted
//! forgets its tokens and answers 401, and then a new client, with a new token, asks once more.

use super::{AwsSettings, metadata_client};
use aws_config::imds;
use aws_config::imds::client::error::ImdsError;
use aws_sdk_ec2::error::DisplayErrorContext;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a node must know of itself to take something. Every field may be set by hand; what is not set is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentitySettings {
    pub instance_id: Option<String>,
    pub region: Option<String>,
    pub zone: Option<String>,
    /// Default: the instance's first one.
    pub network_interface_id: Option<String>,
    /// Default: the network interface's first one.
    pub private_ipv4: Option<Ipv4Addr>,
    pub public_ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub subnet_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub instance_id: String,
    pub region: String,
    pub zone: String,
    pub interface: NetworkInterface,
}

/// The one network interface the endpoints are taken with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkInterface {
    pub id: String,
    pub subnet_id: String,
    pub private_ipv4: Option<Ipv4Addr>,
    pub public_ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("instance metadata {path}: {message}")]
    Metadata { path: String, message: String },
    #[error("the metadata endpoint {0:?} is no URL")]
    Endpoint(String),
    #[error("this instance has no network interface {0}")]
    NoSuchInterface(String),
    #[error("the instance metadata lists no network interface")]
    NoInterface,
}

impl Identity {
    /// Sets what the settings say and asks for the rest; asks nothing if they say everything that matters.
    pub async fn find(settings: &IdentitySettings, aws: &AwsSettings) -> Result<Identity, IdentityError> {
        if let Some(identity) = settings.complete() {
            return Ok(identity);
        }
        let mut metadata = Metadata::new(aws)?;
        let macs = metadata.required("network/interfaces/macs/").await?;
        let mut interfaces = BTreeMap::new();
        for mac in macs.lines().map(|line| line.trim_end_matches('/')) {
            let path = |leaf: &str| format!("network/interfaces/macs/{mac}/{leaf}");
            let number: u32 =
                metadata.required(&path("device-number")).await?.trim().parse().unwrap_or(u32::MAX);
            let interface = NetworkInterface {
                id: metadata.required(&path("interface-id")).await?,
                subnet_id: metadata.optional(&path("subnet-id")).await?.unwrap_or_default(),
                private_ipv4: first(metadata.optional(&path("local-ipv4s")).await?),
                public_ipv4: first(metadata.optional(&path("public-ipv4s")).await?),
                ipv6: first(metadata.optional(&path("ipv6s")).await?),
            };
            interfaces.insert((number, mac.to_owned()), interface);
        }
        let chosen = match &settings.network_interface_id {
            None => interfaces.into_values().next().ok_or(IdentityError::NoInterface)?,
            Some(id) => interfaces
                .into_values()
                .find(|interface| interface.id == *id)
                .ok_or_else(|| IdentityError::NoSuchInterface(id.clone()))?,
        };
        Ok(Identity {
            instance_id: metadata.set_or(&settings.instance_id, "instance-id").await?,
            region: match settings.region.as_ref().or(aws.region.as_ref()) {
                Some(region) => region.clone(),
                None => metadata.required("placement/region").await?,
            },
            zone: metadata.set_or(&settings.zone, "placement/availability-zone").await?,
            interface: NetworkInterface {
                subnet_id: settings.subnet_id.clone().unwrap_or(chosen.subnet_id),
                private_ipv4: settings.private_ipv4.or(chosen.private_ipv4),
                public_ipv4: settings.public_ipv4.or(chosen.public_ipv4),
                ipv6: settings.ipv6.or(chosen.ipv6),
                id: chosen.id,
            },
        })
    }

    /// The address of this node that clients inside the network reach.
    pub fn private_address(&self) -> Option<IpAddr> {
        self.interface.private_ipv4.map(IpAddr::from).or(self.interface.ipv6.map(IpAddr::from))
    }
}

impl IdentitySettings {
    fn complete(&self) -> Option<Identity> {
        Some(Identity {
            instance_id: self.instance_id.clone()?,
            region: self.region.clone()?,
            zone: self.zone.clone().unwrap_or_default(),
            interface: NetworkInterface {
                id: self.network_interface_id.clone()?,
                subnet_id: self.subnet_id.clone()?,
                private_ipv4: Some(self.private_ipv4?),
                public_ipv4: self.public_ipv4,
                ipv6: self.ipv6,
            },
        })
    }
}

fn first<T: std::str::FromStr>(lines: Option<String>) -> Option<T> {
    lines?.lines().next()?.trim().parse().ok()
}

struct Metadata<'a> {
    settings: &'a AwsSettings,
    client: imds::Client,
}

impl<'a> Metadata<'a> {
    fn new(settings: &'a AwsSettings) -> Result<Metadata<'a>, IdentityError> {
        Ok(Metadata { settings, client: new_client(settings)? })
    }

    async fn set_or(&mut self, set: &Option<String>, path: &str) -> Result<String, IdentityError> {
        match set {
            Some(value) => Ok(value.clone()),
            None => self.required(path).await,
        }
    }

    async fn required(&mut self, path: &str) -> Result<String, IdentityError> {
        self.optional(path)
            .await?
            .ok_or_else(|| IdentityError::Metadata { path: path.to_owned(), message: "not there".to_owned() })
    }

    /// None: the instance has no such thing (404).
    async fn optional(&mut self, path: &str) -> Result<Option<String>, IdentityError> {
        let full = format!("/latest/meta-data/{path}");
        let mut result = self.client.get(full.as_str()).await;
        if result.as_ref().is_err_and(|error| status_of(error) == Some(401)) {
            self.client = new_client(self.settings)?;
            result = self.client.get(full.as_str()).await;
        }
        match result {
            Ok(value) => Ok(Some(value.into())),
            Err(error) if status_of(&error) == Some(404) => Ok(None),
            Err(error) => Err(IdentityError::Metadata {
                path: path.to_owned(),
                message: DisplayErrorContext(&error).to_string(),
            }),
        }
    }
}

fn new_client(settings: &AwsSettings) -> Result<imds::Client, IdentityError> {
    metadata_client(settings)
        .ok_or_else(|| IdentityError::Endpoint(settings.metadata_endpoint.clone().unwrap_or_default()))
}

fn status_of(error: &ImdsError) -> Option<u16> {
    match error {
        ImdsError::ErrorResponse(error) => Some(error.response().status().as_u16()),
        _ => None,
    }
}
