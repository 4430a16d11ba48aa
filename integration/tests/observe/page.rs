//! The status page, in a real browser.

use integration::agent::Agent;
use integration::browser::Browser;
use integration::client::dial;
use integration::http::ask;
use integration::lab::{self, Lab};
use integration::server::{Backends, closed};
use integration::spec::{Spec, service, services};
use integration::wait::within;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

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
        // The plot has a peak, and where nothing happened it is low.
        let plot = "document.querySelector('#total-plot .line').getAttribute('d')";
        browser.until(&format!("/[ML][\\d.]+ 2\\.0/.test({plot})"));
        browser.until(&format!("/L[\\d.]+ 19\\.0$/.test({plot})"));
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
fn nothing_comes_from_elsewhere_and_nothing_may() {
    lab::run("page-policy", |lab| {
        let _agent = Agent::start(lab, "services: []\n");
        let at: SocketAddr = ([127, 0, 0, 1], 9777).into();
        let page = ask(at, "GET /", "").unwrap();
        let policy = page.head.lines().find(|line| line.starts_with("content-security-policy: "));
        let policy = policy.expect("the page has a policy");
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        // All that the page names is served by the agent itself.
        let parts = page
            .body
            .split(['"', ' '])
            .filter(|part| [".js", ".css", ".svg"].iter().any(|ending| part.ends_with(ending)));
        let parts: Vec<&str> = parts.collect();
        assert!(parts.len() >= 3, "{parts:?}");
        for part in parts {
            let answer = ask(at, &format!("GET /{part}"), "").unwrap();
            assert_eq!(answer.code, 200, "{part}");
            let foreign = answer.body.replace("http://www.w3.org/2000/svg", "");
            assert!(!foreign.contains("://"), "{part}");
        }
        // A browser holds to it: what somebody could slip in does not run, and asks nobody.
        let browser = open(lab);
        let slip = "const script = document.createElement('script'); \
             script.textContent = 'document.title = 1'; document.body.append(script);";
        let refused = browser.value(&format!(
            "new Promise((refused) => {{ document.addEventListener('securitypolicyviolation', \
             (event) => refused(event.effectiveDirective)); try {{ {slip} }} catch {{ }} }})"
        ));
        let directives = ["script-src-elem", "require-trusted-types-for"];
        assert!(directives.iter().any(|directive| refused == *directive), "{refused}");
        let asked = "fetch('http://localhost:9777/livez', { mode: 'no-cors' })\
             .then(() => 'answered', () => 'refused')";
        assert_eq!(browser.value(asked), "refused");
        assert_eq!(browser.text("document.title"), "lb 127.0.0.1:9777");
        let seen = browser.seen();
        assert!(seen.complaints.iter().any(|text| text.contains("Content Security Policy")));
    });
}

#[test]
fn a_minute_is_a_minute_also_where_looks_are_rare() {
    lab::run("page-minute", |lab| {
        let _agent = Agent::start(lab, "services: []\n");
        let browser = open(lab);
        // A look every `apart` seconds, at each of which 6 more connects had failed; then the figure.
        let failed = |apart: u32, looks: u32| {
            browser.value(&format!(
                "import('/model.js').then(({{ Model }}) => {{ \
                 const row = (failed) => ({{ id: 1, name: 'web', frontends: [], source: '', level: 'ok', counts: [0, 0, failed, 0] }}); \
                 const model = new Model(); \
                 model.whole({{ at: 0, time: 0, agent: {{}}, rows: [row(100)] }}); \
                 for (let look = 1; look <= {looks}; look += 1) \
                   model.change({{ at: look * {apart} * 1000, time: 0, counts: [[1, [0, 0, 100 + 6 * look, 0]]] }}); \
                 return model.total.failures; }})"
            ))
        };
        for (apart, looks, expected) in
            [(1, 5, 30), (3, 5, 30), (1, 200, 360), (3, 100, 120), (90, 3, 4)]
        {
            assert_eq!(failed(apart, looks), expected, "{looks} looks, {apart} s apart");
        }
        expect_quiet(&browser);
    });
}

