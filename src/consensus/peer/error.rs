//! Why a call to a peer brought no answer, and whether the peer may have acted on it.

use std::io;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{node} at {address} cannot be reached: {reason}")]
    Unreachable { node: String, address: String, reason: String },
    /// It could not a moment ago, and is not dialled before `retry_in`. In the same words, so that one reason is one.
    #[error("{node} at {address} cannot be reached: {reason}")]
    Waiting { node: String, address: String, reason: String, retry_in: Duration },
    #[error("{node} at {address} refuses this node: {reason}")]
    Refused { node: String, address: String, reason: String },
    #[error("{node} did not answer within {within:?}")]
    Deadline { node: String, within: Duration },
    #[error("the connection to {node} broke before it answered: {source}")]
    Broken { node: String, source: io::Error },
    #[error("the request is longer than {max} bytes")]
    TooLong { max: usize },
    #[error("the request cannot be written down: {0}")]
    Encode(serde_json::Error),
    #[error("{node} answered what is not understood: {reason}")]
    NotUnderstood { node: String, reason: String },
    #[error("{node} did not do it: {reason}")]
    Failed { node: String, reason: String },
}

impl CallError {
    /// The peer surely never saw the request.
    pub fn is_before_sending(&self) -> bool {
        matches!(
            self,
            CallError::Unreachable { .. }
                | CallError::Waiting { .. }
                | CallError::Refused { .. }
                | CallError::TooLong { .. }
                | CallError::Encode(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told again and again would fill the timeline if the words differed by a time.
    #[test]
    fn dialled_or_not_it_is_told_in_the_same_words() {
        let (node, address, reason) = ("a".to_owned(), "h:1".to_owned(), "refused".to_owned());
        let dialled =
            CallError::Unreachable { node: node.clone(), address: address.clone(), reason: reason.clone() };
        let waiting = CallError::Waiting { node, address, reason, retry_in: Duration::from_millis(232) };
        assert_eq!(waiting.to_string(), dialled.to_string());
    }
}
