//! A headless Chromium, driven by WebDriver (W3C, <https://www.w3.org/TR/webdriver2/>): JSON over HTTP, which ureq speaks.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ct_codecs::{Base64, Decoder};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::wait_until;

/// As WebDriver writes keys that are no characters (section 17.4.2).
pub const ENTER: &str = "\u{e007}";
pub const ESCAPE: &str = "\u{e00c}";
pub const TAB: &str = "\u{e004}";
pub const LEFT: &str = "\u{e012}";
pub const UP: &str = "\u{e013}";
pub const RIGHT: &str = "\u{e014}";
pub const DOWN: &str = "\u{e015}";

const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one tab. Dropping it ends it.
pub struct Browser {
    driver: Child,
    driver_url: String,
    session: String,
    /// Gone when the browser is.
    _profile: TempDir,
}

impl Browser {
    /// A browser that shows `url`.
    pub fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let (driver, driver_url) = start_driver();
        let mut browser = Self { driver, driver_url, session: String::new(), _profile: profile };
        let arguments = [
            "--headless=new",
            // The tests run as root, and the pages are our own.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--force-color-profile=srgb",
            "--window-size=1400,1000",
            &format!("--user-data-dir={}", browser._profile.path().display()),
        ];
        let wanted =
            json!({"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}});
        let answer = browser.command("", &json!({"capabilities": {"alwaysMatch": wanted}}));
        browser.session = answer["sessionId"].as_str().unwrap().to_owned();
        browser.go(url);
        browser
    }

    pub fn go(&self, url: &str) {
        self.command("/url", &json!({"url": url}));
    }

    /// The value of a JavaScript expression.
    pub fn value(&self, expression: &str) -> Value {
        self.command("/execute/sync", &json!({"script": format!("return {expression};"), "args": []}))
    }

    /// Waits until an expression is true.
    pub fn wait_for(&self, expression: &str) {
        let is_true = wait_until(|| self.value(&format!("!!({expression})")) == true);
        assert!(is_true, "never true: {expression}\n{}", self.value("document.body.innerText"));
    }

    /// The text of the first element that a CSS selector finds, whether it is on the screen now or not.
    pub fn text(&self, selector: &str) -> String {
        let element = json!(selector);
        self.value(&format!("document.querySelector({element})?.textContent ?? null"))
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Waits until an element has a text in it.
    pub fn wait_for_text(&self, selector: &str, text: &str) {
        let mut found = String::new();
        let is_there = wait_until(|| {
            found = self.text(selector);
            found.contains(text)
        });
        assert!(
            is_there,
            "{text:?} is not in {selector}: {found:?}\n{}",
            self.value("document.body.innerText")
        );
    }

    /// Clicks on an element with the mouse.
    pub fn click(&self, selector: &str) {
        self.command(&format!("/element/{}/click", self.element(selector)), &json!({}));
    }

    /// Types into an element.
    pub fn type_into(&self, selector: &str, text: &str) {
        self.command(&format!("/element/{}/value", self.element(selector)), &json!({"text": text}));
    }

    /// Presses keys, one after the other, wherever the focus is.
    pub fn press(&self, keys: &[&str]) {
        let actions: Vec<_> = keys
            .iter()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key})))
            .collect();
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.command("/actions", &json!({"actions": [keyboard]}));
    }

    /// Makes the window so many CSS pixels wide and high. A real window has a least width, which this has not.
    pub fn resize(&self, width: u32, height: u32) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// As people see it who prefer dark screens.
    pub fn darken(&self) {
        let features = json!([{"name": "prefers-color-scheme", "value": "dark"}]);
        self.devtools("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    /// Errors of the page's own scripts, and what its policy has forbidden.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.command("/se/log", &json!({"type": "browser"}));
        let errors = log.as_array().unwrap().iter().filter(|entry| entry["level"] == "SEVERE");
        errors.map(|entry| entry["message"].to_string()).collect()
    }

    /// With `BOOTNODE_SCREENSHOTS=DIR`, writes what is seen to a file there.
    pub fn screenshot(&self, name: &str) {
        let Some(dir) = std::env::var_os("BOOTNODE_SCREENSHOTS").map(PathBuf::from) else { return };
        let shot = self.devtools("Page.captureScreenshot", &json!({"format": "png"}));
        let png = Base64::decode_to_vec(shot["data"].as_str().unwrap(), None).unwrap();
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{name}.png")), png).unwrap();
    }

    fn devtools(&self, method: &str, parameters: &Value) -> Value {
        self.command("/goog/cdp/execute", &json!({"cmd": method, "params": parameters}))
    }

    fn element(&self, selector: &str) -> String {
        let element = self.command("/element", &json!({"using": "css selector", "value": selector}));
        element.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned()
    }

    fn command(&self, path: &str, parameters: &Value) -> Value {
        let session = if self.session.is_empty() { String::new() } else { format!("/{}", self.session) };
        let url = format!("{}/session{session}{path}", self.driver_url);
        let mut answer =
            agent().post(&url).content_type("application/json").send(parameters.to_string()).unwrap();
        let text = answer.body_mut().with_config().limit(u64::MAX).read_to_string().unwrap();
        assert_eq!(answer.status(), 200, "{path} {parameters}: {text}");
        serde_json::from_str::<Value>(&text).unwrap()["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = agent().delete(format!("{}/session/{}", self.driver_url, self.session)).call();
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into()
}

/// Starts chromedriver on a port of its choice.
fn start_driver() -> (Child, String) {
    let started =
        Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut driver = started.unwrap_or_else(|error| {
        panic!("cannot start chromedriver: {error}\nhint: scripts/setup installs it")
    });
    let lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
    let port = lines.take(20).find_map(|line| {
        Some(line.split_once("started successfully on port ")?.1.trim_end_matches('.').to_owned())
    });
    let Some(port) = port else {
        let _ = driver.kill();
        let _ = driver.wait();
        panic!("chromedriver has not said its port");
    };
    (driver, format!("http://127.0.0.1:{port}"))
}
