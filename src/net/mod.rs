//! Byte streams to clients and servers: TCP, Unix sockets and TLS over TCP.
//!
//! Owns how bytes move. Never looks at what they mean.

pub mod buffer;
mod stream;

pub use buffer::Buffer;
pub use stream::Stream;
