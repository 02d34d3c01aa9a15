//! Who belongs to the cluster.
//!
//! Pure. The raft membership says who votes now; this says who a node is: its name, its life, its address. Invariant: a
//! raft id is never used twice, so a node that lost its memory can only come back as somebody new.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::incidents::Entry;
use super::{Accepted, Refusal};

/// Proxies beside application servers are members too.
pub const MAX_MEMBERS: usize = 1024;
/// More would make every decision slower and none safer.
pub const MAX_VOTERS: usize = 7;
/// Of an address as `host:port`: a DNS name has at most 253.
const MAX_ADDRESS: usize = 270;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    Voter,
    /// Learns and never votes.
    Proxy,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: String,
    pub raft_id: u64,
    /// Which life of the node this is: raised by `node replace`.
    pub incarnation: u64,
    pub address: String,
    pub role: MemberRole,
}

#[cfg(test)]
impl Member {
    /// In its first life.
    pub fn voter(id: &str, raft_id: u64) -> Member {
        let (id, address) = (id.to_owned(), format!("{id}:1"));
        Member { id, raft_id, incarnation: 1, address, role: MemberRole::Voter }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Members {
    all: BTreeMap<String, Member>,
    /// Ever used.
    highest_raft_id: u64,
}

impl Members {
    pub fn all(&self) -> &BTreeMap<String, Member> {
        &self.all
    }

    pub fn get(&self, id: &str) -> Result<&Member, Refusal> {
        self.all.get(id).ok_or_else(|| Refusal::NoMember { id: id.to_owned() })
    }

    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.all.values().filter(|member| member.role == MemberRole::Voter)
    }

    pub(super) fn add(&mut self, member: &Member) -> Result<(Accepted, Option<Entry>), Refusal> {
        if self.all.contains_key(&member.id) {
            return Err(Refusal::MemberExists { id: member.id.clone() });
        }
        if self.all.len() >= MAX_MEMBERS {
            return Err(Refusal::TooMuch {
                what: "the number of members".to_owned(),
                limit: MAX_MEMBERS as u64,
            });
        }
        self.insert(member)?;
        noted(member, "joined")
    }

    pub(super) fn replace(
        &mut self,
        incarnation: u64,
        member: &Member,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let current = self.expect(&member.id, incarnation)?.incarnation;
        if member.incarnation <= current {
            return Err(Refusal::IncarnationNotNew { id: member.id.clone(), current });
        }
        self.insert(member)?;
        noted(member, "replaced")
    }

    pub(super) fn update(
        &mut self,
        id: &str,
        incarnation: u64,
        address: &str,
        role: MemberRole,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        check_address(address)?;
        self.check_voters(id, role)?;
        let member = self.expect(id, incarnation)?;
        if member.address == address && member.role == role {
            return Ok((Accepted::Unchanged, None));
        }
        member.address = address.to_owned();
        member.role = role;
        let member = member.clone();
        noted(&member, "changed")
    }

    pub(super) fn remove(
        &mut self,
        id: &str,
        incarnation: u64,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let member = self.expect(id, incarnation)?.clone();
        self.all.remove(id);
        noted(&member, "removed")
    }

    fn expect(&mut self, id: &str, expected: u64) -> Result<&mut Member, Refusal> {
        let member = self.all.get_mut(id).ok_or_else(|| Refusal::NoMember { id: id.to_owned() })?;
        match member.incarnation == expected {
            true => Ok(member),
            false => {
                let current = member.incarnation;
                Err(Refusal::StaleIncarnation { id: id.to_owned(), expected, current })
            }
        }
    }

    fn insert(&mut self, member: &Member) -> Result<(), Refusal> {
        check_address(&member.address)?;
        self.check_voters(&member.id, member.role)?;
        if member.raft_id <= self.highest_raft_id {
            let next = self.highest_raft_id.saturating_add(1);
            return Err(Refusal::RaftIdUsed { raft_id: member.raft_id, next });
        }
        self.highest_raft_id = member.raft_id;
        self.all.insert(member.id.clone(), member.clone());
        Ok(())
    }

    fn check_voters(&self, id: &str, role: MemberRole) -> Result<(), Refusal> {
        let others = self.voters().filter(|voter| voter.id != id).count();
        match role == MemberRole::Voter && others >= MAX_VOTERS {
            true => {
                Err(Refusal::TooMuch { what: "the number of voters".to_owned(), limit: MAX_VOTERS as u64 })
            }
            false => Ok(()),
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let mut ids: Vec<u64> = self.all.values().map(|member| member.raft_id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("two members have the same raft id".to_owned());
        }
        match ids.last() > Some(&self.highest_raft_id) {
            true => Err("a member's raft id is above the highest ever used".to_owned()),
            false => Ok(()),
        }
    }
}

fn check_address(address: &str) -> Result<(), Refusal> {
    match address.len() > MAX_ADDRESS {
        true => {
            Err(Refusal::TooMuch { what: "the length of an address".to_owned(), limit: MAX_ADDRESS as u64 })
        }
        false => Ok(()),
    }
}

fn noted(member: &Member, what: &str) -> Result<(Accepted, Option<Entry>), Refusal> {
    let Member { id, raft_id, incarnation, address, role } = member;
    let role = match role {
        MemberRole::Voter => "voter",
        MemberRole::Proxy => "proxy",
    };
    let text = format!("{role} {id} {what}: {address}, incarnation {incarnation}, raft id {raft_id}");
    Ok((Accepted::Changed, Some(Entry { subject: id.clone(), text })))
}
