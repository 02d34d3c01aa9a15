//! What AWS, or the way to it, answered: which operation, on what, whose fault.

use crate::authority::Withdrawn;
use crate::error::{Error, Fault};
use aws_sdk_ec2::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use std::error::Error as StdError;

#[derive(Debug, thiserror::Error)]
#[error("{operation} on {subject}: {message}")]
pub struct AwsError {
    /// The API's name for it: `AssociateAddress` …
    pub operation: &'static str,
    pub subject: String,
    pub fault: Fault,
    /// AWS's error code, if it answered with one.
    pub code: Option<String>,
    /// Code and text as AWS gave them, or what the connection's error was.
    pub message: String,
}

impl AwsError {
    /// The answer makes no sense, or lacks what it must have.
    pub fn unexpected(
        operation: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) -> AwsError {
        AwsError {
            operation,
            subject: subject.into(),
            fault: Fault::Unreachable,
            code: None,
            message: message.into(),
        }
    }

    pub fn missing(operation: &'static str, subject: impl Into<String>) -> AwsError {
        AwsError {
            operation,
            subject: subject.into(),
            fault: Fault::Missing,
            code: None,
            message: "there is no such thing in this account and region".into(),
        }
    }

    /// It was not even asked for.
    pub fn refused(
        operation: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) -> AwsError {
        AwsError { fault: Fault::Refused, ..AwsError::unexpected(operation, subject, message) }
    }

    pub fn is(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    /// For codes that mean that the plan was overtaken.
    pub fn conflict_if(mut self, codes: &[&str]) -> AwsError {
        if self.is(codes) {
            self.fault = Fault::Conflict;
        }
        self
    }
}

/// Turns the SDK's error into ours. A permit that ended is not AWS's error, and stays what it is.
pub(crate) fn failed<E, R>(operation: &'static str, subject: &str) -> impl Fn(SdkError<E, R>) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
    R: std::fmt::Debug + 'static,
{
    move |error| match withdrawn(&error) {
        Some(withdrawn) => Error::Withdrawn(withdrawn),
        None => Error::Aws(describe(operation, subject, &error)),
    }
}

pub(crate) fn describe<E, R>(operation: &'static str, subject: &str, error: &SdkError<E, R>) -> AwsError
where
    E: ProvideErrorMetadata + StdError + 'static,
    R: std::fmt::Debug + 'static,
{
    let code = error.as_service_error().and_then(|error| error.code()).map(str::to_owned);
    let text = error.as_service_error().and_then(|error| error.message());
    let (fault, message) = match (error, &code) {
        (SdkError::ServiceError(_), Some(code)) => {
            (fault_of(code), format!("{code}: {}", text.unwrap_or("no text")))
        }
        // An answer without a code, or none that can be read: a broken service, or something between us.
        (SdkError::ServiceError(_) | SdkError::ResponseError(_) | SdkError::TimeoutError(_), _) => {
            (Fault::OutcomeUnknown, DisplayErrorContext(error).to_string())
        }
        (SdkError::DispatchFailure(failure), _) => {
            let text = DisplayErrorContext(error).to_string();
            let fault = if lacks_credentials(error) {
                Fault::Credentials
            } else if failure.is_io() || failure.is_timeout() {
                // Perhaps the request left before the connection broke.
                Fault::OutcomeUnknown
            } else {
                Fault::Unreachable
            };
            (fault, text)
        }
        _ if lacks_credentials(error) => (Fault::Credentials, DisplayErrorContext(error).to_string()),
        _ => (Fault::Refused, DisplayErrorContext(error).to_string()),
    };
    AwsError { operation, subject: subject.to_owned(), fault, code, message }
}

fn fault_of(code: &str) -> Fault {
    match code {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "TooManyRequestsException"
        | "PriorRequestNotComplete"
        | "EC2ThrottledException"
        | "SlowDown" => Fault::Throttled,
        // The last: of the key that a secret is encrypted with.
        "UnauthorizedOperation"
        | "AccessDenied"
        | "AccessDeniedException"
        | "OptInRequired"
        | "DecryptionFailure" => Fault::NotPermitted,
        "AuthFailure"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature" => Fault::Credentials,
        "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "InternalServiceError"
        | "ServiceUnavailable"
        | "Unavailable" => Fault::OutcomeUnknown,
        "NoSuchHostedZone"
        | "ResourceNotFoundException"
        | "DBClusterNotFoundFault"
        | "DBInstanceNotFound" => Fault::Missing,
        code if code.ends_with(".NotFound") => Fault::Missing,
        _ => Fault::Refused,
    }
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

fn withdrawn<E, R>(error: &SdkError<E, R>) -> Option<Withdrawn>
where
    E: StdError + 'static,
    R: std::fmt::Debug + 'static,
{
    chain(error).find_map(|error| error.downcast_ref::<Withdrawn>().cloned())
}

fn lacks_credentials<E, R>(error: &SdkError<E, R>) -> bool
where
    E: StdError + 'static,
    R: std::fmt::Debug + 'static,
{
    chain(error).any(|error| error.is::<aws_credential_types::provider::error::CredentialsError>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_faults() {
        for (code, fault) in [
            ("RequestLimitExceeded", Fault::Throttled),
            ("Throttling", Fault::Throttled),
            ("UnauthorizedOperation", Fault::NotPermitted),
            ("ExpiredToken", Fault::Credentials),
            ("InvalidAllocationID.NotFound", Fault::Missing),
            ("InternalError", Fault::OutcomeUnknown),
            ("InvalidParameterValue", Fault::Refused),
        ] {
            assert_eq!(fault_of(code), fault, "{code}");
        }
    }
}
