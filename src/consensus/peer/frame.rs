//! Frames: four bytes of length, most significant first, then JSON.
//!
//! JSON, since nodes of two versions talk to each other in every rolling upgrade: fields can be added, unknown ones are
//! ignored, and a capture can be read. A heartbeat is some 200 bytes, ten times a second; size and speed are no argument
//! here. Invariant: memory is taken for what has arrived, never for what was announced.

use std::io;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

const HEADER: usize = 4;
/// Taken at once for a frame.
const FIRST_ALLOCATION: usize = 8 << 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {length} bytes; at most {max} are allowed")]
    TooLong { length: usize, max: usize },
    #[error("the connection was closed")]
    Closed,
    #[error("nothing came, or not fast enough")]
    Slow,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not understood: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(error) => error,
            FrameError::Closed => io::ErrorKind::UnexpectedEof.into(),
            FrameError::Slow => io::ErrorKind::TimedOut.into(),
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}

pub(super) fn encode<T: Serialize>(value: &T, max: usize) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, value)?;
    let length = frame.len() - HEADER;
    match u32::try_from(length) {
        Ok(announced) if length <= max => frame[..HEADER].copy_from_slice(&announced.to_be_bytes()),
        _ => return Err(FrameError::TooLong { length, max }),
    }
    Ok(frame)
}

pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    Ok(serde_json::from_slice(body)?)
}

pub(super) async fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    frame: &[u8],
    within: Duration,
) -> Result<(), FrameError> {
    let write = async {
        stream.write_all(frame).await?;
        stream.flush().await
    };
    Ok(timeout(within, write).await.map_err(|_| FrameError::Slow)??)
}

/// The body of the next frame: it begins within `idle` and is over `within` after that. Not cancel safe: a frame that
/// was begun is lost.
pub(super) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    max: usize,
    idle: Duration,
    within: Duration,
) -> Result<Vec<u8>, FrameError> {
    let mut header = [0; HEADER];
    let begun = timeout(idle, stream.read(&mut header)).await.map_err(|_| FrameError::Slow)??;
    if begun == 0 {
        return Err(FrameError::Closed);
    }
    let rest = async {
        stream.read_exact(&mut header[begun..]).await?;
        let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
        if length > max {
            return Err(FrameError::TooLong { length, max });
        }
        let mut body = Vec::with_capacity(length.min(FIRST_ALLOCATION));
        stream.take(length as u64).read_to_end(&mut body).await?;
        if body.len() < length { Err(FrameError::Closed) } else { Ok(body) }
    };
    timeout(within, rest).await.map_err(|_| FrameError::Slow)?
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    async fn read_bytes(bytes: &[u8], max: usize) -> Result<Vec<u8>, FrameError> {
        read(&mut &bytes[..], max, SOON, SOON).await
    }

    #[tokio::test]
    async fn a_frame_is_read_back() {
        let frame = encode(&["x", "y"], 100).unwrap();
        assert_eq!(frame, b"\0\0\0\x09[\"x\",\"y\"]");
        let body = read_bytes(&frame, 9).await.unwrap();
        assert_eq!(decode::<Vec<String>>(&body).unwrap(), ["x", "y"]);
        assert!(matches!(decode::<u32>(&body), Err(FrameError::Json(_))));
    }

    #[tokio::test]
    async fn what_is_too_long_cut_off_or_absent_is_told_apart() {
        assert!(matches!(encode(&"xyz", 4), Err(FrameError::TooLong { length: 5, max: 4 })));
        assert!(matches!(read_bytes(b"\xff\xff\xff\xff", 9).await, Err(FrameError::TooLong { .. })));
        assert!(matches!(read_bytes(b"\0\0\0\x09[1]", 9).await, Err(FrameError::Closed)));
        assert!(matches!(read_bytes(b"\0\0", 9).await, Err(FrameError::Io(_))));
        assert!(matches!(read_bytes(b"", 9).await, Err(FrameError::Closed)));
    }

    #[tokio::test]
    async fn a_frame_that_trickles_has_a_deadline() {
        let (mut ours, mut theirs) = tokio::io::duplex(64);
        theirs.write_all(b"\0\0\0\x09[").await.unwrap();
        let short = Duration::from_millis(20);
        assert!(matches!(read(&mut ours, 9, SOON, short).await, Err(FrameError::Slow)));
        assert!(matches!(read(&mut ours, 9, short, SOON).await, Err(FrameError::Slow)));
    }
}
