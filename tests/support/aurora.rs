//! PostgreSQL servers that wear Aurora's functions: each says what it was told to say of the cluster.

use komainu::sandbox::{AURORA_FUNCTIONS, Postgres};

use super::{Cluster, PATIENCE, eventually};

/// Gives all servers of a cluster functions, and their ids for names; all say that the first one writes.
pub fn dress_as_aurora(cluster: &Cluster) {
    let ids: Vec<&str> = cluster.servers().all().iter().map(Postgres::id).collect();
    dress_as_aurora_called(cluster, &ids);
}

/// The same with these names.
pub fn dress_as_aurora_called(cluster: &Cluster, ids: &[&str]) {
    let all = cluster.servers().all();
    for (server, id) in all.iter().zip(ids) {
        server.configure("aurora.instance", id).unwrap();
        server.configure("aurora.lag", "10").unwrap();
    }
    cluster.primary().psql("postgres", AURORA_FUNCTIONS).unwrap();
    // Databases are copied from it.
    cluster.primary().psql("template1", AURORA_FUNCTIONS).unwrap();
    let instances = format!("{}*{}", ids[0], ids[1..].iter().map(|id| format!(",{id}")).collect::<String>());
    all.iter().for_each(|server| say(server, &instances));
    cluster.servers().wait_for_replay().unwrap();
}

/// What a server says from now on.
pub fn say(server: &Postgres, instances: &str) {
    server.configure("aurora.instances", instances).unwrap();
    server.reload().unwrap();
    eventually(PATIENCE, "it says so", || {
        server.psql("postgres", "SHOW aurora.instances").is_ok_and(|said| said == instances)
    });
}
