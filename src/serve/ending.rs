//! What ends or reloads this process from outside, by signal or by order, and how it ends.
//!
//! Invariant: patience with clients only ever gets less: a second wish to end is never weaker than the first.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::clients::Clients;
use crate::admin::control::{Control, Reloaded, StopMode};
use crate::config::Config;
use crate::session::Gateway;
use crate::session::registry::Order;

/// How long sessions that are told to end at once have for their last words.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub enum Told {
    /// Whoever ordered it by the admin socket is answered.
    Reload(Option<oneshot::Sender<Result<Reloaded, String>>>),
    /// Somebody has moved the log's file away.
    ReopenLog,
    RotateLog(oneshot::Sender<Result<PathBuf, String>>),
    End(StopMode),
}

pub struct Wishes {
    hangup: Signal,
    user1: Signal,
    terminate: Signal,
    interrupt: Signal,
    controls: mpsc::Receiver<Control>,
}

impl Wishes {
    pub fn new(controls: mpsc::Receiver<Control>) -> io::Result<Self> {
        Ok(Wishes {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            controls,
        })
    }

    pub async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.hangup.recv() => Told::Reload(None),
            _ = self.user1.recv() => Told::ReopenLog,
            _ = self.terminate.recv() => Told::End(StopMode::Fast),
            _ = self.interrupt.recv() => Told::End(StopMode::Fast),
            Some(control) = self.controls.recv() => match control {
                Control::Reload(answer) => Told::Reload(Some(answer)),
                Control::RotateLog(answer) => Told::RotateLog(answer),
                Control::Stop(mode) => Told::End(mode),
            },
        }
    }

    /// Does what is to be done before clients are waited for, unless it is to end at once. The mode it is to end by then.
    pub async fn unless_immediate(
        &mut self,
        mut mode: StopMode,
        first: impl Future<Output = ()>,
    ) -> StopMode {
        let mut first = std::pin::pin!(first);
        while mode < StopMode::Immediate {
            tokio::select! {
                () = &mut first => break,
                next = self.less_patience(mode) => mode = next,
            }
        }
        mode
    }

    /// The next wish to end while it is under way already in that mode. A second signal means: no more patience.
    async fn less_patience(&mut self, mode: StopMode) -> StopMode {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return StopMode::Immediate,
                _ = self.interrupt.recv() => return StopMode::Immediate,
                Some(control) = self.controls.recv() => match control {
                    Control::Stop(next) if next > mode => return next,
                    Control::Stop(_) => {}
                    Control::Reload(answer) => {
                        let _ = answer.send(Err("this node is stopping".to_owned()));
                    }
                    Control::RotateLog(answer) => {
                        let _ = answer.send(Err("this node is stopping".to_owned()));
                    }
                },
            }
        }
    }
}

/// Turns new clients away, and waits for those that are there as the mode says.
pub async fn drain(
    config: &Config,
    gateway: &Gateway,
    clients: Clients,
    wishes: &mut Wishes,
    mut mode: StopMode,
) {
    clients.close().await;
    let timeout_ms = config.limits.shutdown_timeout_ms;
    while mode < StopMode::Immediate {
        if mode == StopMode::Fast {
            gateway.draining.store(true, Ordering::Release);
        }
        tracing::info!(clients = gateway.sessions.len(), ?mode, timeout_ms, "draining");
        let too_long = async {
            match mode {
                StopMode::Smart => std::future::pending().await,
                StopMode::Fast | StopMode::Immediate => {
                    tokio::time::sleep(Duration::from_millis(timeout_ms)).await;
                }
            }
        };
        tokio::select! {
            () = all_gone(gateway, mode) => return,
            () = too_long => mode = StopMode::Immediate,
            next = wishes.less_patience(mode) => mode = next,
        }
    }
    gateway.draining.store(true, Ordering::Release);
    let left = gateway.sessions.len();
    if left > 0 {
        tracing::warn!(clients = left, "ending the sessions that are left");
        gateway.sessions.tell_all(Order::Stop);
    }
    let last_words = async {
        while !gateway.sessions.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
}

async fn all_gone(gateway: &Gateway, mode: StopMode) {
    while !gateway.sessions.is_empty() {
        if mode == StopMode::Fast {
            // Told again and again: one that was busy when told first is idle some time later.
            gateway.sessions.tell_all(Order::Drain);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_before_the_end_is_given_up_only_to_end_at_once() {
        let (control, controls) = mpsc::channel(4);
        let mut wishes = Wishes::new(controls).unwrap();
        let stop = |mode| control.try_send(Control::Stop(mode)).unwrap();
        stop(StopMode::Fast);
        let (done, until_done) = oneshot::channel::<()>();
        let first = async { drop(until_done.await) };
        let (mode, ()) = tokio::join!(wishes.unless_immediate(StopMode::Smart, first), async {
            while control.capacity() < control.max_capacity() {
                tokio::task::yield_now().await;
            }
            done.send(()).unwrap();
        });
        assert_eq!(mode, StopMode::Fast, "it was told, and what was to be done was done");
        stop(StopMode::Immediate);
        let mode = wishes.unless_immediate(StopMode::Fast, std::future::pending()).await;
        assert_eq!(mode, StopMode::Immediate);
        let mode = wishes.unless_immediate(StopMode::Immediate, std::future::pending()).await;
        assert_eq!(mode, StopMode::Immediate, "nothing is begun");
    }
}
