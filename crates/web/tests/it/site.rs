//! Starts the binary in an empty folder, and talks to it as a browser does.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use larder_models::{Database, Signals};
use reqwest::{
    blocking::{Client, RequestBuilder, Response},
    header::{COOKIE, LOCATION, SET_COOKIE},
    redirect::Policy,
};
use scraper::{Html, Selector};
use tempfile::TempDir;

/// How long the app may take to come up or go down on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The root of the workspace, where templates and static files are.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The binary with a folder of its own and no settings but those given.
pub(crate) fn larder(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command
        .current_dir(folder)
        .env_clear()
        .env("LARDER__SERVER__BIND", "127.0.0.1:0")
        .env("LARDER__SERVER__DEBUG", "true")
        .env("LARDER__SERVER__WORKERS", "2")
        .env("LARDER__SERVER__TEMPLATES", root().join("templates"))
        .env("LARDER__SERVER__STATIC_FILES", root().join("static"))
        .env("LARDER__UPSTREAM__DELAY_SECONDS", "1")
        .env("RUST_LOG", "cache=debug")
        .stdin(Stdio::null());
    command
}

/// Runs a command of the binary to its end.
pub(crate) fn run(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    larder(folder).args(arguments).envs(environment.iter().copied()).output().unwrap()
}

/// A running app.
pub(crate) struct Site {
    pub(crate) folder: TempDir,
    pub(crate) address: String,
    pub(crate) password: String,
    process: Child,
}

impl Site {
    /// Starts the app on its defaults.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts the app with these environment variables.
    pub(crate) fn start_with(environment: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), environment)
    }

    /// Starts the app in a folder where it may have been before.
    pub(crate) fn start_in(folder: TempDir, environment: &[(&str, &str)]) -> Self {
        let log = File::options().create(true).append(true).open(folder.path().join("log")).unwrap();
        let mut command = larder(folder.path());
        command.args(["serve", "--demo"]).envs(environment.iter().copied()).stdout(Stdio::piped()).stderr(log);
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = |line: Option<String>| {
            line.unwrap_or_else(|| panic!("{}", std::fs::read_to_string(folder.path().join("log")).unwrap()))
        };
        let mut first = line(lines.next());
        while !first.starts_with("Larder answers") {
            first = line(lines.next());
        }
        let address = first.rsplit(' ').next().unwrap().to_owned();
        let password = line(lines.next()).rsplit(' ').next().unwrap().to_owned();
        Site { folder, address, password, process }
    }

    /// Returns a visitor without cookies.
    pub(crate) fn visitor(&self) -> Visitor {
        Visitor {
            client: Client::builder().redirect(Policy::none()).timeout(PATIENCE).build().unwrap(),
            address: self.address.clone(),
            cookies: Mutex::default(),
        }
    }

    /// Returns a visitor who has signed in to the admin.
    pub(crate) fn staff(&self) -> Visitor {
        let staff = self.visitor();
        let answer = staff.submit("/admin/login/", &[("username", "admin"), ("password", &self.password)]);
        assert_eq!(answer.status(), 303, "{}", answer.text().unwrap());
        staff
    }

    /// Opens the database of an app on its defaults, as another process would.
    pub(crate) fn database(&self) -> Database {
        let path = self.folder.path().join("var/larder.sqlite3");
        Database::open(&format!("sqlite://{}", path.display()), Signals::new()).unwrap()
    }

    /// Ends the app at once, wherever it is, and returns its folder.
    pub(crate) fn kill(mut self) -> TempDir {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }

    /// Returns the number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Returns the log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Ends the app as Ctrl-C does, and returns its folder and exit code.
    pub(crate) fn stop(mut self) -> (TempDir, Option<i32>) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let asked = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
                return (folder, status.code());
            }
            assert!(asked.elapsed() < PATIENCE, "Ctrl-C did not end the app");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Somebody with a browser: keeps cookies, fills in forms.
pub(crate) struct Visitor {
    client: Client,
    address: String,
    cookies: Mutex<BTreeMap<String, String>>,
}

impl Visitor {
    pub(crate) fn get(&self, path: &str) -> Response {
        self.send(self.client.get(format!("{}{path}", self.address)))
    }

