//! How long everything may take: heartbeats, elections, leases.
//!
//! Pure. Invariant: settings that pass [`LeaseSettings::check`] make a lease end before anybody else can be elected,
//! as long as no clock outruns another by more than [`LeaseSettings::drift_per_mille`].

/// Two clocks are each read twice, in whole milliseconds.
const ROUNDING_MS: u64 = 4;
/// A lease that ends after so few heartbeats is lost to one slow answer.
const MIN_HEARTBEATS: u64 = 4;
/// The least that clocks may differ in rate, whatever is configured: 10 %. Real ones differ by 0.1 %.
const MIN_MARGIN_DIVISOR: u64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LeaseSettings {
    /// How often the leader tells everybody that it lives, and every node asks for its lease. The
    /// replication library also gives a follower this long to store what it is sent.
    pub heartbeat_ms: u64,
    /// How long an election may take before it is tried again.
    pub election_timeout_min_ms: u64,
    /// Silence after which a node votes for another leader; a candidate waits for a random part of the
    /// difference to `election_timeout_min_ms` on top.
    pub election_timeout_max_ms: u64,
    /// How long a node may act without having heard that it still may.
    pub lease_ms: u64,
    /// Taken off for clocks that run at different rates.
    pub drift_margin_ms: u64,
}

impl Default for LeaseSettings {
    /// A dead leader is replaced after 1.2 to 1.5 s of silence, which leaves time to move an endpoint within
    /// about two seconds. Eight heartbeats in a row must be late before anybody doubts the leader, and five
    /// answers before a node loses its lease: a machine with two busy cores delays them by some 100 ms.
    fn default() -> Self {
        LeaseSettings {
            heartbeat_ms: 150,
            election_timeout_min_ms: 900,
            election_timeout_max_ms: 1200,
            lease_ms: 900,
            drift_margin_ms: 200,
        }
    }
}

/// Why settings are refused; each says what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error(
        "lease_ms ({lease_ms}) and drift_margin_ms ({drift_margin_ms}) together must be less than \
         election_timeout_max_ms ({election_timeout_max_ms}): otherwise another leader could be elected \
         while a node still acts on the lease of the old one"
    )]
    LeaseOutlivesLeader { lease_ms: u64, drift_margin_ms: u64, election_timeout_max_ms: u64 },
    #[error(
        "election_timeout_min_ms ({min}) must be less than election_timeout_max_ms ({max}): the difference \
         is what keeps two candidates apart"
    )]
    NoSpread { min: u64, max: u64 },
    #[error(
        "{name} ({value}) must be at least {MIN_HEARTBEATS} times heartbeat_ms ({heartbeat_ms}): otherwise a \
         heartbeat or two that come late move the endpoint"
    )]
    TooFewHeartbeats { name: &'static str, value: u64, heartbeat_ms: u64 },
    #[error(
        "drift_margin_ms ({drift_margin_ms}) must be at least {needed}, a tenth of lease_ms and \
         {ROUNDING_MS} ms for rounding: it pays for clocks that run at different rates"
    )]
    MarginTooSmall { drift_margin_ms: u64, needed: u64 },
    #[error("heartbeat_ms must be at least 1")]
    NoHeartbeat,
}

impl LeaseSettings {
    pub fn check(&self) -> Result<(), SettingsError> {
        let LeaseSettings {
            heartbeat_ms,
            election_timeout_min_ms: min,
            election_timeout_max_ms: max,
            lease_ms,
            drift_margin_ms,
        } = *self;
        if heartbeat_ms == 0 {
            return Err(SettingsError::NoHeartbeat);
        }
        if min >= max {
            return Err(SettingsError::NoSpread { min, max });
        }
        for (name, value) in [("lease_ms", lease_ms), ("election_timeout_min_ms", min)] {
            if value < heartbeat_ms.saturating_mul(MIN_HEARTBEATS) {
                return Err(SettingsError::TooFewHeartbeats { name, value, heartbeat_ms });
            }
        }
        let needed = (lease_ms / MIN_MARGIN_DIVISOR).saturating_add(ROUNDING_MS);
        if drift_margin_ms < needed {
            return Err(SettingsError::MarginTooSmall { drift_margin_ms, needed });
        }
        if lease_ms.saturating_add(drift_margin_ms) >= max {
            return Err(SettingsError::LeaseOutlivesLeader {
                lease_ms,
                drift_margin_ms,
                election_timeout_max_ms: max,
            });
        }
        Ok(())
    }

    /// By how much, in thousandths, one node's clock may run faster than another's.
    pub fn drift_per_mille(&self) -> u64 {
        self.drift_margin_ms.saturating_sub(ROUNDING_MS).saturating_mul(1000) / self.lease_ms.max(1)
    }

    /// The random part of a candidate's wait is below this.
    pub fn spread_ms(&self) -> u64 {
        self.election_timeout_max_ms.saturating_sub(self.election_timeout_min_ms)
    }
}
