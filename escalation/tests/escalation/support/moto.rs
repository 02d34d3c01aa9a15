//! One moto server for the whole run: it takes seconds to start. Tests do not meet in it, for each makes its own things.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// It ends with the test process, whose end closes its standard input.
const SCRIPT: &str = "
import os, sys, threading
from moto.server import main
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
main(['-H', '127.0.0.1', '-p', '0'])
";

pub struct Moto {
    pub address: SocketAddr,
    _process: Child,
}

pub fn moto() -> &'static Moto {
    static MOTO: OnceLock<Moto> = OnceLock::new();
    MOTO.get_or_init(start)
}

fn start() -> Moto {
    let python = std::env::var("KOMAINU_TEST_PYTHON")
        .expect("KOMAINU_TEST_PYTHON must name a Python with moto: tests/setup/install python DIRECTORY");
    let mut process = Command::new(python)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("moto must start");
    let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut said = Vec::new();
    let address = loop {
        let line = log.next().and_then(Result::ok).unwrap_or_else(|| panic!("moto ended: {said:#?}"));
        if let Some((_, url)) = line.split_once("Running on http://") {
            break url.trim().parse().unwrap();
        }
        said.push(line);
    };
    // It logs each request; somebody has to read that.
    std::thread::spawn(move || log.for_each(drop));
    Moto { address, _process: process }
}
