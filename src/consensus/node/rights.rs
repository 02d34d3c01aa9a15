//! What this node may do, and what it lets others do: its election, its lease, and the leases it gives while it leads.
//!
//! Pure. One value behind one lock, because the rules tie the three together: a node that may be voting for another
//! grants nothing, and a leader counts its own quorum as a sign of a leader. Invariant: what it gives as a leader is
//! gone as soon as it is seen not to lead that term.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::state::{Fence, Fenced};
use crate::consensus::election::Election;
use crate::consensus::lease::{Began, Grant, Lease, LeaseSettings, Lessor, Question, Refusal};
use crate::topology::Epoch;

/// Who stands down says nothing for as long as so many elections may take.
const STANDS_DOWN_ELECTIONS: u64 = 3;

#[derive(Debug)]
pub(super) struct Rights {
    settings: LeaseSettings,
    me: u64,
    pub election: Election,
    pub lease: Lease,
    /// A campaign was begun since this node last knew that it does not lead.
    campaigned: bool,
    lead: Option<Lead>,
    /// Until then this node does nothing that a leader does, so that the others elect another one.
    stands_down_until_ms: u64,
}

#[derive(Debug)]
struct Lead {
    term: u64,
    since_ms: u64,
    lessor: Lessor<u64>,
    /// When each node last asked for its lease.
    asked: BTreeMap<u64, u64>,
    /// Endpoints that a node could not take, as it says when it asks.
    unable: BTreeMap<u64, BTreeSet<String>>,
    /// The highest format of the log that each knows.
    log_formats: BTreeMap<u64, u32>,
    /// The version of the cluster's configuration that each goes by.
    configurations: BTreeMap<u64, u64>,
    /// Which entry fences what, as far as this lead has seen it applied.
    fences: BTreeMap<(String, Epoch), u64>,
}

/// What the replication library says of itself, as far as rights depend on it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// The term in which this node leads.
    pub leads: Option<u64>,
    pub last_log_index: u64,
    pub voters: Vec<BTreeSet<u64>>,
}

/// The present lead, for whoever decides.
#[derive(Debug, Clone)]
pub struct Leading {
    pub term: u64,
    pub since_ms: u64,
    /// When a quorum was last known to follow.
    pub contact_ms: Option<u64>,
    /// When each node last asked for its lease, by raft id.
    pub asked: BTreeMap<u64, u64>,
    /// Endpoints that a node could not take, by raft id.
    pub unable: BTreeMap<u64, BTreeSet<String>>,
    /// The highest format of the log that each knows, by raft id.
    pub log_formats: BTreeMap<u64, u32>,
    /// The version of the cluster's configuration that each goes by, by raft id.
    pub configurations: BTreeMap<u64, u64>,
}

impl Rights {
    pub fn new(settings: LeaseSettings, me: u64, now_ms: u64, seed: u64) -> Self {
        Rights {
            settings,
            me,
            election: Election::new(settings, now_ms, seed),
            lease: Lease::none(&settings),
            campaigned: false,
            lead: None,
            stands_down_until_ms: 0,
        }
    }

    /// Takes in what the library says now. True: this node has begun to lead.
    pub fn look(&mut self, seen: &Seen, now_ms: u64) -> bool {
        let Some(term) = seen.leads else {
            (self.lead, self.stands_down_until_ms) = (None, 0);
            return false;
        };
        let begins = self.lead.as_ref().is_none_or(|lead| lead.term != term);
        if begins {
            let began = if self.campaigned { Began::Elected } else { Began::Resumed };
            // The last entry there is comes after every fence of earlier terms, and of this one.
            let first = seen.last_log_index;
            let voters = seen.voters.clone();
            let lessor = Lessor::new(self.settings, self.me, voters, began, term, first, now_ms);
            self.lead = Some(Lead {
                term,
                since_ms: now_ms,
                lessor,
                asked: BTreeMap::new(),
                unable: BTreeMap::new(),
                log_formats: BTreeMap::new(),
                configurations: BTreeMap::new(),
                fences: BTreeMap::new(),
            });
            self.campaigned = false;
        }
        if let Some(lead) = &mut self.lead {
            lead.lessor.set_voters(seen.voters.clone());
            if let Some(contact_ms) = lead.lessor.contact_ms(now_ms) {
                self.election.heard(contact_ms);
            }
        }
        begins
    }

    /// See [`Election::campaign`].
    pub fn campaign(&mut self, now_ms: u64) -> bool {
        let may = self.election.campaign(now_ms);
        self.campaigned |= may;
        may
    }

    /// A node has accepted what was sent to it in that term at that time.
    pub fn acknowledged(&mut self, term: u64, node: u64, sent_at_ms: u64) {
        if let Some(lead) = self.lead.as_mut().filter(|lead| lead.term == term) {
            lead.lessor.acknowledged(node, sent_at_ms);
        }
    }

    /// Answers a node's question. None: this node does not lead.
    pub fn grant(&mut self, now_ms: u64, node: u64, question: Question) -> Option<Result<Grant, Refusal>> {
        if self.stands_down(now_ms) {
            return None;
        }
        let lead = self.lead.as_mut()?;
        lead.asked.insert(node, now_ms);
        Some(lead.lessor.grant(now_ms, &mut self.election, node, question))
    }

    /// What a node says besides.
    pub fn cannot_take(&mut self, node: u64, endpoints: BTreeSet<String>) {
        if let Some(lead) = &mut self.lead {
            lead.unable.insert(node, endpoints);
        }
    }

    /// The same.
    pub fn knows(&mut self, node: u64, log_format: u32) {
        if let Some(lead) = &mut self.lead {
            lead.log_formats.insert(node, log_format);
        }
    }

