//! A real browser, driven over WebDriver (W3C) as a person would: it opens pages, types, presses, and takes pictures.

use std::path::Path;
use std::process::Stdio;

use base64::Engine as _;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::raw_client::Client;
use super::{soon, until};

/// How a reader prefers pages to look.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Width of the window, in CSS pixels.
    pub width: u32,
    /// `light` or `dark`.
    pub scheme: &'static str,
}

/// A browser with one window. Killed when dropped.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
}

impl Browser {
    /// Starts Chromium without a screen.
    pub async fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver, of the Debian package chromium-driver");
        until("chromedriver to listen", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        let mut browser = Self { driver, port, session: String::new() };
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": arguments},
        }}});
        let begun = browser.call("POST", "/session", &wanted).await;
        browser.session = format!("/session/{}", begun["sessionId"].as_str().unwrap());
        browser
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut client = Client::connect(([127, 0, 0, 1], self.port).into()).await;
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let length = body.len();
        let fields =
            format!("Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
        client.send(format!("{method} {path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n{body}")).await;
        let response =
            soon("the browser", client.response_to(method)).await.expect("an answer of the browser");
        let answer: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(response.status, 200, "{path} {body}: {answer}");
        answer["value"].clone()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.call("POST", &format!("{}{path}", self.session), &body).await
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", json!({"cmd": command, "params": parameters})).await
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) {
        self.post("/url", json!({"url": url})).await;
    }

    /// What a script that ends in `return` gives.
    pub async fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({"script": script, "args": []})).await
    }

    /// The text that people see in an element.
    pub async fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({selector:?})?.innerText ?? ''");
        self.run(&script).await.as_str().unwrap().to_owned()
    }

    /// Waits until the text of an element is as it should be.
    pub async fn sees(&self, selector: &str, right: impl Fn(&str) -> bool) {
        until(&format!("{selector} to be right"), async || right(&self.text(selector).await)).await;
    }

    async fn element(&self, selector: &str) -> String {
        let found = self.post("/element", json!({"using": "css selector", "value": selector})).await;
        let (_, id) = found.as_object().unwrap().iter().next().unwrap();
        format!("/element/{}", id.as_str().unwrap())
    }

    /// Presses it with the mouse: it must be there to be seen.
    pub async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        self.post(&format!("{element}/click"), json!({})).await;
    }

    /// Types into it.
    pub async fn write(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.post(&format!("{element}/clear"), json!({})).await;
        self.post(&format!("{element}/value"), json!({"text": text})).await;
    }

    /// Types wherever the focus is; `\u{e004}` is the tabulator.
    pub async fn keys(&self, keys: &str) {
        let presses = keys.chars().flat_map(|key| {
            [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
        });
        let source = json!({"type": "key", "id": "keyboard", "actions": presses.collect::<Vec<_>>()});
        self.post("/actions", json!({"actions": [source]})).await;
    }

    /// Looks at it so from now on.
    pub async fn look(&self, look: Look) {
        let size = json!({"width": look.width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": look.scheme}]});
        self.devtools("Emulation.setEmulatedMedia", scheme).await;
    }

    /// A picture of the page down to that height at most, as PNG.
    pub async fn picture(&self, width: u32, most: u32, to: &Path) {
        let height = self.run("return document.documentElement.scrollHeight").await.as_u64().unwrap();
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height.min(most.into()), "scale": 1});
        let wanted = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let picture = self.devtools("Page.captureScreenshot", wanted).await;
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }

    /// What the browser complained of: errors of scripts, what a policy kept it from, what could not be loaded.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", json!({"type": "browser"})).await;
        let message = |entry: &Value| entry["message"].as_str().unwrap().to_owned();
        log.as_array().unwrap().iter().map(message).collect()
    }

    /// Ends it, and waits until it has.
    pub async fn close(mut self) {
        self.call("DELETE", &self.session, &Value::Null).await;
        let _ = self.driver.kill().await;
    }
}
