//! Frames, startup packets, password messages and error fields from any bytes.

#![no_main]

use komainu::wire::{authentication, fields, frame, startup};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(found)) = frame::header(bytes, LIMIT) {
        assert!((frame::HEADER_LEN..=LIMIT).contains(&found.len));
    }
    if let Some((text, rest)) = frame::split_cstr(bytes) {
        assert_eq!(text.len() + 1 + rest.len(), bytes.len());
    }
    if let Some(length) = bytes.first_chunk()
        && let Ok(length) = startup::body_len(*length)
    {
        assert!(length <= startup::MAX_STARTUP_BYTES);
    }
    if let Ok(startup::Packet::Startup(startup)) = startup::parse(bytes) {
        assert!(!startup.user.is_empty());
        assert!(startup.spoken_minor() <= startup::NEWEST_MINOR);
        let mut out = bytes::BytesMut::new();
        let _ = startup.encode_negotiation(&mut out);
    }
    let _ = authentication::sasl_initial_response(bytes);
    let _ = authentication::password(bytes);
    let _ = fields::fields(bytes).count();
    let _ = fields::sqlstate(bytes);
    let _ = fields::is_fatal(bytes);
});
