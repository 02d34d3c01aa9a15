//! The queue of expected replies fed with any order of sent and received messages.

#![no_main]

use komainu::backend::expect::{ExpectedReplies, Owed, Question, Reply};
use libfuzzer_sys::fuzz_target;

const REPLIES: [Reply; 10] = [
    Reply::ParseComplete,
    Reply::BindComplete,
    Reply::CloseComplete,
    Reply::Description,
    Reply::Execution,
    Reply::Sync,
    Reply::Query,
    Reply::FunctionCall,
    Reply::OwnParseComplete,
    Reply::OwnCloseComplete,
];

fuzz_target!(|bytes: &[u8]| {
    let mut expected = ExpectedReplies::default();
    let mut pushed = 0_usize;
    let mut settled = 0_usize;
    // A COPY has begun, and nothing was sent since: what the server ignores meanwhile commits nothing.
    let mut copy_is_open = false;
    for pair in bytes.chunks_exact(2) {
        match pair[0] % 4 {
            0 => {
                let reply = REPLIES[usize::from(pair[1]) % REPLIES.len()];
                expected.push(Owed::client(reply));
                pushed += 1;
                copy_is_open = false;
            }
            1 => {
                expected.push(Owed::us(Reply::Query, Question::Reset));
                pushed += 1;
                copy_is_open = false;
            }
            2 => settled += usize::from(expected.pop_own().is_some()),
            _ => {
                let Ok((_, outcome)) = expected.on_message(pair[1]) else { break };
                outcome.for_each(|_, _| settled += 1);
                match pair[1] {
                    b'G' | b'W' => copy_is_open = expected.is_copy_in(),
                    b'Z' => copy_is_open = false,
                    _ => {}
                }
            }
        }
        assert!(!copy_is_open || !expected.is_empty(), "a COPY without its Sync is lent on");
        assert!(settled <= pushed, "answered more than was asked");
        assert!(!expected.is_empty() || expected.is_answered());
        assert!(!expected.is_empty() || !expected.owes_client());
    }
    expected.abandon(|_, _| settled += 1);
    assert!(settled <= pushed);
    assert!(expected.is_empty());
});
