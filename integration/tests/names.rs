//! Services by name: the agent's DNS responder asked with dig, its block in a hosts file, and programs
//! that know neither the agent nor an address, and connect.

use integration::agent::Agent;
use integration::lab::{self, Lab};
use integration::netns;
use integration::process::{Finished, Memory, binary, run};
use integration::server::Backends;
use integration::spec::{Spec, service, services};
use integration::wait::{eventually, wait_for};
use lb_agent::status::{NamesKind, NamesStatus};
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);
const SERVER: &str = "127.0.0.1:5354";
/// An /etc/hosts as people have it, without a line end at its end.
const HOSTS: &str =
    "127.0.0.1\tlocalhost\r\n# BEGIN OTHER\n1.2.3.4 x\n# END OTHER\n::1 ip6-localhost";

/// `dig` with these arguments, at the responder.
#[track_caller]
fn dig(lab: &Lab, arguments: &str) -> String {
    let mut command = Command::new("dig");
    command.args(["@127.0.0.1", "-p", "5354", "+time=5", "+tries=1"]);
    let Finished { code, stdout, stderr } = run(command.args(arguments.split(' ')), lab.scratch());
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "dig {arguments}: {stdout}");
    stdout
}

/// What `dig +short` says, a line each, in order.
#[track_caller]
fn short(lab: &Lab, arguments: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        dig(lab, &format!("+short {arguments}")).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The serial of the zone.
#[track_caller]
fn serial(lab: &Lab) -> u32 {
    let soa = short(lab, "lb.internal SOA");
    soa[0].split(' ').nth(2).and_then(|serial| serial.parse().ok()).expect("a serial")
}

/// Runs a shell script with files of its own in the place of those in /etc; nobody else sees them.
fn with_files(lab: &Lab, files: &[(&Path, &str)], script: &str) -> Finished {
    let mounts: String = files
        .iter()
        .map(|(file, place)| format!("mount --bind {} {place} && ", file.display()))
        .collect();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "bash", "-c"]);
    run(command.arg(format!("{mounts}{script}")), lab.scratch())
}

/// What a program is told that dials a service by name, as any program does: it looks the name up
/// with getaddrinfo(3), and connects.
#[track_caller]
fn dial_by_name(lab: &Lab, files: &[(&Path, &str)], name: &str, port: u16) -> String {
    let script = format!("exec 3<>/dev/tcp/{name}/{port} && read -r tag rest <&3 && echo $tag");
    let nsswitch = lab.scratch().join("nsswitch.conf");
    fs::write(&nsswitch, "hosts: files dns\n").expect("the scratch directory is writable");
    let all = [files, &[(nsswitch.as_path(), "/etc/nsswitch.conf")]].concat();
    let Finished { code, stdout, stderr } = with_files(lab, &all, &script);
    assert_eq!(code, Some(0), "{name}: {stdout}{stderr}");
    stdout.trim().to_owned()
}

fn names(agent: &Agent<'_>, kind: NamesKind) -> NamesStatus {
    let found = agent.status().names.into_iter().find(|names| names.kind == kind);
    found.unwrap_or_else(|| panic!("the agent keeps no names in {kind:?}"))
}

/// A service at two addresses, and a backend of each family for it.
fn web(v4: &Backends, v6: &Backends) -> Spec {
    let frontends = service("web").frontend("10.96.0.10:80").frontend("[fd00:96::10]:80");
    frontends.backend(v4.at(0)).backend(v6.at(0))
}

