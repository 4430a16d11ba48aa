//! Services as iptables rules in the shape that kube-proxy gives them: one chain with a rule per
//! service, which leads to a chain that chooses a chain per endpoint. What ours is compared with.

use super::Rule;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// The program that loads them. The other kind makes nftables rules of them, which the kernel takes
/// longer to go through.
const RESTORE: &str = "iptables-legacy-restore";

/// Loads services into the calling thread's namespace, in one transaction.
#[track_caller]
pub fn load_all(services: impl IntoIterator<Item = Rule>) {
    let mut chains = String::from(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n",
    );
    let mut rules = String::from(
        "-A PREROUTING -j KUBE-SERVICES\n\
         -A OUTPUT -j KUBE-SERVICES\n\
         -A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n",
    );
    for (number, Rule { vip, protocol, endpoints }) in services.into_iter().enumerate() {
        let service = format!("KUBE-SVC-{number}");
        writing(writeln!(chains, ":{service} - [0:0]"));
        writing(writeln!(
            rules,
            "-A KUBE-SERVICES -d {}/32 -p {protocol} -m {protocol} --dport {} -j {service}",
            vip.ip(),
            vip.port()
        ));
        for (slot, endpoint) in endpoints.iter().enumerate() {
            let chain = format!("KUBE-SEP-{number}-{slot}");
            writing(writeln!(chains, ":{chain} - [0:0]"));
            let left = endpoints.len() - slot;
            let chance = match left {
                1 => String::new(),
                _ => format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64),
            };
            writing(writeln!(
                rules,
                "-A {service} {chance}-j {chain}\n\
                 -A {chain} -s {}/32 -j KUBE-MARK-MASQ\n\
                 -A {chain} -p {protocol} -m {protocol} -j DNAT --to-destination {endpoint}",
                endpoint.ip()
            ));
        }
    }
    let child = Command::new(RESTORE).arg("--noflush").stdin(Stdio::piped()).spawn();
    let mut child =
        child.unwrap_or_else(|error| panic!("can't run `{RESTORE}` ({error}): install iptables"));
    let script = format!("{chains}{rules}COMMIT\n");
    let written = child.stdin.take().expect("a pipe").write_all(script.as_bytes());
    let status = child.wait().expect("a child can be waited for");
    assert!(status.success(), "{RESTORE}: {status}");
    written.expect("iptables reads all");
}

fn writing(written: std::fmt::Result) {
    written.expect("writing to a string succeeds");
}
