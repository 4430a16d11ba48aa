//! What kube-proxy counts of the tools that it calls. None are called here, so all of it is 0: dashboards
//! and alerts that name it find it.

use super::{FAMILIES, Label, add};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// kube-proxy's tables of iptables.
const TABLES: [&str; 2] = ["filter", "nat"];

/// Registers it.
pub(super) fn register(registry: &mut Registry) {
    let rules = Family::<Label<2>, Gauge>::default();
    for [family] in FAMILIES {
        for table in TABLES {
            drop(rules.get_or_create(&[family, ("table", table)]));
        }
    }
    let help = "Rules of iptables: there are none";
    add(registry, "sync_proxy_rules_iptables_total", help, rules.clone());
    let help = "Rules of iptables that the last change wrote: there are none";
    add(registry, "sync_proxy_rules_iptables_last", help, rules);
    let restored = Family::<Label<1>, Counter>::default();
    FAMILIES.iter().for_each(|label| drop(restored.get_or_create(label)));
    let help = "Failures of iptables-restore, which is not called";
    add(registry, "sync_proxy_rules_iptables_restore_failures", help, restored.clone());
    add(registry, "sync_proxy_rules_iptables_partial_restore_failures", help, restored);
    let help = "Packets to NodePorts on loopback: sockets that dial these send none there";
    let accepted = Counter::<u64>::default();
    add(registry, "iptables_localhost_nodeports_accepted_packets", help, accepted);
    let help = "Failures to remove what is not wanted any more, which goes with the change itself";
    add(registry, "sync_proxy_rules_nftables_cleanup_failures", help, Counter::<u64>::default());
}
