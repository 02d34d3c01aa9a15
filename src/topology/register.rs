//! Which number each server has within this process.
//!
//! Pure. Invariant: a number means one server at one address, and never another one. One that comes back has its old
//! number again.

use std::sync::Arc;

use super::ServerIndex;

#[derive(Debug, Clone, Default)]
pub struct Register(Vec<(Arc<str>, Arc<str>, u16)>);

impl Register {
    /// The number of the server of that name at that address.
    pub fn index(&mut self, id: &str, host: &str, port: u16) -> ServerIndex {
        let known = self.0.iter().position(|known| (&*known.0, &*known.1, known.2) == (id, host, port));
        let position = known.unwrap_or_else(|| {
            self.0.push((id.into(), host.into(), port));
            self.0.len() - 1
        });
        // So many moves do not happen to one process.
        ServerIndex(u16::try_from(position).unwrap_or(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_its_number_and_one_that_moves_gets_another() {
        let mut register = Register::default();
        assert_eq!(register.index("a", "h1", 5432), ServerIndex(0));
        assert_eq!(register.index("b", "h2", 5432), ServerIndex(1));
        assert_eq!(register.index("a", "h3", 5432), ServerIndex(2));
        assert_eq!(register.index("b", "h2", 5433), ServerIndex(3));
        assert_eq!(register.index("a", "h1", 5432), ServerIndex(0));
    }
}
