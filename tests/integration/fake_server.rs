//! Servers that lie. Before a real one stands a relay that, when a statement names a misdeed, answers it
//! in the server's place; or that misbehaves as soon as it is connected to. komainu gives up that
//! connection, tells that client, and goes on serving the others.
//!
//! What a server can do within its login is covered one by one by the unit tests of `backend::connect`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::support::{Cluster, Komainu, PATIENCE, eventually, tags};

const READY: &[u8] = b"Z\0\0\0\x05I";
const MARK: &[u8] = b"misdeed:";

/// What the relay does with what komainu sends.
enum Relayed {
    PassOn,
    /// It answers in the server's place.
    Say(Vec<u8>),
    /// And ends the connection.
    SayAndCut(Vec<u8>),
    /// It says before what a server may say at any time.
    SayAndPassOn(Vec<u8>),
}

/// What it does instead of passing a message on.
type Misdeed = (&'static str, Vec<u8>);

fn misdeeds() -> Vec<Misdeed> {
    let message = |tag: u8, body: &[u8]| [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat();
    let notices = message(b'N', b"SNOTICE\0C00000\0Magain\0\0").repeat(20_000);
    let long_parameter = [b"search_path\0".to_vec(), vec![b'a'; 100_000], vec![0]].concat();
    vec![
        ("an error without fields", [message(b'E', b"\0"), READY.to_vec()].concat()),
        ("an error of nothing", [message(b'E', b""), READY.to_vec()].concat()),
        ("an unterminated error", [message(b'E', b"SERROR"), READY.to_vec()].concat()),
        (
            "an error without SQLSTATE",
            [message(b'E', b"SFATAL\0VFATAL\0Mno code\0\0"), READY.to_vec()].concat(),
        ),
        ("ParseComplete for a query", message(b'1', b"")),
        ("CopyData for a query without COPY", message(b'c', b"")),
        ("an authentication request", message(b'R', &[0, 0, 0, 3])),
        ("a second greeting", message(b'K', &[0; 8])),
        ("an unknown tag", message(b'!', b"what")),
        ("a length of 3", b"D\0\0\0\x03".to_vec()),
        ("a negative length", b"D\xff\xff\xff\xff".to_vec()),
        ("a row of 2 GB", b"D\x7f\xff\xff\xff\0\x01".to_vec()),
        ("a notice of 2 GB", b"N\x7f\xff\xff\xffSNOTICE".to_vec()),
        ("an error of 2 GB", b"E\x7f\xff\xff\xffSERROR".to_vec()),
        ("a parameter of 2 GB", b"S\x7f\xff\xff\xffname".to_vec()),
        ("a parameter of 100 kB", [message(b'S', &long_parameter), READY.to_vec()].concat()),
        ("half a row", b"D\0\0\0\x64\0\x01\0\0\0\x50xxxx".to_vec()),
        ("an unknown status", message(b'Z', b"X")),
        ("a status of nothing", message(b'Z', b"")),
        ("two ReadyForQuery", [READY, READY].concat()),
        ("a COPY nobody asked for", message(b'G', &[0, 0, 0])),
        ("COPY both ways", message(b'W', &[0, 0, 0])),
        ("notices without end", notices),
        ("a broken ParameterStatus", [message(b'S', b"no end"), READY.to_vec()].concat()),
        ("nothing but the end", Vec::new()),
    ]
}

/// Listens until the process ends; connects each client to the server.
fn relay(server: u16, judge: impl Fn(&[u8]) -> Relayed + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let judge = Arc::new(judge);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
            let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut from_server, &mut to_client);
                let _ = to_client.shutdown(Shutdown::Both);
            });
            let judge = judge.clone();
            thread::spawn(move || forward(client, server, &*judge));
        }
    });
    port
}

