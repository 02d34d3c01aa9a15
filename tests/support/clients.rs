//! Real clients: psql and pgbench as processes, tokio-postgres in this one.

use std::process::{Command, Stdio};

use komainu::sandbox::Installation;
use tokio_postgres::{Client, Config, NoTls};

/// A client that hangs is ended after this, so that its test fails rather than waits.
const CLIENT_TIMEOUT_S: u32 = 120;

/// A program that ran to its end.
#[derive(Debug)]
pub struct Finished {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// What it printed, or a panic with what it complained about.
    #[track_caller]
    pub fn output(self) -> String {
        assert!(self.success, "failed\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout.trim_end().to_owned()
    }
}

/// `psql` with one `-c` for each statement; rows come back one a line, columns with `|`.
pub fn psql(url: &str, statements: &[&str]) -> Finished {
    let mut arguments = vec!["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url];
    for statement in statements {
        arguments.extend(["-c", statement]);
    }
    run(postgres_client("psql").args(arguments))
}

/// `pgbench`, the URL last as it wants it.
pub fn pgbench(url: &str, arguments: &[&str]) -> Finished {
    run(postgres_client("pgbench").args(arguments).arg(url))
}

/// One that is to run for so many seconds.
pub fn pgbench_for(seconds: u32, url: &str, arguments: &[&str]) -> Finished {
    let time = seconds.to_string();
    let mut command = postgres_client_within(CLIENT_TIMEOUT_S + seconds, "pgbench");
    run(command.args(["-T", &time]).args(arguments).arg(url))
}

/// A Python script given as text, with psycopg 3 at hand; arguments arrive in `sys.argv[1:]`.
pub fn python(script: &str, arguments: &[&str]) -> Finished {
    // `make test` makes this environment; a bare `cargo test` finds it where that leaves it.
    let python = std::env::var("KOMAINU_TEST_PYTHON").unwrap_or_else(|_| {
        let target = std::env::var("CARGO_TARGET_DIR");
        let target = target.unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/target").into());
        format!("{target}/venv/bin/python")
    });
    assert!(std::path::Path::new(&python).exists(), "{python} is missing: run `make test` once");
    let limit = CLIENT_TIMEOUT_S.to_string();
    run(Command::new("timeout").args(["--kill-after=5", &limit, &python, "-c", script]).args(arguments))
}

/// Runs any program to its end, under a time limit if the command was made by `timeout`.
pub fn run(command: &mut Command) -> Finished {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Finished {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A tokio-postgres client over TCP without TLS; its connection runs in a task of its own.
pub async fn connect(
    port: u16,
    user: &str,
    password: &str,
    database: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user(user).password(password).dbname(database);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn postgres_client(program: &str) -> Command {
    postgres_client_within(CLIENT_TIMEOUT_S, program)
}

fn postgres_client_within(seconds: u32, program: &str) -> Command {
    let installation = Installation::find().unwrap();
    // Only its environment is taken: `timeout` must be the program.
    let plain = installation.client_command(program);
    let mut command = Command::new("timeout");
    command.arg("--kill-after=5").arg(seconds.to_string()).arg(plain.get_program());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}
