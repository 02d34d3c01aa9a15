//! The table itself: one line for each key.
//!
//! Owns the values only; what they mean is `keys`. Pure data.

use komainu_escalation::aws::ATTEMPT_TIMEOUT_MAX_MS;

use super::Kind::{
    Address, Addresses, Bool, Choice, Integer, Method, Mode, Names, Path, Program, Target, Text,
};
use super::Preset::{As, Computed, Required, Unset, Value};
use super::Scope::{Cluster, Node};
use super::{Key, Kind, Preset, Scope, Section, Shape};
use crate::config::words::Words as _;
use crate::config::{
    ClientTlsMode, Consistency, FailoverMode, FenceHost, LogFormat, PoolMode, Replication, Scheduling,
    SslMode, SyncMode,
};

/// A month: longer is surely a mistake of the unit.
const MS: u64 = 2_592_000_000;
const CONNECTIONS: u64 = 1_000_000;
const GIB: u64 = 1_073_741_824;
/// PostgreSQL's own ceiling for one message, `PQ_LARGE_MESSAGE_LIMIT`.
const MESSAGE: u64 = GIB - 1;
const WEIGHT: u64 = 10_000;
/// An outage lasts longer than any of the times around a lease: a minute is no high availability.
const LEASE: u64 = 60_000;
const LIVE: bool = true;
const RESTART: bool = false;

const fn key(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    default: Preset,
    live: bool,
    scope: Scope,
    meaning: &'static str,
) -> Key {
    Key { name, kind, unit, default, live, scope, meaning }
}

/// PostgreSQL's own catalog, for which the role must be a superuser; managed services need a function
/// (`docs/configuration.md` shows one). `CONNECTION LIMIT 0` bars a role from logging in too.
const AUTH_QUERY: &str = "\"select rolpassword, rolcanlogin and rolconnlimit <> 0 and (rolvaliduntil is null or rolvaliduntil > pg_catalog.now()) from pg_catalog.pg_authid where rolname = $1\"";

