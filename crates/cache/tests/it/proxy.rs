//! Stands between a cache and its memcached, counts how often the cache waits for an answer, and can spoil the answers.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use larder_cache::conformance::chaos::Random;

const GARBAGE: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\r\n";

/// What becomes of the server's answers. It does what it was asked in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    Arrive,
    /// In one of fifty, one bit is another.
    AreDamaged,
    /// What another kind of server would say comes instead.
    AreGarbage,
    AreLost,
}

/// A proxy on a port of its own. Ends when it is dropped and either side hangs up.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    trips: AtomicUsize,
    /// How many bytes the server has answered.
    answered: AtomicUsize,
    answers: Mutex<Answers>,
    random: Random,
    is_over: AtomicBool,
}

impl Proxy {
    /// Starts a proxy for a server.
    pub(crate) fn start(server: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (address, server) = (listener.local_addr().unwrap(), server.to_owned());
        let shared = Arc::new(Shared {
            trips: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            answers: Mutex::new(Answers::Arrive),
            random: Random::new(7),
            is_over: AtomicBool::new(false),
        });
        let proxy = Proxy { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.is_over.load(SeqCst) {
                    return;
                }
                // A server that is away refuses, and so does the proxy, as near as it can.
                if let Ok(server) = TcpStream::connect(&server) {
                    let _ = relay(&shared, client, server);
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

    /// Returns how many bytes were answered so far.
    pub(crate) fn answered_bytes(&self) -> usize {
        self.shared.answered.load(SeqCst)
    }

    /// Says what becomes of the answers from now on.
    pub(crate) fn set(&self, answers: Answers) {
        *self.shared.answers.lock().unwrap() = answers;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, SeqCst);
        // Has the thread that accepts look up.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// Spoils an answer as it was told; tells whether it is to arrive.
    fn spoil(&self, answer: &mut [u8]) -> bool {
        self.answered.fetch_add(answer.len(), SeqCst);
        let answers = *self.answers.lock().unwrap();
        match answers {
            Answers::AreDamaged if !answer.is_empty() && self.random.below(50) == 0 => {
                answer[self.random.below(answer.len())] ^= 1 << self.random.below(8);
            }
            Answers::AreGarbage => answer.iter_mut().zip(GARBAGE.iter().cycle()).for_each(|(byte, new)| *byte = *new),
            Answers::Arrive | Answers::AreDamaged | Answers::AreLost => {}
        }
        answers != Answers::AreLost
    }
}

/// Passes on what the two say, in threads of their own.
fn relay(shared: &Arc<Shared>, client: TcpStream, server: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // Whether the last question has been answered: what comes now is the next one.
    let is_answered = Arc::new(AtomicBool::new(true));
    let (counts, counted) = (Arc::clone(shared), Arc::clone(&is_answered));
    pass_on(client.try_clone()?, server.try_clone()?, move |_| {
        counts.trips.fetch_add(usize::from(counted.swap(false, SeqCst)), SeqCst);
        true
    });
    let spoils = Arc::clone(shared);
    pass_on(server, client, move |answer| {
        is_answered.store(true, SeqCst);
        spoils.spoil(answer)
    });
    Ok(())
}

/// Passes on what one says to the other, as far as `see` lets it.
fn pass_on(mut from: TcpStream, mut to: TcpStream, see: impl Fn(&mut [u8]) -> bool + Send + 'static) {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            let is_over = read == 0 || see(&mut buffer[..read]) && to.write_all(&buffer[..read]).is_err();
            if is_over {
                // Either may have hung up already.
                let _ = to.shutdown(Shutdown::Both);
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
        }
    });
}
