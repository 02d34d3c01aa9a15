//! What the tests stand on: moto's server, a proxy before it that misbehaves to order, metadata services, nodes.

pub mod http;
pub mod imds;
pub mod moto;
pub mod proxy;
pub mod world;

pub use proxy::Fault;
pub use world::{Kind, World};

use std::time::Duration;

/// For anything that must happen. Long: it only costs time when something is broken.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(result) => result,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

/// Asks again and again until it is so.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