#[test]
fn dig_finds_what_is_served() {
    lab::run("names-dig", |lab| {
        let servers = Backends::tcp("127.0.0.1", ["0"]);
        let (v4, v6) = (Backends::tcp("127.0.0.1", ["v4"]), Backends::tcp("::1", ["v6"]));
        lab.set_settings("names: {dns: true}");
        let dns = service("kube/dns:dns").udp("10.96.0.53:53").backend(servers.at(0));
        let local = service("local").frontend("127.0.0.1:8080").backend(servers.at(0));
        let odd = service("a/b/c").frontend("10.96.0.99:80").backend(servers.at(0));
        let all = services(&[web(&v4, &v6), dns.clone(), local, odd]);
        let agent = Agent::start(lab, &all);
        for (question, answer) in [
            ("web.lb.internal A", vec!["10.96.0.10"]),
            ("web.lb.internal AAAA", vec!["fd00:96::10"]),
            ("+tcp WEB.LB.internal A", vec!["10.96.0.10"]),
            ("web.lb.internal SRV", vec!["0 1 80 web.lb.internal."]),
            ("_tcp.web.lb.internal SRV", vec!["0 1 80 web.lb.internal."]),
            ("_web._tcp.lb.internal SRV", vec!["0 1 80 web.lb.internal."]),
            ("_dns._udp.dns.kube.lb.internal SRV", vec!["0 1 53 dns.kube.lb.internal."]),
            ("dns.kube.lb.internal A", vec!["10.96.0.53"]),
            ("local.lb.internal A", vec!["127.0.0.1"]),
            ("-x 10.96.0.10", vec!["web.lb.internal."]),
            ("-x fd00:96::10", vec!["web.lb.internal."]),
            ("lb.internal NS", vec!["ns.dns.lb.internal."]),
            ("ns.dns.lb.internal A", vec!["127.0.0.1"]),
        ] {
            assert_eq!(short(lab, question), answer, "{question}");
        }
        for (question, parts) in [
            (
                "web.lb.internal SRV",
                vec![
                    "status: NOERROR",
                    "flags: qr aa rd;",
                    "ADDITIONAL: 3",
                    "5\tIN\tAAAA\tfd00:96::10",
                ],
            ),
            // The rest of the zone is denied, with the SOA that says for how long.
            (
                "nope.lb.internal A",
                vec![
                    "status: NXDOMAIN",
                    "AUTHORITY: 1",
                    "IN\tSOA\tns.dns.lb.internal. hostmaster.lb.internal.",
                ],
            ),
            ("web.lb.internal TXT", vec!["status: NOERROR", "ANSWER: 0", "IN\tSOA\tns.dns"]),
            ("kube.lb.internal A", vec!["status: NOERROR", "ANSWER: 0", "IN\tSOA\tns.dns"]),
            ("lb.internal AXFR", vec!["Transfer failed"]),
            ("example.org A", vec!["status: REFUSED", "ANSWER: 0"]),
            ("-x 10.96.0.11", vec!["status: REFUSED"]),
            ("-x 127.0.0.1", vec!["status: REFUSED"]),
            ("+edns=1 +noednsneg web.lb.internal", vec!["status: BADVERS"]),
            ("-c CH web.lb.internal", vec!["status: REFUSED"]),
            (
                "wEb.lB.inTERnal A",
                vec![";wEb.lB.inTERnal.", "\nwEb.lB.inTERnal.\t5\tIN\tA\t10.96.0.10"],
            ),
        ] {
            let told = dig(lab, question);
            for part in parts {
                assert!(told.contains(part), "{question}: no {part} in {told}");
            }
        }
        // What has no name is told, and is served.
        let zone = names(&agent, NamesKind::Zone);
        assert_eq!((zone.place.as_str(), zone.records, zone.error), ("lb.internal", 3, None));
        assert!(zone.problems[0].starts_with("service `a/b/c`: only NAME"), "{:?}", zone.problems);
        let shown = lab.lbctl(&["status"]).stdout;
        assert!(shown.contains("dns    127.0.0.1:5354   3 "), "{shown}");
        assert!(shown.contains("service `a/b/c`"), "{shown}");

        // A change is there as soon as it is served, and can be told from what was.
        let before = serial(lab);
        agent.reload(&services(&[dns]));
        eventually("the name to go", DEADLINE, || {
            dig(lab, "web.lb.internal A").contains("status: NXDOMAIN")
        });
        assert!(serial(lab) > before);
        // Nobody is told that a name is gone because the agent starts anew.
        let before = serial(lab);
        assert_eq!(agent.stop().code(), Some(0));
        let agent = Agent::start(lab, &all);
        assert_eq!(short(lab, "web.lb.internal A"), ["10.96.0.10"]);
        assert!(serial(lab) > before);
        assert_eq!(names(&agent, NamesKind::Dns).error, None);
    });
}

