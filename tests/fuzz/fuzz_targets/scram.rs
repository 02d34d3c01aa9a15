//! Both sides of SCRAM against a peer that may say anything: no panic, and nobody gets in by it.

#![no_main]

use komainu::wire::scram::{ServerBinding, ServerFirst, Verdict, Verifier};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let verifier = Verifier::from_password(b"secret", b"0123456789abcdef", 1).expect("a plain password");
    let split = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (first, last) = bytes.split_at(split);
    let server = ServerFirst::new(verifier, "nonce".into(), ServerBinding::NotOffered);
    if let Ok((_, server)) = server.client_first(first) {
        let verdict = server.client_final(last.get(1..).unwrap_or_default());
        assert!(!matches!(verdict, Ok(Verdict::Success(_))), "let in without the password");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = text.parse::<Verifier>();
    }
});
