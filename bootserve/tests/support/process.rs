//! A server in a process of its own, which can be killed. It is the test program again, running the one test that calls
//! [`serve_for_parent`].

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bootserve::serve::Loaded;
use tokio_util::sync::CancellationToken;

use super::{agent, bind, config, config_file, serve, wait_until};

/// A running server. Dropping it kills it.
pub struct ServerProcess {
    child: Child,
    pub url: String,
}

/// In that directory: what the server has in its configuration besides.
const MORE: &str = "more.toml";
/// Tells [`serve_for_parent`] where its store is.
const DIR_VARIABLE: &str = "BOOTSERVE_TEST_DIR";

impl ServerProcess {
    pub fn start(dir: &Path) -> Self {
        let url_file = dir.join("url");
        let _ = std::fs::remove_file(&url_file);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server_process", "--ignored"])
            .env(DIR_VARIABLE, dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self { child, url: String::new() };
        let has_started = wait_until(|| {
            server.url = std::fs::read_to_string(&url_file).unwrap_or_default();
            !server.url.is_empty()
        });
        assert!(has_started, "the server process has not started");
        server
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Downloads at least `wanted` bytes, kills the server, and reads on until the connection ends. Returns the entity tag
    /// and all that arrived.
    pub fn download_until_killed(mut self, path: &str, wanted: usize) -> (String, Vec<u8>) {
        let response = agent().get(format!("{}{path}", self.url)).call().unwrap();
        let etag = response.headers().get("etag").unwrap().to_str().unwrap().to_owned();
        let mut body = response.into_body().into_reader();
        let mut received = vec![0; wanted];
        body.read_exact(&mut received).unwrap();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // What was on its way still arrives; then the connection breaks.
        body.read_to_end(&mut received).unwrap_err();
        (etag, received)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until killed, if this process was started by [`ServerProcess::start`].
pub fn serve_for_parent() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else { return };
    let dir = Path::new(&dir);
    let sockets = bind();
    let http = sockets.http.local_addr().unwrap();
    for name in ["nbp", "state", "overlays"] {
        std::fs::create_dir_all(dir.join(name)).unwrap();
    }
    let more = std::fs::read_to_string(dir.join(MORE)).unwrap_or_default();
    std::fs::write(config_file(dir), config(dir, http.port()) + &more).unwrap();
    let loaded = Loaded::read(&config_file(dir)).unwrap();
    std::fs::write(dir.join("url.new"), format!("http://{http}")).unwrap();
    std::fs::rename(dir.join("url.new"), dir.join("url")).unwrap();
    serve(sockets, loaded, CancellationToken::new()).unwrap();
}