/// An answer that does not fit a datagram sends the client to TCP.
#[test]
fn long_answers_come_by_tcp() {
    lab::run("names-long", |lab| {
        let servers = Backends::tcp("127.0.0.1", ["0"]);
        lab.set_settings("names: {dns: {ttl: 60s}}");
        let many = (1..=100).fold(service("many").backend(servers.at(0)), |many, n| {
            many.frontend(format!("10.96.1.{n}:80"))
        });
        let _agent = Agent::start(lab, &services(&[many]));
        assert_eq!(short(lab, "many.lb.internal A").len(), 100);
        let cut = dig(lab, "+ignore many.lb.internal A");
        assert!(cut.contains("flags: qr aa tc rd;") && cut.contains("ANSWER: 0"), "{cut}");
        assert!(cut.contains("udp: 1232"), "{cut}");
        let whole = dig(lab, "+tcp +keepopen many.lb.internal A");
        assert!(whole.contains("ANSWER: 100") && whole.contains("\t60\tIN\tA\t"), "{whole}");
    });
}

#[test]
fn a_program_connects_by_dns() {
    lab::run("names-resolve", |lab| {
        let (v4, v6) = (Backends::tcp("127.0.0.1", ["v4"]), Backends::tcp("::1", ["v6"]));
        // The port that resolvers ask.
        lab.set_settings("names: {zone: svc.test, dns: {listen: ['127.0.0.77:53', '[::1]:53']}}");
        let only4 = service("team/four").frontend("10.96.0.4:80").backend(v4.at(0));
        let only6 = service("six").frontend("[fd00:96::6]:80").backend(v6.at(0));
        let _agent = Agent::start(lab, &services(&[only4, only6, web(&v4, &v6)]));
        let resolv = lab.scratch().join("resolv.conf");
        for server in ["127.0.0.77", "::1"] {
            fs::write(&resolv, format!("nameserver {server}\nsearch svc.test\n")).unwrap();
            let files = [(resolv.as_path(), "/etc/resolv.conf")];
            assert_eq!(dial_by_name(lab, &files, "four.team.svc.test", 80), "v4");
            assert_eq!(dial_by_name(lab, &files, "six.svc.test", 80), "v6");
            assert_eq!(dial_by_name(lab, &files, "six", 80), "v6");
            assert!(["v4", "v6"].contains(&&*dial_by_name(lab, &files, "web", 80)));
        }
        assert!(v4.hits()[0] >= 2 && v6.hits()[0] >= 4);
    });
}

