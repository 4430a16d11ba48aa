//! The status page, in a real browser.

use integration::agent::Agent;
use integration::browser::Browser;
use integration::client::dial;
use integration::lab::{self, Lab};
use integration::server::{Backends, closed};
use integration::spec::{Spec, service, services};
use std::net::SocketAddr;

const TCP: &str = "checks: [{tcp: {interval: 100ms, fast_interval: 50ms}}]";
/// The default address, in the test's own network namespace.
const PAGE: &str = "http://127.0.0.1:9777/";

/// What the first row says.
const FIRST: &str = "(document.querySelector('#list tbody tr')?.innerText ?? '')";

fn open(lab: &Lab) -> Browser {
    let browser = Browser::start(lab.scratch());
    browser.open(PAGE);
    browser.until("document.getElementById('stream')?.dataset.how === 'live'");
    browser
}

/// Nothing is asked of anybody else, and nothing is wrong.
#[track_caller]
fn expect_quiet(browser: &Browser) {
    let seen = browser.seen();
    let elsewhere: Vec<_> = seen
        .requests
        .iter()
        .filter(|url| !url.starts_with(PAGE) && *url != "about:blank")
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    assert!(seen.complaints.is_empty(), "{:#?}", seen.complaints);
}

fn many(number: u32) -> Vec<Spec> {
    let spec = |n: u32| {
        let name = format!("team-{}/service-{n:04}", n % 7);
        let backend = |b: u32| format!("127.1.{}.{}:{}", n / 250, n % 250 + 1, 8000 + b);
        service(name)
            .frontend(format!("10.{}.{}.{}:80", 96 + n / 62_500, n / 250 % 250, n % 250 + 1))
            .backends((0..3).map(backend))
    };
    (0..number).map(spec).collect()
}

#[test]
fn a_thousand_services_are_shown_filtered_and_paged() {
    lab::run("page-many", |lab| {
        let agent = Agent::start(lab, &services(&many(1000)));
        let browser = open(lab);
        browser.until("document.querySelectorAll('#list tbody tr').length === 50");
        assert_eq!(browser.text("document.getElementById('range').textContent"), "1–50 of 1,000");
        assert_eq!(browser.text("document.getElementById('total-services').textContent"), "1,000");
        assert_eq!(
            browser.text("document.getElementById('total-backends').textContent"),
            "3,000/3,000"
        );
        // Everything by keyboard.
        browser.press("/");
        browser.write("service-0777");
        browser.until("document.querySelectorAll('#list tbody tr').length === 1");
        let first = browser.text(FIRST);
        assert!(first.contains("team-0/service-0777"), "{first}");
        assert_eq!(browser.text("document.getElementById('range').textContent"), "1 of 1,000");
        browser.press("Escape");
        browser.until("document.querySelectorAll('#list tbody tr').length === 50");
        browser.press("PageDown");
        browser.until("document.getElementById('range').textContent === '51–100 of 1,000'");
        browser.press("PageUp");
        browser.press("ArrowDown");
        browser.press("ArrowDown");
        let second = "document.querySelectorAll('#list tbody tr')[1].querySelector('button')";
        browser.until(&format!("document.activeElement === {second}"));
        let name = browser.text(&format!("{second}.textContent"));
        browser.press("Enter");
        browser.until("document.activeElement.id === 'details-title'");
        assert_eq!(browser.text("document.getElementById('details-title').textContent"), name);
        browser.until("document.querySelectorAll('#details-backends tbody tr').length === 3");
        browser.press("Escape");
        browser.until(&format!("document.activeElement === {second}"));
        browser.until("document.getElementById('details').hidden");
        // Sorted by name, downwards.
        let by_name = "document.querySelector('#list th[data-sort=name] button')";
        browser.value(&format!("{by_name}.click(); {by_name}.click()"));
        browser.until(&format!("{FIRST}.includes('team-6/service-0993')"));
        let order = "document.querySelector('#list th[data-sort=name]').ariaSort";
        assert_eq!(browser.text(order), "descending");
        expect_quiet(&browser);
        drop(browser);
        // Nobody looks any more: that does not hold up the end.
        assert!(agent.stop().success());
    });
}

