//! The services' ways to say no: which words, and in which form.

use crate::http::Message;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Ec2,
    Route53,
    /// RDS, and others that are asked by forms.
    Query,
    /// Secrets Manager, and others that are asked in JSON.
    Json,
}

impl Service {
    pub fn of(request: &Message) -> Service {
        let is_ec2 =
            || request.header("authorization").is_some_and(|header| header.contains("/ec2/aws4_request"));
        if request.path().starts_with("/2013-04-01/") {
            Service::Route53
        } else if request.header("x-amz-target").is_some() {
            Service::Json
        } else if is_ec2() {
            Service::Ec2
        } else {
            Service::Query
        }
    }

    pub fn throttled(self) -> (u16, &'static str) {
        match self {
            Service::Ec2 => (503, "RequestLimitExceeded"),
            Service::Route53 | Service::Query => (400, "Throttling"),
            Service::Json => (400, "ThrottlingException"),
        }
    }

    pub fn failed(self) -> (u16, &'static str) {
        match self {
            Service::Ec2 | Service::Route53 => (500, "InternalError"),
            Service::Query => (500, "InternalFailure"),
            Service::Json => (500, "InternalServiceError"),
        }
    }

    pub fn denied(self) -> (u16, &'static str) {
        match self {
            Service::Ec2 => (403, "UnauthorizedOperation"),
            Service::Route53 | Service::Query => (403, "AccessDenied"),
            Service::Json => (400, "AccessDeniedException"),
        }
    }
}

pub(crate) fn error(service: Service, status: u16, code: &str) -> Message {
    let wrapped = |space: &str| {
        format!(
            "<ErrorResponse xmlns=\"{space}\"><Error><Type>Sender</Type><Code>{code}</Code>\
             <Message>as ordered</Message></Error><RequestId>1</RequestId></ErrorResponse>"
        )
    };
    let (kind, body) = match service {
        Service::Ec2 => (
            "text/xml",
            format!(
                "<Response><Errors><Error><Code>{code}</Code><Message>as ordered</Message></Error></Errors>\
                 <RequestID>1</RequestID></Response>"
            ),
        ),
        Service::Route53 => ("text/xml", wrapped("https://route53.amazonaws.com/doc/2013-04-01/")),
        Service::Query => ("text/xml", wrapped("http://rds.amazonaws.com/doc/2014-10-31/")),
        Service::Json => {
            ("application/x-amz-json-1.1", format!("{{\"__type\":\"{code}\",\"message\":\"as ordered\"}}"))
        }
    };
    Message::response(status, kind, body)
}