/// To be called while an agent serves that many services; `add` adds one.
#[track_caller]
pub(super) fn ten_thousand_services(lab: &Lab, services: u32, add: impl FnOnce()) {
    let browser = Browser::start(lab.scratch());
    browser.open(PAGE);
    let rows = "document.querySelectorAll('#list tbody tr').length";
    let begin = Instant::now();
    browser.until(&format!("{rows} === 50"));
    let shown = begin.elapsed();
    let number = |services: u32| format!("{},{:03}", services / 1000, services % 1000);
    let total = "document.getElementById('total-services').textContent";
    assert_eq!(browser.text(total), number(services));
    // From a key to the picture: what is drawn is asked for, so that it has been.
    let filter = "const filter = document.getElementById('filter'); filter.value = TEXT; \
         const begin = performance.now(); filter.dispatchEvent(new Event('input')); \
         document.body.getBoundingClientRect(); return performance.now() - begin;";
    let filtered = |text: &str| {
        let script = filter.replace("TEXT", &format!("'{text}'"));
        browser.value(&format!("(() => {{ {script} }})()")).as_f64().expect("milliseconds")
    };
    // The best of three each: whoever measures may be kept from running. One after the other, so that each has to
    // be drawn each time.
    let passes = [(); 3].map(|()| ["s", "s9", "s99", "s999", ""].map(filtered));
    let quickest = |text: usize| passes.iter().map(|pass| pass[text]).fold(f64::INFINITY, f64::min);
    let slowest = (0..5).map(quickest).fold(0.0, f64::max);
    filtered("s9999");
    browser.until(&format!("{rows} === 1"));
    filtered("");
    browser.until(&format!("{rows} === 50"));
    add();
    // Looking takes an eighth of the time at most, which is not quick where nothing is optimised.
    let added = format!("{total} === '{}'", number(services + 1));
    let seen = within(Duration::from_secs(300), || (browser.value(&added) == true).then_some(()));
    assert!(seen.is_some(), "{}", browser.text(total));
    let heap = browser.value("performance.memory.usedJSHeapSize").as_u64().expect("bytes");
    let (heap, drawn) = (heap >> 20, browser.value("document.querySelectorAll('*').length"));
    super::ten_thousand::report(&format!(
        "the page: shown after {shown:.1?}, filtered within {slowest:.0} ms, {heap} MiB, {drawn} elements"
    ));
    assert!(slowest < 500.0, "a filter took {slowest} ms");
    assert!(heap < 256, "{heap} MiB");
    // What is not in sight is not there, or each change would cost a second.
    assert!(drawn.as_u64().is_some_and(|drawn| drawn < 3_000), "{drawn} elements");
    let bound = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 5 });
    assert!(shown < bound, "shown after {shown:?}");
    expect_quiet(&browser);
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
        let told = browser.text(rejections);
        assert!(told.len() > 200 && told.len() < 2_000 && told.contains("..."), "{told}");
        // The control characters are there to be seen.
        assert!(told.contains("\\u{1b}[2J") || told.contains("\\n"), "{told}");
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
        for table in ["Backends", "Frontends"] {
            assert!(browser.named("table").contains(&table.to_owned()), "{table}");
        }
        assert!(browser.named("heading").contains(&"web".to_owned()), "the details have a title");
        assert_eq!(browser.named("navigation"), ["Pages of the list"]);
        assert!(browser.named("status").len() >= 2, "what changes is read out");
        // Who follows links gets past the head of the page, and pictures say nothing twice.
        assert!(browser.named("link").contains(&"Skip to the services".to_owned()));
        assert_eq!(browser.named("image"), Vec::<String>::new());
        let sorted = "[...document.querySelectorAll('#list th[aria-sort]')]\
             .map((head) => head.ariaSort).filter((order) => order !== 'none').length";
        assert_eq!(browser.value(sorted), 1);
        // Whoever goes through by keyboard gets to the filter first, and sees where they are.
        browser.value("document.activeElement.blur()");
        browser.value("document.querySelector('.skip').focus()");
        browser.press("Tab");
        browser.until("document.activeElement.id === 'filter'");
        let outline = "getComputedStyle(document.activeElement).outlineStyle";
        assert_eq!(browser.text(outline), "solid");
        // Dark and light.
        let ground = || browser.text("getComputedStyle(document.body).backgroundColor");
        let ink = || browser.text("getComputedStyle(document.body).color");
        let bright = |colour: &str| {
            let numbers =
                colour.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
            numbers.take(3).map(|part| part.parse::<u32>().unwrap()).sum::<u32>() > 3 * 128
        };
        for (scheme, is_light) in [("light", true), ("dark", false)] {
            browser.prefer(scheme);
            assert_eq!(bright(&ground()), is_light, "{scheme}: {}", ground());
            assert_eq!(bright(&ink()), !is_light, "{scheme}: {}", ink());
        }
        expect_quiet(&browser);
    });
}
