//! The client end of the control socket.

use super::api::{ApiError, MAX_REPLY_LEN, Request, parse_reply};
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time a reply may take beyond the wait that the request itself asks for.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon at the other end: not running, gone, or not answering.
    #[error("{0}")]
    Unreachable(String),
    /// The daemon answered with a refusal.
    #[error(transparent)]
    Refused(#[from] ApiError),
}

/// A connection to the daemon of this host.
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], with the cause and the way out as a sentence.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(path)
            .map_err(|e| ClientError::Unreachable(cannot_connect(path, &e)))?;
        Ok(Client {
            path: path.to_owned(),
            stream: BufReader::new(stream),
        })
    }

    /// Sends a request and reads its reply.
    ///
    /// # Errors
    /// The daemon's refusal, or that it went away; in the latter case this client is of no further
    /// use.
    pub fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let line = self.exchange(request).map_err(|e| {
            let path = self.path.display();
            ClientError::Unreachable(match e.kind() {
                io::ErrorKind::WouldBlock => format!("ctp96d at {path} does not answer"),
                _ => format!("the connection to ctp96d at {path} broke: {e}"),
            })
        })?;
        Ok(parse_reply(&line)?)
    }

    fn exchange(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        let wait = match request {
            Request::Job { wait_ms, .. } => Duration::from_millis(*wait_ms),
            _ => Duration::ZERO,
        };
        self.stream
            .get_ref()
            .set_read_timeout(Some(wait + REPLY_TIMEOUT))?;
        self.stream
            .get_mut()
            .write_all(request.to_line().as_bytes())?;
        let mut line = Vec::new();
        (&mut self.stream)
            .take(MAX_REPLY_LEN as u64)
            .read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the daemon hung up",
            ));
        }
        Ok(line)
    }
}

fn cannot_connect(path: &Path, e: &io::Error) -> String {
    let shown = path.display();
    let start = "start it with `ctp96d --config /etc/ctp96/ctp96d.toml`, or name its socket with \
                 --socket PATH or CTP96_SOCKET";
    match e.kind() {
        io::ErrorKind::NotFound => {
            format!("no control socket at {shown}: is ctp96d running? {start}")
        }
        io::ErrorKind::ConnectionRefused => format!(
            "nobody listens at {shown}: ctp96d left its socket behind and is not running; {start}"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "no permission to use {shown}: whoever may open it controls the daemon, so only its \
             own user may; run this command as that user (sudo)"
        ),
        _ => format!("cannot connect to ctp96d at {shown}: {e}"),
    }
}
