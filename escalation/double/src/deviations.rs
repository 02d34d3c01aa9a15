//! Where moto differs from AWS, and what is done about it.
//!
//! DryRun of some calls is carried out (the proxy answers it instead). A private address assigned with reassignment is
//! not taken from its holder, and not found by its address (taken and found here). A route that exists is created over
//! (refused here). A record that exists is created twice, a deletion need only match what was there at any time, and
//! one that does not has another error code (all corrected). How many records a zone may have is not told (told here).

use crate::http::Message;
use crate::locked;
use crate::service::{Service, error};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;

/// Of a hosted zone, unless AWS has raised it.
const MOST_RECORDS: u32 = 10_000;

/// Moto, and what it does not keep.
#[derive(Debug)]
pub(crate) struct Corrected {
    pub moto: SocketAddr,
    /// Which interface each private address was assigned to.
    assigned: Mutex<HashMap<String, String>>,
}

impl Corrected {
    pub fn new(moto: SocketAddr) -> Corrected {
        Corrected { moto, assigned: Mutex::default() }
    }

    /// An error is a connection to moto that breaks.
    pub async fn look(&self, request: &Message, operation: &str) -> io::Result<Message> {
        match operation {
            "DescribeNetworkInterfaces" => without_address_filter(request).send(self.moto).await,
            "GetHostedZoneLimit" => self.zone_limit(request).await,
            _ => request.send(self.moto).await,
        }
    }

    /// A call that changes something. One at a time, please.
    pub async fn change(&self, request: &Message, operation: &str) -> io::Result<Message> {
        match operation {
            "AssignPrivateIpAddresses" => {
                self.unassign_from_its_holder(request).await?;
                request.send(self.moto).await
            }
            "ChangeResourceRecordSets" => self.change_records(request).await,
            "CreateRoute" if self.route_exists(request).await? => {
                Ok(error(Service::Ec2, 400, "RouteAlreadyExists"))
            }
            _ => request.send(self.moto).await,
        }
    }

    async fn unassign_from_its_holder(&self, request: &Message) -> io::Result<()> {
        let wanted = parameter(request, "PrivateIpAddress.1").zip(parameter(request, "NetworkInterfaceId"));
        let Some((address, interface)) = wanted else { return Ok(()) };
        let holder = locked(&self.assigned).insert(address, interface.clone());
        if let Some(holder) = holder.filter(|holder| *holder != interface) {
            let mut unassign = request.clone();
            unassign.body = request
                .body
                .replace("Action=AssignPrivateIpAddresses", "Action=UnassignPrivateIpAddresses")
                .replace(&interface, &holder);
            unassign.send(self.moto).await?;
        }
        Ok(())
    }

    async fn change_records(&self, request: &Message) -> io::Result<Message> {
        if let Some(name) = fence_name(&request.body) {
            let present = self.present_fence(request, &name).await?;
            let deleted = fence_value(&request.body, "DELETE");
            let created = fence_value(&request.body, "CREATE");
            if deleted.as_ref().is_some_and(|deleted| present.as_ref() != Some(deleted))
                || (created.is_some() && deleted.is_none() && present.is_some())
            {
                return Ok(error(Service::Route53, 400, "InvalidChangeBatch"));
            }
        }
        let mut answer = request.send(self.moto).await?;
        answer.body = answer.body.replace("<Code>InvalidInput</Code>", "<Code>InvalidChangeBatch</Code>");
        Ok(answer)
    }

    async fn route_exists(&self, request: &Message) -> io::Result<bool> {
        let table = parameter(request, "RouteTableId").unwrap_or_default();
        let mut describe = request.clone();
        describe.body = format!("Action=DescribeRouteTables&Version=2016-11-15&RouteTableId.1={table}");
        let answer = describe.send(self.moto).await?.body;
        Ok(["DestinationCidrBlock", "DestinationIpv6CidrBlock"].iter().any(|name| {
            let destination = parameter(request, name).map(|net| net.replace("%2F", "/").replace("%3A", ":"));
            destination.is_some_and(|net| answer.contains(&format!("CidrBlock>{net}<")))
        }))
    }

    async fn zone_limit(&self, request: &Message) -> io::Result<Message> {
        let zone = request.path().split('/').rev().nth(1).unwrap_or_default();
        let list = Message {
            start: format!("GET /2013-04-01/hostedzone/{zone}/rrset HTTP/1.1"),
            body: String::new(),
            ..request.clone()
        };
        let count = list.send(self.moto).await?.body.matches("<ResourceRecordSet>").count();
        let body = format!(
            "<GetHostedZoneLimitResponse xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><Limit>\
             <Type>MAX_RRSETS_BY_ZONE</Type><Value>{MOST_RECORDS}</Value></Limit><Count>{count}</Count>\
             </GetHostedZoneLimitResponse>"
        );
        Ok(Message::response(200, "text/xml", body))
    }

    async fn present_fence(&self, request: &Message, name: &str) -> io::Result<Option<String>> {
        let path = request.path().trim_end_matches('/');
        let list = Message {
            start: format!("GET {path}?name={name}&type=TXT&maxitems=1 HTTP/1.1"),
            body: String::new(),
            ..request.clone()
        };
        let answer = list.send(self.moto).await?.body;
        Ok(answer.split_once(&format!("<Name>{name}")).and_then(|(_, set)| value(set)))
    }
}

/// Without the filter by secondary addresses, which moto does not know: whoever asks finds them among all.
fn without_address_filter(request: &Message) -> Message {
    let kept = request.body.split('&').filter(|pair| !pair.starts_with("Filter.2."));
    Message { body: kept.collect::<Vec<_>>().join("&"), ..request.clone() }
}

fn fence_name(batch: &str) -> Option<String> {
    let start = batch.find("<Name>_komainu.")? + "<Name>".len();
    let length = batch[start..].find("</Name>")?;
    Some(batch[start..start + length].to_owned())
}

/// The value of the set that the batch deletes or creates.
fn fence_value(batch: &str, action: &str) -> Option<String> {
    let (_, rest) = batch.split_once(&format!("<Action>{action}</Action>"))?;
    value(rest)
}

fn value(xml: &str) -> Option<String> {
    let (_, value) = xml.split_once("<Value>")?;
    Some(value.split_once("</Value>")?.0.replace("&quot;", "\""))
}

pub(crate) fn parameter(request: &Message, name: &str) -> Option<String> {
    let pairs = request.body.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}
