//! Hints in comments.
//!
//! Owns what a hint looks like and what it asks for. Never decides whether it can be had: `policy` does.
//! Invariant: a comment that begins with `komainu:` is either understood or reported, never ignored.

/// What the comments of a text ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hints {
    pub target: Option<HintTarget>,
    /// `komainu: explain route`: answer with one row that says where the text would go, and why.
    pub explain: bool,
    /// Tell the client; the other hints hold all the same.
    pub error: Option<HintError>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HintTarget {
    /// `/*NO LOAD BALANCE*/` before the first word, or `/* komainu: primary */` anywhere.
    Primary,
    /// `/* komainu: standby */`
    Standby,
    /// `/* komainu: server=ID */`
    Server(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HintError {
    #[error("unknown hint \"{0}\": komainu knows primary, standby, server=ID and explain route")]
    Unknown(Box<str>),
    #[error("contradicting hint \"{0}\": another before it names a server, and that one is used")]
    Contradiction(Box<str>),
}

const PREFIX: &[u8] = b"komainu:";
const NO_LOAD_BALANCE: &[u8] = b"NO LOAD BALANCE";

/// A comment's text is for us. `no_balance`: it is a block comment before the first word.
pub(super) fn may_be_hint(comment: &[u8], no_balance: bool) -> bool {
    let comment = comment.trim_ascii();
    comment.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
        || no_balance && comment.eq_ignore_ascii_case(NO_LOAD_BALANCE)
}

impl Hints {
    /// Takes in a comment, with its delimiters, that the lexer yielded as `TokenKind::Hint`.
    pub(super) fn read(&mut self, comment: &str) {
        let text = match comment.strip_prefix("/*") {
            Some(block) => block.strip_suffix("*/").unwrap_or(block),
            None => comment.trim_start_matches('-'),
        };
        let text = text.trim();
        let Some(hint) = text.get(PREFIX.len()..).filter(|_| may_be_hint(text.as_bytes(), false)) else {
            self.aim(HintTarget::Primary, text);
            return;
        };
        let hint = hint.trim();
        let is = |words: &str| hint.split_ascii_whitespace().eq_ignore_ascii_case(words);
        if is("primary") {
            self.aim(HintTarget::Primary, hint);
        } else if is("standby") {
            self.aim(HintTarget::Standby, hint);
        } else if is("explain route") {
            self.explain = true;
        } else if let Some(id) = server_id(hint) {
            self.aim(HintTarget::Server(id.into()), hint);
        } else {
            self.error.get_or_insert_with(|| HintError::Unknown(shown(hint)));
        }
    }

    fn aim(&mut self, target: HintTarget, hint: &str) {
        match &self.target {
            None => self.target = Some(target),
            Some(before) if *before == target => {}
            Some(_) => {
                self.error.get_or_insert_with(|| HintError::Contradiction(shown(hint)));
            }
        }
    }
}

/// The comment comes back in a message: not more of it than a line.
fn shown(hint: &str) -> Box<str> {
    hint.chars().take(80).collect::<String>().into()
}

fn server_id(hint: &str) -> Option<&str> {
    let (key, id) = hint.split_once('=')?;
    let id = id.trim();
    let is_id = !id.is_empty() && !id.contains(|c: char| c.is_whitespace());
    (key.trim().eq_ignore_ascii_case("server") && is_id).then_some(id)
}

/// Word by word, whatever space is between.
trait WordsEq {
    fn eq_ignore_ascii_case(self, words: &str) -> bool;
}

impl<'a, I: Iterator<Item = &'a str>> WordsEq for I {
    fn eq_ignore_ascii_case(self, words: &str) -> bool {
        let mut expected = words.split(' ');
        self.map(Some).chain([None]).all(|word| match (word, expected.next()) {
            (Some(word), Some(other)) => word.eq_ignore_ascii_case(other),
            (None, None) => true,
            _ => false,
        })
    }
}
