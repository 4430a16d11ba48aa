//! Which kinds of objects there are, and where in the API.

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// Empty for the core group.
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
    /// As in paths: `services`.
    pub(super) plural: &'static str,
    pub(super) short: &'static str,
    pub(super) namespaced: bool,
}

const fn kind(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    namespaced: bool,
) -> Kind {
    Kind { group, version: "v1", kind, plural, short, namespaced }
}

/// All of them.
pub(super) const KINDS: [Kind; 12] = [
    kind("", "Service", "services", "svc", true),
    kind("", "Node", "nodes", "no", false),
    kind("", "Namespace", "namespaces", "ns", false),
    kind("", "ConfigMap", "configmaps", "cm", true),
    kind("", "Event", "events", "ev", true),
    kind("", "ServiceAccount", "serviceaccounts", "sa", true),
    kind("discovery.k8s.io", "EndpointSlice", "endpointslices", "", true),
    kind("networking.k8s.io", "ServiceCIDR", "servicecidrs", "", false),
    kind("events.k8s.io", "Event", "events", "ev", true),
    kind("apps", "DaemonSet", "daemonsets", "ds", true),
    kind("rbac.authorization.k8s.io", "ClusterRole", "clusterroles", "", false),
    kind("rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings", "", false),
];

// === impl Kind ===

impl Kind {
    /// `v1`, `discovery.k8s.io/v1`.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// By `apiVersion` and `kind` of an object.
    pub(super) fn of(api_version: &str, kind: &str) -> Option<&'static Self> {
        KINDS.iter().find(|known| known.kind == kind && known.api_version() == api_version)
    }

    /// By a name that people use: kind or plural. Of two with one name, the first.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|known| known.plural == name || known.kind == name)
    }

    /// By its place in a path.
    pub(super) fn at(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        let here = |known: &&Self| known.group == group && known.version == version;
        KINDS.iter().filter(here).find(|known| known.plural == plural)
    }
}
