//! Stands between a cache and its memcached, and counts how often the cache waits for an answer.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// A proxy on a port of its own. Ends when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    trips: AtomicUsize,
    is_over: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Starts a proxy for a server.
    pub(crate) fn start(server: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (address, server) = (listener.local_addr().unwrap(), server.to_owned());
        let shared = Arc::<Shared>::default();
        let proxy = Proxy { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.is_over.load(SeqCst) {
                    return;
                }
                // A server that is away refuses, and so does the proxy, as near as it can.
                if let Ok(server) = TcpStream::connect(&server) {
                    let _ = relay(&shared, &client, &server);
                }
            }
        });
        proxy
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Returns how often something was asked so far: a question counts once, however long it is.
    pub(crate) fn trips(&self) -> usize {
        self.shared.trips.load(SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, SeqCst);
        for connection in &*self.shared.connections.lock().unwrap() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        // Has the thread that accepts look up.
        let _ = TcpStream::connect(self.address);
    }
}

/// Passes on what the two say, in threads of their own.
fn relay(shared: &Arc<Shared>, client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    shared.connections.lock().unwrap().extend([client.try_clone()?, server.try_clone()?]);
    // Whether the last question has been answered: what comes now is the next one.
    let is_answered = Arc::new(AtomicBool::new(true));
    let (counts, counted) = (Arc::clone(shared), Arc::clone(&is_answered));
    pass_on(client.try_clone()?, server.try_clone()?, move || {
        counts.trips.fetch_add(usize::from(counted.swap(false, SeqCst)), SeqCst);
    });
    pass_on(server.try_clone()?, client.try_clone()?, move || is_answered.store(true, SeqCst));
    Ok(())
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, see: impl Fn() + Send + 'static) {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            if read > 0 {
                see();
            }
            if read == 0 || to.write_all(&buffer[..read]).is_err() {
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    });
}
