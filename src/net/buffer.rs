//! Read buffers that idle connections do not hold.
//!
//! Owns a fixed stretch of bytes with a filled middle, and a small stock of them for each thread.
//! Invariant: a buffer never grows by itself; whoever needs a larger one names the size.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::Stream;

/// Enough for a whole exchange of most applications in one read.
pub const SMALL: usize = 16 * 1024;
/// For streams of rows or COPY data: fewer system calls for each byte.
pub const LARGE: usize = 128 * 1024;
/// Buffers a thread keeps for reuse: 4 MiB at most.
const STOCK: usize = 256;

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Empty and without storage until something is read.
#[derive(Debug, Default)]
pub struct Buffer {
    storage: Box<[u8]>,
    start: usize,
    end: usize,
    /// The last read found nothing. Only then does the socket alone tell whether there is more: TLS may
    /// hold decrypted bytes back.
    drained: bool,
}

impl Buffer {
    pub fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn capacity(&self) -> usize {
        self.storage.len()
    }

    /// Drops the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.start += count;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Puts bytes back in front.
    pub fn prepend(&mut self, bytes: &[u8]) {
        let mut all = Vec::with_capacity((bytes.len() + self.len()).max(SMALL));
        all.extend_from_slice(bytes);
        all.extend_from_slice(self.bytes());
        let end = all.len();
        all.resize(all.capacity(), 0);
        self.storage = all.into_boxed_slice();
        self.start = 0;
        self.end = end;
    }

    /// Makes room for a message of `len` bytes that begins at the front, moving or growing if it must.
    pub fn reserve(&mut self, len: usize) {
        if self.storage.len() < len {
            self.replace_storage(len.next_power_of_two());
        } else if self.storage.len() - self.start < len {
            self.compact();
        }
    }

    fn compact(&mut self) {
        self.storage.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
    }

    fn replace_storage(&mut self, size: usize) {
        let mut larger = vec![0; size].into_boxed_slice();
        let len = self.len();
        larger[..len].copy_from_slice(self.bytes());
        give_back(std::mem::replace(&mut self.storage, larger));
        self.start = 0;
        self.end = len;
    }

    /// Gives the storage back if nothing is in it.
    pub fn release(&mut self) {
        if self.is_empty() && !self.storage.is_empty() {
            give_back(std::mem::take(&mut self.storage));
            self.start = 0;
            self.end = 0;
        }
    }

    /// Moves a little that has to wait into storage of its own size.
    pub fn shrink(&mut self) {
        const LITTLE: usize = 2 * 1024;
        // Some room is left, so that the end of the stream is still noticed.
        const ROOM: usize = 64;
        if self.storage.len() > LITTLE && self.len() + ROOM <= LITTLE {
            self.replace_storage(self.len() + ROOM);
        }
    }

    /// Room behind the filled part.
    fn space(&mut self) -> &mut [u8] {
        if self.storage.is_empty() {
            self.storage =
                SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SMALL].into_boxed_slice());
        } else if self.end == self.storage.len() && self.start > 0 {
            self.compact();
        }
        &mut self.storage[self.end..]
    }

    pub fn is_full(&self) -> bool {
        self.len() == self.storage.len() && !self.storage.is_empty()
    }

    /// Nothing is here, and nothing was heard of the socket since it was last read empty.
    pub fn has_nothing(&self, stream: &Stream) -> bool {
        self.is_empty() && (self.drained || !stream.is_tls()) && !stream.may_be_read()
    }

    /// Reads once. `Ready(Ok(0))` is the end of the stream. Must not be called on a full buffer. Takes
    /// storage only when there is something to read.
    pub fn poll_fill(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let has_nothing = self.has_nothing(stream);
        self.drained = true;
        if has_nothing {
            ready!(stream.poll_read_ready(cx))?;
        }
        let space = self.space();
        debug_assert!(!space.is_empty());
        let mut read = ReadBuf::new(space);
        ready!(Pin::new(stream).poll_read(cx, &mut read))?;
        let count = read.filled().len();
        self.drained = false;
        self.end += count;
        Poll::Ready(Ok(count))
    }

    /// It is not read this time: what its last read found is no news any more.
    pub fn passed_over(&mut self) {
        self.drained = false;
    }

    /// Whether nothing is left to read, so that the task is woken for what comes next. False where only a read
    /// can tell.
    pub fn poll_drained(&mut self, stream: &Stream, cx: &mut Context<'_>) -> bool {
        if !self.drained && !stream.is_tls() {
            self.drained = stream.poll_read_ready(cx).is_pending();
        }
        self.drained
    }
}