    /// Returns the page at a path.
    pub(crate) fn page(&self, path: &str) -> Page {
        let answer = self.get(path);
        assert_eq!(answer.status(), 200, "{path}");
        Page(answer.text().unwrap())
    }

    /// Opens the page of a form, fills these fields in, leaves the others, and sends it.
    pub(crate) fn submit(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        let mut form = self.page(path).form();
        for (name, value) in fields {
            form.insert((*name).to_owned(), (*value).to_owned());
        }
        self.post(path, &form)
    }

    /// Sends a form as it is.
    pub(crate) fn post(&self, path: &str, form: &BTreeMap<String, String>) -> Response {
        let body = serde_html_form::to_string(form).unwrap();
        let request = self.client.post(format!("{}{path}", self.address));
        self.send(request.header("content-type", "application/x-www-form-urlencoded").body(body))
    }

    /// Sends a form to an app that may end meanwhile.
    pub(crate) fn try_post(&self, path: &str, form: &BTreeMap<String, String>) {
        let body = serde_html_form::to_string(form).unwrap();
        let request = self.client.post(format!("{}{path}", self.address)).header(COOKIE, self.cookie());
        let _ended = request.header("content-type", "application/x-www-form-urlencoded").body(body).send();
    }

    /// Returns the cookies as they are sent.
    pub(crate) fn cookie(&self) -> String {
        let cookies = self.cookies.lock().unwrap();
        cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    pub(crate) fn request(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.address))
    }

    pub(crate) fn send(&self, request: RequestBuilder) -> Response {
        let cookie = self.cookie();
        let request = if cookie.is_empty() { request } else { request.header(COOKIE, cookie) };
        let answer = request.send().unwrap();
        for cookie in answer.headers().get_all(SET_COOKIE) {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.cookies.lock().unwrap().insert(name.to_owned(), value.to_owned());
        }
        answer
    }
}

/// Returns a header of an answer, empty if it is not there.
pub(crate) fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// Returns where an answer leads.
pub(crate) fn location(answer: &Response) -> &str {
    header(answer, LOCATION.as_str())
}

/// A page as it was sent.
#[derive(Debug, PartialEq)]
pub(crate) struct Page(pub(crate) String);

impl Page {
    /// Returns the texts of all elements that a selector finds.
    pub(crate) fn all(&self, selector: &str) -> Vec<String> {
        let html = Html::parse_document(&self.0);
        let selector = Selector::parse(selector).unwrap();
        let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        html.select(&selector).map(|element| words(element.text().collect())).collect()
    }

    /// Returns the text of the one element that a selector finds.
    pub(crate) fn one(&self, selector: &str) -> String {
        let mut all = self.all(selector);
        assert_eq!(all.len(), 1, "{selector} in {}", self.0);
        all.remove(0)
    }

    /// Returns the fields of the form in the content with their values.
    pub(crate) fn form(&self) -> BTreeMap<String, String> {
        self.form_of("main form[method=post]")
    }

    /// Returns the fields of a form with their values.
    pub(crate) fn form_of(&self, form: &str) -> BTreeMap<String, String> {
        let html = Html::parse_document(&self.0);
        let inputs = ["input", "textarea", "select"].map(|kind| format!("{form} {kind}")).join(", ");
        let inputs = Selector::parse(&inputs).unwrap();
        let chosen = Selector::parse("option[selected]").unwrap();
        let mut form = BTreeMap::new();
        for element in html.select(&inputs) {
            let Some(name) = element.attr("name") else { continue };
            let is_ticked = matches!(element.attr("type"), Some("checkbox" | "radio"));
            let is_off = is_ticked && element.attr("checked").is_none() || element.attr("disabled").is_some();
            if is_off || element.attr("type") == Some("submit") {
                continue;
            }
            let value = match element.value().name() {
                // A line break right behind the tag is not part of the text.
                "textarea" => element.text().collect::<String>(),
                "select" => {
                    let option = element.select(&chosen).next();
                    option.and_then(|option| option.attr("value")).unwrap_or("").to_owned()
                }
                _ => element.attr("value").unwrap_or("on").to_owned(),
            };
            form.insert(name.to_owned(), value);
        }
        form
    }
}
