//! What most users' secrets look like, for whoever has none to look the same.
//!
//! Owns the counts, bounded. Never sees a name. Invariant: somebody who only guesses names changes nothing here.

use std::collections::BTreeMap;

use super::userfile::Secret;

/// Numbers of rounds that are told apart. A database has one or two: `scram_iterations` before and after a change.
const MAX_ROUNDS: usize = 16;

/// How often each kind of secret was met.
#[derive(Debug, Default)]
pub struct Usual {
    by_iterations: BTreeMap<u32, u64>,
    md5: u64,
}

impl Usual {
    pub fn count(&mut self, secret: &Secret) {
        match secret {
            Secret::Scram(verifier) => {
                let has_room = self.by_iterations.len() < MAX_ROUNDS;
                match self.by_iterations.get_mut(&verifier.iterations()) {
                    Some(count) => *count += 1,
                    None if has_room => {
                        self.by_iterations.insert(verifier.iterations(), 1);
                    }
                    None => {}
                }
            }
            Secret::Md5(_) => self.md5 += 1,
            // Good for every method, and with whatever rounds we choose.
            Secret::Plain(_) => {}
        }
    }

    /// The rounds of most SCRAM verifiers, if there are any.
    pub fn iterations(&self) -> Option<u32> {
        self.by_iterations.iter().max_by_key(|(_, count)| **count).map(|(iterations, _)| *iterations)
    }

    pub fn has_scram(&self) -> bool {
        !self.by_iterations.is_empty()
    }

    pub fn is_mostly_md5(&self) -> bool {
        self.md5 > self.by_iterations.values().sum::<u64>()
    }
}

impl<'a> FromIterator<&'a Secret> for Usual {
    fn from_iter<I: IntoIterator<Item = &'a Secret>>(secrets: I) -> Self {
        let mut usual = Usual::default();
        secrets.into_iter().for_each(|secret| usual.count(secret));
        usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::scram::Verifier;

    fn scram(iterations: u32) -> Secret {
        Secret::Scram(Verifier::from_password(b"x", b"salt", iterations).unwrap())
    }

    #[test]
    fn what_most_have_is_usual() {
        let mut usual = Usual::default();
        assert_eq!((usual.iterations(), usual.has_scram(), usual.is_mostly_md5()), (None, false, false));
        usual.count(&Secret::Md5("md5".to_owned()));
        usual.count(&Secret::Plain("x".to_owned()));
        assert_eq!((usual.iterations(), usual.has_scram(), usual.is_mostly_md5()), (None, false, true));
        [7, 5, 7].map(scram).iter().for_each(|secret| usual.count(secret));
        assert_eq!((usual.iterations(), usual.has_scram(), usual.is_mostly_md5()), (Some(7), true, false));
        [5, 5].map(scram).iter().for_each(|secret| usual.count(secret));
        assert_eq!(usual.iterations(), Some(5));
    }

    #[test]
    fn ever_new_numbers_of_rounds_take_no_more_room() {
        let usual: Usual = (1..100).map(scram).collect::<Vec<_>>().iter().collect();
        assert_eq!(usual.by_iterations.len(), MAX_ROUNDS);
    }
}
