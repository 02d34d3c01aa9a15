//! What a session shows of itself to whoever lists sessions: what it does, where, and what keeps it there.
//!
//! Pure. Fits one word, so that a session notes it at each rest for the price of a store. Invariant: nothing of what a
//! client sends is in it.

use super::pins::Pins;
use crate::topology::ServerIndex;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    Idle,
    IdleInTransaction,
    IdleInFailed,
    /// A server works for it, or answers.
    Active,
    Waits(WaitsFor),
    /// There is no primary yet that could take its login.
    LoginWaits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum WaitsFor {
    /// To a server, for its pool has none free.
    Connection,
    /// That there is one, and that this node may use it.
    Primary,
    /// A standby that has what this session has written or seen.
    Replay,
}

impl Activity {
    /// Those who wait are in the state of their transaction no more than of a server.
    pub const ALL: [Activity; 8] = [
        Activity::Idle,
        Activity::IdleInTransaction,
        Activity::IdleInFailed,
        Activity::Active,
        Activity::Waits(WaitsFor::Connection),
        Activity::Waits(WaitsFor::Primary),
        Activity::Waits(WaitsFor::Replay),
        Activity::LoginWaits,
    ];

    /// The names that PostgreSQL has for them in `pg_stat_activity`, as far as it has.
    pub fn name(self) -> &'static str {
        match self {
            Activity::Idle => "idle",
            Activity::IdleInTransaction => "idle in transaction",
            Activity::IdleInFailed => "idle in transaction (aborted)",
            Activity::Active => "active",
            Activity::Waits(_) => "waiting",
            Activity::LoginWaits => "login",
        }
    }

    pub fn waits_for(self) -> &'static str {
        match self {
            Activity::Idle | Activity::IdleInTransaction | Activity::IdleInFailed => "client",
            Activity::Active => "server",
            Activity::Waits(WaitsFor::Connection) => "connection",
            Activity::Waits(WaitsFor::Primary) | Activity::LoginWaits => "primary",
            Activity::Waits(WaitsFor::Replay) => "replay",
        }
    }

    /// Its place in `ALL`.
    fn number(self) -> u64 {
        match self {
            Activity::Idle => 0,
            Activity::IdleInTransaction => 1,
            Activity::IdleInFailed => 2,
            Activity::Active => 3,
            Activity::Waits(WaitsFor::Connection) => 4,
            Activity::Waits(WaitsFor::Primary) => 5,
            Activity::Waits(WaitsFor::Replay) => 6,
            Activity::LoginWaits => 7,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glimpse {
    pub activity: Activity,
    /// Whose connection it has, or waits for.
    pub server: Option<ServerIndex>,
    pub pins: Pins,
}

const SERVER_AT: u32 = 8;
const PINS_AT: u32 = 32;

impl Glimpse {
    /// Pins from bit 32, the server from bit 8 (0: none), the activity below.
    pub fn pack(self) -> u64 {
        let server = self.server.map_or(0, |server| u64::from(server.0) + 1);
        self.activity.number() | server << SERVER_AT | u64::from(self.pins.bits()) << PINS_AT
    }

    /// Whether that is the word of one for whom a server works.
    pub fn is_active(word: u64) -> bool {
        u64::from(word as u8) == Activity::Active.number()
    }

    pub fn unpack(word: u64) -> Glimpse {
        let number = usize::from(word as u8);
        let server = (word >> SERVER_AT) as u32 & 0x00ff_ffff;
        Glimpse {
            activity: Activity::ALL.get(number).copied().unwrap_or(Activity::Idle),
            server: server.checked_sub(1).and_then(|server| server.try_into().ok()).map(ServerIndex),
            pins: Pins::from_bits((word >> PINS_AT) as u16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::pins::PinReason;

    #[test]
    fn what_is_packed_comes_out_again() {
        let mut pins = Pins::default();
        for server in [None, Some(ServerIndex(0)), Some(ServerIndex(7))] {
            for activity in Activity::ALL {
                let glimpse = Glimpse { activity, server, pins };
                assert_eq!(Glimpse::unpack(glimpse.pack()), glimpse);
                assert_eq!(Glimpse::is_active(glimpse.pack()), activity == Activity::Active);
            }
            pins.insert(PinReason::NotInspected);
        }
        let new = Glimpse { activity: Activity::Idle, server: None, pins: Pins::default() };
        assert_eq!(Glimpse::unpack(0), new);
    }
}
