//! The values that are written as one of a few words.
//!
//! Pure. Owns the words. Invariant: every value has its word and every word its value, or it does not compile.

use super::{
    ClientTlsMode, Consistency, FailoverMode, FenceHost, LogFormat, PoolMode, Replication, Scheduling,
    SslMode, SyncMode,
};

pub trait Words: Copy + 'static {
    /// In the order in which they are offered.
    const WORDS: &'static [&'static str];

    /// As the configuration has it.
    fn word(self) -> &'static str;

    fn of(word: &str) -> Option<Self>;
}

macro_rules! words {
    ($($choice:ident { $($word:literal $value:ident),* $(,)? })*) => {
        $(impl Words for $choice {
            const WORDS: &'static [&'static str] = &[$($word),*];

            fn word(self) -> &'static str {
                match self {
                    $(Self::$value => $word,)*
                }
            }

            fn of(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$value),)*
                    _ => None,
                }
            }
        })*
    };
}

words! {
    Scheduling { "batch" Batch, "normal" Normal }
    LogFormat { "text" Text, "json" Json }
    ClientTlsMode { "off" Off, "allow" Allow, "require" Require, "verify" Verify }
    SslMode {
        "disable" Disable,
        "allow" Allow,
        "prefer" Prefer,
        "require" Require,
        "verify-ca" VerifyCa,
        "verify-full" VerifyFull,
    }
    PoolMode { "transaction" Transaction, "session" Session }
    Consistency { "eventual" Eventual, "bounded" Bounded, "session" Session }
    Replication { "streaming" Streaming, "log-shipping" LogShipping }
    FailoverMode { "off" Off, "streaming" Streaming, "rds" Rds, "aurora" Aurora, "redshift" Redshift }
    SyncMode { "off" Off, "prefer" Prefer, "require" Require }
    FenceHost { "off" Off, "prefer" Prefer, "require" Require }
}