#[test]
fn changes_appear_by_themselves() {
    lab::run("page-live", |lab| {
        let servers = Backends::tcp("127.0.0.1", ["a", "b"]);
        let web = |second: SocketAddr| {
            service("web").frontend("10.96.0.10:80").backends([servers.at(0), second]).with(TCP)
        };
        let other = service("other").frontend("10.96.0.11:80").backend(servers.at(0));
        let agent = Agent::start(lab, &services(&[web(servers.at(1)), other.clone()]));
        let browser = open(lab);
        let row = |name: &str| {
            format!(
                "([...document.querySelectorAll('#list tbody tr')]\
                 .find((row) => row.service.row.name === '{name}')?.innerText ?? '')"
            )
        };
        browser.until(&format!("{}.includes('2/2')", row("web")));
        browser.until(r"/heard \d+s ago/.test(document.getElementById('sources').textContent)");
        browser
            .value("document.querySelector('#list tbody').rows[1].querySelector('button').click()");
        browser.until("document.querySelectorAll('#details-backends tbody tr').length === 2");
        let open = (0..5).map(|_| dial("10.96.0.10:80".parse().unwrap()).unwrap());
        let open: Vec<_> = open.collect();
        let cell = |name: &str, at: u32| {
            format!(
                "[...document.querySelectorAll('#list tbody tr')]\
                 .find((row) => row.service.row.name === '{name}').cells[{at}].innerText.trim()"
            )
        };
        browser.until(&format!("{} === '5'", cell("web", 5)));
        drop(open);
        browser.until(&format!("{} === '0'", cell("web", 5)));
        // The plot has something to show.
        browser.until("document.querySelector('#total-plot .line').getAttribute('d').length > 20");
        // A backend that nobody is behind.
        let dead = closed("127.0.0.1");
        agent.reload(&services(&[web(dead), other]));
        browser.until(&format!("{}.includes('1 failing')", row("web")));
        browser.until(&format!("{}.includes('1/2')", row("web")));
        let events = "document.getElementById('events').innerText";
        browser.until(&format!("/{dead} (added, )?failing/.test({events})"));
        // Trouble comes first, and alone if asked.
        browser.value("document.getElementById('trouble').click()");
        browser.until("document.querySelectorAll('#list tbody tr').length === 1");
        expect_quiet(&browser);
        // The agent goes, and comes back.
        agent.kill9();
        browser.until("document.getElementById('stream').dataset.how === 'lost'");
        let _agent = Agent::adopt(lab);
        browser.until("document.getElementById('stream').dataset.how === 'live'");
    });
}

#[test]
fn hostile_texts_are_text_and_who_cannot_see_is_told() {
    lab::run("page-hostile", |lab| {
        let evil = "<img src=x onerror=document.title=1><script>document.title=2</script>";
        let web = service("web")
            .frontend("10.96.0.10:80")
            .backend_with("127.0.0.1:9", format!("zone: \"{evil}\""));
        let long = format!("\"{evil}\\n\\e[2J\\u202e{}\"", "x".repeat(10_000));
        let refused = service(long).frontend("10.96.0.11:80").backend("127.0.0.1:9");
        let _agent = Agent::start(lab, &services(&[web, refused]));
        let browser = open(lab);
        let rejections = "document.getElementById('rejections').innerText";
        browser.until(&format!("{rejections}.includes('<img src=x onerror=')"));
        assert!(browser.text(rejections).len() < 2_000);
        let odd = "/[\\u0000-\\u0009\\u000b-\\u001f\\u202e]/.test(document.body.textContent)";
        assert_eq!(browser.value(odd), false);
        browser.value("document.querySelector('#list tbody button').click()");
        browser
            .until("document.getElementById('details-backends').innerText.includes('zone <img')");
        assert_eq!(browser.value("document.querySelectorAll('img, aside script').length"), 0);
        assert_eq!(browser.text("document.title"), "lb 127.0.0.1:9777");
        // Everything has a role and a name.
        let columns = browser.named("columnheader");
        for column in ["State", "Service", "Connects/s", "Open"] {
            assert!(columns.iter().any(|name| name == column), "{column}: {columns:?}");
        }
        let buttons = browser.named("button");
        assert!(!buttons.iter().any(String::is_empty), "{buttons:?}");
        assert_eq!(browser.named("searchbox"), ["Filter"]);
        assert!(browser.named("table").contains(&"Services".to_owned()));
        assert!(browser.named("log").iter().any(|name| name.starts_with("Events")));
        // Whoever goes through by keyboard gets to the filter first, and sees where they are.
        browser.value("document.activeElement.blur()");
        browser.value("document.querySelector('.skip').focus()");
        browser.press("Tab");
        browser.until("document.activeElement.id === 'filter'");
        let outline = "getComputedStyle(document.activeElement).outlineStyle";
        assert_eq!(browser.text(outline), "solid");
        // Dark and light.
        let ground = || browser.text("getComputedStyle(document.body).backgroundColor");
        browser.prefer("light");
        let light = ground();
        browser.prefer("dark");
        assert_ne!(light, ground());
        expect_quiet(&browser);
    });
}
