//! The manifests in `examples/kubernetes`, as kubectl sees them.

use std::process::Command;

#[test]
fn kubectl_builds_them() {
    let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/kubernetes");
    let output = Command::new("kubectl").args(["kustomize", manifests]).output();
    let output = output.unwrap_or_else(|error| panic!("can't run kubectl ({error}): make setup"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let text = String::from_utf8(output.stdout).unwrap();
    for kind in ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DaemonSet"] {
        assert!(text.contains(&format!("\nkind: {kind}\n")), "{kind}\n{text}");
    }
    assert_eq!(text.matches("image: lb-agent:").count(), 2, "{text}");
    assert_eq!(text.matches("namespace: kube-system").count(), 3, "{text}");
}
