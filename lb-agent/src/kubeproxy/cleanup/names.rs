//! Which chains in the tables of iptables are kube-proxy's. Pure.
//!
//! Others use the prefix as well: kubelet (`KUBE-FIREWALL`, `KUBE-KUBELET-CANARY`,
//! `KUBE-IPTABLES-HINT`, `KUBE-MARK-DROP`), and network policies (`KUBE-POD-FW-...`,
//! `KUBE-NWPLCY-...`, `KUBE-ROUTER-...`).

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

/// Whether a chain is kube-proxy's. Such a name has letters, digits and dashes only.
pub(super) fn is_kube_proxys(name: &str) -> bool {
    let hash = |hash: &str| {
        !hash.is_empty() && hash.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    };
    WHOLE.contains(&name)
        || BEGINNINGS.iter().any(|beginning| name.strip_prefix(beginning).is_some_and(hash))
}

/// Whether a name, whoever gave it, can stand in a batch.
pub(super) fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && !name.starts_with('-') && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

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
