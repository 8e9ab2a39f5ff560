//! A PostgreSQL of its own for tests.

use std::{
    net::{Ipv4Addr, TcpListener},
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use diesel::{Connection as _, connection::SimpleConnection, pg::PgConnection};

/// How long the server may take to make its folder and to answer, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

const SCRIPT: &str = include_str!("testing/postgres.sh");

/// A PostgreSQL server on a free port of the loopback address. It ends with the value, and with the process that has it:
/// it may stand in a static.
///
/// # Panics
/// All methods panic if the server cannot be run: a missing server is a failed test, not a skipped one.
///
/// # Examples
/// ```no_run
/// use larder_models::{Database, Signals, testing::PostgresServer};
///
/// let server = PostgresServer::start();
/// let database = Database::open(&server.new_database(), Signals::new()).unwrap();
/// ```
#[derive(Debug)]
pub struct PostgresServer {
    port: u16,
    made: AtomicUsize,
    child: Child,
    /// The server ends when this does.
    _stdin: ChildStdin,
}

impl PostgresServer {
    /// Starts a server.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback address has free ports");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        drop(listener);
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh", &port.to_string()]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().expect("sh can be run");
        let stdin = child.stdin.take().expect("it is piped");
        let server = PostgresServer { port, made: AtomicUsize::new(0), child, _stdin: stdin };
        server.wait_until_it_answers()
    }

    fn wait_until_it_answers(mut self) -> Self {
        let limit = Instant::now() + START_LIMIT;
        while PgConnection::establish(&self.url("postgres")).is_err() {
            let ended = self.child.try_wait().ok().flatten();
            assert!(ended.is_none(), "PostgreSQL did not start; what it said stands above");
            assert!(Instant::now() < limit, "PostgreSQL did not answer within {} s", START_LIMIT.as_secs());
            thread::sleep(Duration::from_millis(20));
        }
        self
    }

    /// Makes an empty database and returns its address.
    pub fn new_database(&self) -> String {
        let name = format!("test_{}", self.made.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::establish(&self.url("postgres")).expect("the server answers");
        connection.batch_execute(&format!("CREATE DATABASE {name}")).expect("the server makes a database");
        self.url(&name)
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://larder@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // The pipe is a field and closes later; the script is asked by its end, and waited for by nobody.
        let _ = self.child.try_wait();
    }
}
