//! What others have worded, in our log.
//!
//! Pure. Invariant: it begins no line.

use std::fmt::Display;

/// For errors that may name what a client, or a server, has named.
pub fn one_line(text: impl Display) -> String {
    text.to_string().replace(char::is_control, "?")
}
