//! A relay before a server that can be made as slow as a bad network, and loses packets as TCP shows it: late.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Linux sends a segment again after so long, and twice as long each time; the first one of a connection after a second.
const AGAIN: Duration = Duration::from_millis(200);
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const MOST_IN_A_ROW: u32 = 6;

/// What is done to each piece of data in one direction.
#[derive(Debug, Clone, Copy)]
pub struct Slowness {
    pub delay_ms: u64,
    pub jitter_ms: u64,
    pub loss_percent: u64,
}

#[derive(Default)]
struct Shared {
    is_slow: AtomicBool,
    stops: AtomicBool,
    delayed: AtomicU64,
    lost: AtomicU64,
    seed: AtomicU64,
}

/// As fast as the server until it is told to be slow. Ends, with its connections, when dropped.
pub struct SlowRelay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl SlowRelay {
    pub fn start(server: u16, slowness: Slowness) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        shared.seed.store(u64::from(server), Ordering::Relaxed);
        let all = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if all.stops.load(Ordering::Relaxed) {
                    return;
                }
                let shared = all.clone();
                thread::spawn(move || shared.connect(&client, server, slowness));
            }
        });
        SlowRelay { address, shared }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn slow(&self, is_slow: bool) {
        self.shared.is_slow.store(is_slow, Ordering::Relaxed);
    }

    /// Pieces of data that were held up, and those of them that were lost at first.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.delayed.load(Ordering::Relaxed), self.shared.lost.load(Ordering::Relaxed))
    }
}

impl Drop for SlowRelay {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::Relaxed);
        // Wakes the one that listens.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn connect(self: &Arc<Self>, client: &TcpStream, server: u16, slowness: Slowness) {
        thread::sleep(self.late(slowness, AGAIN_FIRST));
        let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
        for stream in [client, &server] {
            let _ = stream.set_nodelay(true);
        }
        let clone = || io::Result::Ok((client.try_clone()?, server.try_clone()?));
        let (Ok((from_client, to_server)), Ok((to_client, from_server))) = (clone(), clone()) else { return };
        let shared = self.clone();
        thread::spawn(move || {
            shared.pass(from_server, to_client, Slowness { delay_ms: 0, jitter_ms: 0, ..slowness })
        });
        self.pass(from_client, to_server, slowness);
    }

    /// One direction, in order: what is late holds up what follows.
    fn pass(&self, mut from: TcpStream, mut to: TcpStream, slowness: Slowness) {
        let (send, due) = mpsc::channel::<(Instant, Vec<u8>)>();
        let mut sink = to.try_clone().unwrap();
        let writer = thread::spawn(move || {
            for (at, bytes) in due {
                thread::sleep(at.saturating_duration_since(Instant::now()));
                if sink.write_all(&bytes).is_err() {
                    break;
                }
            }
            let _ = sink.shutdown(Shutdown::Write);
        });
        let mut buffer = vec![0; 64 * 1024];
        let mut last = Instant::now();
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if self.stops.load(Ordering::Relaxed) {
                break;
            }
            last = last.max(Instant::now() + self.late(slowness, AGAIN));
            if send.send((last, buffer[..count].to_vec())).is_err() {
                break;
            }
        }
        drop(send);
        let _ = writer.join();
        let _ = to.flush();
    }

    fn late(&self, slowness: Slowness, again: Duration) -> Duration {
        if !self.is_slow.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let mut late = Duration::from_millis(slowness.delay_ms + self.below(slowness.jitter_ms + 1));
        self.delayed.fetch_add(1, Ordering::Relaxed);
        for time in 0..MOST_IN_A_ROW {
            if self.below(100) >= slowness.loss_percent {
                break;
            }
            self.lost.fetch_add(1, Ordering::Relaxed);
            late += again * 2_u32.pow(time);
        }
        late
    }

    /// A number that is as good as random (splitmix64).
    fn below(&self, limit: u64) -> u64 {
        let mut mixed = self.seed.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}
