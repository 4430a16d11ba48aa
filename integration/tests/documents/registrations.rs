//! The sessions of `docs/register.md` are played. What registers goes on until it is stopped, so that each of
//! them is waited for until it has said what the page says next.

use crate::page::{Block, page};
use crate::scene::{ETCD, Scene};
use integration::lab;
use std::fs;

/// What the check finds at first nobody behind.
const SERVER: &str = r#"perl -MIO::Socket::INET -e '
    my $door = IO::Socket::INET->new(LocalAddr => "10.0.0.5:8080", Listen => 9, ReuseAddr => 1) or die "listen: $!";
    while (my $call = $door->accept) { close $call }' &
"#;

#[test]
fn registrations_are_as_shown() {
    lab::run("registrations", |lab| {
        let scene = Scene::new(lab).without_backends().with_etcd();
        let scene = scene.variable("LB_ETCD_ENDPOINTS", ETCD);
        let page = page("docs/register.md");
        let blocks = page.blocks();
        let blocks: Vec<&Block<'_>> =
            blocks.iter().filter(|block| block.language == "console").collect();
        let [command, check, taken, by_hand, key] = blocks[..] else {
            panic!("another session was added: play it, too")
        };
        let typed: Vec<&str> = [command, by_hand, key].into_iter().flat_map(typed).collect();
        let [register, by_id, by_address, get] = typed[..] else { panic!("{typed:?}") };
        // Killed, it leaves its key.
        let script = format!(
            "until_said() {{ until grep -q \"$1\" $2; do kill -0 $registrar; sleep 0.02; done; }}\n\
             end() {{ kill -9 $registrar; wait $registrar || true; }}\n\
             lbctl register --service web --address 10.0.0.5:8080 --check tcp 2> check &\n\
             registrar=$!; until_said 'not registered' check\n\
             {SERVER}until_said '^lbctl: registered' check; end\n\
             {by_id} > by-hand\n\
             {register} 2> command &\n\
             registrar=$!; until_said '^lbctl: registered' command\n\
             {get} > key; end\n\
             {by_address} >> by-hand\n\
             lbctl register --service web --id a --address 10.0.0.5:8080 --ttl 2s 2> taken &\n\
             registrar=$!; until_said '^lbctl: registered' taken\n\
             etcdctl put /lb/backends/web/a \
             '{{\"address\": \"10.0.0.6:8080\", \"registered_by\": \"host-6/77\"}}' > /dev/null\n\
             until_said 'was taken over' taken; end\n"
        );
        let finished = scene.run(&script);
        let said = |name: &str| fs::read_to_string(scene.home().join(name)).unwrap_or_default();
        let all = ["check", "by-hand", "command", "key", "taken"].map(said);
        assert_eq!(finished.code, Some(0), "{finished:?}\n{all:?}");
        for (name, block) in [
            ("check", check),
            ("by-hand", by_hand),
            ("command", command),
            ("key", key),
            ("taken", taken),
        ] {
            let (shown, real) = (shown(&block.text), shown(&said(name)));
            // The last session begins before what the page shows of it.
            let real = &real[real.len().saturating_sub(shown.len())..];
            assert_eq!(real, shown, "docs/register.md:{}", block.line);
        }
    });
}

fn typed<'b>(block: &'b Block<'_>) -> impl Iterator<Item = &'b str> {
    block.text.lines().filter_map(|line| line.strip_prefix("$ "))
}

/// What was printed, but for what is another each time: leases, and who registered.
fn shown(text: &str) -> Vec<String> {
    let printed = text.lines().filter(|line| !line.starts_with("$ "));
    printed
        .map(|line| {
            let line = line.split(", lease ").next().unwrap_or_default();
            match line.split_once(r#""registered_by":"#) {
                Some((before, _)) => before.to_owned(),
                None => line.to_owned(),
            }
        })
        .collect()
}
