//! The label values of counters, as enums: a closed set each, so that no client can grow the page.
//!
//! Pure. Invariant: `index` counts from 0 without gaps, in the order of `ALL`.

/// A label whose values are known when komainu is built.
pub trait Label: Copy + 'static {
    const ALL: &'static [Self];
    fn index(self) -> usize;
    fn as_str(self) -> &'static str;
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($variant,)* }

        impl $name {
            pub const COUNT: usize = [$($name::$variant,)*].len();
        }

        impl Label for $name {
            const ALL: &'static [Self] = &[$($name::$variant,)*];

            fn index(self) -> usize {
                self as usize
            }

            fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    )*};
}

labels! {
    /// What a statement was taken for.
    QueryClass { Read "read", Write "write", Other "other", }
    /// Why a session keeps its server connection between transactions.
    PinReason {
        TemporaryTable "temporary_table",
        AdvisoryLock "advisory_lock",
        Listen "listen",
        HoldCursor "hold_cursor",
        Load "load",
        Setting "setting",
        UninspectedStatement "uninspected_statement",
        Replication "replication",
    }
    /// Why a read did not go to a standby.
    ReadToPrimary {
        NoStandby "no_standby",
        Lag "lag",
        Floor "floor",
        Transaction "transaction",
        UnknownFunction "unknown_function",
        Preference "preference",
        Hint "hint",
        Pinned "pinned",
        Weight "weight",
    }
    /// Why a client was not let in.
    LoginFailure {
        Password "password",
        Hba "hba",
        TlsRequired "tls_required",
        Timeout "timeout",
        Protocol "protocol",
        TooManyConnections "too_many_connections",
        Server "server",
    }
    /// What became of a cancel request.
    CancelResult {
        Sent "sent",
        UnknownKey "unknown_key",
        Idle "idle",
        Failed "failed",
    }
    /// Which way bytes were relayed.
    Direction { ToServers "to_servers", ToClients "to_clients", }
    /// What a server connection is doing.
    ConnectionState { Idle "idle", Active "active", Connecting "connecting", }
}
