use super::*;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;

#[test]
fn checks_read_and_print() {
    for (text, printed) in [
        ("tcp", "tcp"),
        ("http://localhost:8080", "http://localhost:8080/"),
        ("http://[::1]:8080/up?x=1", "http://[::1]:8080/up?x=1"),
        ("http://web/up", "http://web:80/up"),
        ("http://[::1]", "http://[::1]:80/"),
        ("exec:test -e /x", "exec:test -e /x"),
    ] {
        assert_eq!(text.parse::<Check>().unwrap().to_string(), printed);
    }
    for text in [
        "",
        "exec:",
        "exec: ",
        "https://x",
        "http://",
        "http://:80/",
        "udp",
        "http://a:0/",
        "http://a:x/",
        "http://u:p@a:80/",
    ] {
        let error = text.parse::<Check>().unwrap_err();
        assert!(error.contains("write tcp, http://HOST:PORT/PATH or exec:COMMAND"), "{error}");
    }
}

#[test]
fn results_in_a_row_count() {
    let mut tally = Tally::default();
    let seen: String =
        "-+-+--+---+-++-+".chars().map(|c| if tally.count(c == '+') { '+' } else { '-' }).collect();
    assert_eq!(seen, "-++++++++----+++");
}

fn checks(list: &[&str], address: &str) -> Checks {
    Checks {
        list: list.iter().map(|text| text.parse().unwrap()).collect(),
        address: address.parse().unwrap(),
        interval: Duration::from_millis(10),
        timeout: Duration::from_secs(5),
    }
}

async fn error(list: &[&str], address: &str) -> Option<String> {
    checks(list, address).round().await.err().map(|error| format!("{error:#}"))
}

#[tokio::test]
async fn a_port_takes_connections_or_not() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    assert_eq!(error(&["tcp"], &address).await, None);
    // Bound but not listening: nobody else can get the port meanwhile.
    let deaf = tokio::net::TcpSocket::new_v4().unwrap();
    deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = deaf.local_addr().unwrap().to_string();
    let refused = error(&["tcp"], &address).await.unwrap();
    assert!(refused.contains("check tcp: ") && refused.contains("refused"), "{refused}");
}

#[tokio::test]
async fn a_command_ends_well_or_not() {
    assert_eq!(error(&["exec:exit 0", "exec:true"], "127.0.0.1:1").await, None);
    let bad = error(&["exec:true", "exec:exit 3"], "127.0.0.1:1").await.unwrap();
    assert!(bad.contains("check exec:exit 3: exit status: 3"), "{bad}");
    let hasty = Checks {
        timeout: Duration::from_millis(50),
        ..checks(&["exec:sleep 60 & wait"], "127.0.0.1:1")
    };
    let late = format!("{:#}", hasty.round().await.unwrap_err());
    assert!(late.contains("not done in time"), "{late}");
}

#[tokio::test]
async fn a_page_is_there_or_not() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let mut requests = Vec::new();
        for status in ["204 No Content", "302 Found", "503 Busy"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            requests.push(String::from_utf8_lossy(&request[..length]).into_owned());
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
        requests
    });
    let check = format!("http://{address}/up?now");
    let check = [check.as_str()];
    assert_eq!(error(&check, "127.0.0.1:1").await, None);
    assert_eq!(error(&check, "127.0.0.1:1").await, None);
    let busy = error(&check, "127.0.0.1:1").await.unwrap();
    assert!(busy.contains("status 503"), "{busy}");
    let requests = server.join().unwrap();
    assert!(requests[0].starts_with("GET /up?now HTTP/1.1\r\n"), "{requests:?}");
    assert!(requests[0].contains(&format!("host: {address}\r\n")), "{requests:?}");
}

#[tokio::test]
async fn who_wants_to_know_is_told() {
    let (sender, mut verdict) = watch::channel(Verdict::default());
    let following = tokio::spawn(checks(&["exec:true"], "127.0.0.1:1").follow(sender));
    assert!(verdict.wait_for(|verdict| verdict.passing).await.is_ok());
    drop(verdict);
    following.await.unwrap();
}
