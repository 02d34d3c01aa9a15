//! A real PostgreSQL server for tests of this crate: fresh, on a free port, gone on drop.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connect::{ConnectTarget, Credential, Login, connect};
use super::control::ControlConnection;
use crate::net::tls::ServerTlsContext;

pub(crate) struct TestServer {
    pub port: u16,
    pub directory: tempfile::TempDir,
    postmaster: Child,
}

impl TestServer {
    /// With these lines in `pg_hba.conf` behind one that trusts the Unix socket. `files` are written
    /// beside the data first, readable by the server alone.
    pub async fn start(hba: &str, settings: &[&str], files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let owner = unprivileged();
        let give = |path: &Path| owner.iter().for_each(|&(u, g)| chown(path, Some(u), Some(g)).unwrap());
        give(directory.path());
        let initdb = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "-D"];
        assert!(command("initdb", owner).args(initdb).arg(&data).output().unwrap().status.success());
        std::fs::write(data.join("pg_hba.conf"), format!("local all all trust\n{hba}\n")).unwrap();
        for (name, text) in files {
            let path = data.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            give(&path);
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut postgres = command("postgres", owner);
        postgres.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-c", "fsync=off", "-k"]);
        postgres.arg(directory.path()).arg("-D").arg(&data);
        for setting in settings {
            postgres.args(["-c", setting]);
        }
        let server = TestServer { port, postmaster: postgres.spawn().unwrap(), directory };
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(e) = connect(&server.socket(), &server.superuser(), &[]).await {
            assert!(Instant::now() < deadline, "the server does not start: {e}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }

    /// By the Unix socket.
    pub fn socket(&self) -> ConnectTarget {
        let host = self.directory.path().to_str().unwrap().into();
        ConnectTarget { host, port: self.port, tls: Arc::new(ServerTlsContext::disabled()) }
    }

    pub fn superuser(&self) -> Login {
        Login { user: "postgres".into(), database: "postgres".into(), credential: Credential::None }
    }

    pub async fn control(&self) -> ControlConnection {
        ControlConnection::open(&self.socket(), &self.superuser(), &[]).await.unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.postmaster);
        // Immediate shutdown, which takes the children along; the data goes anyway.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        let _ = self.postmaster.wait();
    }
}

/// Whom to run the server as, which refuses to run as root. `None`: as ourselves.
fn unprivileged() -> Option<(u32, u32)> {
    rustix::process::geteuid().is_root().then(|| {
        let users = std::fs::read_to_string("/etc/passwd").unwrap();
        let line = users.lines().find(|line| line.starts_with("postgres:")).expect("a user postgres");
        let mut ids = line.split(':').skip(2).map(|id| id.parse().unwrap());
        (ids.next().unwrap(), ids.next().unwrap())
    })
}

fn command(program: &str, owner: Option<(u32, u32)>) -> Command {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .map(|version| version.unwrap().path().join("bin").join(program))
        .collect();
    versions.sort();
    let mut command = Command::new(versions.pop().unwrap_or_else(|| program.into()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    if let Some((user, group)) = owner {
        command.uid(user).gid(group);
    }
    command
}