fn forward(mut client: TcpStream, mut server: TcpStream, judge: impl Fn(&[u8]) -> Relayed) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = client.read(&mut chunk) {
        let bytes = &chunk[..count];
        let passed_on = match judge(bytes) {
            Relayed::PassOn => server.write_all(bytes).is_ok(),
            Relayed::Say(answer) => client.write_all(&answer).is_ok(),
            Relayed::SayAndPassOn(said) => client.write_all(&said).is_ok() && server.write_all(bytes).is_ok(),
            Relayed::SayAndCut(answer) => {
                let _ = client.write_all(&answer);
                // Long enough for all of it to be read, and for what hangs to be seen hanging.
                thread::sleep(Duration::from_millis(30));
                false
            }
        };
        if !passed_on {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

/// The misdeed that a statement names.
fn misdeed_of(bytes: &[u8], misdeeds: &[Misdeed]) -> Relayed {
    let Some(at) = bytes.windows(MARK.len()).position(|window| window == MARK) else {
        return Relayed::PassOn;
    };
    let digits = bytes[at + MARK.len()..].iter().take_while(|b| b.is_ascii_digit()).map(|b| *b as char);
    let number: usize = digits.collect::<String>().parse().unwrap();
    Relayed::SayAndCut(misdeeds[number].1.clone())
}

fn before(cluster: &Cluster, port: u16, more: &str) -> Komainu {
    let config = format!(
        "[limits]\nhold_timeout_ms = 5000\n[pool]\nacquire_timeout_ms = 5000\nconnect_timeout_ms = 2000\n[[server]]\nid = \"s1\"\nhost = \"127.0.0.1\"\nport = {port}\n{more}"
    );
    Komainu::start_with(cluster, &config)
}

/// Looking at servers that lie, again and again, takes little of a processor.
#[track_caller]
fn assert_spends_little(komainu: &Komainu) {
    let cpu = || komainu.metric("process_cpu_seconds_total").unwrap();
    let (before, begun) = (cpu(), Instant::now());
    thread::sleep(Duration::from_secs(1));
    let used = cpu() - before;
    let elapsed = begun.elapsed().as_secs_f64();
    assert!(used < 0.5 * elapsed, "{used} s of processor time in {elapsed} s for servers that lie");
}

#[test]
fn a_server_that_breaks_the_protocol_costs_one_statement() {
    let cluster = Cluster::shared();
    let misdeeds = Arc::new(misdeeds());
    let judged = misdeeds.clone();
    let relay = relay(cluster.primary().port(), move |bytes| misdeed_of(bytes, &judged));
    let komainu = before(cluster, relay, "");
    let mut bystander = komainu.login("postgres");
    bystander.query("BEGIN");
    for (number, (what, _)) in misdeeds.iter().enumerate() {
        for extended in [false, true] {
            let mut wire = komainu.login("postgres");
            let sql = format!("SELECT 'misdeed:{number}'");
            if extended {
                let batch =
                    super::differential::Messages::default().parse("", &sql).bind("", "", &[]).execute("", 0);
                wire.send(&batch.sync().0);
            } else {
                wire.send(&super::differential::Messages::default().query(&sql).0);
            }
            // It ends, or is told something; it is not left waiting.
            loop {
                match wire.try_message(PATIENCE) {
                    Ok(None) => break,
                    Ok(Some(message)) if message.tag == 'Z' => break,
                    Ok(Some(_)) => {}
                    Err(error) => {
                        panic!("{what} (extended: {extended}): the client is left waiting: {error}")
                    }
                }
            }
            assert_eq!(bystander.query_value("SELECT 42"), "42", "after {what}");
            // One that looks sound is lent once more before the relay has closed it.
            eventually(PATIENCE, &format!("others are served after {what}"), || {
                komainu.login("postgres").query("SELECT 43").iter().any(|message| message.tag == 'D')
            });
        }
    }
    assert_eq!(bystander.query("COMMIT").len(), 2);
    assert!(komainu.metric("process_resident_memory_bytes").unwrap() < 300e6);
}

/// A SET was acknowledged, and the question what it has set is not answered: the session ends rather than go on
/// without the setting.
#[test]
fn what_was_set_is_never_lost_in_silence() {
    let cluster = Cluster::shared();
    const CUT: usize = usize::MAX;
    let left = Arc::new(AtomicUsize::new(0));
    let failures = left.clone();
    let relay = relay(cluster.primary().port(), move |bytes| {
        const ASKS: &[u8] = b"_kq_settings";
        if !bytes.windows(ASKS.len()).any(|window| window == ASKS) {
            return Relayed::PassOn;
        }
        const CANCELLED: &[u8] = b"E\0\0\0\x2cSERROR\0VERROR\0C57014\0Mit was cancelled\0\0";
        match failures.load(Ordering::Relaxed) {
            CUT => Relayed::SayAndCut(Vec::new()),
            0 => Relayed::PassOn,
            more => {
                failures.store(more - 1, Ordering::Relaxed);
                Relayed::Say([CANCELLED, READY].concat())
            }
        }
    });
    let komainu = before(cluster, relay, "[split]\nenabled = false\n");
    let mut other = komainu.login("postgres");
    for (failing, kept) in [(0, true), (1, true), (2, true), (3, false), (CUT, false)] {
        let mut wire = komainu.login("postgres");
        left.store(failing, Ordering::Relaxed);
        assert_eq!(wire.query("SET my.own = 'mine'").len(), 2, "{failing}");
        if kept {
            other.query("SELECT 1");
            assert_eq!(wire.query_value("SHOW my.own"), "mine", "{failing}");
            continue;
        }
        let end = wire.expect_end();
        assert_eq!(end.last().map(|last| last.sqlstate()).as_deref(), Some("57P01"), "{failing}: {end:?}");
    }
}

fn notification(channel: &str, payload: &str) -> Vec<u8> {
    let process = 1_i32.to_be_bytes();
    let body = [&process[..], channel.as_bytes(), b"\0", payload.as_bytes(), b"\0"].concat();
    [&b"A"[..], &(body.len() as u32 + 4).to_be_bytes(), &body[..]].concat()
}

/// Until it is wiped for the next client, a connection goes on to hear what the last one has listened to. What that next
/// client listens to it is told also while it is asked something of komainu's own.
#[test]
fn what_another_client_listened_to_is_told_to_nobody_else() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let relay = relay(cluster.primary().port(), |bytes| {
        let asks = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
        if asks(b"DISCARD ALL") {
            Relayed::SayAndPassOn(notification("theirs", "secret"))
        } else if asks(b"_kq_pins") {
            Relayed::SayAndPassOn(notification("own", "news"))
        } else {
            Relayed::PassOn
        }
    });
    let config = format!(
        "[split]\nenabled = false\n[pool]\nsize = 1\n\
         [[server]]\nid = \"s1\"\nhost = \"127.0.0.1\"\nport = {relay}\n"
    );
    let komainu = Komainu::start_with(cluster, &config);
    let (mut first, mut next) = (komainu.login(&database), komainu.login(&database));
    first.query("LISTEN theirs");
    drop(first);
    let messages = next.query("SELECT 1");
    assert_eq!(tags(&messages), "TDCZ", "{messages:?}");
    next.query("LISTEN own");
    assert_eq!(next.expect('A').body[4..], *b"own\0news\0");
}

/// What a server says when it has the client's nonce, and when it has the proof.
type Exchange = (&'static str, fn(&str) -> String, &'static str);

fn authentication(code: u32, rest: &str) -> Vec<u8> {
    let length = (8 + rest.len() as u32).to_be_bytes();
    [&b"R"[..], &length, &code.to_be_bytes(), rest.as_bytes()].concat()
}

/// Asks for SCRAM and lies in the course of it.
fn lie_in_scram(mut client: TcpStream, (_, first, last): Exchange) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    let _startup = client.read(&mut buffer)?;
    client.write_all(&authentication(10, "SCRAM-SHA-256\0\0"))?;
    let length = client.read(&mut buffer)?;
    let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let nonce = said.split("r=").nth(1).unwrap_or_default();
    client.write_all(&authentication(11, &first(nonce)))?;
    let _proof = client.read(&mut buffer)?;
    client.write_all(&authentication(12, last))?;
    client.write_all(&[&authentication(0, "")[..], READY].concat())?;
    // Whoever believes it goes on; whoever does not has hung up.
    while client.read(&mut buffer)? > 0 {}
    Ok(())
}

