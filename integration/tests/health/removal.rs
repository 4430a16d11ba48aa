//! What is connected to a backend that is removed or disabled: who is told, and who is left alone.

use integration::agent::Agent;
use integration::client::{Call, ask, ask_connected, dial, stream, udp};
use integration::host;
use integration::lab::{self, Lab};
use integration::netns;
use integration::server::{Backends, Kind, any_port};
use integration::spec::{Spec, service, services};
use integration::wait::{eventually, patience};
use socket2::Protocol;
use std::io::{self, Read as _};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const DNS: &str = "10.96.0.10:53";
const DNS6: &str = "[fd00:96::10]:53";
const MAPPED: &str = "[::ffff:10.96.0.10]:53";
const WEB: &str = "10.96.0.20:80";
const WEB_MAPPED: &str = "[::ffff:10.96.0.20]:80";
const CANARY: &str = "10.96.0.30:53";
const DEADLINE: Duration = Duration::from_secs(20);

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A resolver's socket: connected, and it has been answered.
fn connected(to: &str) -> (UdpSocket, String) {
    let socket = udp(if addr(to).is_ipv4() { "0.0.0.0:0" } else { "[::]:0" });
    socket.connect(addr(to)).expect("a UDP socket connects");
    let tag = ask_connected(&socket).expect("an answer").tag;
    (socket, tag)
}

/// Waits until the agent has ended so many sockets.
#[track_caller]
fn ended(agent: &Agent<'_>, udp: u64, tcp: u64) {
    eventually(&format!("{udp} UDP and {tcp} TCP sockets to be ended"), DEADLINE, || {
        let work = agent.status().work;
        assert!(work.destroyed_udp <= udp && work.destroyed_tcp <= tcp, "too many: {work:?}");
        (work.destroyed_udp, work.destroyed_tcp) == (udp, tcp)
    });
}

#[track_caller]
fn is_aborted<T: std::fmt::Debug>(result: io::Result<T>) {
    let error = result.expect_err("the socket was ended");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
}

/// Asked to send, the kernel says that there is no peer before it says why.
#[track_caller]
fn is_cut_off(client: &UdpSocket) {
    let error = client.send(b"question").expect_err("the socket was ended");
    assert_eq!(error.raw_os_error(), Some(libc::EDESTADDRREQ), "{error}");
}

/// A service that is there only to be removed: once its client's socket is ended, those of whatever
/// was removed before have been looked for.
struct Canary {
    backend: Backends,
}

impl Canary {
    fn new() -> Self {
        Self { backend: Backends::udp("127.0.0.1", ["canary"]) }
    }

    fn spec(&self) -> Spec {
        service("canary").udp(CANARY).backend(self.backend.at(0))
    }
}

#[test]
fn a_resolver_whose_server_is_removed_is_told_and_asks_another() {
    lab::run("removal-udp", |lab| {
        let (old, new) = (Backends::udp("127.0.0.1", ["old"]), Backends::udp("127.0.0.1", ["new"]));
        let (old6, new6) = (Backends::udp("::1", ["old"]), Backends::udp("::1", ["new"]));
        let dns = |v4: &Backends, v6: &Backends| {
            services(&[service("dns").udp(DNS).udp(DNS6).backend(v4.at(0)).backend(v6.at(0))])
        };
        let agent = Agent::start(lab, &dns(&old, &old6));
        let clients = [DNS, DNS6, MAPPED].map(|to| (to, connected(to)));
        let senders = [connected(DNS).0, connected(DNS).0];
        // Connected to the same server without our help.
        let direct = udp("0.0.0.0:0");
        direct.connect(old.at(0)).unwrap();
        ask_connected(&direct).unwrap();
        // It was sent to the server once, and is connected to it directly now.
        let (gone_direct, _) = connected(DNS);
        gone_direct.connect(old.at(0)).unwrap();
        // Not connected.
        let free = udp("0.0.0.0:0");
        assert_eq!(ask(&free, addr(DNS)).unwrap().tag, "old");
        let port = free.local_addr().unwrap();

        agent.reload(&dns(&new, &new6));
        ended(&agent, 5, 0);
        for (to, (client, tag)) in clients {
            assert_eq!(tag, "old");
            is_aborted(client.recv(&mut [0; 8]));
            client.connect(addr(to)).unwrap();
            assert_eq!(client.peer_addr().unwrap(), addr(to));
            assert_eq!(ask_connected(&client).unwrap().tag, "new", "{to}");
        }
        // Who sends first learns the reason later, once.
        for client in &senders {
            is_cut_off(client);
            client.connect(addr(DNS)).unwrap();
            is_aborted(client.send(b"question"));
            assert_eq!(ask_connected(client).unwrap().tag, "new");
        }
        drop(senders);
        for bystander in [&direct, &gone_direct] {
            assert_eq!(ask_connected(bystander).unwrap().tag, "old");
        }
        assert_eq!(ask(&free, addr(DNS)).unwrap().tag, "new");
        assert_eq!(free.local_addr().unwrap(), port);
        drop((direct, gone_direct, free));
        agent.expect_no_connections();
        assert!(agent.log().contains("ended sockets"), "{}", agent.log());
    });
}

