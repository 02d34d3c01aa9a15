//! A `komainu serve` process before a cluster, with its configuration, log and admin socket.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use komainu::sandbox::{ReservedPort, SUPERUSER, Scratch, admin, process};
use rustix::process::Signal;
use tokio_postgres::Client;

use super::{APP_PASSWORD, APP_USER, Cluster, PATIENCE, Wire, connect};

pub struct Komainu {
    child: Mutex<Child>,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    port: ReservedPort,
    scratch: Scratch,
}

/// What a test wants otherwise than the defaults.
pub struct KomainuBuilder {
    config: toml::Table,
    hba: String,
    users: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    files: Vec<(String, String)>,
    program: PathBuf,
    port: ReservedPort,
    scratch: Scratch,
}

/// The komainu that is tested.
pub fn this_version() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_komainu"))
}

impl Komainu {
    /// Before this cluster, with defaults: users `app` and `postgres`, SCRAM for all.
    pub fn start(cluster: &Cluster) -> Self {
        Self::builder(cluster).start()
    }

    /// With a fragment of TOML that is merged over the defaults, table by table.
    pub fn start_with(cluster: &Cluster, config: &str) -> Self {
        Self::builder(cluster).config(config).start()
    }

    pub fn builder(cluster: &Cluster) -> KomainuBuilder {
        let scratch = Scratch::create("komainu-node-").unwrap();
        let port = ReservedPort::any().unwrap();
        let directory = scratch.path().display();
        let mut config = format!(
            "workers = 2\n\
             [listen]\naddresses = [\"127.0.0.1:{port}\"]\nunix_socket_directory = \"{directory}\"\n\
             [admin]\nsocket = \"{directory}/admin.sock\"\n\
             [log]\nlevel = \"info,komainu=debug\"\n\
             [auth]\nhba_file = \"{directory}/hba.conf\"\nuser_file = \"{directory}/users.txt\"\n\
             [server_tls]\nmode = \"disable\"\n\
             [health]\nuser = \"{SUPERUSER}\"\ndatabase = \"postgres\"\nperiod_ms = 100\n",
            port = port.number()
        );
        for server in cluster.servers().all() {
            config += &format!(
                "[[server]]\nid = \"{}\"\nhost = \"{}\"\nport = {}\n",
                server.id(),
                server.host(),
                server.port()
            );
        }
        KomainuBuilder {
            config: config.parse().unwrap(),
            hba: "local all all scram-sha-256\nhost all all all scram-sha-256\n".into(),
            users: format!(
                "\"{SUPERUSER}\" \"{}\"\n\"{APP_USER}\" \"{APP_PASSWORD}\"\n",
                cluster.primary().password()
            ),
            arguments: Vec::new(),
            environment: Vec::new(),
            files: Vec::new(),
            program: this_version().to_owned(),
            port,
            scratch,
        }
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Holds the configuration, the Unix sockets and the log.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    pub fn config_file(&self) -> PathBuf {
        self.directory().join("komainu.toml")
    }

    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Of [`APP_USER`]; for psql, pgbench and psycopg.
    pub fn url(&self, database: &str) -> String {
        self.url_as(APP_USER, APP_PASSWORD, database)
    }

    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        let password: String = password.bytes().map(|byte| format!("%{byte:02X}")).collect();
        format!("postgres://{user}:{password}@127.0.0.1:{}/{database}", self.port())
    }

    pub async fn connect(&self, database: &str) -> Client {
        self.connect_as(APP_USER, APP_PASSWORD, database).await.unwrap()
    }

    pub async fn connect_as(
        &self,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        connect(self.port(), user, password, database).await
    }

    /// A raw connection, nothing sent yet.
    pub fn wire(&self) -> Wire {
        Wire::connect(self.port())
    }

    /// A raw connection of [`APP_USER`]'s, logged in and idle.
    pub fn login(&self, database: &str) -> Wire {
        let mut wire = self.wire();
        wire.login(APP_USER, APP_PASSWORD, database);
        wire
    }

    pub fn admin(&self, path: &str) -> std::io::Result<admin::Response> {
        admin::get(&self.directory().join("admin.sock"), path)
    }

