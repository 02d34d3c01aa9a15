//! Moto's server, a Python program, as a process that ends with ours.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// It ends with the process that started it, whose end closes its standard input.
const SCRIPT: &str = "
import os, sys, threading
from moto.server import main
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
main(['-H', '127.0.0.1', '-p', '0'])
";
/// What is kept of what it says while it starts, for the error.
const SAID_LINES: usize = 20;

#[derive(Debug, thiserror::Error)]
pub enum MotoError {
    #[error("cannot run {python}")]
    Run { python: PathBuf, source: io::Error },
    #[error("moto's server does not start with {python}; it says:\n{said}")]
    Ended { python: PathBuf, said: String },
}

#[derive(Debug)]
pub struct Moto {
    address: SocketAddr,
    process: Child,
}

impl Moto {
    /// Waits until it listens, which takes some seconds.
    pub fn start(python: &Path) -> Result<Moto, MotoError> {
        let run = |source| MotoError::Run { python: python.to_owned(), source };
        let mut process = Command::new(python)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(run)?;
        let stderr = process.stderr.take().ok_or_else(|| run(io::ErrorKind::BrokenPipe.into()))?;
        let mut log = BufReader::new(stderr).lines();
        let mut said: Vec<String> = Vec::new();
        let listens = log.by_ref().map_while(Result::ok).find_map(|line| {
            let address = line.split_once("Running on http://").and_then(|(_, url)| url.trim().parse().ok());
            if address.is_none() && said.len() < SAID_LINES {
                said.push(line);
            }
            address
        });
        let Some(address) = listens else {
            let _ = process.wait();
            return Err(MotoError::Ended { python: python.to_owned(), said: said.join("\n") });
        };
        // It logs each request; somebody has to read that.
        std::thread::spawn(move || log.for_each(drop));
        Ok(Moto { address, process })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
