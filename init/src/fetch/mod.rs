//! Fetches the files of an image from its mirrors: one stream, resumed where it was cut, each piece verified before anybody
//! sees a byte of it.
//!
//! ```text
//! a thread:  GET rootfs.tar.zst  ->  piece, SHA-256  ->  bounded queue  ->  the threads that unpack
//! ```

mod blocks;
mod retry;

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bootspec::Sha256Digest;
use bootspec::cmdline::{BaseUrl, Sources};
use bootspec::diagnosis::explain;
use bootspec::manifest::Piece;
use sha2::{Digest, Sha256};

use crate::http::{self, HttpError, Request, Response, Timeouts, Url};
use crate::jitter::jitter;
use crate::kmsg;

pub use blocks::Blocks;
pub use retry::Patience;
pub(crate) use retry::{Failure, Next, Retry};

/// Half a minute is longer than a spanning tree takes, and than a head node's switch-over.
pub(crate) const TIMEOUTS: Timeouts =
    Timeouts { connect: Duration::from_secs(5), stall: Duration::from_secs(10) };
pub(crate) const PATIENCE: Patience = Patience {
    first_pause: Duration::from_millis(250),
    max_pause: Duration::from_secs(15),
    give_up: Duration::from_secs(300),
};
/// Statuses that say "later": RFC 9110 section 15.5.9, RFC 8470, RFC 6585.
const LATER: [u16; 3] = [408, 425, 429];

/// A file cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A source's URL has no address.
    #[error(transparent)]
    Url(HttpError),
    /// No mirror has the file.
    #[error("no mirror has {name}: {answers}")]
    Refused {
        /// The file.
        name: String,
        /// What each mirror said.
        answers: String,
    },
    /// Nothing came for too long.
    #[error("no byte of {name} came for {} s, after {position} bytes: {last}", patience.as_secs())]
    GivenUp {
        /// The file.
        name: String,
        /// How many bytes of it had come.
        position: u64,
        /// How long we waited.
        patience: Duration,
        /// The last failure.
        last: String,
    },
    /// A piece is not what the manifest says, wherever it is fetched from. Nothing of it was used.
    #[error("{name} is damaged in the {} bytes from {}: they have SHA-256 {found}, the manifest says {}",
        .piece.size_bytes, .piece.offset_bytes, .piece.sha256)]
    Damaged {
        /// The file.
        name: String,
        /// Where.
        piece: Piece,
        /// Digest of what came.
        found: Sha256Digest,
    },
    /// The thread that fetches has ended before it was done.
    #[error("fetching ended early")]
    Ended,
}

/// Fetches files of one image version.
#[derive(Clone, Debug)]
pub struct Fetcher {
    /// The first is asked first.
    mirrors: Vec<BaseUrl>,
    timeouts: Timeouts,
    patience: Patience,
}

impl Fetcher {
    /// Fetches from `sources`, the first one first. Gives a file up when no byte of it came for `timeout`, by default five
    /// minutes.
    pub fn new(sources: Sources, timeout: Option<Duration>) -> Self {
        let patience = Patience { give_up: timeout.unwrap_or(PATIENCE.give_up), ..PATIENCE };
        Self::with_patience(sources, TIMEOUTS, patience)
    }

    /// The same with other limits of time.
    pub fn with_patience(sources: Sources, timeouts: Timeouts, patience: Patience) -> Self {
        Self { mirrors: sources.urls().to_vec(), timeouts, patience }
    }

