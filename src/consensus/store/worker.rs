//! Where the store's blocking work is done.
//!
//! An fsync may take seconds. On a thread of its own it holds up neither the lease nor the probes, which share a thread
//! with raft. A simulation does it in place, so that nothing depends on a scheduler. Invariant: work is done one after the
//! other in the order it was handed in, also work whose caller has gone.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use super::StoreError;
use super::database::Database;

type Job = Box<dyn FnOnce(&mut Option<Database>) + Send>;

#[derive(Debug, Clone)]
pub struct Worker {
    place: Place,
    trouble: Arc<Mutex<Option<StoreError>>>,
}

#[derive(Debug, Clone)]
enum Place {
    Here(Arc<Mutex<Option<Database>>>),
    Thread(Sender<Job>),
}

impl Worker {
    pub fn here(database: Database) -> Self {
        Worker::at(Place::Here(Arc::new(Mutex::new(Some(database)))))
    }

    /// The thread ends when the last clone is dropped.
    pub fn thread(database: Database) -> Result<Self, StoreError> {
        let (jobs, work) = channel::<Job>();
        let run = move || {
            let mut database = Some(database);
            while let Ok(job) = work.recv() {
                job(&mut database);
            }
        };
        let started = thread::Builder::new().name("raft-store".to_owned()).spawn(run);
        started.map_err(|error| StoreError::io("starting the store's thread", &error))?;
        Ok(Worker::at(Place::Thread(jobs)))
    }

    fn at(place: Place) -> Self {
        Worker { place, trouble: Arc::new(Mutex::new(None)) }
    }

    /// Cancel safe in that the work is done all the same.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let trouble = Arc::clone(&self.trouble);
        self.with(move |database| {
            let done = match database {
                Some(database) => work(database),
                None => Err(StoreError::Closed),
            };
            if let Err(error) = &done {
                let mut trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner);
                trouble.get_or_insert_with(|| error.clone());
            }
            done
        })
        .await
        .unwrap_or(Err(StoreError::Closed))
    }

    /// The first error there was: raft, which stops on any, keeps only its text.
    pub fn trouble(&self) -> Option<StoreError> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes the file. Whatever is asked afterwards fails with [`StoreError::Closed`].
    pub async fn close(&self) {
        self.with(|database| drop(database.take())).await;
    }

    /// None: the thread is gone.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Option<Database>) -> T + Send + 'static,
    ) -> Option<T> {
        match &self.place {
            Place::Here(database) => Some(work(&mut database.lock().unwrap_or_else(PoisonError::into_inner))),
            Place::Thread(jobs) => {
                let (answer, answered) = oneshot::channel();
                let job = move |database: &mut Option<Database>| drop(answer.send(work(database)));
                jobs.send(Box::new(job)).ok()?;
                answered.await.ok()
            }
        }
    }
}
