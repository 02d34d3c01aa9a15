use std::path::Path;
use std::process::{Child, Command};

use super::super::directory::DataDirectory;
use super::super::programs::tests::written;
use super::*;
use crate::config::SslMode;

/// With shell scripts in place of PostgreSQL's programs, and an empty data directory beside them.
pub fn work(scratch: &Path, scripts: &[(&str, &str)]) -> Work {
    let (data, state) = (scratch.join("data"), scratch.join("state"));
    fs::create_dir(&data).unwrap();
    let tls = config::ServerTls {
        mode: SslMode::Disable,
        ca_file: None,
        cert_file: None,
        key_file: None,
        allow_md5: false,
    };
    let settings = config::Agent {
        data_directory: data.clone(),
        bin_directory: None,
        listen: None,
        state_directory: state.clone(),
        pki_directory: None,
        log_file: None,
        replication_user: None,
        passfile: None,
        rewind_user: None,
        rewind_database: "postgres".to_owned(),
        keep_replaced_directory: false,
    };
    Work {
        id: "pg1".to_owned(),
        server: Server {
            data: DataDirectory::new(&data),
            programs: written(scratch, scripts),
            log_file: scratch.join("server.log"),
        },
        access: Access {
            server: "pg1".to_owned(),
            tls,
            passfile: None,
            replication_user: "replicator".to_owned(),
            rewind_user: "rewinder".to_owned(),
        },
        memory: Mutex::new(Memory::open(&state).unwrap()),
        settings,
    }
}

/// A process that is as good as a postmaster in the data directory; killed in the end.
pub struct Running(pub Child);

impl Running {
    pub fn begin(data: &DataDirectory, script: &str) -> Running {
        // A shell cannot trap what was ignored when it began, as in a job in the background.
        let trapping = ["--default-signal=INT", "sh", "-c", script];
        let child = Command::new("env").args(trapping).current_dir(data.path()).spawn().unwrap();
        let lines = format!("{}\n{}\n1\n5432\n/tmp\n\n\nready\n", child.id(), data.path().display());
        fs::write(data.join("postmaster.pid"), lines).unwrap();
        let running = Running(child);
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while data.postmaster().is_none() {
            assert!(std::time::Instant::now() < deadline, "it does not run in {}", data.path().display());
        }
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

pub fn request(epoch: u64) -> Rejoin {
    Rejoin {
        epoch,
        system_identifier: 7,
        primary: Source { id: "pg2".to_owned(), host: "h".to_owned(), port: 5432 },
        timeline: 3,
        allow_rewind: true,
        rebuild_from: None,
        order: 0,
        may_rebuild: false,
    }
}

#[tokio::test]
async fn a_server_that_was_started_before_the_new_directory_was_in_place_is_ended() {
    let scratch = tempfile::tempdir().unwrap();
    let work = work(scratch.path(), &[("psql", "echo no such server >&2; exit 2")]);
    let data = &work.server.data;
    let swap = Swap { new: data.new_beside(), old: data.old_beside() };
    fs::create_dir(&swap.new).unwrap();
    fs::write(swap.new.join("which"), "new").unwrap();
    work.note(|now| now.swap = Some(swap.clone())).unwrap();
    let _running = Running::begin(data, "exec sleep 100");
    let error = work.rejoin(&request(1)).await.unwrap_err();
    assert!(error.to_string().contains("no such server"), "it has come to the primary: {error}");
    assert_eq!(data.postmaster(), None);
    assert_eq!(fs::read_to_string(data.join("which")).unwrap(), "new");
    assert_eq!((data.replaced(), work.memory(|memory| memory.get().swap.clone())), (vec![swap.old], None));
}