    /// Fetchers that each begin with another mirror and go on in the same order, this one first.
    pub fn from_each_mirror(&self) -> impl Iterator<Item = Self> + '_ {
        (0..self.mirrors.len()).map(|first| {
            let mut fetcher = self.clone();
            fetcher.mirrors.rotate_left(first);
            fetcher
        })
    }

    /// Fetches a whole file of at most `max_bytes`, whose contents the caller must verify.
    pub fn document(&self, name: &str, max_bytes: u64) -> Result<Vec<u8>, FetchError> {
        let mut download = Download::new(self, name, None);
        loop {
            let response = download.response()?;
            if response.length > max_bytes {
                let source = &self.mirrors[download.retry.mirror()];
                let problem = format!("{source}/{name}: it has more than {max_bytes} bytes");
                download.failed(Failure::Refused(problem))?;
                continue;
            }
            match response.read_all(max_bytes) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => download.failed(Failure::Disturbed(explain(&error), None))?,
            }
        }
    }

    /// The same for a file that need not be there.
    pub fn document_if_there(&self, name: &str, max_bytes: u64) -> Result<Option<Vec<u8>>, FetchError> {
        match self.document(name, max_bytes) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(FetchError::Refused { answers, .. }) => {
                kmsg::warn(&format!("there is no {name}: {answers}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Begins to fetch the `pieces` of a file of `total_bytes`, which lie in it end to end, and goes on ahead of the
    /// receiver by so many pieces. Each is verified. After an error nothing more comes.
    pub fn stream(
        &self,
        name: &str,
        total_bytes: u64,
        pieces: Vec<Piece>,
        read_ahead: usize,
    ) -> Receiver<Result<Blocks, FetchError>> {
        let (sender, receiver) = sync_channel(read_ahead);
        let (fetcher, name) = (self.clone(), name.to_owned());
        std::thread::spawn(move || {
            let mut download = Download::new(&fetcher, &name, Some(total_bytes));
            for piece in pieces {
                let result = download.piece(&piece);
                let is_last = result.is_err();
                // Without a receiver, nobody wants the rest.
                if sender.send(result).is_err() || is_last {
                    break;
                }
            }
        });
        receiver
    }
}

/// One file on its way.
struct Download<'a> {
    fetcher: &'a Fetcher,
    name: &'a str,
    total_bytes: Option<u64>,
    position: u64,
    response: Option<Response>,
    retry: Retry,
}

impl<'a> Download<'a> {
    fn new(fetcher: &'a Fetcher, name: &'a str, total_bytes: Option<u64>) -> Self {
        let retry = Retry::new(fetcher.mirrors.len(), fetcher.patience, Instant::now());
        Self { fetcher, name, total_bytes, position: 0, response: None, retry }
    }

    /// Fetches a piece as often as there are mirrors, and twice if there is one, until it is what it should be.
    fn piece(&mut self, piece: &Piece) -> Result<Blocks, FetchError> {
        // Who unpacks may have taken its time since the last one. That is not the mirrors' fault.
        self.retry.progressed(Instant::now());
        let attempts = self.fetcher.mirrors.len().max(2);
        let mut attempt = 1;
        loop {
            let (blocks, found) = self.read(piece)?;
            if found == piece.sha256 {
                return Ok(blocks);
            }
            if attempt == attempts {
                return Err(FetchError::Damaged { name: self.name.to_owned(), piece: *piece, found });
            }
            attempt += 1;
            let source = &self.fetcher.mirrors[self.retry.mirror()];
            kmsg::warn(&format!(
                "{source}/{} is damaged at {}; fetching it again",
                self.name, piece.offset_bytes
            ));
            self.position = piece.offset_bytes;
            self.failed(Failure::Disturbed("damaged".to_owned(), None))?;
        }
    }

    fn read(&mut self, piece: &Piece) -> Result<(Blocks, Sha256Digest), FetchError> {
        let mut digest = Sha256::new();
        let mut blocks = Blocks::default();
        let mut missing = piece.size_bytes;
        while missing > 0 {
            let mut block = Blocks::allocate(missing);
            self.fill(&mut block)?;
            digest.update(&block);
            missing -= block.len() as u64;
            blocks.push(block);
        }
        Ok((blocks, Sha256Digest::new(digest.finalize().into())))
    }

    /// Fills `buffer` with what lies at the position, over as many connections as it takes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), FetchError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let mut response = match self.response.take() {
                Some(response) => response,
                None => self.response()?,
            };
            match response.read(&mut buffer[filled..]) {
                Ok(0) => self.failed(Failure::Disturbed("the answer ended early".to_owned(), None))?,
                Ok(length) => {
                    filled += length;
                    self.position += length as u64;
                    self.retry.progressed(Instant::now());
                    self.response = Some(response);
                }
                Err(error) => self.failed(Failure::Disturbed(explain(&error), None))?,
            }
        }
        Ok(())
    }

    /// Asks the mirrors until one answers with the file from the position on.
    fn response(&mut self) -> Result<Response, FetchError> {
        loop {
            match self.ask()? {
                Ok(response) => return Ok(response),
                Err(failure) => self.failed(failure)?,
            }
        }
    }

    fn ask(&self) -> Result<Result<Response, Failure>, FetchError> {
        let source = &self.fetcher.mirrors[self.retry.mirror()];
        let url = Url::below(source, &format!("/{}", self.name)).map_err(FetchError::Url)?;
        let response = match http::send(&url, Request::Get { from: self.position }, self.fetcher.timeouts) {
            Ok(response) => response,
            Err(error) => return Ok(Err(Failure::Disturbed(explain(&error), None))),
        };
        Ok(self.check(&url, &response).map(|()| response))
    }

    /// Whether `response` is the file from the position on.
    fn check(&self, url: &Url, response: &Response) -> Result<(), Failure> {
        let status = response.status;
        if status >= 500 || LATER.contains(&status) {
            return Err(Failure::Disturbed(format!("{url}: HTTP status {status}"), response.retry_after));
        }
        let (start, total) = match (status, response.range) {
            (200, _) => (0, response.length),
            (206, Some(range)) => (range.start, range.total),
            _ => return Err(Failure::Refused(format!("{url}: HTTP status {status}"))),
        };
        if self.total_bytes.is_some_and(|expected| total != expected) {
            let expected = self.total_bytes.unwrap_or_default();
            return Err(Failure::Refused(format!(
                "{url}: it has {total} bytes, the manifest says {expected}"
            )));
        }
        if start != self.position {
            return Err(Failure::Refused(format!(
                "{url}: the server cannot resume at byte {}",
                self.position
            )));
        }
        Ok(())
    }

    /// Waits for the next attempt, or ends the download.
    fn failed(&mut self, failure: Failure) -> Result<(), FetchError> {
        self.response = None;
        let name = || self.name.to_owned();
        let (Failure::Refused(message) | Failure::Disturbed(message, _)) = &failure;
        let message = message.clone();
        match self.retry.failed(failure, Instant::now(), jitter()) {
            Next::Try(pause) => {
                let source = &self.fetcher.mirrors[self.retry.mirror()];
                kmsg::warn(&format!("{message}; next from {source} in {} ms", pause.as_millis()));
                sleep(pause);
                Ok(())
            }
            Next::Refused(answers) => Err(FetchError::Refused { name: name(), answers }),
            Next::GiveUp(last) => {
                let patience = self.fetcher.patience.give_up;
                Err(FetchError::GivenUp { name: name(), position: self.position, patience, last })
            }
        }
    }
}

#[cfg(test)]
mod tests;