#[rustfmt::skip] // One key a line.
pub static SECTIONS: &[Section] = &[
    Section {
        name: "",
        shape: Shape::Top,
        keys: &[
            key("zone", Text, "", Unset, LIVE, Node, "Availability zone of this node, compared with `server.zone` when `split.prefer_same_zone` is on."),
            key("workers", Integer(1, 1024), "threads", Computed("the number of CPUs"), RESTART, Node, "Threads that serve clients."),
            key("worker_scheduling", Choice(Scheduling::WORDS), "", Value("\"batch\""), RESTART, Node, "How Linux schedules these threads. `batch`: on a busy machine they do not interrupt what runs when something comes for them, and so handle more at a time; `normal`: they do."),
            key("core_dumps", Bool, "", Value("false"), RESTART, Node, "Whether a crash may leave a core file, and other processes of the same user may read komainu's memory (`gdb`, `perf`, `strace`, `/proc/PID/mem`). Passwords and keys are in it. Root may always."),
        ],
    },
    Section {
        name: "listen",
        shape: Shape::Table,
        keys: &[
            key("addresses", Addresses, "", Required, RESTART, Node, "Where clients connect over TCP: `\"127.0.0.1:9999\"`, `\"[::]:5432\"`, …"),
            key("unix_socket_directory", Path, "", Unset, RESTART, Node, "Also listen on the Unix socket `.s.PGSQL.<port>` in this directory; the port is that of the first address."),
            key("unix_socket_mode", Mode, "octal", Value("0o777"), RESTART, Node, "Permission bits of the Unix socket."),
            key("backlog", Integer(1, 65_535), "connections", Value("1024"), RESTART, Node, "Connections the kernel keeps waiting to be accepted; it caps them at `net.core.somaxconn` too."),
        ],
    },
    Section {
        name: "admin",
        shape: Shape::Table,
        keys: &[
            key("address", Address, "", Unset, RESTART, Node, "HTTP address of the pages that only read: `/metrics`, `/live`, `/ready`, `/status`, `/events`, `/doctor`, `/health`. No password and no TLS, and they name servers and roles: keep it on a private address."),
            key("socket", Path, "", Unset, RESTART, Node, "A Unix socket at this path, for all admin pages and *all orders*, without a password: whoever its mode (0600) lets in may do everything. It is what the commands use."),
            key("tls_address", Address, "", Unset, RESTART, Node, "HTTPS address of all admin pages, changes included, for whoever brings the token. Needs the three files below."),
            key("cert_file", Path, "", Unset, RESTART, Node, "Certificate, with its chain, that is shown there. The command line checks that it is for the name or address that it was given. Read again on SIGHUP."),
            key("key_file", Path, "", Unset, RESTART, Node, "The certificate's key. Read again on SIGHUP."),
            key("token_file", Path, "", Unset, RESTART, Node, "A token of 32 characters or more: whoever has it may do everything. Read again on SIGHUP."),
        ],
    },
    Section {
        name: "log",
        shape: Shape::Table,
        keys: &[
            key("level", Text, "", Value("\"info\""), LIVE, Node, "`error`, `warn`, `info`, `debug`, `trace`, or a `tracing` filter such as `info,komainu::pool=debug`."),
            key("format", Choice(LogFormat::WORDS), "", Value("\"text\""), RESTART, Node, "Lines to read, or one JSON object a line."),
            key("file", Path, "", Unset, RESTART, Node, "Appended to instead of stderr. A line that cannot be written there goes to stderr."),
            key("rotate_bytes", Integer(0, 1_024 * GIB), "bytes", Value("104857600"), LIVE, Node, "A longer file becomes `FILE.1`, and a new one is begun; `0`: only when told to (`komainu log rotate`), or by whoever moves it away and sends SIGUSR1."),
            key("keep_files", Integer(0, 1000), "files", Value("5"), LIVE, Node, "So many older files are kept, `FILE.1` the youngest."),
        ],
    },
    Section {
        name: "metrics",
        shape: Shape::Table,
        keys: &[
            key("emf", Text, "", Unset, RESTART, Node, "`\"stdout\"`, or a file that is appended to: lines in CloudWatch's embedded metric format. The file is exchanged for a new one as `log.file` is, by length."),
            key("put_metric_data", Bool, "", Value("false"), RESTART, Node, "Send the metrics to CloudWatch, in the region of `aws.region`, by `aws.endpoint_url` if that is set. The role needs `cloudwatch:PutMetricData`."),
            key("namespace", Text, "", Value("\"komainu\""), RESTART, Node, "CloudWatch's namespace of both."),
            key("period_ms", Integer(1_000, 3_600_000), "ms", Value("60000"), RESTART, Node, "How often metrics are sent, or written as lines."),
            key("high_resolution", Bool, "", Value("false"), RESTART, Node, "CloudWatch keeps them by the second for three hours, and not by the minute."),
        ],
    },
    Section {
        name: "limits",
        shape: Shape::Table,
        keys: &[
            key("max_client_connections", Integer(1, CONNECTIONS), "connections", Value("10000"), RESTART, Cluster, "More clients than this are refused with 53300. Counted is who has logged in."),
            key("max_unauthenticated_per_address", Integer(1, CONNECTIONS), "connections", Value("1000"), RESTART, Cluster, "Connections of one address that have not logged in yet, those that wait for their user to be looked up among them; more are closed unanswered. Together with those over a Unix socket, which are of no address, all of them may be as many as the larger of this and `limits.max_client_connections`."),
            key("startup_timeout_ms", Integer(1, MS), "ms", Value("15000"), LIVE, Cluster, "A client that has not proved who it is by then is disconnected. What a login waits for a server, also to have its user looked up (`[auth.query]`), is not counted: see `limits.hold_timeout_ms` and `pool.acquire_timeout_ms`."),
            key("client_idle_timeout_ms", Integer(0, MS), "ms", Value("0"), LIVE, Cluster, "A client idle outside a transaction for longer is ended (57P05). 0: never."),
            key("idle_in_transaction_timeout_ms", Integer(0, MS), "ms", Value("0"), LIVE, Cluster, "A client idle inside a transaction for longer is ended (25P03). 0: never."),
            key("peer_gone_after_ms", Integer(1_000, MS), "ms", Value("45000"), LIVE, Cluster, "A client or a server that has acknowledged nothing for so long of what a session sent it is taken for gone. One that acknowledges, but takes nothing more, is waited for."),
            key("hold_timeout_ms", Integer(0, MS), "ms", Computed("30000; with `failover.mode = \"rds\"` or `\"redshift\"` 120000, with `\"aurora\"` 60000"), LIVE, Cluster, "How long a request or a login waits while there is no primary or it cannot be reached; then it gets an error (57P03) that says why. Nor does what is under way on the primary when this node's lease ends wait longer for the next one. 0: it does not wait."),
            key("max_held_clients", Integer(1, CONNECTIONS), "clients", As("limits.max_client_connections"), LIVE, Cluster, "Clients that may wait so at a time; for further ones the error comes at once. Who waits for its user to be looked up has proved nothing yet and takes no place here: `limits.max_unauthenticated_per_address` bounds those."),
            key("max_held_bytes", Integer(65_536, GIB), "bytes", Value("268435456"), LIVE, Cluster, "What those who wait may occupy together with what was read from them: the requests that wait. One that is too long for it gets the error at once, and shorter ones go on waiting."),
            key("shutdown_timeout_ms", Integer(0, MS), "ms", Value("30000"), LIVE, Cluster, "How long running transactions may go on after SIGTERM. 0: they are ended at once."),
            key("max_message_bytes", Integer(65_536, MESSAGE), "bytes", Value("1073741823"), LIVE, Cluster, "Largest single message of a client that has logged in; the default is PostgreSQL's own limit."),
            key("max_inspected_statement_bytes", Integer(1024, MESSAGE), "bytes", Value("1048576"), LIVE, Cluster, "A longer statement is not looked into: it goes to the primary and pins its session to one connection. A longer named one is refused (54000)."),
            key("max_prepared_statements_per_session", Integer(1, CONNECTIONS), "statements", Value("5000"), LIVE, Cluster, "Named statements one client may hold; one more is refused (54000)."),
            key("max_prepared_bytes_per_session", Integer(1024, MESSAGE), "bytes", Value("16777216"), LIVE, Cluster, "Bytes of the texts of those statements."),
        ],
    },
    Section {
        name: "client_tls",
        shape: Shape::Table,
        keys: &[
            key("mode", Choice(ClientTlsMode::WORDS), "", Value("\"off\""), LIVE, Node, "`allow`: for clients that ask; `require`: no client over TCP without it; `verify`: and none without a certificate signed by `client_ca_file`."),
            key("cert_file", Path, "", Unset, LIVE, Node, "Certificate chain (PEM), this node's first; needed unless `mode` is `off`."),
            key("key_file", Path, "", Unset, LIVE, Node, "Its private key (PEM)."),
            key("client_ca_file", Path, "", Unset, LIVE, Node, "Authorities (PEM) that sign clients' certificates; `verify` and the HBA file's `cert` and `clientcert` need it."),
        ],
    },
    Section {
        name: "server_tls",
        shape: Shape::Table,
        keys: &[
            key("mode", Choice(SslMode::WORDS), "", Value("\"prefer\""), LIVE, Cluster, "As libpq's `sslmode`. Only `verify-ca` and `verify-full` make sure who the server is."),
            key("ca_file", Path, "", Unset, LIVE, Node, "Authorities (PEM) that sign the servers' certificates; `verify-ca` and `verify-full` need it."),
            key("cert_file", Path, "", Unset, LIVE, Node, "Certificate (PEM) shown to servers that ask for one."),
            key("key_file", Path, "", Unset, LIVE, Node, "Its private key (PEM)."),
            key("allow_md5", Bool, "", Value("false"), LIVE, Cluster, "Whether a server that was not verified may have a proof by which a password can cheaply be guessed: MD5, or SCRAM with fewer than 4096 rounds (PostgreSQL's `scram_iterations`). Without it, SCRAM with as many or more is all that such a server gets."),
        ],
    },
    Section {
        name: "auth",
        shape: Shape::Table,
        keys: &[
            key("hba_file", Path, "", Required, LIVE, Node, "Who may connect from where and how, in `pg_hba.conf`'s format."),
            key("user_file", Path, "", Unset, LIVE, Node, "Users' secrets, in the format of PgBouncer's `userlist.txt`."),
        ],
    },
    Section {
        name: "auth.query",
        shape: Shape::Optional,
        keys: &[
            key("user", Text, "", Required, LIVE, Cluster, "The role that asks; `auth.user_file` must have its plain password, unless it is in `[[server_user]]`."),
            key("database", Text, "", Value("\"postgres\""), LIVE, Cluster, "Where it asks."),
            key("query", Text, "", Value(AUTH_QUERY), LIVE, Cluster, "Asked for a user whom `auth.user_file` does not name: `$1` is the user's name; the columns are the secret and whether the role may log in now. Write every name with its schema."),
            key("cache_ms", Integer(0, MS), "ms", Value("10000"), LIVE, Cluster, "An answer is believed for this long, also for users with open pools: a role that was dropped or locked gets in for no longer. 0: asked at every login."),
        ],
    },
    Section {
        name: "pool",
        shape: Shape::Table,
        keys: &[
            key("mode", Choice(PoolMode::WORDS), "", Value("\"transaction\""), LIVE, Cluster, "A client holds a server connection for a transaction, or for its whole session."),
            key("size", Integer(1, CONNECTIONS), "connections", Value("20"), LIVE, Cluster, "Connections to one server for one database and user."),
            key("min", Integer(0, CONNECTIONS), "connections", Value("0"), LIVE, Cluster, "Of these, so many stay open after the user's first login."),
            key("reserve", Integer(0, CONNECTIONS), "connections", Value("0"), LIVE, Cluster, "Further connections once a client has waited `reserve_after_ms`."),
            key("reserve_after_ms", Integer(0, MS), "ms", Value("5000"), LIVE, Cluster, "See `pool.reserve`."),
            key("max_server_connections", Integer(1, CONNECTIONS), "connections", Value("90"), LIVE, Cluster, "Connections of *this node* to one server, over all its pools; where all are taken, a pool that has none and is waited for is given one by those that have some, and then one that is waited for a while gets what lies idle elsewhere. Lowered, what is idle is closed until it fits, and then what comes back. Those of all nodes and proxies together must fit below the server's `max_connections` (100 by default) less the reserved ones and what others need: three nodes and the default of both do not; `komainu doctor` says so."),
            key("acquire_timeout_ms", Integer(1, MS), "ms", Value("30000"), LIVE, Cluster, "A client that waited this long for a server connection gets an error (53300)."),
            key("connect_timeout_ms", Integer(1, MS), "ms", Value("15000"), LIVE, Cluster, "For reaching a server, TLS and login together; patient, since clouds are slow at times."),
            key("connect_rate", Integer(1, CONNECTIONS), "per second", Value("50"), LIVE, Cluster, "New connections to one server, so that a hiccup is not followed by a storm."),
            key("idle_timeout_ms", Integer(0, MS), "ms", Value("600000"), LIVE, Cluster, "A connection idle for longer is closed, down to `min`. 0: never."),
            key("lifetime_ms", Integer(0, MS), "ms", Value("3600000"), LIVE, Cluster, "A connection older than this is closed once it is idle, each up to an eighth earlier, so that those opened together do not end together. 0: never."),
            key("check_after_idle_ms", Integer(0, MS), "ms", Value("30000"), LIVE, Cluster, "A connection that idled longer is asked whether it lives before a client gets it. 0: always."),
            key("max_prepared_statements", Integer(1, CONNECTIONS), "statements", Value("500"), LIVE, Cluster, "Prepared statements on one server connection; the least recently used go first."),
            key("max_prepared_bytes", Integer(1024, MESSAGE), "bytes", Value("8388608"), LIVE, Cluster, "Bytes of their texts."),
        ],
    },
    Section {
        name: "pool.override",
        shape: Shape::List,
        keys: &[
            key("database", Text, "", Unset, LIVE, Cluster, "Only this database; unset: any. The first override that matches is taken."),
            key("user", Text, "", Unset, LIVE, Cluster, "Only this user; unset: any."),
            key("mode", Choice(PoolMode::WORDS), "", As("pool.mode"), LIVE, Cluster, "Instead of `pool.mode`."),
            key("size", Integer(1, CONNECTIONS), "connections", As("pool.size"), LIVE, Cluster, "Instead of `pool.size`."),
            key("min", Integer(0, CONNECTIONS), "connections", As("pool.min"), LIVE, Cluster, "Instead of `pool.min`."),
            key("reserve", Integer(0, CONNECTIONS), "connections", As("pool.reserve"), LIVE, Cluster, "Instead of `pool.reserve`."),
            key("reserve_after_ms", Integer(0, MS), "ms", As("pool.reserve_after_ms"), LIVE, Cluster, "Instead of `pool.reserve_after_ms`."),
        ],
    },
    Section {
        name: "split",
        shape: Shape::Table,
        keys: &[
            key("enabled", Bool, "", Value("true"), LIVE, Cluster, "Whether reads go to standbys; off: everything goes to the primary."),
            key("consistency", Choice(Consistency::WORDS), "", Value("\"session\""), LIVE, Cluster, "`eventual`: any standby within the lag limits; `bounded`: and its lag must be known; `session`: a session reads its own writes and never goes back in time."),
            key("max_lag_bytes", Integer(0, u64::MAX >> 1), "bytes", Value("0"), LIVE, Cluster, "A standby further behind gets no reads. 0: no limit."),
            key("max_lag_ms", Integer(0, MS), "ms", Value("10000"), LIVE, Cluster, "The same by time. 0: no limit."),
            key("floor_wait_ms", Integer(0, MS), "ms", Value("20"), LIVE, Cluster, "How long a read waits for a standby to replay the session's last write before it goes to the primary. 0: it does not wait."),
            key("prefer_same_zone", Bool, "", Value("false"), LIVE, Cluster, "Read from standbys in this node's `zone` while there are any. Then a primary in the zone has its share beside them, and one elsewhere none; while there are none, all servers have theirs."),
            key("prefer_least_lag", Bool, "", Value("false"), LIVE, Cluster, "Read from the standby that is least behind rather than by weight."),
            key("read_only_functions", Names, "", Value("[]"), LIVE, Cluster, "Functions that only read, whatever the catalog says; each a name, or a schema and a name."),
            key("write_functions", Names, "", Value("[]"), LIVE, Cluster, "Functions that write, whatever the catalog says."),
            key("catalog_max_age_ms", Integer(1000, MS), "ms", Value("60000"), RESTART, Cluster, "The catalog of functions, tables and views is read again after this."),
        ],
    },
    Section {
        name: "split.preference",
        shape: Shape::List,
        keys: &[
            key("application_name", Text, "", Unset, LIVE, Cluster, "Only clients of this `application_name`; unset: any. The first preference that matches is taken."),
            key("database", Text, "", Unset, LIVE, Cluster, "Only this database; unset: any."),
            key("user", Text, "", Unset, LIVE, Cluster, "Only this user; unset: any."),
            key("target", Target, "", Required, LIVE, Cluster, "Where their reads go: `\"primary\"`, `\"standbys\"`, or servers by weight: `{ s2 = 3, s3 = 1 }`."),
        ],
    },
    Section {
        name: "health",
        shape: Shape::Table,
        keys: &[
            key("user", Text, "", Value("\"komainu\""), LIVE, Cluster, "The role that looks at the servers; `pg_monitor` is all it needs."),
            key("password_file", Path, "", Unset, LIVE, Node, "File with its password; unset: the one in `auth.user_file`."),
            key("database", Text, "", Value("\"postgres\""), LIVE, Cluster, "The database it connects to."),
            key("period_ms", Integer(50, MS), "ms", Value("1000"), LIVE, Cluster, "How often each server is looked at."),
            key("timeout_ms", Integer(10, MS), "ms", Value("1500"), LIVE, Cluster, "A look that takes longer over the connection there is has failed."),
            key("connect_timeout_ms", Integer(10, MS), "ms", Value("5000"), LIVE, Cluster, "The same for a look that has to connect first: each lost packet of a connect costs a second or more."),
            key("retries", Integer(1, 1000), "failures", Value("3"), LIVE, Cluster, "Failures in a row before a server counts as down. Of refused connections two are enough."),
        ],
    },
    Section {
        name: "server",
        shape: Shape::List,
        keys: &[
            key("id", Text, "", Required, LIVE, Cluster, "A name for logs, metrics and preferences: letters, digits, `_`, `-` and `.`."),
            key("host", Text, "", Required, LIVE, Cluster, "A name, an address, or the directory of a Unix socket (begins with `/`)."),
            key("port", Integer(1, 65_535), "", Value("5432"), LIVE, Cluster, "Its port."),
            key("weight", Integer(0, WEIGHT), "share", Value("1"), LIVE, Cluster, "Its share of the reads. 0: none while another standby lives."),
            key("zone", Text, "", Unset, LIVE, Cluster, "Its availability zone."),
            key("disallow_failover", Bool, "", Value("false"), LIVE, Cluster, "Whether it is never promoted."),
            key("always_primary", Bool, "", Value("false"), LIVE, Cluster, "Whether it is the primary whatever happens, so that no other server is ever promoted: of one server at most. `ALWAYS_PRIMARY` and `ALWAYS_MASTER` are other names of this key. With `failover.mode = \"rds\"` or `\"aurora\"` it says nothing new: there whoever is the writer is never replaced by komainu."),
            key("replication", Choice(Replication::WORDS), "", Value("\"streaming\""), LIVE, Cluster, "How it follows as a standby: `log-shipping`: by `restore_command` from the primary's archive, so komainu makes no slot for it, never tells it whom to follow, and promotes it last."),
            key("agent", Text, "", Unset, LIVE, Cluster, "Where the [agent](agent.md) on its host is reached, as `\"host:port\"`; unset: there is none."),
            key("instance_id", Text, "", Unset, LIVE, Cluster, "The EC2 instance it runs on, for `failover.fence_host`."),
            key("health_period_ms", Integer(50, MS), "ms", As("health.period_ms"), LIVE, Cluster, "How often this server is looked at, where it is to be otherwise than the others: a longer period for one that is far away, say."),
            key("health_timeout_ms", Integer(10, MS), "ms", As("health.timeout_ms"), LIVE, Cluster, "When a look at this server over the connection there is has failed."),
            key("health_connect_timeout_ms", Integer(10, MS), "ms", As("health.connect_timeout_ms"), LIVE, Cluster, "The same for a look that has to connect first."),
            key("health_retries", Integer(1, 1000), "failures", As("health.retries"), LIVE, Cluster, "Failures in a row before this server counts as down."),
        ],
    },
    Section {
        name: "server_user",
        shape: Shape::List,
        keys: &[
            key("name", Text, "", Required, LIVE, Cluster, "A role on the servers whose password [AWS gives](credentials-aws.md): one that clients log in as, `health.user`, `failover.user` or `auth.query.user`."),
            key("iam_token", Bool, "", Value("false"), LIVE, Cluster, "Whether the password is an RDS IAM token, signed for each connection. Needs `server_tls.mode = \"verify-full\"`."),
            key("region", Text, "", Computed("in the server's name, else `aws.region`"), LIVE, Cluster, "For `iam_token`: where the servers are."),
            key("secret_arn", Text, "", Unset, LIVE, Cluster, "The ARN of the secret in Secrets Manager that has the password, as RDS writes it: JSON with `username` and `password`."),
            key("refresh_ms", Integer(1_000, MS), "ms", Value("300000"), LIVE, Cluster, "How often that secret is fetched again; besides, it is whenever a server refuses the password."),
        ],
    },
    Section {
        name: "agent",
        shape: Shape::Optional,
        keys: &[
            key("data_directory", Path, "", Required, RESTART, Node, "The server's data directory; the agent touches no other."),
            key("bin_directory", Path, "", Computed("found"), RESTART, Node, "PostgreSQL's programs; unset: those of the data directory's version in `/usr/lib/postgresql`, else `PG_BIN`, else `PATH`."),
            key("listen", Address, "", Computed("all addresses, the port of `server.agent`"), RESTART, Node, "Where the agent listens for the nodes."),
            key("state_directory", Path, "", Value("\"agent\""), RESTART, Node, "Directory of the agent's own: the highest epoch it was given, its last job, and the WAL of former primaries. It must last."),
            key("pki_directory", Path, "", As("cluster.pki_directory"), RESTART, Node, "Directory with `ca.crt`, `agent-ID.crt` and `agent-ID.key`, where `ID` is the server's."),
            key("log_file", Path, "", Computed("`server.log` in `agent.state_directory`"), RESTART, Node, "Where a server that the agent starts writes what its own `logging_collector` does not take."),
            key("replication_user", Text, "", As("failover.replication_user"), RESTART, Node, "The role by which the server follows its primary, and by which base backups are taken."),
            key("passfile", Path, "", Computed("as `failover.replication_passfile`"), RESTART, Node, "Passwords of these roles, in the format of `.pgpass`; unset: the one libpq finds by itself."),
            key("rewind_user", Text, "", As("agent.replication_user"), RESTART, Node, "The role by which `pg_rewind` reads the new primary."),
            key("rewind_database", Text, "", Value("\"postgres\""), RESTART, Node, "The database it connects to."),
            key("keep_replaced_directory", Bool, "", Value("false"), RESTART, Node, "Whether the data directory that a rebuild replaced is kept until the next one. Else it is removed once the new one streams."),
        ],
    },
    Section {
        name: "failover",
        shape: Shape::Table,
        keys: &[
            key("mode", Choice(FailoverMode::WORDS), "", Value("\"off\""), RESTART, Cluster, "`off`: komainu follows what the servers say; `streaming`: it promotes a standby when the primary is lost, and repoints the others; `rds` and `aurora`: AWS makes the writer, and komainu follows it ([RDS](rds.md), [Aurora](aurora.md)); `redshift`: the one server is [Redshift](redshift.md)."),
            key("automatic", Bool, "", Value("true"), LIVE, Cluster, "Whether a lost primary is replaced without an order; off: only by order."),
            key("user", Text, "", Value("\"komainu_operator\""), LIVE, Cluster, "The role that promotes and repoints; [privileges](privileges.md) has its grants."),
            key("password_file", Path, "", Unset, LIVE, Node, "File with its password; unset: the one in `auth.user_file`."),
            key("database", Text, "", Value("\"postgres\""), LIVE, Cluster, "The database it connects to."),
            key("replication_user", Text, "", Value("\"replicator\""), LIVE, Cluster, "The role standbys stream as: `user` of their `primary_conninfo`."),
            key("replication_passfile", Text, "", Unset, LIVE, Cluster, "Absolute path, on the database hosts, of the password file for it: `passfile` of their `primary_conninfo`; unset: what stands there stays."),
            key("sync_mode", Choice(SyncMode::WORDS), "", Value("\"off\""), LIVE, Cluster, "`off`: komainu leaves `synchronous_standby_names` alone; `prefer`: commits wait for standbys while there are any; `require`: they wait even if there is none, and without a standby that is known to have them all nobody is promoted but by order (`nothing_promised`)."),
            key("sync_count", Integer(1, 100), "standbys", Value("1"), LIVE, Cluster, "How many standbys a commit waits for: the n of `ANY n`."),
            key("max_lag_bytes", Integer(0, u64::MAX >> 1), "bytes", Value("16777216"), LIVE, Cluster, "An asynchronous standby known to lack more than this of what the primary was last seen to have is not promoted without an order. 0: no limit."),
            key("promote_log_shipped", Bool, "", Value("false"), LIVE, Cluster, "Whether a standby by log shipping is promoted without an order when no streaming one can be. What was not archived is lost then."),
            key("crash_recovery_grace_ms", Integer(0, MS), "ms", Value("30000"), LIVE, Cluster, "How long a primary that says it is starting up is waited for."),
            key("promote_timeout_ms", Integer(100, MS), "ms", Value("10000"), LIVE, Cluster, "A standby that was told to be the primary and is none by then counts as failed."),
            key("silence_ms", Integer(100, MS), "ms", Value("2000"), LIVE, Cluster, "A standby that heard from the primary within this time is a witness that it lives, and nothing is promoted; at least the servers' `wal_sender_timeout` and `wal_receiver_timeout`, after half of which there is news."),
            key("max_slot_bytes", Integer(0, u64::MAX >> 1), "bytes", Value("17179869184"), LIVE, Cluster, "A replication slot of komainu's that nobody uses is dropped when it keeps more log than this: a standby that is gone for longer is rebuilt by its agent. 0: no limit; then set `max_slot_wal_keep_size` on the servers."),
            key("write_timeout_ms", Integer(0, MS), "ms", Value("10000"), LIVE, Cluster, "When what was written to the primary does not reach its disk, each node tries a write of its own; a primary that cannot do that in this time is replaced. 0: it never is for that."),
            key("fence_host", Choice(FenceHost::WORDS), "", Value("\"off\""), LIVE, Cluster, "Whether the [EC2 instance of a lost primary](failure-modes.md#stopping-the-host-of-a-lost-primary) is stopped: `prefer`: if nothing is heard from it, and beside the failover; `require`: always, and nobody is promoted before it has stopped."),
            key("fence_host_wait_ms", Integer(0, MS), "ms", Value("0"), LIVE, Cluster, "How long a promotion waits for that with `prefer`."),
            key("cluster_id", Text, "", Unset, RESTART, Cluster, "With `rds` or `aurora`: the identifier of a cluster, or of an instance with its read replicas. Its instances are the servers then, as AWS's API says, and `[[server]]` is needed for none of them ([RDS](rds.md#servers-from-the-api))."),
            key("cluster_refresh_ms", Integer(1_000, MS), "ms", Value("30000"), RESTART, Cluster, "How often the API is asked for that cluster."),
        ],
    },
    Section {
        name: "hooks",
        shape: Shape::Table,
        keys: &[
            key("on_failover", Program, "", Unset, LIVE, Cluster, "Run when another server became the primary unplanned: `{ command = [\"/path/to/program\"], deadline_ms = 5000 }`."),
            key("on_switchover", Program, "", Unset, LIVE, Cluster, "The same, when that was by `komainu switchover`."),
            key("on_detach", Program, "", Unset, LIVE, Cluster, "Run when a server was taken out of use: detached by order, or quarantined."),
            key("on_attach", Program, "", Unset, LIVE, Cluster, "Run when an operator attached a server again."),
            key("on_recovered", Program, "", Unset, LIVE, Cluster, "Run when a quarantined server follows the primary again, and is used."),
        ],
    },
    Section {
        name: "cluster",
        shape: Shape::Optional,
        keys: &[
            key("name", Text, "", Required, RESTART, Cluster, "The cluster's name, which is in its certificates: lower-case letters, digits and inner hyphens."),
            key("directory", Path, "", Value("\"raft\""), RESTART, Node, "Directory of this node's log and state. It must last, and be this node's alone."),
            key("pki_directory", Path, "", Value("\"pki\""), RESTART, Node, "Directory with `ca.crt`, `ID.crt` and `ID.key`, where `ID` is this node's."),
            key("heartbeat_ms", Integer(1, LEASE), "ms", Value("150"), RESTART, Cluster, "How often the leader tells the others that it lives, and every node asks for its lease."),
            key("lease_ms", Integer(1, LEASE), "ms", Value("900"), RESTART, Cluster, "How long a node may act without having heard that it still may."),
            key("drift_margin_ms", Integer(1, LEASE), "ms", Value("200"), RESTART, Cluster, "Waited on top of a lease, for clocks that run at different rates."),
            key("election_timeout_min_ms", Integer(1, LEASE), "ms", Value("900"), RESTART, Cluster, "How long one election may take before the next is tried."),
            key("election_timeout_max_ms", Integer(1, LEASE), "ms", Value("1200"), RESTART, Cluster, "Silence of the leader after which another is elected: more than `lease_ms` and `drift_margin_ms` together."),
            key("raise_log_format_after_ms", Integer(0, MS), "ms", Value("600000"), LIVE, Cluster, "How long all nodes must have known a newer format of the log before it is used. Until then the version before can come back, afterwards it cannot ([upgrading](operations.md#upgrading))."),
        ],
    },
    Section {
        name: "node",
        shape: Shape::List,
        keys: &[
            key("id", Text, "", Required, RESTART, Cluster, "Its name, as in its certificate: lower-case letters, digits and inner hyphens."),
            key("host", Text, "", Required, RESTART, Cluster, "A name or an address by which the other nodes reach it."),
            key("port", Integer(1, 65_535), "", Value("7400"), RESTART, Cluster, "Its port for the other nodes; clients do not need it."),
            key("listen", Address, "", Computed("all addresses, `node.port`"), RESTART, Node, "Where it listens for the other nodes; unset: `0.0.0.0` with `node.port`, or `[::]` if `host` is an IPv6 address."),
            key("zone", Text, "", Unset, RESTART, Cluster, "Its availability zone."),
        ],
    },
    Section {
        name: "endpoint",
        shape: Shape::List,
        keys: &[
            key("name", Text, "", Required, LIVE, Cluster, "A name for status, log and programs: lower-case letters, digits and inner hyphens."),
            key("method", Method, "", Required, LIVE, Cluster, "How it moves: `elastic-ip`, `route53`, `route-table`, `secondary-ip`, `interface` or `command`, with [its own keys](escalation.md#what-each-one-needs)."),
            key("pre", Program, "", Unset, LIVE, Cluster, "Run before a move: `{ command = [\"/path/to/program\"], deadline_ms = 5000 }`. It may delay the move by that, and not prevent it."),
            key("post", Program, "", Unset, LIVE, Cluster, "The same, run after a move."),
            key("refuse_when_not_owner", Bool, "", Value("false"), LIVE, Cluster, "Whether a node that does not own the endpoint refuses clients. Else it serves them all the same."),
        ],
    },
    Section {
        name: "aurora",
        shape: Shape::Table,
        keys: &[
            key("instance_endpoint", Text, "", Unset, LIVE, Cluster, "Each instance's endpoint, with `?` for its name: `\"?.abc123.eu-central-1.rds.amazonaws.com\"`. Instances that are not configured as `[[server]]` are reached so, at the port of the first that is. Not needed with `failover.cluster_id`."),
            key("session_window_ms", Integer(0, MS), "ms", Value("1000"), LIVE, Cluster, "After a write a session reads from the writer for this long, and then from readers that have what it wrote. Only with `split.consistency = \"session\"`."),
        ],
    },
    Section {
        name: "dns",
        shape: Shape::Table,
        keys: &[
            key("servers", Addresses, "", Unset, LIVE, Cluster, "Name servers that the names of PostgreSQL servers are asked of, as `[\"169.254.169.253:53\"]`; unset: as the system resolves names. What they answer is believed for its TTL."),
        ],
    },
    Section {
        name: "aws",
        shape: Shape::Table,
        keys: &[
            key("region", Text, "", Computed("the instance's own"), RESTART, Cluster, "Where the endpoints' addresses, routes and interfaces are."),
            key("endpoint_url", Text, "", Unset, RESTART, Cluster, "Asked instead of AWS's own addresses: a private endpoint, or a double in a test."),
            key("route53_endpoint_url", Text, "", As("aws.endpoint_url"), RESTART, Cluster, "The same for Route 53, whose control plane is elsewhere (us-east-1)."),
            key("metadata_endpoint", Text, "", Unset, RESTART, Cluster, "Asked instead of the instance metadata service at its link-local address."),
            key("attempt_timeout_ms", Integer(1, ATTEMPT_TIMEOUT_MAX_MS), "ms", Value("3000"), RESTART, Cluster, "For one request as a whole. Not more, since a late one may take an endpoint from its next owner."),
            key("connect_timeout_ms", Integer(1, ATTEMPT_TIMEOUT_MAX_MS), "ms", Value("1000"), RESTART, Cluster, "For reaching the API, within that."),
        ],
    },
];
