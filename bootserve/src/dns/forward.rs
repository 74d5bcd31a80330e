//! Asking forwarders. Query and answer pass as they are but for the id, which is new each time, and from a port of its own, so that
//! nobody who does not see the query can answer it (RFC 5452).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::answer::Transport;

/// How long a forwarder is waited for while there is another.
const TURN: Duration = Duration::from_millis(1500);
/// How long they are waited for together; resolvers ask again after five seconds (resolv.conf(5)).
const LIMIT: Duration = Duration::from_millis(4500);
const MAX_MESSAGE_BYTES: usize = u16::MAX as usize;

/// The forwarders' memory: which of them answered last. It is asked first.
#[derive(Debug, Default)]
pub struct Forwarding(AtomicUsize);

impl Forwarding {
    /// The answer of one of `forwarders` to `query`; none if none answers.
    pub async fn ask(
        &self,
        forwarders: &[SocketAddr],
        transport: Transport,
        query: &[u8],
    ) -> Option<Vec<u8>> {
        let end = Instant::now() + LIMIT;
        let first = self.0.load(Ordering::Relaxed);
        for turn in 0..forwarders.len() {
            let index = (first + turn) % forwarders.len();
            let (forwarder, is_last) = (forwarders[index], turn + 1 == forwarders.len());
            let turn_ends = if is_last { end } else { end.min(Instant::now() + TURN) };
            match timeout_at(turn_ends, ask_one(forwarder, transport, query)).await {
                Ok(Ok(answer)) => {
                    self.0.store(index, Ordering::Relaxed);
                    return Some(answer);
                }
                Ok(Err(error)) => debug!(%forwarder, %error, "cannot ask a forwarder"),
                Err(_) => debug!(%forwarder, "a forwarder does not answer"),
            }
        }
        None
    }
}

async fn ask_one(forwarder: SocketAddr, transport: Transport, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut question = query.to_vec();
    set_id(&mut question, rand::random());
    let mut answer = match transport {
        Transport::Udp => ask_by_udp(forwarder, &question).await?,
        Transport::Tcp => ask_by_tcp(forwarder, &question).await?,
    };
    answer[..2].copy_from_slice(&query[..2]);
    Ok(answer)
}

async fn ask_by_udp(forwarder: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any = match forwarder {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(forwarder).await?;
    socket.send(question).await?;
    let mut answer = vec![0; MAX_MESSAGE_BYTES];
    loop {
        let length = socket.recv(&mut answer).await?;
        if answers(question, &answer[..length]) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn ask_by_tcp(forwarder: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(forwarder).await?;
    write_message(&mut stream, question).await?;
    let answer = read_message(&mut stream, MAX_MESSAGE_BYTES).await?;
    match answers(question, &answer) {
        true => Ok(answer),
        false => Err(io::Error::other("what came is no answer to the question")),
    }
}

/// Whether `answer` is one to `question`: the same id, the same question.
fn answers(question: &[u8], answer: &[u8]) -> bool {
    let (Ok(question), Ok(answer)) = (Message::from_vec(question), Message::from_vec(answer)) else {
        return false;
    };
    // Some leave the question out of an error.
    let is_bare = answer.queries.is_empty() && answer.metadata.response_code != ResponseCode::NoError;
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == question.metadata.id
        && (is_bare || answer.queries == question.queries)
}

fn set_id(message: &mut [u8], id: u16) {
    message[..2].copy_from_slice(&id.to_be_bytes());
}

/// A message of at most `max_bytes`, as TCP has it: its length first (RFC 1035 section 4.2.2).
pub(super) async fn read_message(
    stream: &mut (impl AsyncReadExt + Unpin),
    max_bytes: usize,
) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > max_bytes {
        return Err(io::Error::other(format!("a message of {length} bytes, expected at most {max_bytes}")));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Sends a message the same way, in one packet where that can be.
pub(super) async fn write_message(
    stream: &mut (impl AsyncWriteExt + Unpin),
    message: &[u8],
) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await
}

/// As [`read_message`], within `limit`; none if nothing comes in time, or nothing more at all.
pub(super) async fn read_message_within(
    stream: &mut (impl AsyncReadExt + Unpin),
    max_bytes: usize,
    limit: Duration,
) -> Option<Vec<u8>> {
    timeout(limit, read_message(stream, max_bytes)).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use hickory_proto::rr::{Name, RecordType};

    fn query(name: &str) -> Message {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        query
    }

    #[test]
    fn an_answer_has_the_id_and_the_question_of_the_query() {
        let query = query("example.org.");
        let check = |expected, change: &dyn Fn(&mut Message)| {
            let mut answer = query.clone().into_response();
            change(&mut answer);
            assert_eq!(answers(&query.to_vec().unwrap(), &answer.to_vec().unwrap()), expected, "{answer:?}");
        };
        check(true, &|_| ());
        check(false, &|answer| answer.metadata.id ^= 1);
        check(false, &|answer| answer.metadata.message_type = MessageType::Query);
        check(false, &|answer| {
            answer.queries[0].set_query_type(RecordType::AAAA);
        });
        check(false, &|answer| answer.queries.clear());
        check(true, &|answer| {
            answer.queries.clear();
            answer.metadata.response_code = ResponseCode::FormErr;
        });
        assert!(!answers(&query.to_vec().unwrap(), b"short"));
    }

    /// Answers each query with an empty answer, after one of another id.
    async fn forwarder() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                let mut answer = Message::from_vec(&buffer[..length]).unwrap().into_response();
                for id in [answer.metadata.id ^ 1, answer.metadata.id] {
                    answer.metadata.id = id;
                    socket.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn a_forwarder_that_is_silent_is_passed_over_and_asked_last_from_then_on() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let forwarders = [silent.local_addr().unwrap(), forwarder().await];
        let (forwarding, query) = (Forwarding::default(), query("example.org.").to_vec().unwrap());
        for _ in 0..2 {
            let answer = forwarding.ask(&forwarders, Transport::Udp, &query).await.unwrap();
            assert_eq!(answer[..2], query[..2], "the client's id");
        }
        let mut asked = 0;
        let mut buffer = [0; 512];
        while silent.try_recv(&mut buffer).is_ok() {
            asked += 1;
        }
        assert_eq!(asked, 1);
    }

    #[tokio::test]
    async fn without_an_answer_there_is_none() {
        let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let query = query("example.org.").to_vec().unwrap();
        assert_eq!(Forwarding::default().ask(&[closed], Transport::Udp, &query).await, None);
    }
}
