//! Two configurations that differ in every key, for the tests that must not forget one.
//!
//! Only in tests. Invariant: a key that does not differ here fails `assert_every_key`, so a new one is added here.

use std::collections::BTreeSet;
use std::path::Path;

use super::reload::Change;
use super::{Config, file, keys};

pub const SMALLEST: &str = "[listen]\naddresses = ['127.0.0.1:1']\n\
    [auth]\nhba_file = 'hba'\nuser_file = 'users'\n[[server]]\nid = 's1'\nhost = 'db1'\n";

/// What is not there by default, or cannot be.
const MORE: &str = "[auth.query]\nuser = 'q'\n[agent]\ndata_directory = '/d'\n[aurora]\ninstance_endpoint = '?.a'\n[cluster]\nname = 'shop'\n\
    [[node]]\nid = 'n1'\nhost = 'h1'\nport = 7401\nlisten = '127.0.0.1:7401'\n\
    [[node]]\nid = 'n2'\nhost = 'h2'\nport = 7402\n[[node]]\nid = 'n3'\nhost = 'h3'\nport = 7403\n";

/// Each key with another value than its default, or than in the two above.
const AFTER: &str = "zone = 'b'\nworkers = 2\nworker_scheduling = 'normal'\ncore_dumps = true\n\
    [listen]\naddresses = ['127.0.0.1:2']\nunix_socket_directory = '/s'\nunix_socket_mode = 0o700\nbacklog = 9\n\
    [admin]\naddress = '127.0.0.1:3'\nsocket = '/s/a'\n\
    tls_address = '127.0.0.1:4'\ncert_file = 'c'\nkey_file = 'k'\ntoken_file = 't'\n[log]\nlevel = 'debug'\nformat = 'json'\n\
    file = '/l'\nrotate_bytes = 9999\nkeep_files = 9\n\
    [metrics]\nemf = 'stdout'\nput_metric_data = true\nnamespace = 'shop'\nperiod_ms = 1000\nhigh_resolution = true\n\
    [limits]\nmax_client_connections = 9\nmax_unauthenticated_per_address = 9\nstartup_timeout_ms = 9\n\
    client_idle_timeout_ms = 9\nidle_in_transaction_timeout_ms = 9\npeer_gone_after_ms = 9999\nhold_timeout_ms = 9\nmax_held_clients = 8\nmax_held_bytes = 99999\n\
    shutdown_timeout_ms = 9\n\
    max_message_bytes = 99999\nmax_inspected_statement_bytes = 9999\n\
    max_prepared_statements_per_session = 9\nmax_prepared_bytes_per_session = 9999\n\
    [client_tls]\nmode = 'allow'\ncert_file = 'c'\nkey_file = 'k'\nclient_ca_file = 'a'\n\
    [server_tls]\nmode = 'verify-ca'\nca_file = 'a'\ncert_file = 'c'\nkey_file = 'k'\nallow_md5 = true\n\
    [auth]\nhba_file = 'h'\nuser_file = 'u'\n\
    [auth.query]\nuser = 'r'\ndatabase = 'd'\nquery = 'select $1'\ncache_ms = 9\n\
    [pool]\nmode = 'session'\nsize = 9\nmin = 8\nreserve = 1\nreserve_after_ms = 8\n\
    max_server_connections = 99\nacquire_timeout_ms = 9\nconnect_timeout_ms = 9\nconnect_rate = 9\n\
    idle_timeout_ms = 9\nlifetime_ms = 9\ncheck_after_idle_ms = 9\nmax_prepared_statements = 9\n\
    max_prepared_bytes = 9999\n[[pool.override]]\nuser = 'x'\n\
    [split]\nenabled = false\nconsistency = 'eventual'\nmax_lag_bytes = 9\nmax_lag_ms = 9\nfloor_wait_ms = 9\n\
    prefer_same_zone = true\nprefer_least_lag = true\nread_only_functions = ['f']\nwrite_functions = ['g']\n\
    catalog_max_age_ms = 9999\n[[split.preference]]\ntarget = 'primary'\n\
    [health]\nuser = 'x'\npassword_file = 'p'\ndatabase = 'd'\nperiod_ms = 99\ntimeout_ms = 99\nconnect_timeout_ms = 99\nretries = 9\n\
    [[server]]\nid = 's1'\nhost = 'db2'\nport = 9\nweight = 9\nzone = 'b'\n\
    disallow_failover = true\nalways_primary = true\nreplication = 'log-shipping'\nagent = 'db2:7401'\ninstance_id = 'i-1'\n\
    health_period_ms = 98\nhealth_timeout_ms = 98\nhealth_connect_timeout_ms = 98\nhealth_retries = 8\n\
    [agent]\ndata_directory = 'd'\nbin_directory = 'b'\nlisten = '127.0.0.1:8'\nstate_directory = 's'\n\
    pki_directory = 'p'\nlog_file = 'l'\nreplication_user = 'u'\npassfile = 'f'\nrewind_user = 'w'\n\
    rewind_database = 'd'\nkeep_replaced_directory = true\n\
    [failover]\nmode = 'streaming'\nautomatic = false\nuser = 'x'\npassword_file = 'p'\ndatabase = 'd'\n\
    replication_user = 'x'\nreplication_passfile = '/p'\nsync_mode = 'prefer'\nsync_count = 2\nmax_lag_bytes = 9\n\
    promote_log_shipped = true\n\
    crash_recovery_grace_ms = 9\npromote_timeout_ms = 999\nsilence_ms = 999\nmax_slot_bytes = 9\nwrite_timeout_ms = 9\n\
    fence_host = 'prefer'\nfence_host_wait_ms = 9\ncluster_id = 'shop'\ncluster_refresh_ms = 9999\n\
    [hooks]\non_failover.command = ['/f']\non_switchover.command = ['/s']\non_detach.command = ['/d']\n\
    on_attach.command = ['/a']\non_recovered.command = ['/r']\n\
    [cluster]\nname = 'bakery'\ndirectory = 'r'\npki_directory = 'p'\nheartbeat_ms = 100\nlease_ms = 800\n\
    drift_margin_ms = 150\nelection_timeout_min_ms = 800\nelection_timeout_max_ms = 1000\nraise_log_format_after_ms = 9\n\
    [[node]]\nid = 'n1'\nhost = 'h9'\nport = 9\nlisten = '127.0.0.1:9'\nzone = 'b'\n\
    [[node]]\nid = 'n2'\nhost = 'h2'\nport = 7402\n[[node]]\nid = 'n3'\nhost = 'h3'\nport = 7403\n\
    [[server_user]]\nname = 'app'\nsecret_arn = 'arn:aws:secretsmanager:eu-central-1:1:secret:app'\n\
    [[endpoint]]\nname = 'app'\nmethod.elastic-ip = { allocation_id = 'eipalloc-1' }\n\
    [aurora]\ninstance_endpoint = '?.b'\nsession_window_ms = 9\n\
    [dns]\nservers = ['127.0.0.1:5']\n\
    [aws]\nregion = 'eu-central-1'\nendpoint_url = 'http://a'\nroute53_endpoint_url = 'http://b'\n\
    metadata_endpoint = 'http://c'\nattempt_timeout_ms = 9\nconnect_timeout_ms = 9\n";

pub fn config(text: &str) -> Config {
    file::parse(text, Path::new("/etc/komainu.toml"), 4).unwrap_or_else(|report| panic!("{report}")).0
}

/// The defaults, with a section of each kind that has none.
pub fn before() -> Config {
    config(&format!("{SMALLEST}{MORE}"))
}

/// Otherwise in every key.
pub fn after() -> Config {
    config(AFTER)
}

/// That what differs between the two names every key of the table.
pub fn assert_every_key(changes: &[Change]) {
    let named: BTreeSet<_> =
        changes.iter().map(|change| change.key.replace(".s1.", ".").replace(".n1.", ".")).collect();
    for section in keys::SECTIONS {
        let whole = matches!(section.name, "pool.override" | "split.preference" | "server_user" | "endpoint");
        let keys = section.keys.iter().map(|key| section.qualified(key.name));
        for key in keys.filter(|key| key != "server.id" && key != "node.id") {
            assert!(named.contains(if whole { section.name } else { &key }), "{key} is not compared");
        }
    }
}
