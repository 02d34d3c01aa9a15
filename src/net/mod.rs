//! Byte streams to clients and servers: TCP, Unix sockets and TLS over TCP.
//!
//! Owns how bytes move. Never looks at what they mean.

pub mod address;
pub mod buffer;
pub mod channel_binding;
pub mod dial;
pub mod names;
pub mod socket_file;
pub mod sockopt;
mod stream;
pub mod tls;
pub mod vanished;
mod verify;

pub use buffer::Buffer;
pub use stream::Stream;
