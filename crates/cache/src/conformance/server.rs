//! Starts real servers for tests: on a free port of the loopback address, ended when the value is dropped.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    ops::Range,
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// How long a server may take to answer after its start, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Where servers listen, and how far the first ports of two processes are apart that were started one after the other.
const PORTS: Range<u16> = 16_000..32_000;
const PORTS_OF_PROCESS: u32 = 101;

/// How often another port is tried when somebody else took the one that was free a moment ago.
const START_ATTEMPTS: usize = 5;

/// A memcached of its own for a test.
///
/// # Panics
/// All methods panic if the server cannot be run: a missing server is a failed test, not a skipped one.
///
/// # Examples
/// ```no_run
/// use larder_cache::conformance::server::MemcachedServer;
///
/// let mut server = MemcachedServer::start();
/// println!("memcached listens on {}", server.address());
/// server.stop();
/// server.restart();
/// ```
#[derive(Debug)]
pub struct MemcachedServer {
    address: SocketAddr,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl MemcachedServer {
    /// Starts a memcached with its defaults.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a memcached with further arguments: `&["-I", "2m"]`.
    pub fn start_with(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        for _ in 0..START_ATTEMPTS {
            let address = free_address();
            if let Some(child) = spawn(address, &arguments) {
                return MemcachedServer { address, arguments, child: Some(child) };
            }
        }
        panic!("memcached did not start on any of {START_ATTEMPTS} ports");
    }

    /// Returns where it listens, as `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Ends the server; its port refuses connections from then on.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A child that is gone already is what was wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the server again, empty, on the port it had; ends it first if it runs.
    pub fn restart(&mut self) {
        self.stop();
        for _ in 0..START_ATTEMPTS {
            self.child = spawn(self.address, &self.arguments);
            if self.child.is_some() {
                return;
            }
        }
        panic!("memcached did not start again on {}", self.address);
    }

    /// Stops the process without ending it: it accepts connections and answers nothing.
    pub fn freeze(&self) {
        self.signal("-STOP");
        // The signal is on its way when `kill` returns; threads may go on for a moment.
        thread::sleep(STOPPING);
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let child = self.child.as_ref().expect("the server was stopped");
        let status = Command::new("kill").arg(signal).arg(child.id().to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {signal} {} failed", child.id());
    }
}

impl Drop for MemcachedServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How long the threads of a process may take to stop.
const STOPPING: Duration = Duration::from_millis(100);

/// Returns an address that nobody takes while its server is down: its port is below those that systems give to outgoing
/// connections, and no other server of this process gets it.
fn free_address() -> SocketAddr {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    for _ in PORTS {
        let next = process::id().wrapping_mul(PORTS_OF_PROCESS).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + (next % PORTS.len() as u32) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return (Ipv4Addr::LOCALHOST, port).into();
        }
    }
    panic!("the loopback address has no free port");
}

/// Starts the server and waits until it answers; `None` if it ended instead, for example because its port is taken.
fn spawn(address: SocketAddr, arguments: &[String]) -> Option<Child> {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let mut command = Command::new("memcached");
    command.args(["-l", &host, "-p", &port, "-U", "0"]).args(arguments);
    if is_root() {
        command.args(["-u", "root"]);
    }
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            panic!("memcached is not installed; install it with: apt-get install memcached")
        }
        Err(error) => panic!("memcached cannot be run: {error}"),
    };
    let limit = Instant::now() + START_LIMIT;
    while Instant::now() < limit {
        if child.try_wait().ok().flatten().is_some() {
            return None;
        }
        if answers(address).is_ok() {
            return Some(child);
        }
        thread::sleep(Duration::from_millis(5));
    }
    // Best effort: it is of no use, whether it ends or not.
    let _ = child.kill();
    let _ = child.wait();
    panic!("memcached on {address} did not answer within {} s", START_LIMIT.as_secs());
}

fn answers(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(200))?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    stream.write_all(b"version\r\n")?;
    let mut reply = [0; 7];
    stream.read_exact(&mut reply)?;
    if &reply == b"VERSION" { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// memcached refuses to run as root unless it is told to.
fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_starts_stops_and_starts_again_on_its_port() {
        let mut server = MemcachedServer::start();
        let address = server.address;
        assert!(answers(address).is_ok());
        server.freeze();
        assert!(answers(address).is_err());
        server.thaw();
        assert!(answers(address).is_ok());
        server.stop();
        assert!(answers(address).is_err());
        server.restart();
        assert!(answers(address).is_ok());
        drop(server);
        assert!(answers(address).is_err());
    }
}
