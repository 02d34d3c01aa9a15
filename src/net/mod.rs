//! Byte streams to clients and servers: TCP, Unix sockets and TLS over TCP.
//!
//! Owns how bytes move. Never looks at what they mean.

mod stream;

pub use stream::Stream;
