//! What `nft -j` lists, and the batch that removes kube-proxy's part of it. Pure.
//!
//! Rules are named by their handles, so nothing of what they say is repeated, and a rule that
//! somebody else adds meanwhile is not hit.

use super::names::{is_kube_proxys, is_plain, keep_shared};
use serde_json::Value;
use std::collections::BTreeSet;

/// A table to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) family: &'static str,
    pub(crate) name: &'static str,
    /// All of it is kube-proxy's.
    pub(crate) whole: bool,
}

/// What removes the chains of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// For `nft -f -`; empty if there is nothing to remove.
    pub(crate) commands: String,
    /// Chains that go.
    pub(crate) chains: usize,
    /// Rules in other chains that go.
    pub(crate) rules: usize,
    /// What can't be removed.
    pub(crate) left: Vec<String>,
    /// What stays because others use it.
    pub(crate) kept: Vec<String>,
}

const FAMILIES: [&str; 2] = ["ip", "ip6"];

/// kube-proxy's own table, and those that iptables makes.
const NAMES: [&str; 5] = ["kube-proxy", "filter", "nat", "mangle", "raw"];

/// The tables of `nft -j list tables` that concern kube-proxy.
pub(crate) fn tables(json: &str) -> Result<Vec<Table>, serde_json::Error> {
    let listed = objects(json)?;
    let has = |family: &str, name: &str| {
        let mut tables = listed.iter().filter_map(|object| object.get("table"));
        tables.any(|table| table["family"] == family && table["name"] == name)
    };
    let all = FAMILIES.iter().flat_map(|family| NAMES.iter().map(move |name| (*family, *name)));
    let table = |(family, name)| Table { family, name, whole: name == NAMES[0] };
    Ok(all.filter(|(family, name)| has(family, name)).map(table).collect())
}

/// The batch for a table, from `nft -j list table`.
pub(crate) fn batch(table: Table, json: &str) -> Result<Batch, serde_json::Error> {
    let listed = objects(json)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let chains = listed.iter().filter_map(|object| object.get("chain"));
    let mut chains: BTreeSet<String> =
        chains.map(|chain| text(&chain["name"])).filter(|name| is_kube_proxys(name)).collect();
    let Table { family, name: table, .. } = table;
    let rules = listed.iter().filter_map(|object| object.get("rule"));
    let jumps = rules.filter_map(|rule| Some((rule, text(&rule["chain"]), target(rule)?)));
    let jumps: Vec<_> = jumps.collect();
    let named = jumps.iter().map(|(_, chain, target)| (chain.as_str(), target.as_str()));
    let shared = keep_shared(&mut chains, named);
    let (mut batch, mut kept) = (Batch { kept: shared, ..Batch::default() }, BTreeSet::new());
    let mut commands = String::new();
    for (rule, chain, target) in jumps {
        if chains.contains(&chain) || !chains.contains(&target) {
            continue;
        }
        match rule["handle"].as_u64().filter(|_| is_plain(&chain)) {
            Some(handle) => {
                commands
                    .push_str(&format!("delete rule {family} {table} {chain} handle {handle}\n"));
                batch.rules += 1;
            }
            None => {
                let what = "jumps to it from a chain with an odd name; remove both by hand";
                batch
                    .left
                    .push(format!("nftables table {family} {table}: {target}: a rule {what}"));
                kept.insert(target);
            }
        }
    }
    // All are emptied before the first goes, since they jump to each other.
    for chain in &chains {
        commands.push_str(&format!("flush chain {family} {table} {chain}\n"));
    }
    for chain in chains.iter().filter(|chain| !kept.contains(*chain)) {
        commands.push_str(&format!("delete chain {family} {table} {chain}\n"));
        batch.chains += 1;
    }
    Ok(Batch { commands, ..batch })
}

fn objects(json: &str) -> Result<Vec<Value>, serde_json::Error> {
    let document: Value = serde_json::from_str(json)?;
    Ok(document["nftables"].as_array().cloned().unwrap_or_default())
}

