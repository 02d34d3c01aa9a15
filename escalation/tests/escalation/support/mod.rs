//! What the tests stand on: the double of AWS, with a proxy that misbehaves to order, and nodes before it.

pub mod world;

pub use komainu_aws_double::{Fault, imds, proxy};
pub use world::{Kind, World};

use komainu_aws_double::Moto;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;
use std::time::Duration;

pub const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

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

/// One for the whole run: it takes seconds to start. Tests do not meet in it, for each makes its own things.
pub fn moto() -> &'static Moto {
    static MOTO: OnceLock<Moto> = OnceLock::new();
    MOTO.get_or_init(|| {
        let python = std::env::var("KOMAINU_TEST_PYTHON")
            .expect("KOMAINU_TEST_PYTHON must name a Python with moto: tests/setup/install python DIRECTORY");
        Moto::start(python.as_ref()).unwrap_or_else(|error| panic!("{error}"))
    })
}
