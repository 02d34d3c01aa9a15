//! Why an endpoint is as it is: a stable code, and the sentence people read.

use std::fmt;

macro_rules! reasons {
    ($($name:ident $code:literal $sentence:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($name,)* }

        impl Reason {
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// Stable, for people and programs to search for.
            pub fn code(self) -> &'static str {
                match self { $(Reason::$name => $code,)* }
            }

            pub fn sentence(self) -> &'static str {
                match self { $(Reason::$name => $sentence,)* }
            }
        }
    };
}

reasons! {
    ClaimUnknown "claim_unknown" "this node has not heard from the cluster who owns the endpoint";
    LeaseMissing "lease_missing" "this node is named as the owner, but has no lease at the moment";
    Taking "taking" "this node became the owner and is taking the endpoint";
    Held "held" "the endpoint is this node's, and was read back";
    Drift "drift" "somebody else changed the endpoint; it is being repaired";
    Releasing "releasing" "another node became the owner; what is still this node's is being given up";
    Released "released" "nothing of the endpoint is this node's to keep";
    NotYetSeen "not_yet_seen" "the change was accepted but does not show yet";
    Conflict "conflict" "somebody else changed it at the same moment; looking again";
    Throttled "throttled" "the API asks for fewer requests; going on more slowly";
    OutcomeUnknown "outcome_unknown" "no answer came, so the change may or may not have happened; looking again";
    Unreachable "unreachable" "the API cannot be reached, or answers with an error of its own";
    NotPermitted "not_permitted" "this node's role lacks a permission";
    CredentialsRefused "credentials_refused" "this node's credentials are missing, expired or not accepted";
    TargetMissing "target_missing" "what is to be changed does not exist";
    Refused "refused" "the change was refused as invalid";
    Superseded "superseded" "a node with a newer epoch has written here; this node leaves it alone";
    NotOurs "not_ours" "there is something here that komainu did not make and does not replace";
    AddressInsideVpc "address_inside_vpc" "the address belongs to the network's own range, where no route can move it";
    RouteBlackholed "route_blackholed" "the route leads to this node, but AWS calls it a black hole";
    LeaseEndedBeforeSending "lease_ended_before_sending" "the right to change it ended before the request was sent";
    LocalFailed "local_failed" "the operating system refused the change";
    ProgramFailed "program_failed" "the operator's program failed";
    ProgramTimedOut "program_timed_out" "the operator's program did not end in time and was killed";
    ProgramRan "program_ran" "the operator's program ran";
    PermissionMissing "permission_missing" "it could not be done tonight: a permission is missing";
    SourceDestCheckOn "source_dest_check_on" "the network interface drops what is not addressed to itself: turn its source/destination check off";
    AddressNotOnHost "address_not_on_host" "this node's operating system does not have the address, so nothing would answer there";
    QuotaReached "quota_reached" "the account may have no more of what a move would have to make";
    OtherSubnet "other_subnet" "the address is not in the subnet of this node's network interface";
    SecretMissing "secret_missing" "the secret does not exist, or is marked for deletion";
    SecretUnusable "secret_unusable" "the secret does not hold the role's name and password as RDS writes them";
    OtherEngine "other_engine" "the cluster is of another engine than the configuration says";
    ConfirmationLate "confirmation_late" "the change was made, but its spreading was not confirmed in time";
}

impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_manual_lists_each_reason_and_no_other() {
        let page = include_str!("../../docs/escalation.md");
        let (_, page) = page.split_once("\n## Reasons\n").unwrap();
        let listed: Vec<(&str, &str)> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
            .map(|(code, rest)| (code, rest.split(" | ").next().unwrap()))
            .collect();
        let known: Vec<(&str, &str)> = Reason::ALL.iter().map(|r| (r.code(), r.sentence())).collect();
        assert_eq!(listed, known);
        let codes: BTreeSet<_> = known.iter().map(|(code, _)| code).collect();
        assert_eq!(codes.len(), known.len(), "two reasons share a code");
    }
}
