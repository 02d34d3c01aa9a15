use std::path::Path;

use super::super::job::tests::{Running, request, work};
use super::*;

async fn order(service: &Service, order: Order) -> Response {
    let by = Moment { ms: service.now().ms + 60_000, ..service.now() };
    service.answer("node1", Request::Order { by, order }).await
}

async fn until(what: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(tokio::time::Instant::now() < deadline, "it never happens");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Of a server that has to be told twice to stop, restarted in epoch 4. `meanwhile` is done while it does not stop.
async fn restarted(scratch: &Path, meanwhile: impl AsyncFnOnce(&Service)) -> (Response, bool) {
    let started = scratch.join("started");
    let postgres = format!(
        "case \"$*\" in -C*) echo {};; *) touch {}; exit 1;; esac",
        scratch.join("data").display(),
        started.display()
    );
    let work = work(scratch, &[("postgres", &postgres)]);
    let (told, deaf) = (scratch.join("told"), scratch.join("deaf"));
    let (touch_told, touch_deaf) = (told.display(), deaf.display());
    let script = format!("trap 'touch {touch_told}' INT; touch {touch_deaf}; while :; do sleep 0.01; done");
    let mut running = Running::begin(&work.server.data, &script);
    until(|| deaf.exists()).await;
    let service = Service::new(Arc::new(work)).unwrap();
    let restart = order(&service, Order::Restart { epoch: 4, started_by_ms: None });
    let hangs = async {
        until(|| told.exists()).await;
        meanwhile(&service).await;
        running.0.kill().unwrap();
    };
    (tokio::join!(restart, hangs).0, started.exists())
}

#[tokio::test]
async fn a_server_that_took_long_to_stop_is_not_started_in_an_epoch_that_is_over() {
    let scratch = tempfile::tempdir().unwrap();
    let (answer, started) = restarted(scratch.path(), async |service| {
        // It waits for its turn, and whoever has sent it does not wait for it.
        let rejoin = order(service, Order::Rejoin(request(5)));
        assert!(tokio::time::timeout(Duration::from_millis(50), rejoin).await.is_err());
    })
    .await;
    assert_eq!((answer, started), (Response::Refused(Refusal::Stale { highest_epoch: 5 }), false));

    let scratch = tempfile::tempdir().unwrap();
    let (answer, started) = restarted(scratch.path(), async |_| ()).await;
    assert!(matches!(answer, Response::Refused(Refusal::Failed(_))), "{answer:?}");
    assert!(started, "nobody has named another");
}

#[test]
fn what_succeeds_again_and_again_and_is_asked_for_all_the_same_rests() {
    let ended = |ago_ms: u64, failures: u32| Job {
        request: request(5),
        way: None,
        because: String::new(),
        phase: Phase::Done,
        progress: None,
        outcome: Some(Outcome::Succeeded),
        failures,
        missing_wal: false,
        lost: None,
        began_at_ms: 0,
        ended_at_ms: Some(now_ms() - ago_ms),
    };
    assert_eq!(rests(&ended(ASKED_TWICE_MS, 0)), Ok(1), "it has gone astray again");
    assert_eq!(rests(&ended(4 * RETRY_FIRST_MS + 1, 2)), Ok(3));
    let Err(Refusal::Rests { failures: 4, error, .. }) = rests(&ended(4 * RETRY_FIRST_MS, 3)) else {
        panic!("it does not rest");
    };
    assert_eq!(error, UNSEEN);
    assert_eq!(rests(&ended(RETRY_LAST_MS, 9)), Ok(0), "that was long ago");
}
