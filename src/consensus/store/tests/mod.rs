//! The store against raft's own suite, and against disks that fail.

mod conformance;
mod crash;
mod damage;
mod disk;
mod full;
mod history;