#[test]
fn a_server_that_lies_in_scram_is_refused_and_costs_nobody_anything() {
    const SALT: &str = "s=MDEyMzQ1Njc4OWFiY2RlZg==";
    let liars: [Exchange; 4] = [
        ("a nonce of 10 kB", |nonce| format!("r={nonce}{},{SALT},i=4096", "n".repeat(10_000)), "v=AAAA"),
        ("another nonce", |_| format!("r=another,{SALT},i=4096"), "v=AAAA"),
        ("2^31-1 rounds", |nonce| format!("r={nonce}more,{SALT},i=2147483647"), "v=AAAA"),
        (
            "a signature that proves nothing",
            |nonce| format!("r={nonce}more,{SALT},i=4096"),
            "v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ),
    ];
    let mut more = String::new();
    for (number, liar) in liars.into_iter().enumerate() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        more += &format!("[[server]]\nid = \"liar{number}\"\nhost = \"127.0.0.1\"\nport = {port}\n");
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                thread::spawn(move || lie_in_scram(client, liar));
            }
        });
    }
    let cluster = Cluster::shared();
    let komainu = before(cluster, cluster.primary().port(), &more);
    let mut wire = komainu.login("postgres");
    for (number, (what, ..)) in liars.iter().enumerate() {
        let up = format!("komainu_server_up{{server=\"liar{number}\"}}");
        eventually(PATIENCE, &format!("the server with {what} is down"), || {
            komainu.metric(&up) == Some(0.0)
                && komainu.log().contains(&format!("server is down server=\"liar{number}\""))
        });
        assert_eq!(wire.query_value("SELECT 1"), "1");
    }
    assert_spends_little(&komainu);
}