/// A connection that ends with something unread has storage still.
impl Drop for Buffer {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.storage));
    }
}

fn give_back(storage: Box<[u8]>) {
    if storage.len() == SMALL {
        // A thread that is ending has no stock any more.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < STOCK {
                spare.push(storage);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpStream;

    use super::*;

    fn filled(bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::default();
        buffer.space()[..bytes.len()].copy_from_slice(bytes);
        buffer.end += bytes.len();
        buffer
    }

    #[test]
    fn storage_goes_back_only_when_empty() {
        let mut buffer = filled(b"abc");
        buffer.release();
        assert_eq!(buffer.bytes(), b"abc");
        buffer.consume(3);
        buffer.release();
        assert_eq!(buffer.capacity(), 0);
    }

    #[test]
    fn little_is_kept_small_and_can_grow_again() {
        let mut buffer = filled(b"abcdef");
        buffer.consume(2);
        buffer.shrink();
        assert_eq!((buffer.bytes(), buffer.capacity()), (&b"cdef"[..], 68));
        assert!(!buffer.is_full());
        buffer.reserve(SMALL);
        assert_eq!((buffer.bytes(), buffer.capacity()), (&b"cdef"[..], SMALL));
    }

    #[test]
    fn a_message_is_moved_or_given_room_without_losing_a_byte() {
        let mut buffer = filled(b"abcdef");
        buffer.consume(4);
        buffer.reserve(SMALL);
        assert_eq!((buffer.bytes(), buffer.start), (&b"ef"[..], 0));
        buffer.reserve(SMALL + 1);
        assert_eq!(buffer.bytes(), b"ef");
        assert_eq!(buffer.capacity(), SMALL * 2);
    }

    async fn connected() -> (Stream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Stream::Tcp(ours.unwrap()), theirs.unwrap().0)
    }

    #[tokio::test]
    async fn what_has_come_is_heard_of_by_whoever_only_looks() {
        let ((mut ours, mut theirs), mut buffer) = (connected().await, Buffer::default());
        assert!(buffer.has_nothing(&ours));
        theirs.write_all(b"more").await.unwrap();
        while buffer.has_nothing(&ours) {
            tokio::task::yield_now().await;
        }
        assert_eq!(poll_fn(|cx| buffer.poll_fill(&mut ours, cx)).await.unwrap(), 4);
        assert!(!buffer.has_nothing(&ours), "it is here");
        buffer.consume(4);
        assert!(buffer.has_nothing(&ours));
        drop(theirs);
        while buffer.has_nothing(&ours) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_was_passed_over_is_asked_for_again() {
        let ((mut ours, mut theirs), mut buffer) = (connected().await, Buffer::default());
        let mut drained = async |buffer: &mut Buffer, skip: bool| {
            poll_fn(|cx| {
                let read = if skip { Poll::Pending } else { buffer.poll_fill(&mut ours, cx) };
                assert!(read.is_pending());
                if skip {
                    buffer.passed_over();
                }
                Poll::Ready(buffer.poll_drained(&ours, cx))
            })
            .await
        };
        assert!(drained(&mut buffer, false).await && drained(&mut buffer, true).await);
        theirs.write_all(b"more").await.unwrap();
        // It arrives while something else keeps the session from reading.
        while drained(&mut buffer, true).await {
            tokio::task::yield_now().await;
        }
    }
}
