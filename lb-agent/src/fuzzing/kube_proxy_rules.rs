//! What the tools of iptables and nftables print, of which kube-proxy's part is removed: nothing else may be.

use super::check_shown;
use crate::kubeproxy::cleanup::names::{is_kube_proxys, is_plain};
use crate::kubeproxy::cleanup::{iptables, nft};
use std::collections::BTreeSet;

/// What `iptables-save` or `nft -j` prints.
pub fn kube_proxy_rules(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for batch in iptables::batches(&text) {
        check_shown(batch.left.iter().chain(&batch.kept));
        assert!(is_plain(&batch.table), "{batch:?}");
        check_iptables(&batch, &text);
    }
    let Ok(tables) = nft::tables(&text) else { return };
    assert!(tables.iter().all(|table| is_plain(table.name)), "{tables:?}");
    let nat = nft::Table { family: "ip", name: "nat", whole: false };
    if let Ok(batch) = nft::batch(nat, &text) {
        check_shown(batch.left.iter().chain(&batch.kept));
        check_nft(&batch);
    }
}

/// Chains that are declared (which empties them) and that go are kube-proxy's; rules that go stand in
/// the text.
fn check_iptables(batch: &iptables::Batch, text: &str) {
    let iptables::Batch { table, commands, chains, rules, .. } = batch;
    if commands.is_empty() {
        assert_eq!((*chains, *rules), (0, 0));
        return;
    }
    let inner = commands.strip_prefix(&format!("*{table}\n"));
    let inner = inner.and_then(|rest| rest.strip_suffix("COMMIT\n"));
    let Some(inner) = inner else { panic!("no batch: {commands}") };
    let (mut emptied, mut gone, mut deleted) = (BTreeSet::new(), 0, 0);
    for line in inner.lines() {
        if let Some(chain) = line.strip_prefix(':').and_then(|l| l.strip_suffix(" - [0:0]")) {
            assert!(is_kube_proxys(chain), "{chain} is emptied");
            emptied.insert(chain);
        } else if let Some(rule) = line.strip_prefix("-D ") {
            let printed = text.lines().any(|line| line.strip_prefix("-A ") == Some(rule));
            assert!(printed, "nobody has this rule: {rule:?}");
            assert!(rule.chars().all(|c| c == ' ' || c.is_ascii_graphic()), "{rule:?}");
            deleted += 1;
        } else if let Some(chain) = line.strip_prefix("-X ") {
            assert!(emptied.contains(chain), "{chain} goes");
            gone += 1;
        } else {
            panic!("not a line of a batch: {line:?}");
        }
    }
    assert_eq!((gone, deleted), (*chains, *rules), "{commands}");
}

fn check_nft(batch: &nft::Batch) {
    let (mut emptied, mut gone, mut deleted) = (BTreeSet::new(), 0, 0);
    for line in batch.commands.lines() {
        match *line.split(' ').collect::<Vec<_>>() {
            ["delete", "rule", "ip", "nat", chain, "handle", number] => {
                assert!(is_plain(chain) && number.parse::<u64>().is_ok(), "{line}");
                deleted += 1;
            }
            ["flush", "chain", "ip", "nat", chain] => {
                assert!(is_kube_proxys(chain), "{line}");
                emptied.insert(chain);
            }
            ["delete", "chain", "ip", "nat", chain] => {
                assert!(emptied.contains(chain), "{line}");
                gone += 1;
            }
            _ => panic!("not a line of a batch: {line:?}"),
        }
    }
    assert_eq!((gone, deleted), (batch.chains, batch.rules), "{}", batch.commands);
}
