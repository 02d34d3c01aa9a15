//! Takes the endpoint that applications connect to, and gives it up: komainu's only road to AWS.
//!
//! The raft log says who owns an endpoint and with which epoch (`Claim`). For each endpoint a loop compares that with
//! what is really there, changes what differs, and reads it back (`reconcile`). What can be moved is a `Method`: an
//! Elastic IP, a Route 53 record, routes, a secondary private address, an address on a network interface, or whatever
//! a program of the operator's does. Their rules are pure (`Rules`), so that a simulation runs the same code.
//!
//! It also fetches the passwords of database roles (`passwords`) and asks RDS what a cluster is made of (`rds`).
//!
//! It never decides who the owner is. No AWS type leaves this crate.
//! Invariant: a request that changes something is sent only while its `Permit` holds, checked when it is sent; and
//! what is given up is only what is still this node's.

pub mod authority;
pub mod aws;
pub mod claim;
pub mod command;
pub mod elastic_ip;
pub mod endpoint;
pub mod error;
pub mod finding;
pub mod interface;
pub mod method;
pub mod metrics;
pub mod passwords;
pub mod preflight;
pub mod program;
pub mod rds;
pub mod reason;
pub mod reconcile;
pub mod route53;
pub mod route_table;
pub mod secondary_ip;
pub mod settings;
pub mod status;

pub use authority::{Authority, Intent, Permit, Withdrawn};
pub use aws::{Aws, AwsSettings, Identity};
pub use claim::{Claim, Desired, Owner};
pub use endpoint::{Endpoint, Outlet};
pub use error::{Error, Fault};
pub use finding::Finding;
pub use method::{Applied, Gap, Holding, Method, Plan, Problem, Rules, Stage};
pub use reason::Reason;
pub use reconcile::core::{Action, Reconciler};
pub use settings::{EndpointSettings, MethodSettings};
pub use status::{Event, Phase, State, Status};