    /// The value of a sample in `/metrics`, given its name and labels as printed there.
    pub fn metric(&self, sample: &str) -> Option<f64> {
        let metrics = self.admin("/metrics").unwrap().body;
        metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.trim().parse().ok())
    }

    pub fn signal(&self, signal: Signal) {
        process::signal(self.pid(), signal);
    }

    /// Replaces the first `from` in a file of the node's and has it read everything again.
    #[track_caller]
    pub fn reload(&self, file: &str, from: &str, to: &str) {
        let path = self.directory().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from:?} is not in {file}:\n{text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let told = || self.log().matches("configuration").count();
        let before = told();
        self.signal(Signal::HUP);
        super::eventually(PATIENCE, "it is reloaded", || told() > before);
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory().join("komainu.log")).unwrap_or_default()
    }

    /// Waits for it to say so: a thread of its own writes the log.
    #[track_caller]
    pub fn says(&self, text: &str) {
        super::eventually(PATIENCE, text, || self.log().contains(text));
    }

    /// Waits for the process's end.
    #[track_caller]
    pub fn wait(&self, within: Duration) -> ExitStatus {
        let status = process::wait_until(&mut self.child(), Instant::now() + within).unwrap();
        status.unwrap_or_else(|| panic!("komainu still runs after {within:?}"))
    }

    /// As a power failure would.
    pub fn kill(&self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Once more where it was, after it has ended.
    pub fn start_again(&self) {
        self.start_again_as(&self.program);
    }

    /// The same, by another version.
    pub fn start_again_as(&self, program: &Path) {
        *self.child() = spawn(program, self.directory(), &self.arguments, &self.environment);
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[track_caller]
    fn wait_until_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.admin("/ready").is_ok_and(|response| response.status == 200) {
            if let Some(status) = self.child().try_wait().unwrap() {
                panic!("komainu ended before it was ready: {status}");
            }
            assert!(Instant::now() < deadline, "komainu is not ready after {PATIENCE:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Komainu {
    fn drop(&mut self) {
        {
            let mut child = self.child();
            let _ = child.kill();
            let _ = child.wait();
        }
        let log = self.log();
        if thread::panicking() {
            eprintln!("---- komainu's log ----\n{log}---- end of komainu's log ----");
        } else if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
            panic!("komainu panicked: {line}");
        }
    }
}

impl KomainuBuilder {
    /// A fragment of TOML, merged over what is there, table by table; arrays are replaced.
    pub fn config(mut self, fragment: &str) -> Self {
        merge(&mut self.config, fragment.parse().unwrap());
        self
    }

    /// Replaces the HBA file.
    pub fn hba(mut self, text: &str) -> Self {
        self.hba = text.into();
        self
    }

    /// Adds a line to the user file.
    pub fn user(mut self, name: &str, secret: &str) -> Self {
        self.users += &format!("\"{name}\" \"{secret}\"\n");
        self
    }

    /// Replaces the user file.
    pub fn users(mut self, text: &str) -> Self {
        self.users = text.into();
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Another version of komainu.
    pub fn program(mut self, program: &Path) -> Self {
        self.program = program.to_owned();
        self
    }

    /// More arguments of `komainu serve`.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Writes another file into the node's directory; see [`Self::directory`] for its path.
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.into(), text.into()));
        self
    }

    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Komainu {
        let komainu = self.launch();
        komainu.wait_until_ready();
        komainu
    }

    /// Starts it without waiting, for tests in which it never becomes ready.
    pub fn launch(self) -> Komainu {
        let directory = self.scratch.path().to_owned();
        fs::write(directory.join("komainu.toml"), self.config.to_string()).unwrap();
        fs::write(directory.join("hba.conf"), &self.hba).unwrap();
        write_private(&directory.join("users.txt"), &self.users);
        for (name, text) in &self.files {
            write_private(&directory.join(name), text);
        }
        let child = Mutex::new(spawn(&self.program, &directory, &self.arguments, &self.environment));
        let KomainuBuilder { program, arguments, environment, port, scratch, .. } = self;
        Komainu { child, program, arguments, environment, port, scratch }
    }
}

fn spawn(program: &Path, directory: &Path, arguments: &[String], environment: &[(String, String)]) -> Child {
    let log = File::options().create(true).append(true).open(directory.join("komainu.log")).unwrap();
    let mut command: Command = process::command(program, "KILL", None);
    command
        .args(["serve", "--config"])
        .arg(directory.join("komainu.toml"))
        .args(arguments)
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    process::spawn(command).unwrap()
}

/// Keys and passwords: komainu may refuse files that others can read.
fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}
