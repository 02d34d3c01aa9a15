//! Who this node is, by the double of the instance metadata service.

use crate::support::HERE;
use crate::support::imds::{Imds, Instance};
use crate::support::world::World;
use komainu_escalation::aws::identity::IdentitySettings;
use komainu_escalation::{AwsSettings, Identity};

async fn imds() -> Imds {
    Imds::start(
        HERE,
        &Instance {
            instance: "i-7",
            interface: "eni-first",
            mac: "02:aa:00:00:00:07",
            subnet: "subnet-7",
            private_ip: "10.7.0.7",
            ipv6: Some("2001:db8:7::7"),
            access_key: "ASIA7",
        },
    )
    .await
    .unwrap()
}

fn aws(imds: &Imds) -> AwsSettings {
    AwsSettings { metadata_endpoint: Some(imds.url()), ..AwsSettings::default() }
}

#[tokio::test]
async fn it_is_found_in_the_metadata() {
    let imds = imds().await;
    let identity = Identity::find(&IdentitySettings::default(), &aws(&imds)).await.unwrap();
    assert_eq!((identity.instance_id.as_str(), identity.region.as_str()), ("i-7", "us-east-1"));
    assert_eq!(identity.zone, "us-east-1a");
    // The first one by its number, not by its hardware address.
    assert_eq!(identity.interface.id, "eni-first");
    assert_eq!(identity.private_address(), Some("10.7.0.7".parse().unwrap()));
    assert_eq!(identity.interface.subnet_id, "subnet-7");
    assert_eq!(identity.interface.ipv6, Some("2001:db8:7::7".parse().unwrap()));
}

#[tokio::test]
async fn what_is_set_is_not_asked_for() {
    let imds = imds().await;
    let chosen =
        IdentitySettings { network_interface_id: Some("eni-second".into()), ..IdentitySettings::default() };
    let identity = Identity::find(&chosen, &aws(&imds)).await.unwrap();
    assert_eq!(identity.private_address(), Some("10.9.9.9".parse().unwrap()));
    let missing =
        IdentitySettings { network_interface_id: Some("eni-none".into()), ..IdentitySettings::default() };
    assert!(Identity::find(&missing, &aws(&imds)).await.unwrap_err().to_string().contains("eni-none"));

    let asked = imds.asked().len();
    let everything = IdentitySettings {
        instance_id: Some("i-1".into()),
        region: Some("eu-central-1".into()),
        network_interface_id: Some("eni-1".into()),
        private_ipv4: Some("10.0.0.1".parse().unwrap()),
        subnet_id: Some("subnet-1".into()),
        ..IdentitySettings::default()
    };
    Identity::find(&everything, &aws(&imds)).await.unwrap();
    assert_eq!(imds.asked().len(), asked);
}

#[tokio::test]
async fn a_token_that_is_no_longer_known_is_renewed() {
    let imds = imds().await;
    imds.forget_tokens_after(3);
    let identity = Identity::find(&IdentitySettings::default(), &aws(&imds)).await.unwrap();
    assert_eq!(identity.interface.id, "eni-first");
}

#[tokio::test]
async fn no_metadata_service_is_an_error_in_bounded_time() {
    let nobody =
        AwsSettings { metadata_endpoint: Some("http://127.0.0.1:9".into()), ..AwsSettings::default() };
    let error = Identity::find(&IdentitySettings::default(), &nobody).await.unwrap_err();
    assert!(error.to_string().contains("network/interfaces/macs/"), "{error}");
    let nonsense = AwsSettings { metadata_endpoint: Some("::".into()), ..AwsSettings::default() };
    assert!(Identity::find(&IdentitySettings::default(), &nonsense).await.is_err());
}

#[tokio::test]
async fn each_node_signs_with_its_own_credentials() {
    let world = World::new().await;
    for node in &world.nodes {
        assert_eq!(node.cloud.identity.interface.id, node.interface);
        assert!(!node.imds.asked().is_empty());
    }
    assert_ne!(world.nodes[0].access_key, world.nodes[1].access_key);
}
