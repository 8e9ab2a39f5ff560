//! A browser for a test, and what a person does with one.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    str::FromStr,
    time::{Duration, Instant},
};

use fantoccini::{
    Client, ClientBuilder, Locator, elements::Element, error::CmdError, key::Key, wd::WebDriverCompatibleCommand,
};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::site::Site;

/// How long something may take to appear, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A browser that looks at a site. Ended when it is dropped.
pub(super) struct Browser {
    runtime: Runtime,
    client: Option<Client>,
    driver: Child,
    address: String,
}

impl Browser {
    /// Opens a window of 1280 × 900 pixels.
    pub(super) fn open(site: &Site) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("chromedriver: {error}; install it with: apt-get install chromium-driver"));
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.filter_map(|line| line.split("successfully on port ").nth(1).map(str::to_owned)).next();
        let port =
            port.and_then(|port| port.trim_end_matches('.').parse::<u16>().ok()).expect("chromedriver did not start");
        let arguments = [
            "--headless=new",
            // Chromium refuses to be root with a sandbox, and small machines have little shared memory.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
            "--lang=en-GB",
        ];
        let options = json!({ "goog:chromeOptions": { "args": arguments }, "goog:loggingPrefs": { "browser": "ALL" } });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connect = async {
            let mut builder = ClientBuilder::native();
            builder.capabilities(options.as_object().unwrap().clone());
            builder.connect(&format!("http://127.0.0.1:{port}")).await
        };
        let client =
            runtime.block_on(connect).expect("chromium did not start; install it with: apt-get install chromium");
        let browser = Browser { runtime, client: Some(client), driver, address: site.address.clone() };
        browser.resize(1280, 900);
        browser
    }

    /// Opens a window in which the admin has signed in.
    pub(super) fn staff(site: &Site) -> Self {
        let browser = Browser::open(site);
        browser.go("/admin/login/");
        browser.fill("#id_username", "admin");
        browser.fill("#id_password", &site.password);
        browser.click("main button[type=submit]");
        browser.wait_for("form.account");
        browser
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("the browser is open")
    }

    /// Makes the window so large; chromium itself stops at 500 pixels.
    pub(super) fn resize(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Lets the browser ask for dark pages, or for light ones.
    pub(super) fn prefer_dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        self.devtools("Emulation.setEmulatedMedia", media);
    }

    /// Turns script off, or on again, from the next page on.
    pub(super) fn allow_script(&self, allow: bool) {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": !allow }));
    }

    fn devtools(&self, command: &'static str, parameters: Value) -> Value {
        let issued = self.client().issue_cmd(DevTools { command, parameters });
        self.runtime.block_on(issued).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    pub(super) fn go(&self, path: &str) {
        self.runtime.block_on(self.client().goto(&format!("{}{path}", self.address))).unwrap();
    }

    pub(super) fn path(&self) -> String {
        let url = self.runtime.block_on(self.client().current_url()).unwrap();
        url.as_str().strip_prefix(&self.address).unwrap_or(url.as_str()).to_owned()
    }

    /// Returns the first element of a selector, once it is there.
    pub(super) fn wait_for(&self, selector: &str) -> Element {
        let wait = self.client().wait().at_most(PATIENCE).for_element(Locator::Css(selector));
        self.runtime.block_on(wait).unwrap_or_else(|error| panic!("{selector} on {}: {error}", self.path()))
    }

    pub(super) fn click(&self, selector: &str) {
        // The driver takes what is behind the toolbar for visible.
        let scroll = format!(
            "document.querySelector({})?.scrollIntoView({{ block: 'center', behavior: 'instant' }})",
            json!(selector)
        );
        self.retry(selector, async |element| {
            self.client().execute(&scroll, Vec::new()).await?;
            element.click().await
        });
    }

    /// Replaces what stands in a field.
    pub(super) fn fill(&self, selector: &str, text: &str) {
        self.retry(selector, async |element| {
            element.clear().await?;
            element.send_keys(text).await
        });
    }

    /// Does something with an element. A page that is just coming takes away the one that was found, so it tries again.
    fn retry<T>(&self, selector: &str, run: impl AsyncFn(Element) -> Result<T, CmdError>) -> T {
        let begun = Instant::now();
        loop {
            match self.runtime.block_on(run(self.wait_for(selector))) {
                Ok(done) => return done,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{selector} on {}: {error}", self.path()),
            }
        }
    }

    /// Presses keys where the focus is.
    pub(super) fn press(&self, keys: &str) {
        let press = async { self.client().active_element().await?.send_keys(keys).await };
        self.runtime.block_on(press).unwrap();
    }

    /// Moves the focus with the tabulator until it is on something, as somebody without a mouse does.
    pub(super) fn tab_to(&self, selector: &str) {
        for _ in 0..80 {
            if self.js(&format!("return document.activeElement.matches({})", json!(selector))) == Value::Bool(true) {
                return;
            }
            self.press(&Key::Tab.to_string());
        }
        panic!("the tabulator does not lead to {selector} on {}", self.path());
    }

    pub(super) fn text(&self, selector: &str) -> String {
        self.retry(selector, async |element| element.text().await)
    }

    /// Runs a script in the page.
    pub(super) fn js(&self, script: &str) -> Value {
        self.runtime
            .block_on(self.client().execute(script, Vec::new()))
            .unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Runs a script that calls its last argument when it is done.
    pub(super) fn js_async(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.runtime.block_on(self.client().execute_async(script, arguments)).unwrap()
    }

    /// Waits until a script returns true.
    pub(super) fn wait_until(&self, what: &str, script: &str) {
        let begun = Instant::now();
        while self.js(script) != Value::Bool(true) {
            assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?} on {}", self.path());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until an element holds a text.
    pub(super) fn wait_for_text(&self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        let script = format!(
            "return [...document.querySelectorAll({selector})].some((one) => one.textContent.includes({text}))"
        );
        self.wait_until(&format!("{text} in {selector}"), &script);
    }

    /// Writes a picture of the window into the folder of screenshots.
    pub(super) fn screenshot(&self, name: &str) {
        let finish = "const done = arguments[arguments.length - 1]; \
                      Promise.all(document.getAnimations().map((one) => one.finished)).then(() => done(true))";
        self.js_async(finish, Vec::new());
        let picture = self.runtime.block_on(self.client().screenshot()).unwrap();
        fs::create_dir_all(screenshots()).unwrap();
        fs::write(screenshots().join(format!("{name}.png")), picture).unwrap();
    }
}

/// Where screenshots go; git ignores it.
pub(super) fn screenshots() -> PathBuf {
    target().join("screenshots")
}

/// The folder of what is built.
pub(super) fn target() -> PathBuf {
    // Test binaries lie in target/debug/deps.
    let binary = std::env::current_exe().unwrap();
    binary.ancestors().nth(3).map(Path::to_owned).unwrap()
}

/// A command of chromium's own protocol.
#[derive(Debug)]
struct DevTools {
    command: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, <Url as FromStr>::Err> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({ "cmd": self.command, "params": self.parameters }).to_string()))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            // Best effort: the driver ends what is left.
            let _ = self.runtime.block_on(client.close());
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
