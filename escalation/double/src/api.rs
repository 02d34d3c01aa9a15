//! Calls of the double's own to moto, as somebody who may do anything: to make things, and to see what is there.
//!
//! Not by the SDK, which would be the second road to AWS in a program that has one on purpose. Invariant: a call that
//! fails is an error with the service's own words.

use crate::http::Message;
use std::io;
use std::net::SocketAddr;

const POST: &str = "POST / HTTP/1.1";
const FORM: &str = "application/x-www-form-urlencoded";

pub const REGION: &str = "us-east-1";

/// The host name of moto's instances of RDS, whatever their account.
pub fn rds_endpoint(instance: &str) -> String {
    format!("{instance}.aaaaaaaaaa.{REGION}.rds.amazonaws.com")
}

/// To moto itself, past all faults.
#[derive(Debug, Clone, Copy)]
pub struct Api {
    pub moto: SocketAddr,
}

impl Api {
    /// The answer's XML. The parameters need no escaping, or have it.
    pub async fn ec2(&self, action: &str, parameters: &[(&str, &str)]) -> io::Result<String> {
        let body = form(action, "2016-11-15", parameters);
        self.call("ec2", POST.into(), &[("content-type", FORM)], body).await
    }

    /// The same of CloudWatch.
    pub async fn cloudwatch(&self, action: &str, parameters: &[(&str, &str)]) -> io::Result<String> {
        let body = form(action, "2010-08-01", parameters);
        self.call("monitoring", POST.into(), &[("content-type", FORM)], body).await
    }

    pub async fn route53(&self, method: &str, path: &str, body: &str) -> io::Result<String> {
        let start = format!("{method} /2013-04-01{path} HTTP/1.1");
        self.call("route53", start, &[("content-type", "text/xml")], body.to_owned()).await
    }

    /// As `ec2`.
    pub async fn rds(&self, action: &str, parameters: &[(&str, &str)]) -> io::Result<String> {
        let body = form(action, "2014-10-31", parameters);
        self.call("rds", POST.into(), &[("content-type", FORM)], body).await
    }

    /// The answer's JSON.
    pub async fn secrets_manager(&self, action: &str, body: &str) -> io::Result<String> {
        let target = format!("secretsmanager.{action}");
        let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", &*target)];
        self.call("secretsmanager", POST.into(), &headers, body.to_owned()).await
    }

    async fn call(
        &self,
        service: &str,
        start: String,
        headers: &[(&str, &str)],
        body: String,
    ) -> io::Result<String> {
        // Moto finds the service by the signature's scope, and verifies none.
        let signed = format!(
            "AWS4-HMAC-SHA256 Credential=double/20260101/{REGION}/{service}/aws4_request, \
             SignedHeaders=host, Signature=0"
        );
        let host = self.moto.to_string();
        let all = headers.iter().copied().chain([("host", &*host), ("authorization", &*signed)]);
        let headers = all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let answer = Message { start, headers, body }.send(self.moto).await?;
        match answer.status() {
            200..=299 => Ok(answer.body),
            _ => Err(io::Error::other(element(&answer.body, "Message").unwrap_or(&answer.body).to_owned())),
        }
    }
}

fn form(action: &str, version: &str, parameters: &[(&str, &str)]) -> String {
    let parameters = parameters.iter().map(|(name, value)| format!("&{name}={value}"));
    format!("Action={action}&Version={version}") + &parameters.collect::<String>()
}

/// What the first element of this name holds.
pub fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

/// The same, for what an answer must have.
pub fn required(xml: &str, name: &str) -> io::Result<String> {
    element(xml, name).map(str::to_owned).ok_or_else(|| io::Error::other(format!("no {name} in {xml}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_by_their_whole_name() {
        let xml = "<vpcIds/><vpcId>vpc-1</vpcId><vpcId>vpc-2</vpcId>";
        assert_eq!(element(xml, "vpcId"), Some("vpc-1"));
        assert_eq!(element(xml, "vpc"), None);
        assert!(required(xml, "subnetId").is_err_and(|error| error.to_string().contains("subnetId")));
    }
}