/// The chain that a rule leads to.
fn target(rule: &Value) -> Option<String> {
    let statements = rule["expr"].as_array()?;
    statements.iter().find_map(|statement| {
        let verdict = statement.get("jump").or_else(|| statement.get("goto"))?;
        verdict["target"].as_str().map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NAT: Table = Table { family: "ip", name: "nat", whole: false };

    fn chain(name: &str) -> Value {
        json!({"chain": {"family": "ip", "table": "nat", "name": name}})
    }

    fn rule(chain: &str, handle: u64, target: &str) -> Value {
        let expression = json!([{"xt": null}, {"counter": {}}, {"jump": {"target": target}}]);
        json!({"rule": {"chain": chain, "handle": handle, "expr": expression}})
    }

    #[test]
    fn which_tables() {
        let tables_of = |value: Value| tables(&json!({"nftables": value}).to_string()).unwrap();
        let table = |family: &str, name: &str| json!({"table": {"family": family, "name": name}});
        assert_eq!(tables_of(json!([{"metainfo": {}}])), []);
        let listed = json!([
            table("inet", "filter"),
            table("ip", "nat"),
            table("ip6", "kube-proxy"),
            table("ip", "mine")
        ]);
        let own = Table { family: "ip6", name: "kube-proxy", whole: true };
        assert_eq!(tables_of(listed), [NAT, own]);
        assert!(tables("no json").is_err());
    }

    #[test]
    fn only_what_is_kube_proxys_goes() {
        let listed = json!({"nftables": [
            chain("PREROUTING"), chain("KUBE-SERVICES"), chain("KUBE-SVC-A1"), chain("MINE"),
            chain("KUBE-FIREWALL"),
            rule("PREROUTING", 3, "KUBE-SERVICES"), rule("PREROUTING", 4, "MINE"),
            rule("PREROUTING", 9, "KUBE-FIREWALL"), rule("KUBE-SERVICES", 5, "KUBE-SVC-A1"),
            rule("MINE", 6, "KUBE-SERVICES"),
        ]});
        let batch = batch(NAT, &listed.to_string()).unwrap();
        let commands = "delete rule ip nat PREROUTING handle 3\n\
                        delete rule ip nat MINE handle 6\n\
                        flush chain ip nat KUBE-SERVICES\nflush chain ip nat KUBE-SVC-A1\n\
                        delete chain ip nat KUBE-SERVICES\ndelete chain ip nat KUBE-SVC-A1\n";
        assert_eq!(
            batch,
            Batch { commands: commands.to_owned(), chains: 2, rules: 2, ..Batch::default() }
        );
    }

    #[test]
    fn a_chain_that_others_use_stays_as_it_is() {
        let listed = json!({"nftables": [
            chain("KUBE-HP-A1"), chain("KUBE-MARK-MASQ"), chain("KUBE-POSTROUTING"),
            chain("KUBE-SVC-A1"), rule("KUBE-HP-A1", 1, "KUBE-MARK-MASQ"),
            rule("KUBE-SVC-A1", 2, "KUBE-MARK-MASQ"), rule("POSTROUTING", 3, "KUBE-POSTROUTING"),
        ]});
        let batch = batch(NAT, &listed.to_string()).unwrap();
        let commands = "flush chain ip nat KUBE-SVC-A1\ndelete chain ip nat KUBE-SVC-A1\n";
        assert_eq!(batch.commands, commands);
        assert_eq!((batch.chains, batch.rules, batch.left.len(), batch.kept.len()), (1, 0, 0, 2));
    }

    #[test]
    fn an_odd_name_is_not_repeated() {
        let listed = json!({"nftables": [
            chain("KUBE-SERVICES"), chain("a; flush ruleset"),
            rule("a; flush ruleset", 1, "KUBE-SERVICES"),
        ]});
        let batch = batch(NAT, &listed.to_string()).unwrap();
        assert_eq!(batch.commands, "flush chain ip nat KUBE-SERVICES\n");
        assert_eq!((batch.chains, batch.rules, batch.left.len()), (0, 0, 1));
    }

    #[test]
    fn nothing_to_do_is_nothing() {
        let listed = json!({"nftables": [chain("INPUT"), rule("INPUT", 1, "MINE")]});
        assert_eq!(batch(NAT, &listed.to_string()).unwrap(), Batch::default());
    }
}
