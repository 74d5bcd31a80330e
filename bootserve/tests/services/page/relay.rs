//! A relay between the browser and a server, which keeps its port while servers come and go.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Where connections go, and those that there are.
#[derive(Default)]
struct Lines {
    target: Option<SocketAddr>,
    open: Vec<TcpStream>,
}

/// Passes connections on. It ends with the process.
pub struct Relay {
    address: SocketAddr,
    lines: Arc<Mutex<Lines>>,
}

impl Relay {
    /// To a server at `target`.
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let lines = Arc::new(Mutex::new(Lines { target: Some(target), open: Vec::new() }));
        let relay = Self { address, lines: Arc::clone(&lines) };
        std::thread::spawn(move || listener.incoming().for_each(|client| drop(pass_on(client, &lines))));
        relay
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Breaks all connections, and takes no more.
    pub fn cut(&self) {
        let mut lines = self.lines.lock().unwrap();
        lines.target = None;
        for stream in lines.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// From now on, to this server.
    pub fn mend(&self, target: SocketAddr) {
        self.lines.lock().unwrap().target = Some(target);
    }
}

fn pass_on(client: io::Result<TcpStream>, lines: &Mutex<Lines>) -> io::Result<()> {
    let client = client?;
    let mut lines = lines.lock().unwrap();
    // Without a server, the connection is closed at once.
    let Some(target) = lines.target else { return Ok(()) };
    let server = TcpStream::connect(target)?;
    lines.open.extend([client.try_clone()?, server.try_clone()?]);
    for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}
