//! The lexer and the classifier on any text: no panic, no endless loop, the same answer twice.

#![no_main]

use komainu::route::lexer::Lexer;
use komainu::route::analyze;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut lexer = Lexer::new(bytes);
    let mut tokens = 0;
    while lexer.next_token().is_some() {
        tokens += 1;
        assert!(tokens <= bytes.len() + 1, "more tokens than bytes");
    }
    if let Ok(sql) = std::str::from_utf8(bytes) {
        assert_eq!(analyze(sql).kind, analyze(sql).kind);
    }
});
