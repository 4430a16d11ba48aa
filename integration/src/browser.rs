//! A real browser without a window, driven by the DevTools protocol over its pipe: messages in JSON,
//! each ended by a zero byte.

use crate::process::kill;
use crate::wait::{wait_for, within};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// How long the browser may take for anything, generously: both CPUs may be busy with load.
const DEADLINE: Duration = Duration::from_secs(60);

/// A browser with one page open; ended on drop.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    commands: RefCell<ChildStdin>,
    messages: Receiver<Value>,
    session: String,
    next: Cell<u64>,
    seen: RefCell<Seen>,
}

/// What the page has done so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What it asked the network for.
    pub requests: Vec<String>,
    /// What it complained of: errors, warnings, exceptions, refusals.
    pub complaints: Vec<String>,
}

// === impl Browser ===

impl Browser {
    /// Starts one in this thread's network namespace, with its files and its log in `scratch`.
    #[track_caller]
    pub fn start(scratch: &Path) -> Self {
        let log = File::create(scratch.join("browser.log")).expect("the directory is writable");
        // The browser takes commands on descriptor 3 and answers on 4.
        let mut child = Command::new("sh")
            .args(["-c", "exec chromium \"$@\" 3<&0 4>&1 </dev/null >&2", "sh"])
            .args(["--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-dev-shm-usage", "--no-first-run", "--disable-extensions"])
            .args(["--disable-background-networking", "--disable-component-update"])
            .arg(format!("--user-data-dir={}", scratch.join("browser").display()))
            .arg("about:blank")
            .env("HOME", scratch)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("a shell can be started");
        let commands = child.stdin.take().expect("a piped stream is there");
        let mut answers = BufReader::new(child.stdout.take().expect("a piped stream is there"));
        let (sender, messages) = channel();
        // It ends with the browser.
        thread::spawn(move || {
            let mut message = Vec::new();
            while answers.read_until(0, &mut message).is_ok_and(|length| length > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else { break };
                if sender.send(value).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            child,
            commands: RefCell::new(commands),
            messages,
            session: String::new(),
            next: Cell::new(1),
            seen: RefCell::default(),
        };
        let target = browser.ask("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.ask("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.ask(&format!("{domain}.enable"), json!({}));
        }
        browser.size(1600, 1000);
        browser
    }

    /// Sets the size of the page, in pixels.
    #[track_caller]
    pub fn size(&self, width: u32, height: u32) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.ask("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Has the page drawn in dark or light.
    #[track_caller]
    pub fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.ask("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Opens an address.
    #[track_caller]
    pub fn open(&self, url: &str) {
        let answer = self.ask("Page.navigate", json!({ "url": url }));
        assert_eq!(answer["errorText"], Value::Null, "{url}");
    }

    /// What an expression comes to in the page.
    #[track_caller]
    pub fn value(&self, expression: &str) -> Value {
        let parameters =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.ask("Runtime.evaluate", parameters);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}");
        answer["result"]["value"].clone()
    }

    /// The same as text.
    #[track_caller]
    pub fn text(&self, expression: &str) -> String {
        match self.value(expression) {
            Value::String(text) => text,
            other => other.to_string(),
        }
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn until(&self, expression: &str) {
        let held = within(DEADLINE, || (self.value(expression) == true).then_some(()));
        assert!(
            held.is_some(),
            "not true after {DEADLINE:?}: {expression}; the page says {}; it has {:?}",
            self.text("document.body.innerText"),
            self.seen()
        );
    }

    /// Presses a key: `a`, `Enter`, `ArrowDown`, `Tab`.
    #[track_caller]
    pub fn press(&self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            "PageUp" => 33,
            "PageDown" => 34,
            "ArrowUp" => 38,
            "ArrowDown" => 40,
            " " => 32,
            _ => 0,
        };
        let text = match key {
            "Enter" => Some("\r"),
            one if one.chars().count() == 1 => Some(one),
            _ => None,
        };
        let mut down = json!({ "type": "keyDown", "key": key, "windowsVirtualKeyCode": code });
        if let Some(text) = text {
            down["text"] = json!(text);
        }
        self.ask("Input.dispatchKeyEvent", down);
        let up = json!({ "type": "keyUp", "key": key, "windowsVirtualKeyCode": code });
        self.ask("Input.dispatchKeyEvent", up);
    }

    /// Types a text.
    #[track_caller]
    pub fn write(&self, text: &str) {
        self.ask("Input.insertText", json!({ "text": text }));
    }

    /// What the page's accessibility tree has with this role: names, in order.
    #[track_caller]
    pub fn named(&self, role: &str) -> Vec<String> {
        let tree = self.ask("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().cloned().unwrap_or_default();
        let wanted = nodes.iter().filter(|node| node["role"]["value"] == role);
        wanted.map(|node| node["name"]["value"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// A picture of the page, as a PNG in base64.
    #[track_caller]
    pub fn picture(&self) -> String {
        let answer = self.ask("Page.captureScreenshot", json!({ "format": "png" }));
        answer["data"].as_str().expect("a picture").to_owned()
    }

    /// What the page has done so far.
    pub fn seen(&self) -> Seen {
        while let Ok(message) = self.messages.try_recv() {
            self.note(&message);
        }
        self.seen.borrow().clone()
    }

    /// Sends a command and waits for its answer.
    #[track_caller]
    fn ask(&self, method: &str, parameters: Value) -> Value {
        let id = self.next.replace(self.next.get() + 1);
        let mut command = json!({ "id": id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        let mut text = command.to_string().into_bytes();
        text.push(0);
        self.commands.borrow_mut().write_all(&text).expect("the browser runs");
        wait_for(&format!("the browser's answer to {method}"), DEADLINE, || {
            let message = self.messages.recv_timeout(DEADLINE).expect("the browser runs");
            self.note(&message);
            (message["id"] == id).then(|| {
                assert_eq!(message["error"], Value::Null, "{method}");
                message["result"].clone()
            })
        })
    }

    fn note(&self, message: &Value) {
        let mut seen = self.seen.borrow_mut();
        let parameters = &message["params"];
        match message["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                let url = parameters["request"]["url"].as_str().unwrap_or_default();
                seen.requests.push(url.to_owned());
            }
            Some("Runtime.exceptionThrown" | "Log.entryAdded") => {
                seen.complaints.push(parameters.to_string());
            }
            Some("Runtime.consoleAPICalled") => seen.complaints.push(parameters.to_string()),
            _ => {}
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked to close, it ends the processes that it has started.
        let close = json!({ "id": 0, "method": "Browser.close" }).to_string() + "\0";
        let asked = self.commands.borrow_mut().write_all(close.as_bytes());
        let ended = within(Duration::from_secs(10), || self.child.try_wait().ok().flatten());
        if asked.is_err() || ended.is_none() {
            kill(&mut self.child);
        }
    }
}
