//! Asks for the permit when a request is signed, encoded and about to be handed to the connection.

use crate::authority::Permit;
use aws_sdk_ec2::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_ec2::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_ec2::error::BoxError;

/// Put on each request that changes something. It is the last thing to run before the request is sent: finding
/// credentials, resolving and signing are over. What remains is the connection, and the request's deadline bounds it.
#[derive(Debug)]
pub(crate) struct OnlyWhile(pub Permit);

impl Intercept for OnlyWhile {
    fn name(&self) -> &'static str {
        "OnlyWhile"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        Ok(self.0.check()?)
    }
}