#[test]
fn a_program_connects_by_the_hosts_file() {
    lab::run("names-hosts", |lab| {
        let (v4, v6) = (Backends::tcp("127.0.0.1", ["v4"]), Backends::tcp("::1", ["v6"]));
        let hosts = lab.scratch().join("hosts");
        fs::write(&hosts, HOSTS).unwrap();
        fs::set_permissions(&hosts, Permissions::from_mode(0o604)).unwrap();
        lab.set_settings("names: {hosts: hosts}");
        let six = service("six").frontend("[fd00:96::6]:80").backend(v6.at(0));
        let agent = Agent::start(lab, &services(&[web(&v4, &v6), six]));
        let text = || fs::read_to_string(&hosts).unwrap();
        let has = |line: &str| text().lines().any(|other| other == line);
        eventually("the names", DEADLINE, || has("10.96.0.10 web.lb.internal"));
        let files = [(hosts.as_path(), "/etc/hosts")];
        assert_eq!(dial_by_name(lab, &files, "six.lb.internal", 80), "v6");
        assert!(["v4", "v6"].contains(&&*dial_by_name(lab, &files, "web.lb.internal", 80)));
        assert!(text().ends_with(HOSTS), "{}", text());
        assert_eq!(fs::metadata(&hosts).unwrap().mode() & 0o7777, 0o604);
        // What others do to the block is repaired; what they do elsewhere stays.
        fs::write(&hosts, format!("9.9.9.9 nine\n{}", text().replace("six.lb.internal", "sixty")))
            .unwrap();
        eventually("the repair", DEADLINE, || has("fd00:96::6 six.lb.internal"));
        assert!(text().starts_with("9.9.9.9 nine\n") && text().ends_with(HOSTS), "{}", text());
        // A block without its end is not guessed about.
        let good = text();
        fs::write(&hosts, good.replace("# END lb-agent\n", "")).unwrap();
        let error = wait_for("a complaint", DEADLINE, || names(&agent, NamesKind::Hosts).error);
        assert!(error.contains("line 2 does not end"), "{error}");
        assert!(agent.status().ready, "names hold up nothing");
        fs::write(&hosts, &good).unwrap();
        eventually("the complaint's end", DEADLINE, || {
            names(&agent, NamesKind::Hosts).error.is_none()
        });
        // Names stay as the services do.
        assert_eq!(agent.stop().code(), Some(0));
        assert_eq!(text(), good);
        assert_eq!(dial_by_name(lab, &files, "six.lb.internal", 80), "v6");
        assert_eq!(lab.lb_agent_on_config("detach").code, Some(0));
        assert_eq!(text(), format!("9.9.9.9 nine\n{HOSTS}"));

        lab.set_settings("names: {hosts: hosts}\ndetach_on_exit: true");
        let agent = Agent::start(lab, &services(&[web(&v4, &v6)]));
        eventually("the names", DEADLINE, || has("10.96.0.10 web.lb.internal"));
        assert_eq!(agent.stop().code(), Some(0));
        assert_eq!(text(), format!("9.9.9.9 nine\n{HOSTS}"));
    });
}

/// In a container the hosts file is a mount, which nothing can take the place of.
#[test]
fn a_mounted_hosts_file_is_written_in_place() {
    lab::run("names-mounted", |lab| {
        let (v4, v6) = (Backends::tcp("127.0.0.1", ["v4"]), Backends::tcp("::1", ["v6"]));
        let hosts = lab.scratch().join("hosts");
        fs::write(&hosts, HOSTS).unwrap();
        lab.set_settings("names: {hosts: hosts}");
        let agent = Agent::start(lab, &services(&[web(&v4, &v6)]));
        eventually("the names", DEADLINE, || {
            fs::read_to_string(&hosts).unwrap().contains("10.96.0.10 web.lb.internal")
        });
        assert_eq!(agent.stop().code(), Some(0));
        let mounted = lab.scratch().join("mounted");
        fs::copy(&hosts, &mounted).unwrap();
        let before = fs::metadata(&mounted).unwrap().ino();
        let detach =
            format!("{} detach -c {}", binary("lb-agent").display(), lab.config_file().display());
        let place = hosts.display().to_string();
        let Finished { code, stdout, stderr } = with_files(lab, &[(&mounted, &place)], &detach);
        assert_eq!((code, stdout.as_str()), (Some(0), "detached\n"), "{stderr}");
        assert_eq!(fs::read_to_string(&mounted).unwrap(), HOSTS);
        assert_eq!(fs::metadata(&mounted).unwrap().ino(), before);
        assert!(fs::read_to_string(&hosts).unwrap().contains("web.lb.internal"), "another file");
        let drafts = fs::read_dir(lab.scratch()).unwrap();
        let draft = |name: &str| name.ends_with(".lb-agent");
        assert!(drafts.flatten().all(|entry| !draft(&entry.file_name().to_string_lossy())));
    });
}

