//! Sends metrics to CloudWatch: one signed form a call, in AWS's query protocol.
//!
//! The SDK's own crate for it is not used, for what it would bring along (docs/decisions/0013). Source of the form:
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html>
//! Invariant: a call ends within the deadlines of the other requests, and is not made again.

use super::client_error::describe;
use super::identity::{Identity, IdentitySettings};
use super::{AwsError, AwsSettings, sdk_config, timeouts};
use crate::error::Fault;
use crate::metrics::{Datum, MetricSink};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_ec2::config::BehaviorVersion;
use aws_sdk_ec2::config::http::{HttpRequest, HttpResponse};
use aws_sdk_ec2::error::{BoxError, ErrorMetadata};
use aws_sdk_ec2::primitives::{DateTime, DateTimeFormat};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_runtime_api::client::orchestrator::OrchestratorError;
use std::fmt::Write;
use std::time::SystemTime;
use tokio::sync::OnceCell;

const PUT: &str = "PutMetricData";
/// As the signature calls it.
const SERVICE: &str = "monitoring";
const CONTENT_TYPE: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

pub struct CloudWatch {
    settings: AwsSettings,
    namespace: String,
    high_resolution: bool,
    /// None until the instance has said where it is.
    reached: OnceCell<Reached>,
}

struct Reached {
    region: String,
    url: String,
    credentials: SharedCredentialsProvider,
    call: Operation<Signed, (), ErrorMetadata>,
}

/// A request that lacks nothing.
#[derive(Debug)]
struct Signed {
    headers: Vec<(String, String)>,
    body: String,
}

impl CloudWatch {
    /// Sends nothing yet.
    pub fn new(settings: AwsSettings, namespace: &str, high_resolution: bool) -> CloudWatch {
        CloudWatch { settings, namespace: namespace.to_owned(), high_resolution, reached: OnceCell::new() }
    }

    async fn reach(&self) -> Result<Reached, AwsError> {
        let settings = &self.settings;
        let region = match &settings.region {
            Some(region) => region.clone(),
            None => {
                let found = Identity::find(&IdentitySettings::default(), settings).await;
                found.map_err(|error| self.failed(Fault::Unreachable, error.to_string()))?.region
            }
        };
        let config = sdk_config(settings, Some(&region)).await;
        let credentials = config.credentials_provider();
        let credentials = credentials.ok_or_else(|| self.failed(Fault::Credentials, "there are none"))?;
        let url = settings.endpoint_url.clone().unwrap_or_else(|| default_url(&region));
        let call = Operation::builder()
            .service_name(SERVICE)
            .operation_name(PUT)
            .behavior_version(BehaviorVersion::v2026_01_12())
            .endpoint_url(&url)
            .no_auth()
            .no_retry()
            .with_connection_poisoning()
            .timeout_config(timeouts(settings))
            .serializer(request)
            .deserializer(answer)
            .build();
        Ok(Reached { region, url, credentials, call })
    }

    fn failed(&self, fault: Fault, message: impl Into<String>) -> AwsError {
        let subject = self.namespace.clone();
        AwsError { operation: PUT, subject, fault, code: None, message: message.into() }
    }

    async fn send(&self, body: String) -> Result<(), AwsError> {
        let reached = self.reached.get_or_try_init(|| self.reach()).await?;
        let credentials = reached.credentials.provide_credentials().await;
        let credentials = credentials.map_err(|error| self.failed(Fault::Credentials, error.to_string()))?;
        let headers = signature(reached, &credentials.into(), &body)
            .map_err(|error| self.failed(Fault::Refused, error.to_string()))?;
        let called = reached.call.invoke(Signed { headers, body }).await;
        called.map_err(|error| describe(PUT, &self.namespace, &error))
    }
}

impl MetricSink for CloudWatch {
    async fn put(&self, at: SystemTime, data: &[Datum]) -> Result<(), AwsError> {
        let body = form(&self.namespace, self.high_resolution, at, data);
        // Finding credentials and the region has deadlines of its own, but many tries.
        match tokio::time::timeout(self.settings.attempt_timeout() * 2, self.send(body)).await {
            Ok(sent) => sent,
            Err(_) => Err(self.failed(Fault::OutcomeUnknown, "no answer came in time")),
        }
    }
}

fn default_url(region: &str) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://{SERVICE}.{region}.{domain}")
}

