//! Debian's Chromium without a screen, driven by its own driver (WebDriver, W3C), and a way for it to a host that wants a
//! client's certificate.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use thimble_spec::api::identity::NODE_NAME;

use crate::free_port;

/// How long the driver may take to be there, and for one command.
const LIMIT: Duration = Duration::from_secs(60);
/// Pause before the next look.
const PAUSE: Duration = Duration::from_millis(300);
/// What keeps the browser from everything but what it is told.
const ALONE: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// Somebody's way to a node: what speaks HTTP to it is let through with their certificate, by TLS. It ends with the value.
pub struct Gate {
    /// Of 127.0.0.1.
    pub port: u16,
    process: Child,
    _directory: TempDir,
}

impl Gate {
    /// To the node at this port of 127.0.0.1, with the certificate in this directory.
    ///
    /// # Panics
    /// `stunnel` is missing.
    pub fn to(node: u16, keys: &Path) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (port, keys) = (free_port(), keys.display());
        let settings = format!(
            "foreground = yes\npid =\n[node]\nclient = yes\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{node}\n\
             cert = {keys}/cert.pem\nkey = {keys}/key.pem\nCAfile = {keys}/ca.pem\nverifyChain = yes\n\
             checkHost = {NODE_NAME}\nsni = {NODE_NAME}\n"
        );
        let file = directory.path().join("stunnel.conf");
        fs::write(&file, settings).expect("it can be written");
        let mut command = Command::new("stunnel");
        command.arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        Self { port, process: command.spawn().expect("stunnel starts: see scripts/setup"), _directory: directory }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A browser; it ends with the value.
pub struct Browser {
    driver: Child,
    session: String,
    pictures: PathBuf,
    _profile: TempDir,
}

impl Browser {
    /// A new one, whose pictures go to this directory; `scripts` says whether pages may have any.
    ///
    /// # Panics
    /// Chromium or its driver are missing.
    pub fn start(pictures: &Path, scripts: bool) -> Self {
        fs::create_dir_all(pictures).expect("a directory");
        let profile = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null());
        let driver = command.spawn().expect("chromedriver starts: see scripts/setup");
        let mut browser = Self {
            driver,
            session: format!("http://127.0.0.1:{port}"),
            pictures: pictures.to_owned(),
            _profile: profile,
        };
        let began = Instant::now();
        while asked("GET", &format!("{}/status", browser.session), None).is_err() {
            assert!(began.elapsed() < LIMIT, "chromedriver does not answer");
            sleep(PAUSE);
        }
        let own = format!("--user-data-dir={}", browser._profile.path().display());
        let arguments: Vec<&str> = ALONE.into_iter().chain([own.as_str(), "--window-size=1100,1200"]).collect();
        // 2: blocked (chrome/browser's content settings).
        let javascript = if scripts { 1 } else { 2 };
        let options = json!({
            "binary": "/usr/bin/chromium",
            "args": arguments,
            "prefs": { "profile.managed_default_content_settings.javascript": javascript },
        });
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } });
        let made = browser.ask("POST", "/session", Some(&wanted));
        browser.session = format!("{}/session/{}", browser.session, made["sessionId"].as_str().expect("a session"));
        browser
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        asked(method, &format!("{}{path}", self.session), body).unwrap_or_else(|why| panic!("{method} {path}: {why}"))
    }

    /// Goes to a page.
    pub fn go(&self, url: &str) {
        self.ask("POST", "/url", Some(&json!({ "url": url })));
    }

    /// The page as it is now, as text.
    pub fn source(&self) -> String {
        self.ask("GET", "/source", None).as_str().unwrap_or_default().to_owned()
    }

    /// What a function says whose body this is.
    pub fn says(&self, body: &str) -> Value {
        self.ask("POST", "/execute/sync", Some(&json!({ "script": body, "args": [] })))
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    /// It is not within `limit`: with the page.
    pub fn wait(&self, expression: &str, limit: Duration) {
        let began = Instant::now();
        while self.says(&format!("return !!({expression});")) != true {
            if began.elapsed() > limit {
                self.picture("failed");
                panic!("not true in time: {expression}: {}", self.says("return document.body.innerText;"));
            }
            sleep(PAUSE);
        }
    }

    /// Clicks on the first element of this CSS selector.
    pub fn click(&self, selector: &str) {
        let found = self.ask("POST", "/element", Some(&json!({ "using": "css selector", "value": selector })));
        let element = found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str);
        let element = element.unwrap_or_else(|| panic!("there is no {selector}: {found}"));
        self.ask("POST", &format!("/element/{element}/click"), Some(&json!({})));
    }

    /// Types on the keyboard, wherever the page has it.
    pub fn types(&self, text: &str) {
        let press = |key: char| [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })];
        let actions: Vec<Value> = text.chars().flat_map(press).collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions });
        self.ask("POST", "/actions", Some(&json!({ "actions": [keyboard] })));
    }

    /// A command of the browser's own protocol (Chrome DevTools Protocol).
    pub fn tell(&self, command: &str, parameters: Value) -> Value {
        self.ask("POST", "/goog/cdp/execute", Some(&json!({ "cmd": command, "params": parameters })))
    }

    /// From now on it is so wide and high, in CSS pixels, and dark or not.
    pub fn looks(&self, width: u32, height: u32, dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.tell("Emulation.setDeviceMetricsOverride", size);
        self.tell("Emulation.setScrollbarsHidden", json!({ "hidden": true }));
        let scheme = json!({ "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } });
        self.tell("Emulation.setEmulatedMedia", json!({ "features": [scheme] }));
    }

    /// Writes a picture of the whole page to NAME.png.
    pub fn picture(&self, name: &str) {
        let whole = json!({ "format": "png", "captureBeyondViewport": true });
        let taken = self.tell("Page.captureScreenshot", whole);
        let place = self.pictures.join(name).with_extension("png");
        let decoded = Command::new("base64").arg("--decode").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut decoded = decoded.expect("base64 starts");
        let (text, mut input) = (taken["data"].clone(), decoded.stdin.take().expect("it is a pipe"));
        let write = std::thread::spawn(move || {
            use std::io::Write as _;
            input.write_all(text.as_str().unwrap_or_default().as_bytes())
        });
        let output = decoded.wait_with_output().expect("it ends");
        write.join().expect("it does not panic").expect("it reads");
        fs::write(place, output.stdout).expect("it can be written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = asked("DELETE", &self.session, None);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// What the driver answers, or why not.
fn asked(method: &str, url: &str, body: Option<&Value>) -> Result<Value, String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", &LIMIT.as_secs().to_string(), "--request", method, url]);
    let text = body.map(Value::to_string);
    command
        .args(text.iter().flat_map(|text| ["--header", "content-type: application/json", "--data-raw", text.as_str()]));
    let output = command.output().map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_slice(&output.stdout).map_err(|_| format!("curl: {}", output.status))?;
    match &answer["value"] {
        Value::Object(value) if value.contains_key("error") => Err(answer.to_string()),
        value => Ok(value.clone()),
    }
}
