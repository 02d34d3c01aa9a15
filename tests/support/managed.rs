//! Servers as a managed service shows them: each at an address of its own, behind names that move when they are told to.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use komainu::sandbox::ReservedPort;
use komainu_aws_double::{NameServer, Records};

/// Of the names: what RDS gives its own.
pub const TTL_S: u32 = 1;

/// A name server, and the port that all addresses share.
pub struct Managed {
    pub records: Records,
    port: ReservedPort,
    name_server: NameServer,
    runtime: tokio::runtime::Runtime,
    addresses: Vec<Address>,
}

/// A loopback address that leads to a server, or swallows what is sent to it.
pub struct Address {
    ip: Ipv4Addr,
    port: u16,
    leads: Arc<Leads>,
}

struct Leads {
    to: Mutex<Option<u16>>,
    open: Mutex<Vec<TcpStream>>,
    is_over: AtomicBool,
}

impl Managed {
    /// One address for each of these servers, by their ports.
    pub fn start(servers: &[u16]) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (records, port) = (Records::new(TTL_S), ReservedPort::any().unwrap());
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let name_server = runtime.block_on(NameServer::start(here, records.clone())).unwrap();
        let mut managed = Managed { records, port, name_server, runtime, addresses: Vec::new() };
        for server in servers {
            managed.add(*server);
        }
        managed
    }

    /// One more address, of this server.
    pub fn add(&mut self, server: u16) -> usize {
        let number = u8::try_from(self.addresses.len() + 1).unwrap();
        self.addresses.push(Address::open(Ipv4Addr::new(127, 9, 0, number), self.port(), server));
        self.addresses.len() - 1
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn address(&self, index: usize) -> &Address {
        &self.addresses[index]
    }

    /// A name leads to the server of that number.
    pub fn point(&self, name: &str, index: usize) {
        self.records.set(name, Some(self.addresses[index].ip));
    }

    /// In a configuration.
    pub fn dns(&self) -> String {
        format!("[dns]\nservers = [\"{}\"]\n", self.name_server.address)
    }
}

impl Address {
    fn open(ip: Ipv4Addr, port: u16, server: u16) -> Address {
        let listener = TcpListener::bind((ip, port)).unwrap();
        let leads = Arc::new(Leads {
            to: Mutex::new(Some(server)),
            open: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let all = leads.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if all.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let leads = all.clone();
                thread::spawn(move || leads.connect(client));
            }
        });
        Address { ip, port, leads }
    }

    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// How many were made so far.
    pub fn connections(&self) -> usize {
        self.leads.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// As a host that has lost its power: what is sent here is never answered.
    pub fn vanish(&self) {
        *self.leads.to.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Another server is behind it from now on; what there was goes on, as far as it can.
    pub fn lead_to(&self, server: u16) {
        *self.leads.to.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        self.leads.is_over.store(true, Ordering::Relaxed);
        for stream in self.leads.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the one that listens.
        let _ = TcpStream::connect(SocketAddr::from((self.ip, self.port)));
    }
}

impl Leads {
    fn connect(self: Arc<Self>, client: TcpStream) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(client.try_clone().unwrap());
        let to = *self.to.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever comes while it has vanished waits in vain.
        let Some(port) = to else { return };
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
            let _ = client.shutdown(Shutdown::Both);
            return;
        };
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
        }
        let (Ok(from_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else { return };
        let back = self.clone();
        thread::spawn(move || back.pass(from_server, to_client));
        self.pass(client, server);
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            if self.to.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
                return std::mem::forget((from, to));
            }
            if count == 0 || to.write_all(&buffer[..count]).is_err() {
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                return;
            }
        }
    }
}
