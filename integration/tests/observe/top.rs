//! `lbctl top` in a real terminal.

use integration::agent::Agent;
use integration::client::dial;
use integration::lab::{self, Lab};
use integration::process::binary;
use integration::screen::{PROMPT, Screen};
use integration::server::Backends;
use integration::spec::{service, services};

fn top(lab: &Lab, environment: &str) -> String {
    format!("{environment} {} --socket {} top", binary("lbctl").display(), lab.socket().display())
}

#[test]
fn the_table_lives_takes_keys_and_leaves_the_terminal_as_it_was() {
    lab::run("top-live", |lab| {
        let servers = Backends::tcp("127.0.0.1", ["a", "b"]);
        let web = service("team/web").frontend("10.96.0.10:80").backends(servers.addresses());
        let dns = service("dns").frontend("10.96.0.11:53").backend(servers.at(0));
        let agent = Agent::start(lab, &services(&[web, dns]));
        let screen = Screen::open(lab.scratch(), 100, 20);
        screen.line(&format!("cd {}; stty -a > before; echo before", lab.scratch().display()));
        screen.until_so("a line", |text| text.lines().any(|line| line == "before"));
        screen.line(&top(lab, ""));
        let shown = screen.until("team/web");
        assert!(shown.contains("lb serving") && shown.contains("2 services"), "{shown}");
        assert!(!shown.contains("before"), "not a screen of its own: {shown}");
        // What happens is seen.
        let open: Vec<_> =
            (0..7).map(|_| dial("10.96.0.10:80".parse().unwrap()).expect("an answer")).collect();
        screen.until("7 active");
        // Sorted by name, and the other way round.
        let in_order = |first: &str, second: &str| {
            let (first, second) = (first.to_owned(), second.to_owned());
            move |text: &str| {
                let place =
                    |name: &str| text.lines().position(|l| l.starts_with(&format!(" {name} ")));
                place(&first).is_some_and(|first| place(&second).is_some_and(|s| first < s))
            }
        };
        screen.keys(&["n"]);
        screen.until_so("dns first", in_order("dns", "team/web"));
        screen.keys(&["n"]);
        screen.until_so("dns last", in_order("team/web", "dns"));
        screen.keys(&["c"]);
        // A filter, a service's backends, and back.
        screen.keys(&["/", "w", "e", "b"]);
        screen.until_so("only web", |text| text.contains("/web_") && !text.contains(" dns "));
        screen.keys(&["Enter"]);
        screen.until_so("a filter that is kept", |text| text.contains("/web  1-1 of 1"));
        screen.keys(&["Enter"]);
        let shown = screen.until("team/web > backends");
        for backend in servers.addresses() {
            assert!(shown.contains(&backend.to_string()), "{shown}");
        }
        // Another size.
        screen.resize(60, 12);
        screen.until_so("fewer columns", |text| !text.contains("RTT") && text.contains("SHARE"));
        screen.resize(100, 20);
        screen.until("RTT");
        screen.keys(&["Escape"]);
        screen.until(" dns ");
        screen.keys(&["?"]);
        screen.until("the backends of a service");
        screen.keys(&["x"]);
        // The agent goes away and comes back.
        agent.kill9();
        screen.until("no answer");
        screen.until("what is shown is as it was");
        let _agent = Agent::adopt(lab);
        screen.until("lb serving");
        drop(open);
        for (environment, quit) in [("", "q"), ("NO_COLOR=1 TERM=vt100", "C-c")] {
            screen.keys(&[quit]);
            screen.until_so("the screen of before", |text| {
                text.contains("before") && text.trim_end().ends_with(PROMPT)
            });
            screen.line(&top(lab, environment));
            screen.until("lb serving");
        }
        screen.keys(&["q"]);
        // What is typed before the shell asks for it would be lost.
        screen.until_so("the shell", |text| text.trim_end().ends_with(PROMPT));
        screen.line("stty -a | cmp - before && echo same");
        screen.until_so("the same settings", |text| text.lines().any(|line| line == "same"));
    });
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    lab::run("top-none", |lab| {
        let ran = lab.lbctl(&["top"]);
        assert_eq!(ran.code, Some(64), "{ran:?}");
        assert!(ran.stderr.contains("use `lbctl backends -w`"), "{ran:?}");
        assert_eq!(ran.stdout, "");
        let screen = Screen::open(lab.scratch(), 100, 20);
        screen.line(&format!("cd {}; {}", lab.scratch().display(), top(lab, "TERM=dumb")));
        screen.until("lbctl backends -w");
        // An agent that was never there is a mistake.
        screen.line(&top(lab, ""));
        screen.until("no agent answers");
    });
}
