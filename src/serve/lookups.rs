//! Looking users up on the primary, with the patience of the rest of a login.
//!
//! Invariant: whoever waits for a primary to be asked is counted and shown as one whose login waits, and bounded with
//! those who have proved nothing: that it waits takes away nobody else's place.

use std::sync::Arc;

use futures_util::FutureExt;

use crate::client::auth_query::AuthQuery;
use crate::client::secrets::{AskServer, Asking, Lookup, LookupError, NoAnswer};
use crate::clock::now_ms;
use crate::session::Gateway;
use crate::session::held_login::HeldLogin;
use crate::session::registry::Who;

/// Asks the primary, and the next one, for as long as a login may wait.
pub fn patient(lookups: &AuthQuery, gateway: &Arc<Gateway>) -> AskServer {
    let (lookups, gateway) = (lookups.clone(), gateway.clone());
    Arc::new(move |asking| {
        let (lookups, gateway) = (lookups.clone(), gateway.clone());
        async move { ask(&lookups, &gateway, &asking).await }.boxed()
    })
}

async fn ask(lookups: &AuthQuery, gateway: &Gateway, asking: &Asking) -> Result<Lookup, LookupError> {
    let mut held = HeldLogin::of_stranger(gateway);
    loop {
        let error = match lookups.lookup(&asking.user).await {
            Err(error) if error.kind == NoAnswer::Passing => error,
            answer => return answer,
        };
        let mut why = "the primary could not be asked for the user";
        loop {
            if gateway.topology.borrow().primary.is_none() {
                why = gateway.why_no_primary();
            }
            held.hold(|| who(asking), why)
                .await
                .map_err(|told| LookupError { kind: NoAnswer::WaitedInVain(told), ..error.clone() })?;
            if gateway.topology.borrow().primary.is_some() {
                break;
            }
        }
    }
}

fn who(asking: &Asking) -> Who {
    let peer = asking.address.map_or_else(|| "[local]".to_owned(), |address| address.to_string());
    Who {
        user: asking.user.as_str().into(),
        database: asking.database.as_str().into(),
        peer: peer.into(),
        since_ms: now_ms(),
    }
}