#[test]
fn a_server_that_lies_from_the_start_is_left_alone() {
    let cluster = Cluster::shared();
    let greetings: Vec<Misdeed> = vec![
        ("S and plain text", b"SE\0\0\0\x05\0".to_vec()),
        ("an error without fields", b"E\0\0\0\x05\0".to_vec()),
        ("ready without a login", READY.to_vec()),
        ("let in and gone", b"R\0\0\0\x08\0\0\0\0".to_vec()),
        ("2 GB", b"R\x7f\xff\xff\xff\0\0\0\0".to_vec()),
        ("SCRAM without end", b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0".to_vec()),
        ("silence", Vec::new()),
    ];
    let mut more = String::new();
    for (number, (_, greeting)) in greetings.into_iter().enumerate() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        more += &format!("[[server]]\nid = \"liar{number}\"\nhost = \"127.0.0.1\"\nport = {port}\n");
        thread::spawn(move || {
            let mut held = Vec::new();
            for mut client in listener.incoming().flatten() {
                let _ = client.write_all(&greeting);
                held.push(client);
            }
        });
    }
    let komainu = before(cluster, cluster.primary().port(), &format!("{more}[health]\ntimeout_ms = 500\n"));
    let mut wire = komainu.login("postgres");
    for n in 0..200 {
        assert_eq!(wire.query_value(&format!("SELECT {n}")), n.to_string());
    }
    eventually(PATIENCE, "the liars are down", || {
        komainu.metric("komainu_server_up{server=\"liar0\"}") == Some(0.0)
    });
    assert_spends_little(&komainu);
}

/// A connection that was cut while it idled, as by a firewall, is found by the look before it is lent: a write is not
/// lost with it. One that did not idle long enough is not looked at.
#[test]
fn a_connection_that_idled_is_asked_whether_it_lives() {
    const SYNC: &[u8] = b"S\0\0\0\x04";
    let cluster = Cluster::shared();
    for (after_ms, is_asked) in [(0, true), (3_600_000, false)] {
        let armed = Arc::new(AtomicBool::new(false));
        let relay = relay(cluster.primary().port(), {
            let armed = armed.clone();
            move |bytes| match bytes == SYNC && armed.swap(false, Ordering::SeqCst) {
                true => Relayed::SayAndCut(Vec::new()),
                false => Relayed::PassOn,
            }
        });
        let komainu = Komainu::start_with(
            cluster,
            &format!(
                "pool.size = 1\npool.check_after_idle_ms = {after_ms}\n\
                 [[server]]\nid = \"s1\"\nhost = \"127.0.0.1\"\nport = {relay}\n"
            ),
        );
        let mut wire = komainu.login(&cluster.database());
        wire.query("CREATE TABLE kept (n int)");
        armed.store(true, Ordering::SeqCst);
        assert_eq!(tags(&wire.query("INSERT INTO kept VALUES (1)")), "CZ", "after {after_ms} ms");
        assert_eq!(!armed.load(Ordering::SeqCst), is_asked, "after {after_ms} ms");
        assert_eq!(wire.query_value("SELECT count(*) FROM kept"), "1");
    }
}
