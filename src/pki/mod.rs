//! The cluster's own certificates: an authority, and a certificate for each node.
//!
//! Owns the files in the operator's directory, and what a certificate says of who it is for. Never talks to
//! anybody. Invariant: which node a certificate speaks for is one DNS name in it, and nothing else.

mod authority;
mod certificate;
mod expiry;
mod name;

pub(crate) use authority::read_all;
pub use authority::{AUTHORITY_CERTIFICATE, AUTHORITY_DAYS, Authority, Issued, NODE_DAYS, PkiError};
pub use certificate::{Certificate, CertificateError};
pub use expiry::Found;
pub use name::{AGENT_PREFIX, NameError, NodeName, check_label, name_of_agent};

use std::time::Duration;

/// Who looks at a certificate that ends sooner than this says so: time for a monthly habit to notice.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(30 * 86_400);