fn signature(
    reached: &Reached,
    identity: &aws_smithy_runtime_api::client::identity::Identity,
    body: &str,
) -> Result<Vec<(String, String)>, BoxError> {
    let parameters = v4::SigningParams::builder()
        .identity(identity)
        .region(&reached.region)
        .name(SERVICE)
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()?
        .into();
    let body = SignableBody::Bytes(body.as_bytes());
    // The slash that an empty path is sent as.
    let url = format!("{}/", reached.url.trim_end_matches('/'));
    let request = SignableRequest::new("POST", url, [CONTENT_TYPE].into_iter(), body)?;
    let (signed, _) = sign(request, &parameters)?.into_parts();
    Ok(signed.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn request(signed: Signed) -> Result<HttpRequest, BoxError> {
    let mut request = HttpRequest::new(signed.body.into());
    request.set_method("POST")?;
    request.headers_mut().insert(CONTENT_TYPE.0, CONTENT_TYPE.1);
    for (name, value) in signed.headers {
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

fn answer(response: &HttpResponse) -> Result<(), OrchestratorError<ErrorMetadata>> {
    if response.status().is_success() {
        return Ok(());
    }
    let body = response.body().bytes().map(String::from_utf8_lossy).unwrap_or_default();
    let mut error = ErrorMetadata::builder();
    if let Some(code) = element(&body, "Code") {
        error = error.code(code);
    }
    let message = element(&body, "Message")
        .map_or_else(|| format!("HTTP {}", response.status().as_u16()), str::to_owned);
    Err(OrchestratorError::operation(error.message(message).build()))
}

/// The text of the first element of that name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

fn form(namespace: &str, high_resolution: bool, at: SystemTime, data: &[Datum]) -> String {
    let mut form = "Action=PutMetricData&Version=2010-08-01".to_owned();
    field(&mut form, "Namespace", namespace);
    let at = DateTime::from_secs(DateTime::from(at).secs());
    let at = at.fmt(DateTimeFormat::DateTime).unwrap_or_default();
    for (number, datum) in (1..).zip(data) {
        let member = format!("MetricData.member.{number}");
        field(&mut form, &format!("{member}.MetricName"), datum.name);
        field(&mut form, &format!("{member}.Unit"), datum.unit);
        field(&mut form, &format!("{member}.Value"), &datum.value.to_string());
        field(&mut form, &format!("{member}.Timestamp"), &at);
        if high_resolution {
            field(&mut form, &format!("{member}.StorageResolution"), "1");
        }
        for (number, (name, value)) in (1..).zip(&datum.dimensions) {
            field(&mut form, &format!("{member}.Dimensions.member.{number}.Name"), name);
            field(&mut form, &format!("{member}.Dimensions.member.{number}.Value"), value);
        }
    }
    form
}

fn field(form: &mut String, name: &str, value: &str) {
    form.push('&');
    form.push_str(name);
    form.push('=');
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => form.push(byte.into()),
            other => write!(form, "%{other:02X}").expect("a String takes all that is written to it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{MAX_BYTES, MAX_DATA, batches};
    use std::time::Duration;

    fn datum(server: &str) -> Datum {
        let dimensions = vec![("Node", "a".to_owned()), ("Server", server.to_owned())];
        Datum { name: "ReplicationLag", unit: "Seconds", dimensions, value: 1.5 }
    }

    #[test]
    fn a_form_says_what_the_api_reference_asks_for() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_999);
        let said = form("komainu", true, at, &[datum("pg 1&é")]);
        assert_eq!(
            said.split('&').collect::<Vec<_>>(),
            [
                "Action=PutMetricData",
                "Version=2010-08-01",
                "Namespace=komainu",
                "MetricData.member.1.MetricName=ReplicationLag",
                "MetricData.member.1.Unit=Seconds",
                "MetricData.member.1.Value=1.5",
                "MetricData.member.1.Timestamp=2023-11-14T22%3A13%3A20Z",
                "MetricData.member.1.StorageResolution=1",
                "MetricData.member.1.Dimensions.member.1.Name=Node",
                "MetricData.member.1.Dimensions.member.1.Value=a",
                "MetricData.member.1.Dimensions.member.2.Name=Server",
                "MetricData.member.1.Dimensions.member.2.Value=pg%201%26%C3%A9",
            ]
        );
        assert!(!form("komainu", false, at, &[datum("pg1")]).contains("StorageResolution"));
    }

    #[test]
    fn a_batch_is_a_call_that_is_not_too_long() {
        for server in ["é".repeat(128), "x".repeat(255), "y".to_owned()] {
            let data = vec![datum(&server); 2500];
            let mut sent = 0;
            for batch in batches(&data) {
                assert!(batch.len() <= MAX_DATA);
                assert!(form("komainu", true, SystemTime::now(), batch).len() <= MAX_BYTES);
                sent += batch.len();
            }
            assert_eq!(sent, 2500);
        }
    }

    #[test]
    fn an_error_is_read_for_its_code() {
        let body = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>";
        assert_eq!((element(body, "Code"), element(body, "Message")), (Some("AccessDenied"), Some("no")));
        assert_eq!(element("<html>", "Code"), None);
        assert_eq!(default_url("cn-north-1"), "https://monitoring.cn-north-1.amazonaws.com.cn");
    }
}