/// Also of services that are removed as a whole, and sockets remembered in the overflow table.
#[test]
fn a_blocked_call_returns_when_the_service_is_removed() {
    lab::run("removal-blocked", |lab| {
        lab.set_settings("tables: {connections: 2}");
        let names = Backends::udp("127.0.0.1", ["dns"]);
        let pages = Backends::tcp("127.0.0.1", ["web"]);
        let dns = service("dns").udp(DNS).backend(names.at(0));
        let web = service("web").frontend(WEB).backend(pages.at(0)).with("on_removal: reset");
        let agent = Agent::start(lab, &services(&[dns, web]));
        let clients: Vec<UdpSocket> = (0..4).map(|_| connected(DNS).0).collect();
        let calls: Vec<Call> = (0..4).map(|_| dial(addr(WEB)).unwrap()).collect();
        // What ends them is to be the removal, however long that takes.
        let most = Some(DEADLINE * patience());
        clients.iter().for_each(|client| client.set_read_timeout(most).unwrap());
        calls.iter().for_each(|call| call.stream.set_read_timeout(most).unwrap());
        thread::scope(|scope| {
            let waiting: Vec<_> = clients
                .iter()
                .map(|client| scope.spawn(move || client.recv(&mut [0; 8])))
                .chain(
                    calls
                        .iter()
                        .map(|call| scope.spawn(move || (&mut &call.stream).read(&mut [0; 8]))),
                )
                .collect();
            agent.reload(&services(&[]));
            waiting.into_iter().for_each(|call| is_aborted(call.join().unwrap()));
        });
        ended(&agent, 4, 4);
    });
}

/// TCP connections to a removed backend, in the order: dialled, v4-mapped, direct.
fn tcp_of_a_removed_backend(lab: &Lab, settings: &str, reset: bool) {
    let (old, new) = (Backends::tcp("127.0.0.1", ["old"]), Backends::tcp("127.0.0.1", ["new"]));
    let canary = Canary::new();
    let web = |backends: &Backends| {
        let web = service("web").frontend(WEB).backend(backends.at(0));
        if settings.is_empty() { web } else { web.with(settings) }
    };
    let agent = Agent::start(lab, &services(&[web(&old), canary.spec()]));
    let mut calls = [WEB, WEB_MAPPED].map(|to| dial(addr(to)).expect("a connection"));
    let mut direct = dial(old.at(0)).expect("a connection");
    let (canary_client, _) = connected(CANARY);
    agent.reload(&services(&[web(&new)]));
    ended(&agent, 1, if reset { 2 } else { 0 });
    is_cut_off(&canary_client);
    for call in &mut calls {
        if reset {
            is_aborted(call.stream.read(&mut [0; 8]));
        } else {
            assert!(call.echoes("it lives on"));
        }
    }
    assert!(direct.echoes("a bystander"));
    assert_eq!(dial(addr(WEB)).expect("a connection").tag, "new");
}

#[test]
fn tcp_is_ended_where_the_service_says_reset() {
    lab::run("removal-reset", |lab| tcp_of_a_removed_backend(lab, "on_removal: reset", true));
}

#[test]
fn tcp_lives_on_where_the_service_says_drain() {
    lab::run("removal-drain", |lab| tcp_of_a_removed_backend(lab, "", false));
}

#[test]
fn mptcp_connections_are_ended_too() {
    lab::run("removal-mptcp", |lab| {
        if !host::allows_mptcp() {
            // Its sockets are not translated, so none is connected to what is removed.
            return;
        }
        // How long a connection without subflows is kept in case there will be another; older kernels end
        // it at once.
        if Path::new("/proc/sys/net/mptcp/close_timeout").exists() {
            netns::sysctl("mptcp/close_timeout", "1");
        }
        let any = any_port("127.0.0.1");
        let web = Backends::start(Kind::Mptcp, [(any, "web")]);
        let plain = Backends::start(Kind::Tcp, [(any, "plain")]);
        let reset = "on_removal: reset";
        let specs = [
            service("web").frontend(WEB).backend(web.at(0)).with(reset),
            service("plain").frontend("10.96.0.21:80").backend(plain.at(0)).with(reset),
        ];
        let agent = Agent::start(lab, &services(&specs));
        let call = |to: SocketAddr| {
            let socket = stream(to, Protocol::MPTCP);
            socket.connect(&to.into()).unwrap();
            Call::over(socket).unwrap()
        };
        let calls = [WEB, WEB_MAPPED, "10.96.0.21:80"].map(|to| call(addr(to)));
        let mut direct = call(web.at(0));
        agent.reload(&services(&[]));
        ended(&agent, 0, 3);
        let [one, mapped, plain] = calls;
        is_aborted((&mut &plain.stream).read(&mut [0; 8]));
        for call in [one, mapped] {
            let error = (&mut &call.stream).read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotConnected, "{error}");
        }
        assert!(direct.echoes("a bystander"));
    });
}

