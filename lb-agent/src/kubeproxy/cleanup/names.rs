//! Which chains in the tables of iptables are kube-proxy's. Pure.
//!
//! Others use the prefix as well: kubelet (`KUBE-FIREWALL`, `KUBE-KUBELET-CANARY`,
//! `KUBE-IPTABLES-HINT`, `KUBE-MARK-DROP`), and network policies (`KUBE-POD-FW-...`,
//! `KUBE-NWPLCY-...`, `KUBE-ROUTER-...`).

use std::collections::BTreeSet;

/// Chains of every mode.
const WHOLE: [&str; 13] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-FORWARD",
    "KUBE-MARK-MASQ",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-LOAD-BALANCER",
    "KUBE-NODE-PORT",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];

/// Chains of a service or an endpoint: a hash follows.
const BEGINNINGS: [&str; 6] =
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-", "KUBE-SEP-"];

/// Chains that others use too, such as CRI-O's `KUBE-HP-...` and the portmap plugin of CNI: they jump
/// to the first to have a packet marked, and the second masquerades what is marked.
pub(super) const SHARED: [&str; 2] = ["KUBE-MARK-MASQ", "KUBE-POSTROUTING"];

/// Takes the shared chains out of those that go, if a rule of somebody else leads to the first.
/// `jumps` are the chain that a rule is in and its target. Returns what to say of those that stay.
pub(super) fn keep_shared<'a>(
    chains: &mut BTreeSet<String>,
    jumps: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Vec<String> {
    let mut jumps = jumps.into_iter();
    let user = jumps.find(|(chain, target)| *target == SHARED[0] && !is_kube_proxys(chain));
    let Some((user, _)) = user else { return Vec::new() };
    let stay = SHARED.into_iter().filter(|name| chains.remove(*name));
    stay.map(|name| format!("{name}: {user:?}, which is not kube-proxy's, needs it")).collect()
}

/// Whether a chain is kube-proxy's. Such a name has letters, digits and dashes only.
pub(crate) fn is_kube_proxys(name: &str) -> bool {
    let hash = |hash: &str| {
        !hash.is_empty() && hash.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    };
    WHOLE.contains(&name)
        || BEGINNINGS.iter().any(|beginning| name.strip_prefix(beginning).is_some_and(hash))
}

/// Whether a name, whoever gave it, can stand in a batch.
pub(crate) fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && !name.starts_with('-') && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_chains_stay_while_others_use_them() {
        let all = || -> BTreeSet<String> {
            ["KUBE-SERVICES", "KUBE-MARK-MASQ", "KUBE-POSTROUTING"].map(str::to_owned).into()
        };
        for (jumps, stay) in [
            (vec![], 0),
            (vec![("KUBE-SVC-A1", "KUBE-MARK-MASQ"), ("PREROUTING", "KUBE-SERVICES")], 0),
            (vec![("POSTROUTING", "KUBE-POSTROUTING")], 0),
            (vec![("KUBE-HP-A1", "KUBE-MARK-MASQ")], 2),
            (vec![("CNI-HOSTPORT-SETMARK", "KUBE-MARK-MASQ")], 2),
        ] {
            let mut chains = all();
            let kept = keep_shared(&mut chains, jumps.clone());
            assert_eq!((kept.len(), chains.len()), (stay, 3 - stay), "{jumps:?}: {kept:?}");
            assert!(chains.contains("KUBE-SERVICES"), "{jumps:?}");
        }
    }

    #[test]
    fn whose_a_chain_is() {
        for ours in ["KUBE-SERVICES", "KUBE-SVC-TCOU7JCQXEZGVUNU", "KUBE-SEP-A", "KUBE-MARK-MASQ"] {
            assert!(is_kube_proxys(ours) && is_plain(ours), "{ours}");
        }
        for other in [
            "PREROUTING",
            "KUBE-FIREWALL",
            "KUBE-KUBELET-CANARY",
            "KUBE-POD-FW-ABC",
            "KUBE-NWPLCY-ABC",
            "KUBE-ROUTER-INPUT",
            "KUBE-SVC-",
            "KUBE-SVC-A\n-F",
            "KUBE-SVC-a;b",
            "",
        ] {
            assert!(!is_kube_proxys(other), "{other}");
        }
        for bad in ["", "-F", "a b", "a;b", "a\nb", "a\"b"] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
