//! The other process: this test binary run once more, which does what it is told, line by line.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use larder_cache::{Cache, Caches, Load, LoadError, LoadOptions, settings::AliasSettings};
use tokio::sync::{Mutex, mpsc as lines};

/// Makes a run of the binary the other process: the settings of its cache as TOML.
const SETTINGS: &str = "LARDER_TEST_PROCESS_SETTINGS";

/// The test that is the other process.
const NAME: &str = "processes::other::does_what_it_is_told";

/// Stands before what it says, for the test harness writes to the same stream.
const SAYS: &str = "> ";

/// How long an answer is waited for, on a busy machine, that nothing delays.
const PATIENCE: Duration = Duration::from_secs(20);

/// Another process that uses the store of a test. Killed when it is dropped.
pub(super) struct Other {
    child: Child,
    stdin: ChildStdin,
    said: mpsc::Receiver<String>,
}

impl Other {
    /// Starts a process whose cache has these settings.
    pub(super) fn start(settings: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", NAME, "--nocapture"]).env(SETTINGS, settings);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (say, said) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.filter_map(|line| line.strip_prefix(SAYS).map(str::to_owned)).try_for_each(|line| say.send(line))
        });
        let other = Other { child, stdin, said };
        other.says("ready");
        other
    }

    pub(super) fn tell(&self, line: &str) {
        writeln!(&self.stdin, "{line}").unwrap();
    }

    /// Waits for the next thing it says.
    #[track_caller]
    pub(super) fn next(&self) -> String {
        self.said.recv_timeout(PATIENCE).unwrap()
    }

    /// Waits for the next thing it says, which must be this.
    #[track_caller]
    pub(super) fn says(&self, expected: &str) {
        assert_eq!(self.next(), expected);
    }

    /// Waits for the next things it says, which must be these in any order.
    #[track_caller]
    pub(super) fn says_all<const N: usize>(&self, mut expected: [&str; N]) {
        let mut said = [(); N].map(|()| self.next());
        said.sort();
        expected.sort_unstable();
        assert_eq!(said, expected);
    }

    /// Tells it something and waits for its answer, which must be this.
    #[track_caller]
    pub(super) fn answers(&self, line: &str, expected: &str) {
        self.tell(line);
        self.says(expected);
    }

    /// Stops it where it stands, as a machine does that is out of breath.
    pub(super) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(super) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {signal} {} failed", self.child.id());
    }

    /// Kills it with SIGKILL: it has no time to tidy up.
    pub(super) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // One that has ended already is what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test of its own: the other end of [`Other`].
#[test]
fn does_what_it_is_told() {
    let Ok(settings) = env::var(SETTINGS) else { return };
    let settings = AliasSettings::from_table("default", &settings.parse().unwrap()).unwrap();
    let caches = Caches::builder().alias("default", settings).build().unwrap();
    let (tell, mut told) = lines::unbounded_channel();
    thread::spawn(move || io::stdin().lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let (row, rows) = lines::unbounded_channel();
    let rows = Arc::new(Mutex::new(rows));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        say("ready");
        while let Some(line) = told.recv().await {
            if let Some(("row", value)) = line.split_once(' ') {
                row.send(value.to_owned()).unwrap();
                continue;
            }
            let (cache, rows) = (caches.default_cache(), Arc::clone(&rows));
            tokio::spawn(async move { say(&obey(cache, &line, rows).await) });
        }
    });
}

type Rows = Arc<Mutex<lines::UnboundedReceiver<String>>>;

/// What a loader reads is for the test to say: `row …`.
async fn load(rows: Rows) -> Result<String, String> {
    say("loading");
    rows.lock().await.recv().await.ok_or_else(|| "there is no row".to_owned())
}

/// Does what a line says: a verb and a key, which is the only tag of its value too.
async fn obey(cache: Cache, line: &str, rows: Rows) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let (verb, key) = (words[0], words[1].to_owned());
    let tagged = cache.clone().tags([&*key]);
    let revalidating = tagged.clone().load_options(LoadOptions::new().stale_while_revalidate(600));
    let loading = move || load(rows);
    match verb {
        "load" => loaded(tagged.get_or_set(&key, 60, loading).await),
        "refresh" => loaded(revalidating.get_or_set(&key, 60, loading).await),
        "fall_back" => {
            let options = LoadOptions::new().stale_if_error(600);
            loaded(tagged.load_options(options).get_or_set(&key, 60, loading).await)
        }
        "find_tags" => {
            let tag = key.clone();
            let load = |load: Load<String>| async move {
                let read = loading().await;
                load.tags([tag]);
                read
            };
            loaded(cache.get_or_load(&key, 60, load).await)
        }
        "crowd" => crowd(&cache, &key, words[2].parse().unwrap()).await,
        "set" => {
            revalidating.set(&key, words[2], 60).await.unwrap();
            "set".to_owned()
        }
        "get" => format!("got {:?}", cache.get::<String>(&key).await.unwrap()),
        "delete" => {
            cache.delete(&key).await.unwrap();
            "invalidated".to_owned()
        }
        "expire" => {
            cache.expire(&key).await.unwrap();
            "invalidated".to_owned()
        }
        "invalidate_tag" => {
            cache.invalidate_tags([key]).await.unwrap();
            "invalidated".to_owned()
        }
        _ => panic!("{line}"),
    }
}

/// So many callers at once for a key that takes a while to load.
async fn crowd(cache: &Cache, key: &str, callers: usize) -> String {
    let loads = Arc::new(Mutex::new(0));
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let (cache, key, loads) = (cache.clone(), key.to_owned(), Arc::clone(&loads));
            let load = move || async move {
                *loads.lock().await += 1;
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok::<_, String>("value".to_owned())
            };
            tokio::spawn(async move { cache.get_or_set(key, 60, load).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().as_deref(), Ok("value"));
    }
    format!("{} loads", loads.lock().await)
}

fn loaded(value: Result<String, LoadError<String>>) -> String {
    format!("loaded {}", value.unwrap())
}

fn say(text: &str) {
    // The harness may stand in the middle of a line.
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "\n{SAYS}{text}").unwrap();
}
