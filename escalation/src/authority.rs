//! The right to send one changing request, asked for at the last moment.
//!
//! A plan may be seconds old when its request is ready: credentials were fetched, a name was resolved, the process was
//! frozen. So the question "may I still?" is asked right before the bytes go out, of the claim and of the authority.

use crate::claim::{Claim, Owner};
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// Whoever holds this node's lease.
pub trait Authority: Send + Sync + 'static {
    /// May this node, at this moment, act as the owner of `endpoint` with this epoch? Asked often, so it must be cheap
    /// (read a clock), and must not block.
    fn allows(&self, endpoint: &str, epoch: u64) -> bool;
}

impl<F: Fn(&str, u64) -> bool + Send + Sync + 'static> Authority for F {
    fn allows(&self, endpoint: &str, epoch: u64) -> bool {
        self(endpoint, epoch)
    }
}

/// What a change is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Become or stay the owner.
    Take,
    /// Give up, because another owns it.
    Release,
    /// Take down what is local, because nobody can say who owns it.
    Drop,
}

impl Intent {
    pub fn word(self) -> &'static str {
        match self {
            Intent::Take => "take",
            Intent::Release => "release",
            Intent::Drop => "drop",
        }
    }
}

/// One plan's right to change things. Cheap to clone; each request carries it.
#[derive(Clone)]
pub struct Permit {
    pub endpoint: Arc<str>,
    pub intent: Intent,
    pub epoch: u64,
    claim: watch::Receiver<Claim>,
    authority: Arc<dyn Authority>,
}

impl Permit {
    pub fn new(
        endpoint: Arc<str>,
        intent: Intent,
        epoch: u64,
        claim: watch::Receiver<Claim>,
        authority: Arc<dyn Authority>,
    ) -> Permit {
        Permit { endpoint, intent, epoch, claim, authority }
    }

    /// To be called right before the request is sent, after everything that can take time.
    pub fn check(&self) -> Result<(), Withdrawn> {
        let claim = *self.claim.borrow();
        let holds = match self.intent {
            Intent::Take => {
                claim.owner == Owner::This
                    && claim.epoch == self.epoch
                    && self.authority.allows(&self.endpoint, self.epoch)
            }
            Intent::Release => claim.owner == Owner::Other && claim.epoch == self.epoch,
            // Giving up something local needs no right. That it is wanted again is no reason to stop half way:
            // the next look brings it back.
            Intent::Drop => true,
        };
        if holds {
            Ok(())
        } else {
            Err(Withdrawn { endpoint: self.endpoint.clone(), intent: self.intent, epoch: self.epoch })
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "permit to {} {} with epoch {}", self.intent.word(), self.endpoint, self.epoch)
    }
}

/// The right had gone when the request was about to be sent. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawn {
    pub endpoint: Arc<str>,
    pub intent: Intent,
    pub epoch: u64,
}

impl fmt::Display for Withdrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "not sent: the right to {} {} with epoch {} has ended",
            self.intent.word(),
            self.endpoint,
            self.epoch
        )
    }
}

impl std::error::Error for Withdrawn {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_permit_ends_with_the_claim_the_epoch_or_the_lease() {
        let (claims, claim) = watch::channel(Claim { owner: Owner::This, epoch: 7 });
        let lease = Arc::new(AtomicBool::new(true));
        let authority: Arc<dyn Authority> = {
            let lease = lease.clone();
            Arc::new(move |_: &str, _: u64| lease.load(Ordering::SeqCst))
        };
        let permit =
            |intent, epoch| Permit::new("app".into(), intent, epoch, claim.clone(), authority.clone());
        let take = permit(Intent::Take, 7);
        assert!(take.check().is_ok());
        assert!(permit(Intent::Take, 6).check().is_err());
        lease.store(false, Ordering::SeqCst);
        assert!(take.check().is_err());
        lease.store(true, Ordering::SeqCst);
        claims.send_replace(Claim { owner: Owner::Other, epoch: 8 });
        assert!(take.check().is_err());
        let release = permit(Intent::Release, 8);
        assert!(release.check().is_ok());
        claims.send_replace(Claim { owner: Owner::This, epoch: 9 });
        assert!(release.check().is_err(), "a late release must not undo what was taken again");
        assert!(permit(Intent::Drop, 0).check().is_ok());
    }
}