    /// The same.
    pub fn goes_by(&mut self, node: u64, configuration: u64) {
        if let Some(lead) = &mut self.lead {
            lead.configurations.insert(node, configuration);
        }
    }

    /// Leaves the lead to whoever the others elect: to them it is as if this node had died, so nothing that leases rest on is
    /// otherwise. If they elect nobody for some elections, it goes on.
    pub fn stand_down(&mut self, now_ms: u64) {
        self.stands_down_until_ms = now_ms + STANDS_DOWN_ELECTIONS * self.settings.election_timeout_max_ms;
    }

    pub fn stands_down(&self, now_ms: u64) -> bool {
        now_ms < self.stands_down_until_ms
    }

    pub fn leading(&self, now_ms: u64) -> Option<Leading> {
        let lead = self.lead.as_ref().filter(|_| !self.stands_down(now_ms))?;
        Some(Leading {
            term: lead.term,
            since_ms: lead.since_ms,
            contact_ms: lead.lessor.contact_ms(now_ms),
            asked: lead.asked.clone(),
            unable: lead.unable.clone(),
            log_formats: lead.log_formats.clone(),
            configurations: lead.configurations.clone(),
        })
    }

    /// Whether nobody can act any more on what a fence ends, which was applied here at `applied` or before.
    pub fn fence_passed(&mut self, fence: &Fence, applied: u64, now_ms: u64) -> bool {
        let Some(lead) = &mut self.lead else { return false };
        let index = *lead.fences.entry((key(&fence.fenced), fence.epoch)).or_insert(applied);
        lead.lessor.fence(index);
        lead.lessor.fence_passed(index, now_ms)
    }
}

fn key(fenced: &Fenced) -> String {
    match fenced {
        Fenced::Primary => "primary".to_owned(),
        Fenced::Endpoint(name) => format!("endpoint {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: LeaseSettings = LeaseSettings {
        heartbeat_ms: 150,
        election_timeout_min_ms: 900,
        election_timeout_max_ms: 1200,
        lease_ms: 900,
        drift_margin_ms: 200,
    };

    fn rights() -> Rights {
        Rights::new(SETTINGS, 1, 0, 7)
    }

    fn leads(term: u64, last_log_index: u64) -> Seen {
        Seen { leads: Some(term), last_log_index, voters: vec![BTreeSet::from([1, 2, 3])] }
    }

    fn fence(epoch: u64) -> Fence {
        Fence {
            fenced: Fenced::Endpoint("app".to_owned()),
            epoch: Epoch(epoch),
            opened_at_ms: 0,
            confirmed_by: BTreeSet::new(),
            passed: false,
        }
    }

    #[test]
    fn only_who_leads_grants_and_a_new_term_begins_anew() {
        let mut rights = rights();
        let question = Lease::asked(2000, 9);
        assert_eq!(rights.grant(2000, 2, question), None);
        assert!(rights.campaign(5000));
        rights.election.begun();
        assert!(rights.look(&leads(3, 9), 5000));
        assert!(!rights.look(&leads(3, 9), 5050), "it leads already");
        assert!(matches!(rights.grant(5100, 2, question), Some(Err(Refusal::NoQuorumYet))));
        rights.acknowledged(2, 2, 5090);
        assert!(matches!(rights.grant(5100, 2, question), Some(Err(Refusal::NoQuorumYet))), "another term's");
        rights.acknowledged(3, 2, 5090);
        assert!(matches!(rights.grant(5100, 2, question), Some(Ok(_))));
        assert!(rights.look(&leads(4, 12), 5200));
        assert!(matches!(rights.grant(5200, 2, question), Some(Err(Refusal::NoQuorumYet))));
        rights.look(&Seen { leads: None, ..leads(0, 12) }, 5300);
        assert_eq!(rights.grant(5300, 2, question), None);
    }

    #[test]
    fn a_leader_that_did_not_campaign_waits_for_what_it_may_have_granted() {
        for (campaigns, waits) in [(true, false), (false, true)] {
            let mut rights = rights();
            if campaigns {
                assert!(rights.campaign(5000));
                rights.election.begun();
            }
            rights.look(&leads(3, 9), 5000);
            assert_eq!(rights.fence_passed(&fence(1), 9, 5000), !waits);
            assert!(rights.fence_passed(&fence(1), 9, 5000 + 900 + 200));
        }
    }

    #[test]
    fn a_fence_waits_for_who_was_granted_a_lease_and_has_not_applied_it() {
        let mut rights = rights();
        assert!(rights.campaign(5000));
        rights.election.begun();
        rights.look(&leads(3, 9), 5000);
        rights.acknowledged(3, 2, 5000);
        assert!(matches!(rights.grant(5000, 2, Lease::asked(0, 9)), Some(Ok(_))));
        // It was seen applied at 12; that more is applied later does not move it.
        assert!(!rights.fence_passed(&fence(1), 12, 5100));
        assert!(!rights.fence_passed(&fence(1), 13, 5200));
        rights.acknowledged(3, 2, 5200);
        assert!(matches!(rights.grant(5200, 2, Lease::asked(0, 12)), Some(Ok(_))));
        assert!(rights.fence_passed(&fence(1), 13, 5200), "it has confirmed");
    }

    #[test]
    fn a_leader_that_hears_its_quorum_votes_for_nobody() {
        let mut rights = rights();
        assert!(rights.campaign(5000));
        rights.election.begun();
        rights.look(&leads(3, 9), 5000);
        rights.acknowledged(3, 2, 6000);
        rights.look(&leads(3, 9), 6010);
        assert!(rights.election.judge_vote(6100).is_err());
    }
}