/// The namespace is that of a thread only: no process of its own leads to it.
#[test]
fn clients_in_other_network_namespaces_are_told() {
    lab::run("removal-netns", |lab| {
        let here = Backends::udp("127.0.0.1", ["here"]);
        let dns = service("dns").udp(DNS).backend(here.at(0));
        let agent = Agent::start(lab, &services(&[dns]));
        let (ready, is_ready) = mpsc::channel();
        let server = here.at(0);
        let elsewhere = move || {
            netns::enter_new();
            let _there = Backends::start(Kind::Udp, [(server, "there")]);
            let (client, tag) = connected(DNS);
            let direct = udp("0.0.0.0:0");
            direct.connect(server).unwrap();
            ready.send(()).unwrap();
            assert_eq!(tag, "there");
            is_aborted(client.recv(&mut [0; 8]));
            assert_eq!(ask_connected(&direct).unwrap().tag, "there");
        };
        thread::scope(|scope| {
            let client = scope.spawn(elsewhere);
            is_ready.recv_timeout(DEADLINE).unwrap();
            agent.reload(&services(&[]));
            ended(&agent, 1, 0);
            client.join().unwrap();
        });
    });
}

/// A backend that is disabled in a service that ends its connections, by whoever may say so.
#[test]
fn disabling_ends_connections_where_the_service_says_reset() {
    lab::run("removal-disable", |lab| {
        let pages = Backends::tcp("127.0.0.1", ["a"]);
        let names = Backends::udp("127.0.0.1", ["a"]);
        let canary = Canary::new();
        let spec = |setting: &str, state: &str| {
            let web = service("web").frontend(WEB).backend_with(pages.at(0), state).with(setting);
            let dns = service("dns").udp(DNS).backend_with(names.at(0), state).with(setting);
            services(&[web, dns, canary.spec()])
        };
        let reset = "on_removal: reset";
        let agent = Agent::start(lab, &spec(reset, "state: ready"));
        let say = |verb: &str| {
            for name in [format!("web/{}", pages.at(0)), format!("dns/{}", names.at(0))] {
                let said = lab.lbctl(&[verb, &name]);
                assert_eq!(said.code, Some(0), "{}", said.stderr);
            }
        };
        let open = || (dial(addr(WEB)).unwrap(), connected(DNS).0);
        let is_told = |(call, client): (Call, UdpSocket)| {
            is_aborted((&mut &call.stream).read(&mut [0; 8]));
            is_cut_off(&client);
        };
        let by_lbctl = open();
        say("disable");
        ended(&agent, 1, 1);
        is_told(by_lbctl);
        say("undrain");
        let by_source = open();
        agent.reload(&spec(reset, "state: disabled"));
        ended(&agent, 2, 2);
        is_told(by_source);

        // Neither to drain, nor to disable where nothing is said, ends anything.
        agent.reload(&spec(reset, "state: ready"));
        let (mut call, client) = open();
        let (canary_client, _) = connected(CANARY);
        say("drain");
        let unaware = spec("on_removal: drain", "state: disabled");
        agent.reload(&unaware.replace(&canary.spec().to_string(), ""));
        ended(&agent, 3, 2);
        is_cut_off(&canary_client);
        assert!(call.echoes("it lives on"));
        assert_eq!(ask_connected(&client).unwrap().tag, "a");
    });
}

/// Another name is no removal.
#[test]
fn a_service_that_gets_another_name_keeps_its_connections() {
    lab::run("removal-rename", |lab| {
        let names = Backends::udp("127.0.0.1", ["a"]);
        let canary = Canary::new();
        let dns = |name: &str| service(name).udp(DNS).backend(names.at(0));
        let agent = Agent::start(lab, &services(&[dns("dns"), canary.spec()]));
        let (client, _) = connected(DNS);
        let (canary_client, _) = connected(CANARY);
        agent.reload(&services(&[dns("names")]));
        ended(&agent, 1, 0);
        is_cut_off(&canary_client);
        assert_eq!(ask_connected(&client).unwrap().tag, "a");
    });
}