/// Somebody else on the port: shown, tried again, and nothing else minds.
#[test]
fn a_taken_port_holds_up_nothing() {
    lab::run("names-taken", |lab| {
        let (v4, v6) = (Backends::tcp("127.0.0.1", ["v4"]), Backends::tcp("::1", ["v6"]));
        netns::add_address("192.0.2.1");
        let taken = TcpListener::bind(SERVER).unwrap();
        lab.set_settings(
            "names: {dns: {listen: ['127.0.0.1:5354', '192.0.2.1:53', '192.0.2.2:53']}}",
        );
        let agent = Agent::start(lab, &services(&[web(&v4, &v6)]));
        let all = |agent: &Agent<'_>| agent.status().names.into_iter().skip(1).collect::<Vec<_>>();
        eventually("the complaints", DEADLINE, || {
            all(&agent).iter().filter(|names| names.error.is_some()).count() == 2
        });
        let [first, second, third] = all(&agent).try_into().expect("three responders");
        let says =
            |names: &NamesStatus, part| names.error.as_ref().is_some_and(|e| e.contains(part));
        assert!(
            says(&first, "127.0.0.1:5354") && says(&first, "stop it, or choose another"),
            "{first:?}"
        );
        assert_eq!(second.error, None);
        assert!(says(&third, "the host does not have this address"), "{third:?}");
        drop(taken);
        netns::add_address("192.0.2.2");
        eventually("all to listen", DEADLINE, || all(&agent).iter().all(|n| n.error.is_none()));
        assert_eq!(short(lab, "web.lb.internal A"), ["10.96.0.10"]);
    });
}

/// Junk and questions without end, by datagrams and by connections that are left open: they are not waited for.
#[test]
fn a_flood_takes_no_memory() {
    lab::run("names-flood", |lab| {
        let (v4, v6) = (Backends::tcp("127.0.0.1", ["v4"]), Backends::tcp("::1", ["v6"]));
        lab.set_settings("names: {dns: true}");
        let agent = Agent::start(lab, &services(&[web(&v4, &v6)]));
        assert_eq!(short(lab, "web.lb.internal A"), ["10.96.0.10"]);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(SERVER).unwrap();
        let question: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x02lb\
                                \x08internal\x00\x00\x01\x00\x01";
        let flood = |count: usize| {
            for number in 0..count {
                let mut junk = question.to_vec();
                let at = number % (2 * junk.len());
                if let Some(byte) = junk.get_mut(at) {
                    *byte ^= u8::try_from(number % 255).unwrap() + 1;
                }
                socket.send(&junk).unwrap();
            }
            let open = (0..300).filter_map(|_| {
                let mut stream = TcpStream::connect(SERVER).ok()?;
                // The length of a message that never comes.
                stream.write_all(&[0x0f, 0xff, 1]).ok()?;
                Some(stream)
            });
            open.collect::<Vec<_>>()
        };
        let answers = |by: &str| {
            let ask = ["@127.0.0.1", "-p", "5354", by, "+short", "web.lb.internal"];
            run(Command::new("dig").args(ask), lab.scratch()).stdout.trim() == "10.96.0.10"
        };
        // What came first is worked off first; until then there may be no room for another question.
        let worked_off = || eventually("the flood to be over", DEADLINE, || answers("+notcp"));
        // What a first flood takes (buffers, threads) is not what it goes on taking.
        drop(flood(20_000));
        worked_off();
        let most = || Memory::of(agent.pid()).peak << 10;
        let before = most();
        let open = flood(100_000);
        worked_off();
        let after = most();
        assert!(after < before + (4 << 20), "from {before} to {after} bytes");
        assert!(agent.status().ready);
        // They had ten seconds for a question; nobody has closed them.
        eventually("places for connections", 2 * DEADLINE, || answers("+tcp"));
        drop(open);
    });
}
